package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// published is a client's metadata document on the documents' server.
type published struct {
	mu     sync.Mutex
	header http.Header
	body   string
	status int
	asked  atomic.Int32
	tag    string // what the last request asked with
}

func (p *published) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// publish publishes a document at a path, and returns the client's id.
func (s *site) publish(path string) (string, *published) {
	s.t.Helper()
	id := s.docs.URL + path
	p := &published{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}}
	p.body = fmt.Sprintf(`{"client_id":%q,"client_name":"Agent","redirect_uris":["https://agent.example/cb"],"token_endpoint_auth_method":"none"}`, id)
	s.docMux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked.Add(1)
		p.tag = r.Header.Get("If-None-Match")
		for name, values := range p.header {
			w.Header()[name] = values
		}
		if tag := p.header.Get("ETag"); tag != "" && tag == p.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.WriteHeader(p.status)
		_, _ = w.Write([]byte(p.body))
	})
	return id, p
}

func (s *site) agent(id string) *agent {
	return &agent{s: s, id: id, redirect: "https://agent.example/cb", verifier: verifier}
}

func TestAClientThatNamesItselfByADocumentIsLetIn(t *testing.T) {
	s := newSite(t)
	id, p := s.publish("/client.json")
	a := s.agent(id)
	_, _, body := s.visit(s.browser, a.authorizeURL())
	if !strings.Contains(body, "<strong>Agent</strong>, described at 127.0.0.1") || !strings.Contains(body, "describes this program so. Your administrator has not checked it.") {
		t.Errorf("the page: %s", body)
	}
	access, refresh := a.signedIn()
	if status, _ := a.refresh(refresh); status != http.StatusOK || !s.good(access, "jira") {
		t.Errorf("refreshed with status %d", status)
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	all, err := s.server.KnownClients(t.Context())
	enginetest.Must(t, err)
	if len(all) != 1 || all[0].GetClient().GetId() != id || !all[0].GetDocument() || all[0].GetUsedAt() == nil {
		t.Errorf("known: %v", all)
	}
}

func TestNothingIsFetchedForWhoIsNotSignedIn(t *testing.T) {
	s := newSite(t)
	id, p := s.publish("/client.json")
	a := s.agent(id)
	if to := signintest.NewBrowser(t).Location(a.authorizeURL()); to.Path != "/signin" {
		t.Errorf("led to %s", to)
	}
	s.wantRecord(t, "client_refused", func() {
		if _, out := a.redeem("x"); out["error"] != "invalid_client" {
			t.Error(out)
		}
	})
	if _, out := a.refresh("x"); out["error"] != "invalid_client" {
		t.Error(out)
	}
	if n := p.asked.Load(); n != 0 {
		t.Errorf("it was fetched %d times", n)
	}
}

func TestIDsThatAreNoDocumentsURLAreRefused(t *testing.T) {
	s := newSite(t)
	s.docMux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { t.Error("something was fetched") })
	host := strings.TrimPrefix(s.docs.URL, "https://")
	for _, id := range []string{
		"https://" + host, "https://" + host + "/", "https://" + host + "/x#y", "https://" + host + "/x?y=1", "https://" + host + "/x?", "https://u@" + host + "/x", "https://u:p@" + host + "/x",
		"https://" + host + "/a/../x", "https://" + host + "/%2e%2e/x", "https://" + host + "/./x", "https://" + host + `\x`, "http://" + host + "/x", "HTTPS://" + host + "/x",
		"https://evil.example./x", "https://127.1/x", "https://0x7f000001/x", "https://2130706433/x", "https://[::1%25lo]/x", "https://exаmple.com/x", "https://x:99999/x", "https:///x",
		"https://" + host + "/" + strings.Repeat("a", 500), "ftp://" + host + "/x", "//" + host + "/x", "javascript:alert(1)", " https://" + host + "/x",
	} {
		t.Run(id[:min(len(id), 60)], func(t *testing.T) {
			before := len(s.audit.records())
			s.wantPage(t, s.agent(id).authorizeURL(), "cannot be let in")
			if len(s.audit.records()) == before {
				t.Error("audit has no record of it")
			}
		})
	}
}

