package signals_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signals"
)

const (
	issuer   = "https://okta.example"
	audience = "https://scim.example/signals/okta/events"
	revoked  = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	changed  = "https://schemas.openid.net/secevent/caep/event-type/credential-change"
	disabled = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
)

// site is a receiver over a real engine, and a transmitter with keys of its own.
type site struct {
	*enginetest.Plane
	t      *testing.T
	web    *httptest.Server
	keys   *httptest.Server
	key    *ecdsa.PrivateKey
	ann    *core.User
	mu     sync.Mutex
	down   bool
	noted  []activity.Request
	audit  []*auditv1.AuditRecord
	fetchs int
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t}
	s.Directory("okta", "corp")
	s.ann = s.User("okta", "ann@example.com")
	var err error
	s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	s.keys = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fetchs++; s.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	}))
	t.Cleanup(s.keys.Close)
	s.Do(core.NewSetSignals("okta", &policyv1.Signals{Issuer: issuer, JwksUrl: s.keys.URL, Audiences: []string{audience}}))
	s.web = enginetest.Serve(t, signals.New(signals.Config{Engine: s.Engine, Store: s.Shared, Audit: s, Log: s.Log, Note: func(r activity.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.noted = append(s.noted, r)
	}}).Handler())
	return s
}

// Refuse keeps what audit is told.
func (s *site) Refuse(r *auditv1.AuditRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit = append(s.audit, r)
}

// lastAudit is what audit was told last, and how often it was told anything.
func (s *site) lastAudit() (*auditv1.AuditRecord, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.audit) == 0 {
		return nil, 0
	}
	return s.audit[len(s.audit)-1], len(s.audit)
}

// told checks that audit was told of a refusal, the n-th, and of nothing that the token held.
func (s *site) told(name, action, word, target string, n int) {
	s.t.Helper()
	rec, told := s.lastAudit()
	if told != n || rec.GetAction() != action || rec.GetError() != word || rec.GetTarget() != target || rec.GetKind() != auditv1.Kind_KIND_SIGN_IN_FAILED ||
		rec.GetDecision().GetVerdict() != auditv1.Verdict_VERDICT_DENIED || rec.GetClient().GetAddress() != "127.0.0.1" || strings.Contains(rec.String(), "ann@") {
		s.t.Errorf("%s: audit was told %d times, want %d; at last %v", name, told, n, rec)
	}
}

func (s *site) sign(typ string, key any, alg jose.SignatureAlgorithm, claims map[string]any) string {
	s.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	enginetest.Must(s.t, err)
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	enginetest.Must(s.t, err)
	return text
}

// set is a security event token about ann, as change makes it.
func (s *site) set(event string, change func(map[string]any)) string {
	claims := map[string]any{
		"iss": issuer, "aud": audience, "jti": rand.Text(), "iat": time.Now().Unix(), "events": map[string]any{event: map[string]any{}},
		"sub_id": map[string]any{"format": "iss_sub", "iss": issuer, "sub": "ext-ann@example.com"},
	}
	if change != nil {
		change(claims)
	}
	return s.sign("secevent+jwt", s.key, jose.ES256, claims)
}

func (s *site) send(path, kind, bearer, body string) (status int, err string) {
	s.t.Helper()
	req, failed := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.web.URL+path, strings.NewReader(body))
	enginetest.Must(s.t, failed)
	req.Header.Set("Content-Type", kind)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, failed := http.DefaultClient.Do(req)
	enginetest.Must(s.t, failed)
	defer res.Body.Close()
	data, failed := io.ReadAll(res.Body)
	enginetest.Must(s.t, failed)
	var said struct{ Err string }
	_ = json.Unmarshal(data, &said)
	return res.StatusCode, said.Err
}

func (s *site) push(token string) (int, string) {
	return s.send("/signals/okta/events", "application/secevent+jwt", "", token)
}

func (s *site) now() *core.User { return s.Engine.State().User(s.ann.ID) }

