package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/quickstart"
)

// counted counts how often a person has to sign in.
type counted struct {
	auth.OAuthHandler
	times atomic.Int32
}

// Authorize signs the person in.
func (c *counted) Authorize(ctx context.Context, req *http.Request, resp *http.Response) error {
	c.times.Add(1)
	return c.OAuthHandler.Authorize(ctx, req, resp)
}

// token is the one that the agent would send now, refreshed if it has to be.
func (c *counted) token(ctx context.Context) (string, error) {
	source, err := c.TokenSource(ctx)
	if err != nil || source == nil {
		return "", errors.Join(err, errors.New("there are no tokens"))
	}
	t, err := source.Token()
	if err != nil {
		return "", err
	}
	return t.AccessToken, nil
}

// TestAnAgentSignsInCallsRefreshesAndIsRevoked: the MCP library's client is given a proxy's URL and nothing else. It finds the
// authorization server, names itself in each way, has the person sign in at their provider and let it in, and calls. Refreshing ends
// neither its session nor its stream; a revocation does, at both proxies.
func TestAnAgentSignsInCallsRefreshesAndIsRevoked(t *testing.T) {
	t.Parallel()
	// The library refreshes ten seconds before a token ends, and a token lives as long as the lease.
	o := newOffice(t, "", "--lease", "14s", "--heartbeat", "1s")
	const document = "https://agent.example/client.json"
	o.cp.must("clients", "approve", document, "--name", "Documented agent", "--redirect-uri", "http://127.0.0.1/callback")
	for name, program := range map[string]*agent.Program{
		"registered":                     {Name: "Registered agent"},
		"known by its metadata document": {Name: "Documented agent", Document: document},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			browser, err := agent.NewBrowser(quickstart.Employee(ada))
			if err != nil {
				t.Fatal(err)
			}
			person := &counted{OAuthHandler: program.Handler(o.east.url(), browser)}
			s, err := agent.Connect(t.Context(), o.east.url(), "", agent.Options{Revision: agent.SessionEra, Watch: true, SignIn: person})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := works(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			first, err := person.token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if s.Open() == 0 {
					return errors.New("the session's own stream is not open")
				}
				return nil
			})
			if err := standing(s); err != nil {
				t.Fatal(err)
			}
			// For the one until its first token is over, which proxies give a minute more, so that nothing lives on by it.
			err = within(t.Context(), 3*time.Minute, func() error {
				if err := works(t.Context(), s); err != nil {
					t.Fatalf("a call while the token is refreshed: %v", err)
				}
				if program.Document == "" {
					return o.refuses(o.west, first)
				}
				if now, err := person.token(t.Context()); err != nil || now == first {
					return errors.Join(err, errors.New("the token is the first"))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			second, err := person.token(t.Context())
			if err != nil || second == first {
				t.Fatalf("the token was not refreshed: %v", err)
			}
			if err := standing(s); err != nil || person.times.Load() != 1 {
				t.Errorf("the session's stream: %v; the person signed in %d times", err, person.times.Load())
			}
			if err := o.takes(o.west, second); err != nil {
				t.Errorf("the token for the one URL is not good in the other region: %v", err)
			}
			o.revoke(t, program.Name)
			for _, p := range []*proxy{o.east, o.west} {
				if err := o.refuses(p, second); err != nil {
					t.Error(err)
				}
			}
			eventually(t, func() error {
				if standing(s) == nil {
					return errors.New("the session's stream is open after the revocation")
				}
				return nil
			})
		})
	}
}

// standing says whether the session's own stream ended. Those of calls end with them.
func standing(s *agent.Session) error {
	for len(s.Ended()) > 0 {
		if stream := <-s.Ended(); stream.Method == http.MethodGet {
			return errors.New("it ended")
		}
	}
	return nil
}

