package fleet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/sealing"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
)

// issuer signs access tokens and publishes its key as an OIDC provider does.
type issuer struct {
	t   *testing.T
	url string
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	i := &issuer{t: t, key: key}
	mux := http.NewServeMux()
	answer := func(pattern string, body func() any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(body())
		})
	}
	answer("GET /.well-known/openid-configuration", func() any {
		return map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys", "authorization_endpoint": i.url + "/a", "token_endpoint": i.url + "/t", "id_token_signing_alg_values_supported": []string{"ES256"}}
	})
	answer("GET /keys", func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

// sign makes a token; claims replace those of a good one.
func (i *issuer) sign(key *ecdsa.PrivateKey, claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": i.url, "sub": "ext-ada", "aud": "api://sallyport", "iat": time.Now().Add(time.Second).Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range claims {
		all[name] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	enginetest.Must(i.t, err)
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	enginetest.Must(i.t, err)
	return token
}

func TestACredentialNeedsALiveTokenOfAPersonWhoMayUseTheConnector(t *testing.T) {
	s := newSite(t, config{lease: time.Minute})
	i := newIssuer(t)
	s.Do(core.NewSetDirectory(&policyv1.Directory{Id: "okta", Issuers: []*policyv1.Issuer{{Url: i.url, Audience: "api://sallyport"}}}))
	ada := s.User("okta", "ada")
	s.User("okta", "bob")
	group := s.Group("okta", "Engineers", ada)
	header := &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: "Authorization"}}}
	rules := []*policyv1.Rule{{Allow: []string{"read"}}}
	s.Do(core.NewApplyPolicy(
		[]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github", Auth: header}, {Id: "open", Url: "https://mcp.example/open"}, {Id: "europe", Url: "https://mcp.example/eu", Auth: header, Regions: []string{"eu-west"}}},
		[]core.GrantSpec{core.NewGrantSpec(group.ID, "github", rules), core.NewGrantSpec(group.ID, "open", rules), core.NewGrantSpec(group.ID, "europe", rules)}))
	for _, connector := range []string{"github", "open", "europe"} {
		s.Do(core.NewPinCatalogue(connector, []*policyv1.Tool{{Name: "read", Definition: []byte(`{"name":"read","inputSchema":{"type":"object"}}`)}}))
	}
	const value = "Bearer upstream-secret"
	secret, err := s.Vault.PutConnectorSecret(t.Context(), "github", value)
	enginetest.Must(t, err)
	s.Do(core.SetConnectorSecret{Connector: "github", SecretID: secret})

	ask := func(proxyToken, connector, accessToken string) (*fleetv1.IssueCredentialResponse, error) {
		key, err := sealing.NewKey()
		enginetest.Must(t, err)
		req := connect.NewRequest(&fleetv1.IssueCredentialRequest{Connector: connector, AccessToken: accessToken, Resource: "https://proxy.example/mcp", SealingKey: key.Public()})
		req.Header().Set("Authorization", "Bearer "+proxyToken)
		res, err := s.client(t).IssueCredential(t.Context(), req)
		if err != nil {
			if strings.Contains(err.Error(), "upstream-secret") || len(accessToken) > 40 && strings.Contains(err.Error(), accessToken[:40]) {
				t.Errorf("the refusal tells a secret: %v", err)
			}
			return nil, err
		}
		if wire, err := proto.Marshal(res.Msg); err != nil || bytes.Contains(wire, []byte("upstream-secret")) {
			t.Errorf("the answer holds the secret in the clear: %v", err)
		}
		plain, err := key.Open(res.Msg.GetSealed(), connector, res.Msg.GetHeaderName(), res.Msg.GetIdentity(), accessToken)
		enginetest.Must(t, err)
		var secret fleetv1.UpstreamSecret
		enginetest.Must(t, proto.Unmarshal(plain, &secret))
		if secret.GetHeaderValue() != value || res.Msg.GetLifetime().AsDuration() > time.Minute {
			t.Errorf("the secret is another, for %s", res.Msg.GetLifetime().AsDuration())
		}
		return res.Msg, nil
	}
	good := i.sign(i.key, nil)
	got, err := ask(s.token, "github", good)
	enginetest.Must(t, err)
	if got.GetHeaderName() != "Authorization" {
		t.Errorf("the credential is for header %q", got.GetHeaderName())
	}
	if left := time.Until(got.GetExpiresAt().AsTime()); left > time.Minute || left < 50*time.Second {
		t.Errorf("the credential ends in %s, the lease in a minute", left)
	}
	if r := s.trail.last(t); r.GetAction() != "credential_issued" || r.GetTarget() != "connector/github" || r.GetPersonId() != ada.ID.String() || strings.Contains(r.String(), value) {
		t.Errorf("recorded: %v", r)
	}
	brief, err := ask(s.token, "github", i.sign(i.key, map[string]any{"exp": time.Now().Add(20 * time.Second).Unix()}))
	enginetest.Must(t, err)
	if left := time.Until(brief.GetExpiresAt().AsTime()); left > 20*time.Second {
		t.Errorf("the credential ends in %s, after its token", left)
	}

	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	parts := strings.Split(good, ".")
	proxyID, revoked := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-9")
	s.Do(core.RevokeToken{ID: proxyID})
	for name, test := range map[string]struct {
		proxy, connector, token string
		want                    connect.Code
	}{
		"no proxy":               {"", "github", good, connect.CodeUnauthenticated},
		"a revoked proxy":        {revoked, "github", good, connect.CodeUnauthenticated},
		"no token":               {s.token, "github", "", connect.CodeInvalidArgument},
		"no JWT":                 {s.token, "github", "opaque", connect.CodePermissionDenied},
		"unsigned":               {s.token, "github", "eyJhbGciOiJub25lIn0." + parts[1] + ".", connect.CodePermissionDenied},
		"another key":            {s.token, "github", i.sign(stranger, nil), connect.CodePermissionDenied},
		"another's claims":       {s.token, "github", parts[0] + "." + strings.Split(i.sign(i.key, map[string]any{"sub": "ext-bob"}), ".")[1] + "." + parts[2], connect.CodePermissionDenied},
		"expired":                {s.token, "github", i.sign(i.key, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), connect.CodePermissionDenied},
		"another audience":       {s.token, "github", i.sign(i.key, map[string]any{"aud": "api://other"}), connect.CodePermissionDenied},
		"an unknown issuer":      {s.token, "github", i.sign(i.key, map[string]any{"iss": "https://evil.example"}), connect.CodePermissionDenied},
		"an ID token":            {s.token, "github", i.sign(i.key, map[string]any{"nonce": "n"}), connect.CodePermissionDenied},
		"nobody":                 {s.token, "github", i.sign(i.key, map[string]any{"sub": "ext-nobody"}), connect.CodePermissionDenied},
		"without access":         {s.token, "github", i.sign(i.key, map[string]any{"sub": "ext-bob"}), connect.CodePermissionDenied},
		"an unknown connector":   {s.token, "gitlab", good, connect.CodePermissionDenied},
		"one of another region":  {s.token, "europe", good, connect.CodePermissionDenied},
		"one without any secret": {s.token, "open", good, connect.CodeFailedPrecondition},
	} {
		if _, err := ask(test.proxy, test.connector, test.token); connect.CodeOf(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}

	s.Do(core.NewPlaceBlock(&policyv1.Block{Target: &policyv1.Block_Connector{Connector: "github"}, Reason: "incident"}))
	if _, err := ask(s.token, "github", good); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("of a blocked connector: %v", err)
	}
	if r := s.trail.last(t); r.GetAction() != "credential_refused" || r.GetDecision().GetVerdict() != auditv1.Verdict_VERDICT_DENIED || r.GetPersonId() != ada.ID.String() {
		t.Errorf("recorded: %v", r)
	}
	for b := range s.Engine.State().Blocks() {
		s.Do(core.LiftBlock{ID: uuid.MustParse(b.GetId())})
	}
	_, err = ask(s.token, "github", good)
	enginetest.Must(t, err)
	s.Do(core.UpdateUser{Directory: "okta", ID: ada.ID, Profile: ada.Profile, Active: false})
	if _, err := ask(s.token, "github", good); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("for somebody who was deactivated: %v", err)
	}
	s.Do(core.UpdateUser{Directory: "okta", ID: ada.ID, Profile: ada.Profile, Active: true})
	before := i.sign(i.key, map[string]any{"iat": time.Now().Add(-time.Minute).Unix()})
	if _, err := ask(s.token, "github", before); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("with a token from before the deactivation: %v", err)
	}
}