func TestASecurityEventEndsWhatThePersonHas(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"iss_sub": nil,
		"opaque": func(c map[string]any) {
			c["sub_id"] = map[string]any{"format": "opaque", "id": "ext-ann@example.com"}
		},
		"email": func(c map[string]any) { c["sub_id"] = map[string]any{"format": "email", "email": "Ann@example.com"} },
		"complex, within the event": func(c map[string]any) {
			user := map[string]any{"user": c["sub_id"], "session": map[string]any{"format": "opaque", "id": "1"}}
			delete(c, "sub_id")
			c["events"] = map[string]any{revoked: map[string]any{"subject": user}}
		},
		"several audiences": func(c map[string]any) { c["aud"] = []string{"https://other.example", audience} },
		"credential change": func(c map[string]any) {
			c["events"] = map[string]any{changed: map[string]any{"credential_type": "password"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			token := s.set(revoked, change)
			if status, err := s.push(token); status != http.StatusAccepted {
				t.Fatalf("%d %s", status, err)
			}
			if u := s.now(); u.Generation != s.ann.Generation+1 || !u.Active {
				t.Errorf("the person is %+v", u)
			}
			// It comes again, as transmitters do that missed the answer: taken, and not done twice.
			if status, _ := s.push(token); status != http.StatusAccepted || s.now().Generation != s.ann.Generation+1 {
				t.Errorf("again: %d, generation %d", status, s.now().Generation)
			}
		})
	}
}

func TestADisabledAccountIsDeactivated(t *testing.T) {
	s := newSite(t)
	if status, err := s.push(s.set(disabled, nil)); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, err)
	}
	if u := s.now(); u.Active || u.Generation != s.ann.Generation+1 || u.UserName != s.ann.UserName {
		t.Errorf("the person is %+v", u)
	}
}

