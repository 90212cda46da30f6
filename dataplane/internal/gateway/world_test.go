package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/h1"
	"sallyport.dev/dataplane/internal/identity"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/replica/fleettest"
	"sallyport.dev/dataplane/internal/spool"
	"sallyport.dev/dataplane/internal/upstream"
)

var (
	ada = uuid.UUID{15: 1}
	bob = uuid.UUID{15: 2}

	discard   = slog.New(slog.DiscardHandler)
	issuerKey = newKey()
)

func newKey() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

// world is a proxy with all that is around it: a control plane, an issuer, upstreams.
type world struct {
	t        testing.TB
	plane    *fleettest.ControlPlane
	issuer   *httptest.Server
	planeURL string
	web      *h1.Server
	demo     *server // upstream of the connector demo
	replica  *replica.Replica
	spool    *spool.Spool
	gateway  *gateway.Gateway
	url      string
	read     int // of the records, those that settled returned
	// version is the newest of the policy.
	version uint64
}

// options change what a world is made of.
type options struct {
	plane   fleettest.ControlPlane
	gateway func(*gateway.Config)
	spool   spool.Config
	entries []*fleetv1.Entry // instead of entries()
	// undelivered leaves records in the spool.
	undelivered bool
	// unwelcome does not wait for a policy.
	unwelcome bool
	demo      *server
	// beside is a world whose control plane, issuer and upstream this proxy shares, and name its own name.
	beside *world
	name   string
}

func newWorld(t testing.TB, o *options) *world {
	t.Helper()
	w := &world{t: t, plane: &o.plane, demo: o.demo}
	if o.beside != nil {
		w.plane, w.issuer, w.demo, w.planeURL, w.version = o.beside.plane, o.beside.issuer, o.beside.demo, o.beside.planeURL, o.beside.version
	} else {
		w.issuer, w.planeURL = newIssuer(t), w.plane.Start(t)
		if w.demo == nil {
			w.demo = newServer(t, true)
		}
		if o.entries == nil {
			o.entries = w.entries()
		}
	}
	if o.name == "" {
		o.name = "proxy"
	}
	client, err := replica.NewClient([]string{w.planeURL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.spool.Dir, o.spool.Proxy, o.spool.Region, o.spool.Logger, o.spool.Gather = t.TempDir(), o.name, "test", discard, time.Millisecond
	if w.spool, err = spool.Open(o.spool); err != nil {
		t.Fatal(err)
	}
	var front atomic.Pointer[gateway.Gateway]
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { front.Load().ServeHTTP(rw, r) })
	w.url, w.web = "http://"+listener.Addr().String(), h1.New(handler, &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second})
	served := make(chan error, 1)
	go func() { served <- w.web.Serve(h1.Patient(listener)) }()
	w.replica = replica.New(replica.Config{
		Client: client, Heartbeat: 50 * time.Millisecond, AckEvery: time.Millisecond, Logger: discard,
		OnWelcome: func(m *fleetv1.Welcome) { front.Load().Welcome(m) },
	})
	pool := upstream.NewPool(upstream.Config{})
	credentials := w.replica.Credentials()
	config := gateway.Config{
		PublicURL: w.url, Proxy: o.name, Region: "test", Replica: w.replica, Verifier: identity.New(identity.Config{Logger: discard}),
		Spool: w.spool, Upstream: pool, Credentials: credentials, Approvals: client, Version: "test", Log: discard,
	}
	if o.gateway != nil {
		o.gateway(&config)
	}
	if w.gateway, err = gateway.New(config); err != nil {
		t.Fatal(err)
	}
	front.Store(w.gateway)
	if len(o.entries) > 0 {
		w.version = w.plane.Set(o.entries...)
	}
	work, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.replica.Run(work) })
	running.Go(func() { w.gateway.Run(work) })
	if !o.undelivered {
		running.Go(func() { _ = w.spool.Deliver(work, client.DeliverAudit) })
	}
	t.Cleanup(func() {
		_ = w.web.Close()
		ending, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		if err := w.web.Shutdown(ending); err != nil { // until its handlers have ended
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		stop()
		running.Wait()
		credentials.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := pool.Close(ctx); err != nil {
			t.Error(err)
		}
		_ = w.spool.Close() // a test may have closed it
	})
	if !o.unwelcome {
		w.plane.WaitAcked(t, w.version)
		w.eventually("the proxy is ready", func() bool { return w.request(http.MethodGet, "/readyz", nil, "").status == http.StatusOK })
	}
	return w
}