func TestADocumentThatIsNotOneIsRefused(t *testing.T) {
	s := newSite(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	field := func(more string) func(*published) {
		return func(p *published) { p.body = strings.TrimSuffix(p.body, "}") + "," + more + "}" }
	}
	i := 0
	for name, change := range map[string]func(p *published){
		"of another client":           func(p *published) { p.body = strings.Replace(p.body, "client-", "other-", 1) },
		"of no client":                func(p *published) { p.body = `{"redirect_uris":["https://agent.example/cb"]}` },
		"of a client by another case": func(p *published) { p.body = strings.Replace(p.body, "/client-", "/Client-", 1) },
		"with a secret":               field(`"client_secret":"x"`),
		"with a secret's end":         field(`"client_secret_expires_at":0`),
		"authenticating by a secret":  func(p *published) { p.body = strings.Replace(p.body, `"none"`, `"client_secret_post"`, 1) },
		"HTML":                        func(p *published) { p.header.Set("Content-Type", "text/html") },
		"no type":                     func(p *published) { p.header["Content-Type"] = nil },
		"plain text":                  func(p *published) { p.header.Set("Content-Type", "text/plain") },
		"not JSON":                    func(p *published) { p.body = "<html>" },
		"a list":                      func(p *published) { p.body = "[" + p.body + "]" },
		"huge":                        field(`"x":"` + strings.Repeat("a", 20<<10) + `"`),
		"missing":                     func(p *published) { p.status = http.StatusNotFound },
		"an error":                    func(p *published) { p.status = http.StatusInternalServerError },
		"a redirect elsewhere":        func(p *published) { p.status = http.StatusFound; p.header.Set("Location", elsewhere.URL) },
		"a redirect to metadata": func(p *published) {
			p.status = http.StatusTemporaryRedirect
			p.header.Set("Location", "http://169.254.169.254/latest/meta-data/")
		},
		"a redirect to itself": func(p *published) { p.status = http.StatusFound; p.header.Set("Location", "?") },
		"another success":      func(p *published) { p.status = http.StatusAccepted },
		"without redirects":    func(p *published) { p.body = strings.Replace(p.body, `"https://agent.example/cb"`, "", 1) },
		"with a redirect of http": func(p *published) {
			p.body = strings.Replace(p.body, "https://agent.example/cb", "http://agent.example/cb", 1)
		},
		"with a redirect of script": func(p *published) {
			p.body = strings.Replace(p.body, "https://agent.example/cb", "javascript:alert(1)", 1)
		},
		"with a name that is none": func(p *published) { p.body = strings.Replace(p.body, `"Agent"`, "7", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			i++
			id, p := s.publish(fmt.Sprintf("/client-%d.json", i))
			good := p.body
			p.set(func() { change(p) })
			s.wantRecord(t, "client_document_refused", func() { s.wantPage(t, s.agent(id).authorizeURL(), "cannot be let in") })
			// What was refused is not kept: nobody can plant it.
			p.set(func() {
				p.body, p.status, p.header = good, http.StatusOK, http.Header{"Content-Type": {"application/json"}}
			})
			if _, _, body := s.visit(s.browser, s.agent(id).authorizeURL()); !strings.Contains(body, "Let a program in?") {
				t.Errorf("the good one, after that: %s", body)
			}
		})
	}
}

func TestASlowDocumentIsGivenUp(t *testing.T) {
	s := newSite(t)
	gone := make(chan struct{}, 2)
	s.docMux.HandleFunc("GET /slow.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil { // a byte now and then
			_, _ = w.Write([]byte(" "))
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
		gone <- struct{}{}
	})
	s.wantRecord(t, "client_document_refused", func() { s.wantPage(t, s.agent(s.docs.URL+"/slow.json").authorizeURL(), "too slowly") })
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("it goes on being fetched")
	}
}

