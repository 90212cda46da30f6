package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/authority"
	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/quickstart"
)

// secrets are values that may be nowhere in the clear, by what they are.
type secrets struct {
	mu     sync.Mutex
	values map[string]string
}

func (s *secrets) add(what, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string]string{}
	}
	if value != "" {
		s.values[value] = what
	}
}

// look fails where some bytes hold one.
func (s *secrets) look(t testing.TB, where string, data []byte) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for value, what := range s.values {
		if bytes.Contains(data, []byte(value)) {
			t.Errorf("%s is in %s", what, where)
		}
	}
}

// lookBelow looks through all files of folders.
func (s *secrets) lookBelow(t testing.TB, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		files := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			data, err := os.ReadFile(path)
			s.look(t, path, data)
			return err
		})
		if err != nil || files == 0 {
			t.Errorf("%s: %d files, %v", dir, files, err)
		}
	}
}

// whoami serves an MCP server with one tool, which says for whom it takes the caller.
func whoami(t testing.TB, protect func(base string, next http.Handler) http.Handler) (url string) {
	t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "whoami", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "whoami", Description: "Say who calls."}, func(_ context.Context, req *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "you are " + req.Extra.Header.Get(authority.CallerHeader)}}}, nil, nil
	})
	web := httptest.NewUnstartedServer(nil)
	base := "http://" + web.Listener.Addr().String()
	web.Config.Handler = protect(base, mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	web.Start()
	t.Cleanup(func() { web.CloseClientConnections(); web.Close() })
	return base + "/mcp"
}

// whoamiTools is what its tools look like, for upstreams that the control plane cannot ask as an admin.
const whoamiTools = `{"tools":[{"name":"whoami","description":"Say who calls.","inputSchema":{"type":"object"}}]}`

// keyed protects an upstream by a key that some part of the request holds.
func keyed(of func(*http.Request) string, caller func(key string) string) func(string, http.Handler) http.Handler {
	return func(_ string, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := caller(of(r))
			if who == "" {
				w.Header().Set("Location", r.URL.String()) // as careless servers do
				http.Error(w, "no such key: "+of(r), http.StatusUnauthorized)
				return
			}
			r.Header.Set(authority.CallerHeader, who)
			next.ServeHTTP(w, r)
		})
	}
}

// vaulted is an office with one connector of each kind of credential, and people who use them.
type vaulted struct {
	*office
	as      *authority.Server
	planted secrets
	session *agent.Session
	browser *agent.Browser
	sent    []byte // whatever agents and admins were shown

	mu   sync.Mutex
	seen map[string]string // the last access token that upstreams saw, by whose it is
}

// file keeps a value for the command line.
func (v *vaulted) file(value string) string {
	v.t.Helper()
	name := filepath.Join(v.t.TempDir(), "value")
	if err := os.WriteFile(name, []byte(value), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return name
}

// connector loads one, with its tools and a grant.
func (v *vaulted) connector(id, url, auth string) {
	v.t.Helper()
	v.cp.apply(fmt.Sprintf("kind: Connector\nid: %s\nurl: %s\nallowedRanges: [127.0.0.0/8]\nauth: %s\n", id, url, auth))
	v.cp.must("catalogue", "approve", id, "--file", v.file(whoamiTools))
	v.cp.apply(fmt.Sprintf("kind: Grant\ngroup: okta/Staff\nconnector: %s\nrules:\n  - allow: [\"*\"]\n", id))
}

// run calls the command line and returns what it printed and how it ended.
func (v *vaulted) run(args ...string) (out, problem string, code int) {
	v.t.Helper()
	cmd := exec.CommandContext(v.t.Context(), controlPlaneProgram, append([]string{"--server", "http://" + v.cp.admin, "--token-file", v.cp.TokenFile}, args...)...)
	var printed, wrong bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &wrong
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		v.t.Fatal(err)
	}
	v.sent = append(append(v.sent, printed.Bytes()...), wrong.Bytes()...)
	return printed.String(), wrong.String(), cmd.ProcessState.ExitCode()
}

