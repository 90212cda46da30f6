package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// loginWithin is how long a person may take in the browser.
const loginWithin = 5 * time.Minute

func loginCommand(o *options) *cobra.Command {
	var noBrowser bool
	c := &cobra.Command{
		Use: "login", Short: "Sign in as an admin, with a browser", Args: cobra.NoArgs,
		Long: "Sign in as an admin, at the identity provider of the directory that is named for admins. The session lasts an hour and is\n" +
			"kept, for this --server, in a file that you alone can read. SALLYPORT_TOKEN and --token-file come before it.",
		Example: "  sallyport login --server https://admin.sallyport.example.com\n  sallyport login --no-browser    # shows the address to open on this computer",
		RunE:    func(cmd *cobra.Command, _ []string) error { return login(cmd.Context(), o, noBrowser) },
	}
	c.Flags().BoolVar(&noBrowser, "no-browser", false, "only show the address that the browser is to open")
	return c
}

// login waits at a loopback address for what the browser brings (RFC 8252), and redeems it.
func login(ctx context.Context, o *options, noBrowser bool) error {
	ctx, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the browser: %w", err)
	}
	state, verifier := rand.Text(), rand.Text()+rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	answer := make(chan url.Values, 1)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Method != http.MethodGet || r.URL.Path != "/callback" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "This is not the answer that is waited for.", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "The command line has its answer. You can close this window.\n") // the browser may be gone
		select {
		case answer <- q:
		default:
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // it ends with Close
	}()
	defer func() {
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = server.Shutdown(grace)
		<-served
	}()
	at := strings.TrimSuffix(o.server, "/") + "/login?" + url.Values{
		"redirect_uri": {"http://" + listener.Addr().String() + "/callback"}, "state": {state}, "code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])},
	}.Encode()
	fmt.Fprintf(os.Stderr, "Sign in with the browser, at\n\n  %s\n\n", at)
	if !noBrowser {
		openBrowser(ctx, at)
	}
	select {
	case <-ctx.Done():
		return errors.New("nobody signed in within five minutes, or it was interrupted: nothing was changed")
	case q := <-answer:
		held, err := redeem(ctx, o, q.Get("code"), verifier)
		if err != nil {
			return err
		}
		if err := keepSession(o.server, held); err != nil {
			return err
		}
		return o.print(map[string]any{"server": o.server, "expires": held.Expires}, func() table {
			return line("signed in until %s\nnext: sallyport whoami", held.Expires.Local().Format("15:04:05"))
		})
	}
}

// openBrowser opens the person's browser; where there is none, they have the address.
func openBrowser(ctx context.Context, at string) {
	program := map[string][]string{"darwin": {"open"}, "windows": {"rundll32", "url.dll,FileProtocolHandler"}}[runtime.GOOS]
	if program == nil {
		program = []string{"xdg-open"}
	}
	_ = exec.CommandContext(ctx, program[0], append(program[1:], at)...).Start()
}

// signedIn is a session as it is kept.
type signedIn struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

func redeem(ctx context.Context, o *options, code, verifier string) (signedIn, error) {
	var held signedIn
	res, err := o.post(ctx, "/login/token", url.Values{"code": {code}, "code_verifier": {verifier}}, "")
	if err != nil {
		return held, err
	}
	if err := json.Unmarshal(res, &held); err != nil || held.Token == "" {
		return held, errors.New("the control plane's answer is no session: is --server the admin API of a Sallyport of this version?")
	}
	return held, nil
}

// post sends a form to the admin listener, beside the API.
func (o *options) post(ctx context.Context, path string, form url.Values, token string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(o.server, "/")+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, usage("--server must be a URL, such as http://127.0.0.1:7401: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		var said struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(data, &said) != nil || said.Error == "" {
			said.Error = "the control plane answered " + res.Status
		}
		return nil, errors.New(said.Error)
	}
	return data, nil
}

func logoutCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session that login began", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token := storedSession(o.server)
			if token == "" {
				return o.print(map[string]string{}, func() table { return line("nobody is signed in at %s from here", o.server) })
			}
			_, err := o.post(cmd.Context(), "/login/out", nil, token)
			if err := errors.Join(err, keepSession(o.server, signedIn{})); err != nil {
				return err
			}
			return o.print(map[string]string{"server": o.server}, func() table { return line("signed out of %s", o.server) })
		},
	}
}

// sessionsFile is where sessions are kept, by server.
func sessionsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("finding the folder for settings: %w", err)
	}
	return filepath.Join(dir, "sallyport", "sessions.json"), nil
}

func readSessions() (map[string]signedIn, string, error) {
	all := map[string]signedIn{}
	file, err := sessionsFile()
	if err != nil {
		return all, "", err
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return all, file, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return map[string]signedIn{}, file, fmt.Errorf("reading %s: %w", file, err)
	}
	return all, file, nil
}

// storedSession is the token of a session that has not ended, or empty.
func storedSession(server string) string {
	all, _, err := readSessions()
	if held := all[strings.TrimSuffix(server, "/")]; err == nil && time.Now().Before(held.Expires) {
		return held.Token
	}
	return ""
}

// keepSession writes a session down, in place of the one before; without a token, there is none any more.
func keepSession(server string, held signedIn) error {
	all, file, err := readSessions()
	if file == "" {
		return err
	}
	server = strings.TrimSuffix(server, "/")
	if delete(all, server); held.Token != "" {
		all[server] = held
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keeping the session: %w", err)
	}
	next := file + ".new"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("keeping the session: %w", err)
	}
	if err := os.Rename(next, file); err != nil {
		return fmt.Errorf("keeping the session: %w", err)
	}
	return nil
}