// set changes the policy and waits until the proxy acknowledged that it enforces it.
func (w *world) set(entries ...*fleetv1.Entry) {
	w.t.Helper()
	w.plane.WaitAcked(w.t, w.plane.Set(entries...))
}

// eventually waits for what nothing tells of.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			w.t.Fatalf("it did not come about that %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// withoutLists leaves out what is recorded of lists, which most tests ask for by the way.
func withoutLists(all []*auditv1.AuditRecord) []*auditv1.AuditRecord {
	return slices.DeleteFunc(slices.Clone(all), func(r *auditv1.AuditRecord) bool { return r.GetKind() == auditv1.Kind_KIND_LIST })
}

// settled waits until n records came, beside those of lists, that it did not return before, and returns all that came by then: one that
// should not be there is seen, as a record is put behind them by which their end is known.
func (w *world) settled(n int) []*auditv1.AuditRecord {
	w.t.Helper()
	w.plane.WaitAudit(w.t, func(all []*auditv1.AuditRecord) bool { return len(withoutLists(all[w.read:])) >= n })
	mark := uuid.NewString()
	if err := w.spool.Append(&auditv1.AuditRecord{CallId: mark, Method: "mark"}); err != nil {
		w.t.Fatal(err)
	}
	isMark := func(r *auditv1.AuditRecord) bool { return r.GetCallId() == mark }
	all := w.plane.WaitAudit(w.t, func(all []*auditv1.AuditRecord) bool { return slices.ContainsFunc(all, isMark) })
	end := slices.IndexFunc(all, isMark)
	fresh := withoutLists(all[w.read:end])
	w.read = end + 1
	if len(fresh) != n {
		w.t.Fatalf("there are %d records instead of %d: %v", len(fresh), n, fresh)
	}
	return fresh
}

// The policy: group 1 may use demo's tools but "forbidden", which a rule denies, and "unlisted", which none allows.

func userEntry(id uuid.UUID, active bool, groups ...uint32) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{
		Id: id[:], Active: active, Generation: 1, Directory: "okta", Subject: id.String(), Groups: groups,
	}}}
}

func groupEntry(no uint32, name string) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: no, Id: append(make([]byte, 15), byte(no)), Name: name}}}
}

func grantEntry(group uint32, connector string, rules ...*policyv1.Rule) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: group, Connector: connector, Rules: rules}}}
}

func blockEntry(b *policyv1.Block) *fleetv1.Entry {
	b.Reason = "a test"
	return &fleetv1.Entry{Value: &fleetv1.Entry_Block{Block: b}}
}

func allow(globs ...string) *policyv1.Rule { return &policyv1.Rule{Allow: globs} }
func deny(globs ...string) *policyv1.Rule  { return &policyv1.Rule{Deny: globs} }

func connectorEntry(id, url, authHeader string) *fleetv1.Entry {
	c := &policyv1.Connector{Id: id, Url: url, AllowedRanges: []string{"127.0.0.0/8"}}
	if authHeader != "" {
		c.Auth = &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: authHeader}}}
	}
	return &fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: c}}
}

func catalogueEntry(connector string, tools ...string) *fleetv1.Entry {
	c := &fleetv1.Catalogue{Connector: connector}
	for _, name := range slices.Sorted(slices.Values(tools)) {
		c.Tools = append(c.Tools, &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil,
			`{"name":%q,"inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"additionalProperties":false}}`, name)})
	}
	return &fleetv1.Entry{Value: &fleetv1.Entry_Catalogue{Catalogue: c}}
}

func (w *world) entries() []*fleetv1.Entry {
	return []*fleetv1.Entry{
		{Value: &fleetv1.Entry_Issuer{Issuer: &fleetv1.Issuer{Directory: "okta", Issuer: &policyv1.Issuer{Url: w.issuer.URL, UserClaim: "sub"}}}},
		userEntry(ada, true, 1), userEntry(bob, true, 2), groupEntry(1, "okta/Engineers"), groupEntry(2, "okta/Support"),
		connectorEntry("demo", w.demo.URL, ""), catalogueEntry("demo", "echo", "wait", "fail", "forbidden", "unlisted"),
		connectorEntry("other", w.demo.URL, ""), catalogueEntry("other", "echo"),
		grantEntry(1, "demo", allow("echo", "wait", "fail", "forbidden"), deny("forbidden")), grantEntry(1, "other", allow("*")),
		grantEntry(2, "demo", allow("echo", "wait")),
	}
}

// Tokens.

func newIssuer(t testing.TB) *httptest.Server {
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": s.URL, "jwks_uri": s.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: issuerKey.Public(), KeyID: "k", Use: "sig"}}})
	})
	return s
}