// meanwhile is a keeper during whose work something happens.
type meanwhile struct {
	fleet.Credentials
	happens func()
}

func (m meanwhile) Issue(ctx context.Context, s *core.State, u *core.User, c *core.Connector, ask credentials.Ask) (credentials.Issued, error) {
	issued, err := m.Credentials.Issue(ctx, s, u, c, ask)
	m.happens()
	return issued, err
}

// TestWhatIsTakenAwayWhileACredentialIsFetchedIsNotHandedOut at a control plane that lags too, which has read nothing of it yet: the log's end is asked.
func TestWhatIsTakenAwayWhileACredentialIsFetchedIsNotHandedOut(t *testing.T) {
	for _, lags := range []bool{false, true} {
		for name, take := range map[string]func(*site, *core.User){
			"the person is deactivated": func(s *site, u *core.User) {
				s.Do(core.UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: false})
			},
			"their sessions are revoked":   func(s *site, u *core.User) { s.Do(core.RevokeSessions{ID: u.ID}) },
			"the proxy is revoked":         func(s *site, _ *core.User) { s.Do(core.RevokeToken{ID: s.id}) },
			"nothing, which is handed out": func(*site, *core.User) {},
		} {
			var happens func()
			s := newSite(t, config{lags: lags, meanwhile: func() { happens() }})
			i := newIssuer(t)
			s.Do(core.NewSetDirectory(&policyv1.Directory{Id: "okta", Issuers: []*policyv1.Issuer{{Url: i.url, Audience: "api://sallyport"}}}))
			ada := s.User("okta", "ada")
			group := s.Group("okta", "Engineers", ada)
			header := &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: "Authorization"}}}
			s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github", Auth: header}},
				[]core.GrantSpec{core.NewGrantSpec(group.ID, "github", []*policyv1.Rule{{Allow: []string{"read"}}})}))
			s.Do(core.NewPinCatalogue("github", []*policyv1.Tool{{Name: "read", Definition: []byte(`{"name":"read","inputSchema":{"type":"object"}}`)}}))
			secret, err := s.Vault.PutConnectorSecret(t.Context(), "github", "upstream-secret")
			enginetest.Must(t, err)
			s.Do(core.SetConnectorSecret{Connector: "github", SecretID: secret})
			s.freeze()
			happens = func() { take(s, ada) }
			key, err := sealing.NewKey()
			enginetest.Must(t, err)
			req := connect.NewRequest(&fleetv1.IssueCredentialRequest{Connector: "github", AccessToken: i.sign(i.key, nil), SealingKey: key.Public()})
			req.Header().Set("Authorization", "Bearer "+s.token)
			_, err = s.client(t).IssueCredential(t.Context(), req)
			if handed := err == nil; handed != strings.HasPrefix(name, "nothing") {
				t.Errorf("%s (lags: %v): %v", name, lags, err)
			}
		}
	}
}

