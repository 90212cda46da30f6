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
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

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

// TestThePersonsTokensFromTheFirstCallToTheReceipt follows a person's link through the commands that admins have for it: while it is used, refused
// upstream in the middle of a session, renewed, lost with a killed control plane, and ended with the person.
func TestThePersonsTokensFromTheFirstCallToTheReceipt(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	// Before anybody is connected.
	v.says([]string{"crm", "http"}, "connectors", "trust", "crm")
	v.says([]string{`"found"`, v.as.URL}, "connectors", "trust", "crm", "-o", "json")
	v.fails(1, "connect yourself", "connectors", "check", "crm") // an admin token is nobody who could be connected
	v.link("crm")
	v.known("crm", "ada-at-the-upstream")
	v.known("batch", "batch")
	out := v.says([]string{"OWNER", "okta/" + ada, "crm", "oauth", "identity"}, "credentials", "list", "--person", ada)
	if strings.Contains(out, v.token("ada-at-the-upstream")) {
		t.Error("the list shows a token")
	}
	id := v.credential("crm", "CREDENTIAL_KIND_OAUTH")

	// The upstream ends the token in the middle of the session: it is renewed within the call.
	old := v.token("ada-at-the-upstream")
	if err := v.as.Forget(t.Context(), "gateway", old); err != nil {
		t.Fatal(err)
	}
	renewals := len(v.as.Asked("refresh_token"))
	slowly(t, func() error { // a token of a few seconds is not renewed because it is refused
		if res := v.call("crm"); !res.OK || v.token("ada-at-the-upstream") == old {
			return fmt.Errorf("%+v", res)
		}
		return nil
	})
	if n := len(v.as.Asked("refresh_token")); n != renewals+1 {
		t.Errorf("renewed %d times", n-renewals)
	}

	// An admin renews it, and proxies take the new one at once.
	old = v.token("ada-at-the-upstream")
	v.says([]string{"renewed"}, "credentials", "rotate", id)
	v.known("crm", "ada-at-the-upstream")
	if v.token("ada-at-the-upstream") == old {
		t.Error("the proxy still sends the token of before")
	}
	v.fails(1, "no credential of this id", "credentials", "rotate", "0190b5f4-0000-7000-8000-000000000000")

	// The control plane is killed once the upstream has rotated the refresh token, before the answer is there.
	var once sync.Once
	v.as.OnToken(func(form url.Values) int {
		if form.Get("grant_type") == "refresh_token" {
			once.Do(v.cp.Kill)
		}
		return 0
	})
	v.fails(1, "", "credentials", "rotate", id)
	select {
	case <-v.cp.Done():
	default:
		t.Fatal("the control plane was not killed")
	}
	v.as.OnToken(nil)
	v.cp.start()
	slowly(t, func() error { // once the lease of the one that died ran out; until then the token of before, as long as it is good
		_, problem, code := v.run("credentials", "rotate", id)
		if code == 0 || !strings.Contains(problem, "asked again") && !strings.Contains(problem, "no credential of this id") {
			return fmt.Errorf("exit code %d: %s", code, problem)
		}
		return nil
	})
	v.link("crm") // the person is asked again, and that is all
	v.known("crm", "ada-at-the-upstream")

	// An admin takes it out of use: the very next call has none.
	v.says([]string{"1 credentials are out of use"}, "credentials", "revoke", "--person", ada, "--connector", "crm")
	if res := v.call("crm"); res.OK || connectLink.FindString(res.Text) == "" {
		t.Errorf("with a credential that was revoked: %+v", res)
	}
	v.fails(2, "say which", "credentials", "revoke")
	v.link("crm")
	v.known("crm", "ada-at-the-upstream")

	// The person is offboarded: one event, and what became of each.
	last := v.token("ada-at-the-upstream")
	if _, err := v.org.Deactivate(t.Context(), ada); err != nil {
		t.Fatal(err)
	}
	if res := v.call("crm"); res.OK {
		t.Error("a call of somebody who was offboarded went through")
	}
	eventually(t, func() error {
		if !v.as.Revoked(last) {
			return errors.New("the token is not revoked upstream")
		}
		return nil
	})
	if _, err := v.as.Subject(t.Context(), last); err == nil {
		t.Error("the upstream still takes the token")
	}
	person, err := v.org.Person(ada)
	if err != nil {
		t.Fatal(err)
	}
	out = v.says([]string{"okta/" + ada + " may not act any more; credentials in use: 0", "us-east-1", "crm", "revoked", "(identity provider)"}, "receipt", "--person", ada, "--wait")
	if strings.Contains(out, "under way") {
		t.Errorf("the receipt was not waited for:\n%s", out)
	}
	v.says([]string{"enforced_everywhere", "CREDENTIAL_OUTCOME_REVOKED"}, "receipt", "--person", person.SCIMID, "-o", "json")
	v.fails(2, "--version or --person", "receipt")
	v.fails(1, "nobody", "receipt", "--person", "nobody@corp.test")
	v.search()
}

// slowly is eventually for what is to be tried a few times alone.
func slowly(t testing.TB, f func() error) {
	t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 90 {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
		}
		t.Log(err)
	}
	t.Fatal("it does not become so")
}

// credential is the id of the person's credential on a connector.
func (v *vaulted) credential(connector, kind string) string {
	v.t.Helper()
	out, problem, code := v.run("credentials", "list", "--connector", connector, "-o", "json")
	var list struct {
		Credentials []struct{ ID, Kind string }
	}
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil {
		v.t.Fatalf("credentials list: %v %s", err, problem)
	}
	for _, c := range list.Credentials {
		if c.Kind == kind {
			return c.ID
		}
	}
	v.t.Fatalf("%s has no credential of kind %s: %s", connector, kind, out)
	return ""
}

// search looks for each secret in all that was kept, shown and exported.
func (v *vaulted) search() {
	v.t.Helper()
	for _, form := range v.as.Asked("refresh_token") {
		v.planted.add("a refresh token", form.Get("refresh_token"))
	}
	for _, form := range v.as.Asked("authorization_code") {
		v.planted.add("a code", form.Get("code"))
		v.planted.add("a PKCE verifier", form.Get("code_verifier"))
	}
	for _, grant := range []string{"urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:grant-type:jwt-bearer"} {
		for _, form := range v.as.Asked(grant) {
			v.planted.add("an ID token", form.Get("subject_token"))
			v.planted.add("an assertion", form.Get("assertion"))
		}
	}
	found, _, _ := v.run("audit", "search", "-o", "json")
	if !strings.Contains(found, "whoami") {
		v.t.Errorf("audit search shows no call: %s", found)
	}
	export := filepath.Join(v.t.TempDir(), "export")
	v.says(nil, "audit", "export", export)
	v.planted.look(v.t, "what agents and admins were shown", v.sent)
	v.planted.lookBelow(v.t, v.cp.data(), v.east.data(), v.west.data(), filepath.Dir(v.cp.Log), filepath.Dir(v.east.Log), filepath.Dir(export))
	// That it finds what is there: the upstreams' ids are in the store of events.
	store := 0
	_ = filepath.WalkDir(v.cp.data(), func(path string, d fs.DirEntry, err error) error {
		if data, _ := os.ReadFile(path); err == nil && !d.IsDir() && bytes.Contains(data, []byte("ledger")) && strings.HasSuffix(path, ".blk") {
			store++
		}
		return err
	})
	if store == 0 || len(v.planted.values) < 5 {
		v.t.Errorf("the search finds nothing in the store's files, and looks for %d secrets", len(v.planted.values))
	}
}