// revoke ends the one session that a program has, and waits until every proxy knows.
func (o *office) revoke(t *testing.T, program string) {
	t.Helper()
	out, err := o.cp.Run(t.Context(), "sessions", "list", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var listed struct {
		Sessions []struct {
			ID         string `json:"id"`
			ClientName string `json:"client_name"`
		} `json:"sessions"`
	}
	if err := json.Unmarshal(out, &listed); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range listed.Sessions {
		if s.ClientName == program {
			ids = append(ids, s.ID)
		}
	}
	if len(ids) != 1 {
		t.Fatalf("%s has %d sessions: %s", program, len(ids), out)
	}
	o.cp.must("sessions", "revoke", ids[0])
	o.cp.enforced()
}

// TestWhileTheProviderIsDownNobodyNewSignsInAndSessionsLiveOn: a page says so, and whom to ask. Who is signed in calls and refreshes,
// also after the control plane was started again.
func TestWhileTheProviderIsDownNobodyNewSignsInAndSessionsLiveOn(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "")
	program := &agent.Program{Name: "agent"}
	tokens, err := o.signIn(t.Context(), program, o.east, ada)
	if err != nil {
		t.Fatal(err)
	}
	o.stopOkta()
	o.cp.Kill() // what it knew of the provider goes too
	o.cp.start()
	var refused *agent.Refusal
	if _, err := o.signIn(t.Context(), program, o.east, bob); !errors.As(err, &refused) {
		t.Fatalf("a sign-in without the provider gives %v", err)
	}
	if p := refused.Page; p.Status != http.StatusBadGateway || p.Title != "Corp cannot be reached · Sallyport" || !strings.Contains(p.Text, helpDesk) || strings.Contains(p.Text, "127.0.0.1") {
		t.Errorf("the page is %d %q: %s", p.Status, p.Title, p.Text)
	}
	if err := o.takes(o.east, tokens.Access); err != nil {
		t.Error(err)
	}
	if tokens, err = agent.Refresh(t.Context(), tokens); err != nil {
		t.Fatalf("a refresh without the provider: %v", err)
	}
	for _, p := range []*proxy{o.east, o.west} {
		if err := o.takes(p, tokens.Access); err != nil {
			t.Error(err)
		}
	}
	o.openOkta()
	if _, err := o.signIn(t.Context(), program, o.east, bob); err != nil {
		t.Errorf("with the provider back: %v", err)
	}
}

// TestAnyControlPlaneFinishesWhatAnotherBegan: each request of a sign-in goes to the other of two control planes than the one before;
// and when the one is gone, the other refreshes what they began.
func TestAnyControlPlaneFinishesWhatAnotherBegan(t *testing.T) {
	t.Parallel()
	var planes atomic.Pointer[[]*url.URL]
	var requests, served [2]atomic.Int32
	balancer := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		all := *planes.Load()
		i := int(requests[0].Add(1)) % len(all)
		served[i].Add(1)
		r.SetURL(all[i])
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(balancer.Close)
	urls := natsCluster(t)
	of := func(c *controlPlane) *url.URL { return &url.URL{Scheme: "http", Host: c.signin} }
	o := newOffice(t, balancer.URL, "--nats-url", urls)
	second := join(t, o.cp, urls, o.cp.flags...)
	both := []*url.URL{of(o.cp), of(second)}
	planes.Store(&both)

	program := &agent.Program{Name: "agent"}
	// At the other proxy first, since at each the program registers.
	for _, at := range []*proxy{o.west, o.east} {
		tokens, err := o.signIn(t.Context(), program, at, ada)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if tokens, err = agent.Refresh(t.Context(), tokens); err != nil {
				t.Fatal(err)
			}
			if err := o.takes(at, tokens.Access); err != nil {
				t.Error(err)
			}
		}
	}
	if served[0].Load() < 8 || served[1].Load() < 8 {
		t.Errorf("they served %d and %d requests", served[0].Load(), served[1].Load())
	}
	tokens, err := o.signIn(t.Context(), program, o.east, bob)
	if err != nil {
		t.Fatal(err)
	}
	o.cp.Kill()
	left := both[1:]
	planes.Store(&left)
	err = within(t.Context(), takeover, func() error {
		next, err := agent.Refresh(t.Context(), tokens)
		if err == nil {
			tokens = next
		}
		return err
	})
	if err != nil {
		t.Fatalf("the one that is left does not refresh within %s: %v", takeover, err)
	}
	if err := o.takes(o.west, tokens.Access); err != nil {
		t.Error(err)
	}
}