// says runs the command line, which must end well and print some words.
func (v *vaulted) says(want []string, args ...string) string {
	v.t.Helper()
	out, problem, code := v.run(args...)
	if code != 0 {
		v.t.Fatalf("sallyport %s: exit code %d: %s%s", strings.Join(args, " "), code, out, problem)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			v.t.Errorf("sallyport %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// refuses runs the command line, which must end with an error that says some words.
func (v *vaulted) fails(code int, want string, args ...string) {
	v.t.Helper()
	out, problem, got := v.run(args...)
	if got != code || !strings.Contains(out+problem, want) {
		v.t.Errorf("sallyport %s: exit code %d, want %d and %q:\n%s%s", strings.Join(args, " "), got, code, want, out, problem)
	}
}

// call has the person's agent call a connector.
func (v *vaulted) call(connector string) agent.Result {
	v.t.Helper()
	res := v.session.Call(v.t.Context(), connector+"__whoami", map[string]any{})
	v.sent = append(v.sent, res.Text...)
	return res
}

// known fails unless a connector's upstream takes the call for somebody's.
func (v *vaulted) known(connector, want string) {
	v.t.Helper()
	if res := v.call(connector); !res.OK || res.Text != "you are "+want {
		v.t.Errorf("%s: %+v, want a call of %q", connector, res, want)
	}
}

var connectLink = regexp.MustCompile(`http://\S+/connect/[a-z-]+\?t=[A-Za-z0-9_.-]+`)

// link has the person open the page that a call leads to, and say yes.
func (v *vaulted) link(connector string) {
	v.t.Helper()
	res := v.call(connector)
	at := connectLink.FindString(res.Text)
	if res.OK || at == "" {
		v.t.Fatalf("%s leads to no page: %+v", connector, res)
	}
	page, err := v.browser.Open(v.t.Context(), at)
	if err != nil || !strings.Contains(page.Text+page.Title, "is connected") {
		v.t.Fatalf("%s: the page says %q %q, %v", connector, page.Title, page.Text, err)
	}
}

// token is the access token of somebody that upstreams saw last.
func (v *vaulted) token(of string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[of]
}

func newVaulted(t *testing.T, flags ...string) *vaulted {
	t.Helper()
	v := &vaulted{office: newOffice(t, "", append([]string{"--log-level", "debug"}, flags...)...), seen: map[string]string{}}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := jose.JSONWebKey{Key: rsaKey, KeyID: "gateway-1", Algorithm: "RS256"}
	asJSON, err := private.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var parts struct{ D string }
	if err := json.Unmarshal(asJSON, &parts); err != nil {
		t.Fatal(err)
	}
	const clientSecret = "planted-client-secret-0b12aa"
	v.planted.add("the client's secret", clientSecret)
	v.planted.add("the client's private key", parts.D)
	callback := "http://" + v.cp.signin + "/connect/crm/callback"
	public := private.Public()
	v.as = authority.New("ada-at-the-upstream",
		authority.Client{ID: "gateway", Secret: clientSecret, Redirects: []string{callback}}, authority.Client{ID: "batch", Key: &public})
	v.planted.add("the secret of the sign-in", v.clientSecret)
	v.as.Trust(authority.Provider{Issuer: "http://" + v.idp + okta.IssuerPath, Audience: v.client})
	end, err := v.as.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	v.org.Connect(v.as.URL, "gateway")

	tokens := func(base string, next http.Handler) http.Handler {
		return v.as.Protect(base, next, "/mcp", func(subject, token string) {
			v.planted.add("an access token of "+subject, token)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.seen[subject] = token
		})
	}
	v.connector("crm", whoami(t, tokens), "{type: oauth, client: {id: gateway}, scopes: [openid, offline_access]}")
	v.connector("batch", whoami(t, tokens), "{type: service-account, client: {id: batch, authentication: private-key-jwt}, scopes: [openid]}")
	v.connector("ledger", whoami(t, tokens), "{type: token-exchange, token: id, client: {id: gateway}, scopes: [openid]}")
	v.connector("travel", whoami(t, tokens), "{type: identity-assertion, client: {id: gateway}, scopes: [openid]}")
	v.cp.must("secrets", "set", "--connector", "batch", "--value-file", v.file(string(asJSON)))
	for _, id := range []string{"crm", "ledger", "travel"} {
		v.cp.must("secrets", "set", "--connector", id, "--value-file", v.file(clientSecret))
	}
	for _, id := range []string{"crm", "batch", "ledger", "travel"} {
		v.cp.must("connectors", "trust", id, "--yes")
	}
	v.cp.enforced()
	if v.browser, err = agent.NewBrowser(quickstart.Employee(ada)); err != nil {
		t.Fatal(err)
	}
	v.signInAgain()
	return v
}

// signInAgain gives the person's agent a session.
func (v *vaulted) signInAgain() {
	v.t.Helper()
	program := &agent.Program{Name: "An agent"}
	tokens, err := program.SignInWith(v.t.Context(), v.east.url(), v.browser)
	if err != nil {
		v.t.Fatal(err)
	}
	v.planted.add("the agent's access token", tokens.Access)
	if v.session, err = agent.Connect(v.t.Context(), v.east.url(), tokens.Access, agent.Options{Revision: agent.SessionEra}); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(v.session.Close)
}

// TestEachKindOfTokenComesFromARealAuthorizationServer: a person's own, the gateway's, an exchanged and an asserted one. What upstreams see is theirs.
func TestEachKindOfTokenComesFromARealAuthorizationServer(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	v.link("crm")
	v.known("crm", "ada-at-the-upstream")
	v.known("batch", "batch")
	person, err := v.org.Person(ada)
	if err != nil {
		t.Fatal(err)
	}
	v.known("ledger", person.ID)
	v.known("travel", person.ID)
	if asked := v.as.Asked("client_credentials"); len(asked) != 1 || asked[0].Get("client_assertion") == "" || asked[0].Get("client_secret") != "" {
		t.Errorf("the gateway asked for its own token %d times, and not by its key", len(asked))
	}
}
