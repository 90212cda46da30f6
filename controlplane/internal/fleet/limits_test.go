package fleet_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/sealing"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// TestWhatAProxyIsGivenForOnePersonIsBounded: 200 at once and 20 a second, whatever others ask for.
func TestWhatAProxyIsGivenForOnePersonIsBounded(t *testing.T) {
	var ahead atomic.Int64 // a clock that stands still unless it is moved
	start := time.Now()
	s := newSite(t, config{lease: time.Hour, now: func() time.Time { return start.Add(time.Duration(ahead.Load())) }})
	i := newIssuer(t)
	s.Do(core.NewSetDirectory(&policyv1.Directory{Id: "okta", Issuers: []*policyv1.Issuer{{Url: i.url, Audience: "api://sallyport"}}}))
	const people = 2
	var all []*core.User
	var tokens []string
	for n := range people {
		name := fmt.Sprintf("p%d", n)
		all = append(all, s.User("okta", name))
		tokens = append(tokens, i.sign(i.key, map[string]any{"sub": "ext-" + name}))
	}
	group := s.Group("okta", "Engineers", all...)
	s.Do(core.NewApplyPolicy(
		[]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github", Auth: &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: "Authorization"}}}}},
		[]core.GrantSpec{core.NewGrantSpec(group.ID, "github", []*policyv1.Rule{{Allow: []string{"read"}}})}))
	s.Do(core.NewPinCatalogue("github", []*policyv1.Tool{{Name: "read", Definition: []byte(`{"name":"read","inputSchema":{"type":"object"}}`)}}))
	secret, err := s.Vault.PutConnectorSecret(t.Context(), "github", "Bearer upstream-secret")
	enginetest.Must(t, err)
	s.Do(core.SetConnectorSecret{Connector: "github", SecretID: secret})
	key, err := sealing.NewKey()
	enginetest.Must(t, err)
	client := s.client(t)
	// have asks so many times for a person, eight at a time, and returns how often a credential came.
	have := func(proxy string, person, times int) int {
		var got atomic.Int64
		var asking sync.WaitGroup
		for worker := range 8 {
			asking.Go(func() {
				for range (times + 7 - worker) / 8 {
					req := connect.NewRequest(&fleetv1.IssueCredentialRequest{Connector: "github", AccessToken: tokens[person], Resource: "https://proxy.example/mcp", SealingKey: key.Public()})
					req.Header().Set("Authorization", "Bearer "+proxy)
					switch _, err := client.IssueCredential(t.Context(), req); connect.CodeOf(err) {
					case connect.CodeResourceExhausted:
					default:
						if err != nil {
							t.Error(err)
							return
						}
						got.Add(1)
					}
				}
			})
		}
		asking.Wait()
		return int(got.Load())
	}
	if got := have(s.token, 0, 230); got != 200 {
		t.Errorf("for one person %d came at once, want 200", got)
	}
	if r := s.trail.last(t); r.GetAction() != "credential_refused" || r.GetPersonId() != all[0].ID.String() {
		t.Errorf("recorded: %v", r)
	}
	ahead.Add(int64(time.Second))
	if got := have(s.token, 0, 40); got != 20 {
		t.Errorf("for the same person %d came a second later, want 20", got)
	}
	if got := have(s.token, 1, 8); got != 8 {
		t.Errorf("for somebody else %d of 8 came", got)
	}
	_, other := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-2")
	if got := have(other, 0, 8); got != 8 {
		t.Errorf("another proxy had %d of 8", got)
	}
}