func TestDocumentsAreFetchedFromThePublicInternetAlone(t *testing.T) {
	s := newSite(t)
	s.docMux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { t.Error("something was fetched") })
	*s.documents = *egress.Public().Client(0)
	s.documents.Transport = s.trusting(egress.Public())
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.docs.URL, "https://"))
	for _, host := range []string{
		"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "[fd00:ec2::254]", "[fe80::1]",
		"[64:ff9b::7f00:1]", "198.18.0.1", "224.0.0.1", "255.255.255.255",
	} {
		s.wantRecord(t, "client_document_refused", func() {
			s.wantPage(t, s.agent("https://"+host+":"+port+"/client.json").authorizeURL(), "public address")
		})
	}
}

func TestANameThatIsBoundAnewLeadsNowhere(t *testing.T) {
	s := newSite(t)
	s.docMux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { t.Error("something was fetched") })
	// A name that is of the public internet when it is asked for first, and of loopback from then on.
	var asked atomic.Int32
	names := nameServer(t, func() [4]byte {
		if asked.Add(1) == 1 {
			return [4]byte{8, 8, 8, 8}
		}
		return [4]byte{127, 0, 0, 1}
	})
	dialer := egress.Public().Dialer(time.Second)
	dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", names)
	}}
	addresses, err := dialer.Resolver.LookupHost(t.Context(), "rebind.example")
	if err != nil || len(addresses) == 0 {
		t.Fatalf("looked up by whoever checks before: %v %v", addresses, err)
	}
	refused := make(chan error, 10)
	s.documents.Transport = &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		refused <- err
		return conn, err
	}}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.docs.URL, "https://"))
	s.wantRecord(t, "client_document_refused", func() {
		s.wantPage(t, s.agent("https://rebind.example:"+port+"/client.json").authorizeURL(), "public address")
	})
	select {
	case err := <-refused:
		if !errors.Is(err, egress.ErrRefused) {
			t.Errorf("it was not refused for its address: %v", err)
		}
	default:
		t.Error("nothing was dialed")
	}
}

// nameServer answers each question for an IPv4 address.
func nameServer(t *testing.T, answer func() [4]byte) string {
	t.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	enginetest.Must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 0}, Body: &dnsmessage.AResource{A: answer()}}}
			}
			if packed, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestADocumentIsKeptAsItsHeadersSayWithinBounds(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct {
		header      http.Header
		kept, again time.Duration
	}{
		"it does not say": {nil, 59 * time.Minute, 61 * time.Minute},
		"ten minutes":     {http.Header{"Cache-Control": {"max-age=600"}}, 9 * time.Minute, 11 * time.Minute},
		"partly over":     {http.Header{"Cache-Control": {"max-age=3600"}, "Age": {"3000"}}, 9 * time.Minute, 11 * time.Minute},
		"too short":       {http.Header{"Cache-Control": {"max-age=0"}}, 4 * time.Minute, 6 * time.Minute},
		"not at all":      {http.Header{"Cache-Control": {"no-store"}}, 4 * time.Minute, 6 * time.Minute},
		"for ever":        {http.Header{"Cache-Control": {"public, max-age=99999999999"}}, 23 * time.Hour, 25 * time.Hour},
		"negative":        {http.Header{"Cache-Control": {"max-age=-1"}}, 4 * time.Minute, 6 * time.Minute},
		"nonsense":        {http.Header{"Cache-Control": {"max-age=soon"}}, 59 * time.Minute, 61 * time.Minute},
		"until then":      {http.Header{"Expires": {time.Now().Add(20 * time.Minute).UTC().Format(http.TimeFormat)}}, 19 * time.Minute, 21 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			id, p := s.publish("/" + strings.ReplaceAll(name, " ", "-"))
			for k, v := range c.header {
				p.header[k] = v
			}
			a := s.agent(id)
			look := func() int32 { s.visit(s.browser, a.authorizeURL()); return p.asked.Load() }
			if n := look(); n != 1 {
				t.Fatalf("fetched %d times", n)
			}
			s.later(c.kept)
			if n := look(); n != 1 {
				t.Errorf("after %s it was fetched again", c.kept)
			}
			s.later(c.again - c.kept)
			if n := look(); n != 2 {
				t.Errorf("after %s it was fetched %d times", c.again, n)
			}
			s.later(-c.again)
		})
	}
}