func TestAHostileEventIsRefusedChangesNothingAndIsRecorded(t *testing.T) {
	s := newSite(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	claims := func() map[string]any {
		return map[string]any{
			"iss": issuer, "aud": audience, "jti": rand.Text(), "iat": time.Now().Unix(), "events": map[string]any{revoked: map[string]any{}},
			"sub_id": map[string]any{"format": "opaque", "id": "ext-ann@example.com"},
		}
	}
	good := s.set(revoked, nil)
	parts := strings.Split(good, ".")
	refused := 0
	for name, test := range map[string]struct{ token, want string }{
		"another key":      {s.sign("secevent+jwt", other, jose.ES256, claims()), "authentication_failed"},
		"a shared secret":  {s.sign("secevent+jwt", []byte("0123456789abcdef0123456789abcdef"), jose.HS256, claims()), "invalid_request"},
		"no signature":     {"eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0." + parts[1] + ".", "invalid_request"},
		"a cut signature":  {good[:len(good)-6] + "AAAAAA", "authentication_failed"},
		"an access token":  {s.sign("at+jwt", s.key, jose.ES256, claims()), "invalid_request"},
		"no type":          {s.sign("", s.key, jose.ES256, claims()), "invalid_request"},
		"another issuer":   {s.set(revoked, func(c map[string]any) { c["iss"] = "https://evil.example" }), "invalid_issuer"},
		"another audience": {s.set(revoked, func(c map[string]any) { c["aud"] = "https://other.example" }), "invalid_audience"},
		"no audience":      {s.set(revoked, func(c map[string]any) { delete(c, "aud") }), "invalid_audience"},
		"no id":            {s.set(revoked, func(c map[string]any) { delete(c, "jti") }), "invalid_request"},
		"of the future":    {s.set(revoked, func(c map[string]any) { c["iat"] = time.Now().Add(time.Hour).Unix() }), "invalid_request"},
		"of long ago":      {s.set(revoked, func(c map[string]any) { c["iat"] = time.Now().Add(-30 * 24 * time.Hour).Unix() }), "invalid_request"},
		"no events":        {s.set(revoked, func(c map[string]any) { c["events"] = map[string]any{} }), "invalid_request"},
		"no subject":       {s.set(revoked, func(c map[string]any) { delete(c, "sub_id") }), "invalid_request"},
		"a foreign subject": {s.set(revoked, func(c map[string]any) {
			c["sub_id"] = map[string]any{"format": "iss_sub", "iss": "https://evil.example", "sub": "ext-ann@example.com"}
		}), "invalid_request"},
		"an unknown format":  {s.set(revoked, func(c map[string]any) { c["sub_id"] = map[string]any{"format": "phone_number", "phone_number": "+1"} }), "invalid_request"},
		"nothing":            {"", "invalid_request"},
		"more than is taken": {strings.Repeat("x", 70<<10), "invalid_request"},
	} {
		status, got := s.push(test.token)
		if status != http.StatusBadRequest || got != test.want {
			t.Errorf("%s: %d %q, want 400 %q", name, status, got, test.want)
		}
		refused++
		s.told(name, "signal_refused", test.want, "directory/okta", refused)
	}
	if status, got := s.send("/signals/okta/events", "application/json", "", good); status != http.StatusBadRequest || got != "invalid_request" {
		t.Errorf("another media type: %d %q", status, got)
	}
	if status, _ := s.send("/signals/corp/events", "application/secevent+jwt", "", good); status != http.StatusNotFound {
		t.Errorf("at a directory without a transmitter: %d", status)
	}
	s.told("at a directory without a transmitter", "signal_refused", "access_denied", "directory/corp", refused+2)
	if status, _ := s.send("/signals/nowhere/events", "application/secevent+jwt", "", good); status != http.StatusNotFound {
		t.Errorf("at no directory: %d", status)
	}
	s.told("at no directory", "signal_refused", "access_denied", "", refused+3)
	if s.now().Generation != s.ann.Generation {
		t.Error("what was refused was done")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.noted) != refused+3 || s.noted[0].Refusal == nil {
		t.Errorf("%d refusals are remembered, want %d", len(s.noted), refused+3)
	}
}

func TestWhatFailsHereIsToBeSentAgain(t *testing.T) {
	s := newSite(t)
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	token := s.set(revoked, nil)
	if status, _ := s.push(token); status != http.StatusServiceUnavailable {
		t.Errorf("without the transmitter's keys: %d", status)
	}
	s.told("without the transmitter's keys", "signal_failed", "unavailable", "directory/okta", 1)
	s.mu.Lock()
	s.down = false
	s.mu.Unlock()
	if status, err := s.push(token); status != http.StatusAccepted || s.now().Generation != s.ann.Generation+1 {
		t.Errorf("again: %d %s", status, err)
	}
}

func TestUniversalLogoutEndsSessions(t *testing.T) {
	s := newSite(t)
	token := func(typ string, change func(map[string]any)) string {
		claims := map[string]any{"iss": issuer, "aud": audience, "jti": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "sub": "client"}
		if change != nil {
			change(claims)
		}
		return s.sign(typ, s.key, jose.ES256, claims)
	}
	const typ = "global-token-revocation+jwt"
	body := `{"sub_id":{"format":"email","email":"ann@example.com"}}`
	logout := func(bearer, body string) int {
		status, _ := s.send("/signals/okta/logout", "application/json", bearer, body)
		return status
	}
	refused := 0
	for name, test := range map[string]struct {
		bearer, body string
		want         int
	}{
		"no token":         {"", body, 401},
		"another audience": {token(typ, func(c map[string]any) { c["aud"] = "x" }), body, 401},
		"another type":     {token("secevent+jwt", nil), body, 401},
		"an old token":     {token(typ, func(c map[string]any) { c["iat"] = time.Now().Add(-time.Hour).Unix() }), body, 401},
		"an expired token": {token(typ, func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() }), body, 401},
		"no body":          {token(typ, nil), "", 400},
		"no subject":       {token(typ, nil), "{}", 400},
		"nobody of here":   {token(typ, nil), `{"sub_id":{"format":"email","email":"eve@example.com"}}`, 404},
	} {
		if got := logout(test.bearer, test.body); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
		refused++
		if rec, told := s.lastAudit(); told != refused || rec.GetAction() != "logout_refused" || rec.GetTarget() != "directory/okta" {
			t.Errorf("%s: audit was told %d times, want %d; at last %v", name, told, refused, rec)
		}
	}
	if s.now().Generation != s.ann.Generation {
		t.Fatal("what was refused was done")
	}
	good := token(typ, nil)
	if got := logout(good, body); got != http.StatusNoContent || s.now().Generation != s.ann.Generation+1 {
		t.Errorf("a logout: %d, generation %d", got, s.now().Generation)
	}
	if got := logout(good, body); got != http.StatusUnauthorized || s.now().Generation != s.ann.Generation+1 {
		t.Errorf("the token a second time: %d", got)
	}
	if got := logout(token(typ, nil), `{"subject":{"format":"iss_sub","iss":"`+issuer+`","sub":"ext-ann@example.com"}}`); got != http.StatusNoContent {
		t.Errorf("by issuer and subject: %d", got)
	}
}