func TestAuditCarriesTheProxysOwnName(t *testing.T) {
	s := newSite(t, config{})
	deliver := func(first, last uint64, options ...connect.ClientOption) uint64 {
		t.Helper()
		m := &fleetv1.DeliverAuditRequest{SpoolGeneration: "g1"}
		for n := first; n <= last; n++ {
			m.Records = append(m.Records, &auditv1.AuditRecord{Number: n, Proxy: "another", Region: "elsewhere", At: timestamppb.Now()})
		}
		req := connect.NewRequest(m)
		req.Header().Set("Authorization", "Bearer "+s.token)
		res, err := s.client(t, options...).DeliverAudit(t.Context(), req)
		enginetest.Must(t, err)
		return res.Msg.GetAcknowledged()
	}
	if got := deliver(1, 3); got != 3 {
		t.Errorf("acknowledged up to %d", got)
	}
	if got := deliver(2, 4, connect.WithSendGzip()); got != 4 { // as over a network
		t.Errorf("acknowledged up to %d", got)
	}
	found, _, err := s.audit.Search(t.Context(), nil, 10, "")
	enginetest.Must(t, err)
	if len(found) != 4 {
		t.Errorf("%d records are stored", len(found))
	}
	for _, r := range found {
		if r.GetRecord().GetProxy() != "us-east-1" || r.GetRecord().GetRegion() != "us-east" {
			t.Errorf("a record is of %s in %s", r.GetRecord().GetProxy(), r.GetRecord().GetRegion())
		}
	}
	req := connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g*.>"})
	req.Header().Set("Authorization", "Bearer "+s.token)
	if _, err := s.client(t).DeliverAudit(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a hostile generation: %v", err)
	}
	req = connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g1", Records: make([]*auditv1.AuditRecord, 5001)})
	req.Header().Set("Authorization", "Bearer "+s.token)
	if _, err := s.client(t).DeliverAudit(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("more records than a delivery has: %v", err)
	}
}