func TestADocumentIsAskedForByItsTagAndItsChangeCounts(t *testing.T) {
	s := newSite(t)
	id, p := s.publish("/client.json")
	p.header.Set("ETag", `"1"`)
	a := s.agent(id)
	s.visit(s.browser, a.authorizeURL())
	s.later(2 * time.Hour)
	if _, _, body := s.visit(s.browser, a.authorizeURL()); !strings.Contains(body, "Let a program in?") || p.asked.Load() != 2 || p.tag != `"1"` {
		t.Errorf("asked %d times, last with %q: %s", p.asked.Load(), p.tag, body)
	}
	p.set(func() {
		p.header.Set("ETag", `"2"`)
		p.body = strings.Replace(p.body, "agent.example", "moved.example", 1)
	})
	s.later(2 * time.Hour)
	s.wantRecord(t, "redirect_refused", func() { s.wantPage(t, a.authorizeURL(), "not one of its own") })
}

func TestWhileADocumentsHostIsDownItsAgentsGoOnAndNobodyNewIsLetIn(t *testing.T) {
	s := newSite(t)
	id, p := s.publish("/client.json")
	a := s.agent(id)
	_, refresh := a.signedIn()
	p.set(func() { p.status = http.StatusBadGateway })
	s.later(2 * time.Hour)
	status, out := a.refresh(refresh)
	if status != http.StatusOK {
		t.Fatalf("refreshed: %d %v", status, out)
	}
	s.wantPage(t, a.authorizeURL(), "try again later")
	p.set(func() { p.status = http.StatusGone }) // its maker took it back
	if status, out := a.refresh(out["refresh_token"].(string)); status != http.StatusBadRequest || out["error"] != "invalid_client" {
		t.Errorf("after it was taken back: %d %v", status, out)
	}
}

func TestAdminsSayWhichDocumentsCount(t *testing.T) {
	s := newSite(t)
	id, p := s.publish("/client.json")
	a := s.agent(id)
	policy := func(change *policyv1.AuthorizationPolicy) { s.Do(core.NewSetAuthorizationPolicy(change)) }
	refused := func(name, says string) {
		t.Helper()
		s.wantRecord(t, "client_refused", func() { s.wantPage(t, a.authorizeURL(), says) })
		if t.Failed() {
			t.Log(name)
		}
	}
	policy(&policyv1.AuthorizationPolicy{DenyHosts: []string{"127.0.0.1"}})
	refused("denied", "are not let in here")
	policy(&policyv1.AuthorizationPolicy{AllowHosts: []string{"claude.ai", "*.example.com"}})
	refused("not allowed", "are not let in here")
	policy(&policyv1.AuthorizationPolicy{MetadataDocuments: policyv1.Admission_ADMISSION_OFF})
	refused("off", "switched off")
	policy(&policyv1.AuthorizationPolicy{MetadataDocuments: policyv1.Admission_ADMISSION_APPROVED})
	refused("not approved", "approval")
	if n := p.asked.Load(); n != 0 {
		t.Errorf("it was fetched %d times before anybody may be let in", n)
	}
	s.Do(core.NewSetClient(&policyv1.Client{Id: id}))
	if _, _, body := s.visit(s.browser, a.authorizeURL()); !strings.Contains(body, "Your administrator approved this program") {
		t.Errorf("approved: %s", body)
	}
	// Described whole, for a network that has no way to the document.
	closed := "https://agent.invalid/client.json"
	s.Do(core.NewSetClient(&policyv1.Client{Id: closed, Name: "Closed", RedirectUris: []string{"https://agent.example/cb"}}))
	access, refresh := s.agent(closed).signedIn()
	if status, _ := s.agent(closed).refresh(refresh); status != http.StatusOK || !s.good(access, "jira") {
		t.Errorf("pre-loaded: refreshed with status %d", status)
	}
	_, refresh = a.signedIn()
	s.Do(core.NewPlaceBlock(&policyv1.Block{Reason: "x", Target: &policyv1.Block_ClientId{ClientId: id}}))
	s.wantRecord(t, "client_refused", func() { s.wantPage(t, a.authorizeURL(), "blocked this client") })
	if status, out := a.refresh(refresh); status != http.StatusForbidden || out["error"] != "unauthorized_client" {
		t.Errorf("blocked: %d %v", status, out)
	}
}
