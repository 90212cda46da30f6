package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

const ownIssuer = "https://signin.sallyport.test"

// authority is Sallyport's own authorization server, as proxies know it.
type authority struct {
	w   *world
	key *ecdsa.PrivateKey
}

// authority tells the proxy of one.
func (w *world) authority() *authority {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: "own", Algorithm: "ES256", Use: "sig"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.set(&fleetv1.Entry{Value: &fleetv1.Entry_AuthorizationServer{AuthorizationServer: &fleetv1.AuthorizationServer{
		Issuer: ownIssuer, Offered: true, Keys: []*policyv1.SigningKey{{Id: "own", Issuer: ownIssuer, Jwk: jwk}},
	}}})
	return &authority{w, key}
}

// token is a person's, with further claims.
func (a *authority) token(person uuid.UUID, more map[string]any) string {
	a.w.t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": ownIssuer, "aud": a.w.url + "/mcp", "sub": person.String(), "client_id": "agent-1", "jti": uuid.NewString(), "sid": uuid.UUID{15: 9}.String(),
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(), "sallyport_gen": 1, "sallyport_began": now.Add(-time.Hour).UnixMilli(), "scope": "mcp",
	}
	maps.Copy(claims, more)
	return signed(a.w.t, a.key, map[jose.HeaderKey]any{"kid": "own", "typ": "at+jwt"}, claims)
}

func signed(t testing.TB, key *ecdsa.PrivateKey, header map[jose.HeaderKey]any, claims any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	for name, value := range header {
		options.WithHeader(name, value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// as is an agent of the stateless era with a token.
func (w *world) as(token, path string) *agent {
	return &agent{w: w, token: token, path: path, revision: mcp.LatestStateless}
}

func TestACallThatNeedsAStrongerSignInIsChallengedAndPassesAfterwards(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.authority()
	w.set(grantEntry(1, "demo", &policyv1.Rule{Allow: []string{"echo"}, SignIn: &policyv1.Assurance{
		Acr: []string{"phr", "phrh"}, Amr: []string{"hwk"}, MaxAge: durationpb.New(15 * time.Minute),
	}}))
	weak := map[string]any{"acr": "plain", "amr": []string{"pwd"}, "auth_time": time.Now().Add(-time.Hour).Unix()}
	strong := map[string]any{"acr": "phrh", "amr": []string{"pwd", "hwk"}, "auth_time": time.Now().Unix()}

	list := w.as(a.token(ada, weak), "/mcp/demo").ask("tools/list", `{}`)
	if !strings.Contains(list.body, `"echo"`) {
		t.Errorf("what a stronger sign-in allows is not listed: %s", list.body)
	}
	refused := w.as(a.token(ada, weak), "/mcp/demo").call("echo", `{}`)
	challenge := refused.header.Get("WWW-Authenticate")
	if refused.status != http.StatusForbidden || !strings.HasPrefix(challenge, "Bearer ") {
		t.Fatalf("status %d, %q: %s", refused.status, challenge, refused.body)
	}
	for _, want := range []string{
		`error="insufficient_scope"`, `scope="mcp sign-in:acr=phr&acr=phrh&after=`, `&amr=hwk"`, `acr_values="phr phrh"`, `max_age="900"`,
		`resource_metadata="` + w.url + `/.well-known/oauth-protected-resource/mcp/demo"`,
	} {
		if !strings.Contains(challenge, want) {
			t.Errorf("the challenge lacks %s: %s", want, challenge)
		}
	}
	if said := refused.field("error", "message"); !strings.Contains(said.(string), "once the person has signed in") {
		t.Errorf("it says %v", said)
	}
	record := w.settled(1)[0]
	if record.GetPhase() != auditv1.Phase_PHASE_REFUSED || record.GetDecision().GetReason() != auditv1.Reason_REASON_SIGN_IN_REQUIRED || record.GetDecision().GetRule() != 1 {
		t.Errorf("the record is %v", record)
	}
	if ok := w.as(a.token(ada, strong), "/mcp/demo").call("echo", `{}`); ok.status != http.StatusOK || strings.Contains(ok.body, "isError\":true") {
		t.Errorf("after the sign-in: status %d: %s", ok.status, ok.body)
	}
	records := w.settled(2)
	if !slices.ContainsFunc(records, func(r *auditv1.AuditRecord) bool {
		return r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED && r.GetAuthentication().GetAcr() == "phrh" && len(r.GetAuthentication().GetAmr()) == 2 && r.GetAuthentication().GetAt() != nil
	}) {
		t.Errorf("no record says how the person had signed in: %v", records)
	}
	// Another issuer's scopes are its own: it is told by RFC 9470 alone.
	foreign := w.as(w.token(ada, "/mcp/demo", "agent-1"), "/mcp/demo").call("echo", `{}`)
	if got := foreign.header.Get("WWW-Authenticate"); foreign.status != http.StatusForbidden || strings.Contains(got, "scope=\"") || !strings.Contains(got, `acr_values="phr phrh"`) {
		t.Errorf("status %d, %s", foreign.status, got)
	}
}

func TestChallengesAndMetadataNameTheScopeOfTheOwnAuthorizationServer(t *testing.T) {
	w := newWorld(t, &options{})
	ask := func() (challenge string, metadata answer) {
		return w.request(http.MethodPost, "/mcp/demo", nil, "{}").header.Get("WWW-Authenticate"), w.request(http.MethodGet, "/.well-known/oauth-protected-resource/mcp/demo", nil, "")
	}
	if challenge, metadata := ask(); strings.Contains(challenge, "scope") || metadata.field("scopes_supported") != nil {
		t.Errorf("without an own authorization server: %s; %s", challenge, metadata.body)
	}
	w.authority()
	challenge, metadata := ask()
	if scopes, ok := metadata.field("scopes_supported").([]any); !ok || len(scopes) != 1 || scopes[0] != "mcp" {
		t.Errorf("the metadata says %s", metadata.body)
	}
	if !strings.Contains(challenge, `scope="mcp"`) || strings.Contains(challenge, "error=") {
		t.Errorf("the challenge is %s", challenge)
	}
	if servers, ok := metadata.field("authorization_servers").([]any); !ok || servers[0] != ownIssuer {
		t.Errorf("the metadata says %s", metadata.body)
	}
}