// token is a person's, for an endpoint such as "/mcp", as a client got it.
func (w *world) token(person uuid.UUID, endpoint, client string) string {
	w.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: issuerKey}, (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "k"))
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": w.issuer.URL, "aud": w.url + endpoint, "sub": person.String(), "client_id": client, "jti": uuid.NewString(),
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// Requests.

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// field reads a member of the JSON answer, by its path.
func (a answer) field(path ...string) any {
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return nil
	}
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

func (w *world) request(method, path string, header http.Header, body string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close() // what mattered was read
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// agent is who sends requests to one endpoint, in one era.
type agent struct {
	w        *world
	token    string
	path     string
	revision mcp.Revision
	session  string
	tool     string // that waits; empty: wait
	// capabilities of an agent of the stateless era. Empty: none.
	capabilities string
}

// stateless is a person's agent of the stateless era.
func (w *world) stateless(person uuid.UUID, path string) *agent {
	return &agent{w: w, token: w.token(person, path, "agent"), path: path, revision: mcp.LatestStateless}
}

// opened is a person's agent with an open session.
func (w *world) opened(person uuid.UUID, path string, revision mcp.Revision) *agent {
	w.t.Helper()
	return w.openedWith(person, path, revision, "{}")
}

func (w *world) openedWith(person uuid.UUID, path string, revision mcp.Revision, capabilities string) *agent {
	w.t.Helper()
	a := &agent{w: w, token: w.token(person, path, "agent"), path: path}
	got := a.post("", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%q,"capabilities":%s,"clientInfo":{"name":"a","version":"1"}}}`, revision, capabilities))
	if got.status != http.StatusOK || got.field("result", "protocolVersion") != string(revision) {
		w.t.Fatalf("initialize: %+v", got)
	}
	a.session, a.revision = got.header.Get("Mcp-Session-Id"), revision
	if a.session == "" {
		w.t.Fatal("initialize gave no session id")
	}
	return a
}

// header is that of a POST with a method and, for a call, a tool's name.
func (a *agent) header(method, name string) http.Header {
	h := http.Header{
		"Authorization": {"Bearer " + a.token}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
	}
	if a.revision != "" {
		h.Set("Mcp-Protocol-Version", string(a.revision))
	}
	if a.session != "" {
		h.Set("Mcp-Session-Id", a.session)
	}
	if a.revision.Stateless() {
		h.Set("Mcp-Method", method)
		if name != "" {
			h.Set("Mcp-Name", name)
		}
	}
	return h
}

// message is a request of the agent's era. params is a JSON object.
func (a *agent) message(id, method, params string) string {
	if a.revision.Stateless() {
		meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"` + string(a.revision) + `","io.modelcontextprotocol/clientCapabilities":` + cmp.Or(a.capabilities, "{}") + `,"io.modelcontextprotocol/clientInfo":{"name":"a","version":"1"},"progressToken":"p"}`
		params = strings.Replace(strings.TrimSuffix(params, "}")+","+meta+"}", "{,", "{", 1)
	} else {
		params = strings.Replace(strings.TrimSuffix(params, "}")+`,"_meta":{"progressToken":"p"}}`, "{,", "{", 1)
	}
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"` + method + `","params":` + params + `}`
}

func (a *agent) post(method, body string) answer {
	a.w.t.Helper()
	return a.w.request(http.MethodPost, a.path, a.header(method, ""), body)
}

func (a *agent) ask(method, params string) answer {
	a.w.t.Helper()
	return a.post(method, a.message("7", method, params))
}

// call calls a tool, and returns the answer's last message as the answer.
func (a *agent) call(tool, arguments string) answer {
	a.w.t.Helper()
	got := a.w.request(http.MethodPost, a.path, a.header("tools/call", tool), a.message("7", "tools/call", fmt.Sprintf(`{"name":%q,"arguments":%s}`, tool, arguments)))
	return lastOf(got)
}

// lastOf is an answer of which a stream's last message counts.
func lastOf(got answer) answer {
	if strings.HasPrefix(got.header.Get("Content-Type"), "text/event-stream") {
		events := mcp.NewEventReader(strings.NewReader(got.body), 1<<20)
		for {
			e, err := events.Next()
			if err != nil {
				break
			}
			if len(e.Data) > 0 {
				got.body = string(bytes.Clone(e.Data))
			}
		}
	}
	return got
}

// stream is an open event stream.
type stream struct {
	w      *world
	events chan string // closed at its end
}

// open sends a request that a stream answers.
func (a *agent) open(method string, header http.Header, body string) *stream {
	a.w.t.Helper()
	r, err := http.NewRequestWithContext(a.w.t.Context(), method, a.w.url+a.path, strings.NewReader(body))
	if err != nil {
		a.w.t.Fatal(err)
	}
	r.Header = header
	resp, err := http.DefaultClient.Do(r) // below, when the stream ends
	if err != nil {
		a.w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		data, _ := io.ReadAll(resp.Body)
		a.w.t.Fatalf("no stream: %s %s", resp.Status, data)
	}
	s := &stream{w: a.w, events: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(s.events)
		defer resp.Body.Close() // what mattered was read
		events := mcp.NewEventReader(resp.Body, 1<<20)
		for {
			e, err := events.Next()
			if err != nil {
				return
			}
			if len(e.Data) > 0 {
				s.events <- string(e.Data)
			}
		}
	}()
	a.w.t.Cleanup(func() {
		resp.Body.Close() // it may be closed
		<-done
	})
	return s
}

// next is the next message, or false at the stream's end.
func (s *stream) next() (string, bool) {
	s.w.t.Helper()
	select {
	case e, ok := <-s.events:
		return e, ok
	case <-time.After(10 * time.Second):
		s.w.t.Fatal("the stream neither said anything nor ended")
		return "", false
	}
}

// wants reads the next message, which must hold a text.
func (s *stream) wants(text string) {
	s.w.t.Helper()
	if e, ok := s.next(); !ok || !strings.Contains(e, text) {
		s.w.t.Fatalf("the stream said %q instead of %s", e, text)
	}
}

// ends reads until the stream's end, and returns what it said last.
func (s *stream) ends() (last string) {
	s.w.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			return last
		}
		last = e
	}
}

// server is a real MCP server that keeps what it was sent.
type server struct {
	*httptest.Server
	waiting   chan struct{} // its tool "wait" began
	cancelled chan struct{} // and was ended
	release   chan struct{} // lets it finish
	status    atomic.Int32  // not zero: what tools/call is answered with
	challenge atomic.Value  // WWW-Authenticate of that
	refused   atomic.Value  // an Authorization that is answered with 401

	mu       sync.Mutex
	received []received
}

// received is a request that arrived at an upstream.
type received struct {
	header http.Header
	method string
	body   string
}

func newServer(t testing.TB, stateless bool) *server {
	s := &server{waiting: make(chan struct{}, 10), cancelled: make(chan struct{}, 10), release: make(chan struct{})}
	m := sdk.NewServer(&sdk.Implementation{Name: "demo", Version: "1"}, nil)
	type in struct {
		Text string `json:"text,omitempty"`
	}
	text := func(said string) *sdk.CallToolResult {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: said}}}
	}
	for _, name := range []string{"echo", "forbidden", "unlisted"} {
		sdk.AddTool(m, &sdk.Tool{Name: name}, func(_ context.Context, _ *sdk.CallToolRequest, a in) (*sdk.CallToolResult, any, error) {
			return text("said " + a.Text), nil, nil
		})
	}
	sdk.AddTool(m, &sdk.Tool{Name: "fail"}, func(context.Context, *sdk.CallToolRequest, in) (*sdk.CallToolResult, any, error) {
		r := text("it does not work")
		r.IsError = true
		return r, nil, nil
	})
	sdk.AddTool(m, &sdk.Tool{Name: "wait"}, func(ctx context.Context, r *sdk.CallToolRequest, _ in) (*sdk.CallToolResult, any, error) {
		_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: "waiting"}) // it opens the stream
		s.waiting <- struct{}{}
		select {
		case <-s.release:
			return text("done"), nil, nil
		case <-ctx.Done():
			s.cancelled <- struct{}{}
			return nil, nil, ctx.Err()
		}
	})
	handler := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return m }, &sdk.StreamableHTTPOptions{
		Stateless: stateless, PropagateRequestCancellation: true,
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var asked struct {
			Method string `json:"method"`
		}
		_ = json.Unmarshal(body, &asked) // a GET has none
		s.mu.Lock()
		s.received = append(s.received, received{r.Header.Clone(), asked.Method, string(body)})
		s.mu.Unlock()
		if status := s.status.Load(); status != 0 && asked.Method == "tools/call" {
			if challenge, _ := s.challenge.Load().(string); challenge != "" {
				w.Header().Set("WWW-Authenticate", challenge)
			}
			w.WriteHeader(int(status))
			return
		}
		if refused, _ := s.refused.Load().(string); refused != "" && r.Header.Get("Authorization") == refused {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// got returns the requests that arrived, of one method or, without one, all.
func (s *server) got(method string) []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []received
	for _, r := range s.received {
		if method == "" || r.method == method {
			out = append(out, r)
		}
	}
	return out
}

func in(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }
