package authserver_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

const loopbackRedirect = "http://127.0.0.1:33418/callback"

func (s *site) metadata(path string) map[string]any {
	s.t.Helper()
	res, err := http.DefaultClient.Do(httpGet(s.t, s.web.URL+path))
	enginetest.Must(s.t, err)
	status, out := read(s.t, res)
	if status != http.StatusOK || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		s.t.Fatalf("%s: %d, %v", path, status, res.Header)
	}
	return out
}

func TestMetadataSaysWhatClientsLookFor(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		m := s.metadata(path)
		for name, want := range map[string]any{
			"issuer": s.web.URL, "token_endpoint": s.web.URL + "/oauth/token", "registration_endpoint": s.web.URL + "/oauth/register",
			"authorization_response_iss_parameter_supported": true, "client_id_metadata_document_supported": true,
		} {
			if m[name] != want {
				t.Errorf("%s: %s = %v, want %v", path, name, m[name], want)
			}
		}
		if methods := m["code_challenge_methods_supported"].([]any); len(methods) != 1 || methods[0] != "S256" {
			t.Errorf("code_challenge_methods_supported = %v", methods)
		}
	}
	below, err := authserver.New(authserver.Config{Engine: s.Engine, Issuer: "https://x.example/gate/", Resources: []string{global}})
	enginetest.Must(t, err)
	for _, path := range []string{"/.well-known/oauth-authorization-server/gate", "/.well-known/openid-configuration/gate", "/gate/.well-known/openid-configuration"} {
		w := httptest.NewRecorder()
		below.Handler().ServeHTTP(w, httpGet(t, "https://x.example"+path))
		var m map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || m["issuer"] != "https://x.example/gate" || m["token_endpoint"] != "https://x.example/gate/oauth/token" {
			t.Errorf("%s: %d %v", path, w.Code, m)
		}
	}
}

func TestAnAgentIsLetInOnceAndGetsTokensForThePerson(t *testing.T) {
	s := newSite(t)
	a := s.register("Claude Code", loopbackRedirect)
	away, status, body := s.visit(s.browser, a.authorizeURL("redirect_uri", "http://127.0.0.1:50123/callback"))
	if away != nil || status != http.StatusOK {
		t.Fatalf("led to %v, status %d", away, status)
	}
	for _, want := range []string{"Claude Code", "127.0.0.1:50123", "every tool here", "Nobody has checked this program"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q: %s", want, body)
		}
	}
	away, _, _ = s.answer(s.browser, body, "yes")
	q := away.Query()
	if q.Get("state") != "the state" || q.Get("iss") != s.web.URL || q.Get("code") == "" || away.Host != "127.0.0.1:50123" {
		t.Fatalf("led to %v", away)
	}
	status, out := a.redeem(q.Get("code"), "redirect_uri", "http://127.0.0.1:50123/callback")
	if status != http.StatusOK || out["token_type"] != "Bearer" || out["expires_in"] != lease.Seconds() {
		t.Fatalf("status %d: %v", status, out)
	}
	jws, err := jose.ParseSignedCompact(out["access_token"].(string), []jose.SignatureAlgorithm{jose.ES256})
	enginetest.Must(t, err)
	var claims map[string]any
	enginetest.Must(t, json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &claims))
	for name, want := range map[string]any{"iss": s.web.URL, "sub": s.ann.ID.String(), "aud": global, "client_id": a.id, "sallyport_gen": float64(1), "scope": "mcp"} {
		if claims[name] != want {
			t.Errorf("%s = %v, want %v", name, claims[name], want)
		}
	}
	if typ := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]; typ != "at+jwt" {
		t.Errorf("typ = %v", typ)
	}
	if !s.good(out["access_token"].(string), "jira") {
		t.Error("the token is not good")
	}
	// The same program registers anew, as some do each time, and picks another port: nobody is asked again.
	again := s.register("Claude Code", "http://127.0.0.1:1/callback")
	if away, _, _ := s.visit(s.browser, again.authorizeURL()); away == nil || away.Query().Get("code") == "" {
		t.Error("the person is asked again for the same program")
	}
	for name, other := range map[string]string{
		"another program": s.register("Evil Code", loopbackRedirect).authorizeURL(), "another redirect": s.register("Claude Code", "https://evil.example/cb").authorizeURL(),
		"another resource": again.authorizeURL("resource", global+"/jira"), "being asked to": again.authorizeURL("prompt", "consent"),
	} {
		if away, _, body := s.visit(s.browser, other); away != nil || !strings.Contains(body, "Let a program in?") {
			t.Errorf("%s: the person is not asked: %v", name, away)
		}
	}
}

func TestATokenIsForOneResource(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	jira, refresh := a.signedIn("resource", global+"/jira")
	if !s.good(jira, "jira") || s.good(jira, "github") {
		t.Errorf("a token for jira: good at jira %t, at github %t", s.good(jira, "jira"), s.good(jira, "github"))
	}
	for _, wider := range []string{global, regional, global + "/github"} {
		if status, out := a.refresh(refresh, "resource", wider); out["error"] != "invalid_target" {
			t.Errorf("refreshed for %s: %d %v", wider, status, out)
		}
	}
	_, refresh = a.signedIn()
	status, out := a.refresh(refresh, "resource", global+"/github")
	if status != http.StatusOK || !s.good(out["access_token"].(string), "github") || s.good(out["access_token"].(string), "jira") {
		t.Errorf("narrowed: %d %v", status, out)
	}
	for _, resource := range []string{"https://evil.example/mcp", global + "/nothing", global + "/jira/x", "https://mcp.example.com/"} {
		away, _, _ := s.visit(s.browser, a.authorizeURL("resource", resource))
		if away == nil || away.Query().Get("error") != "invalid_target" || away.Query().Get("iss") != s.web.URL {
			t.Errorf("%s: led to %v", resource, away)
		}
	}
}

func TestEightAgentsThatShareARefreshTokenAllGoOnOverAnExpiry(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	_, shared := a.signedIn()
	s.later(lease + time.Minute)
	for round := range 3 {
		var mu sync.Mutex
		next := map[string]bool{}
		var agents sync.WaitGroup
		for range 8 {
			agents.Go(func() {
				status, out := a.refresh(shared)
				mu.Lock()
				defer mu.Unlock()
				if status != http.StatusOK || !s.good(out["access_token"].(string), "jira") {
					t.Errorf("round %d: status %d: %v", round, status, out)
					return
				}
				next[out["refresh_token"].(string)] = true
			})
		}
		agents.Wait()
		if len(next) != 1 {
			t.Fatalf("round %d: they hold %d refresh tokens", round, len(next))
		}
		for token := range next {
			shared = token
		}
		s.later(lease + time.Minute)
	}
}

func TestASupersededRefreshTokenAnswersWithItsSuccessorForAWhile(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	_, first := a.signedIn()
	_, out := a.refresh(first)
	second := out["refresh_token"].(string)
	_, out = a.refresh(second)
	third := out["refresh_token"].(string)
	if status, out := a.refresh(first); status != http.StatusOK || out["refresh_token"] != third {
		t.Errorf("the first, within the window: %d %v", status, out)
	}
	s.later(3 * time.Minute)
	status, out := a.refresh(first)
	if status != http.StatusBadRequest || out["error"] != "invalid_grant" || !s.audit.has("refresh_reused") {
		t.Errorf("the first, later: %d %v", status, out)
	}
	if status, out := a.refresh(third); status != http.StatusOK {
		t.Errorf("the one that counts, after that: %d %v", status, out)
	}
}

func TestASessionEndsWithWhatItRestsOn(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	client := a.id
	for name, end := range map[string]func(){
		"sessions revoked": func() { s.Do(core.RevokeSessions{ID: s.ann.ID}) },
		"unused": func() {
			s.Do(core.NewSetAuthorizationPolicy(&policyv1.AuthorizationPolicy{SessionIdle: durationpb.New(time.Hour)}))
		},
		"the client's sessions": func() { s.Do(core.EndClientSessions{ClientID: client}) },
		"ended by an admin": func() {
			n, _, err := s.server.EndSessions(t.Context(), enginetest.Actor, &adminv1.SessionFilter{User: "ann@example.com"})
			if err != nil || n == 0 {
				t.Errorf("ended %d, %v", n, err)
			}
		},
		"client blocked": func() {
			s.Do(core.NewPlaceBlock(&policyv1.Block{Reason: "x", Target: &policyv1.Block_ClientId{ClientId: client}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "unused" {
				end()
			}
			access, refresh := a.signedIn()
			if name == "unused" {
				s.later(61 * time.Minute)
				defer s.later(-61 * time.Minute)
			} else {
				end()
				if s.good(access, "jira") {
					t.Error("the access token goes on")
				}
			}
			if status, out := a.refresh(refresh); status == http.StatusOK {
				t.Errorf("the refresh token goes on: %v", out)
			}
			for b := range s.Engine.State().Blocks() {
				s.Do(core.LiftBlock{ID: uuid.MustParse(b.GetId())})
			}
		})
	}
}

func TestDeactivationEndsSessionsAndSignsNobodyIn(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	access, refresh := a.signedIn()
	s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile})
	if s.good(access, "jira") {
		t.Error("the access token goes on")
	}
	if status, _ := a.refresh(refresh); status == http.StatusOK {
		t.Error("the refresh token goes on")
	}
	if away, status, body := s.visit(s.browser, a.authorizeURL()); away != nil || status != http.StatusForbidden || !strings.Contains(body, "Your access was ended") {
		t.Errorf("led to %v, status %d: %s", away, status, body)
	}
	s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile, Active: true})
	if status, _ := a.refresh(refresh); status == http.StatusOK {
		t.Error("the refresh token came back with the person")
	}
	if away, _, body := s.visit(s.browser, a.authorizeURL()); away != nil || !strings.Contains(body, "Let a program in?") {
		t.Error("what the person agreed to before is still agreed")
	}
}

func TestWhileTheProviderIsDownSessionsGoOn(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	_, refresh := a.signedIn()
	s.idp.Down(true)
	s.later(time.Hour)
	status, out := a.refresh(refresh)
	if status != http.StatusOK || !s.good(out["access_token"].(string), "jira") {
		t.Errorf("status %d: %v", status, out)
	}
	if away, status, body := s.visit(signintest.NewBrowser(t), a.authorizeURL()); away != nil || status != http.StatusBadGateway || !strings.Contains(body, "cannot be reached") {
		t.Errorf("a new sign-in: led to %v, status %d: %s", away, status, body)
	}
}

func TestKeysRotateWithoutATokenThatDoesNotVerify(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	old, refresh := a.signedIn()
	if _, _, err := s.server.Rotate(t.Context(), enginetest.Actor, false); err != nil {
		t.Fatal(err)
	}
	if n := len(s.metadata("/oauth/jwks")["keys"].([]any)); n != 2 {
		t.Errorf("%d keys are shown", n)
	}
	kid := func(token string) string {
		jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
		enginetest.Must(t, err)
		return jws.Signatures[0].Protected.KeyID
	}
	_, out := a.refresh(refresh)
	if kid(out["access_token"].(string)) != kid(old) {
		t.Error("the new key signs before every proxy can know it")
	}
	s.later(lease + time.Second)
	_, out = a.refresh(out["refresh_token"].(string))
	if kid(out["access_token"].(string)) == kid(old) || !s.good(out["access_token"].(string), "jira") {
		t.Error("the new key does not sign")
	}
	s.later(lease + 5*time.Minute)
	enginetest.Must(t, s.server.Sweep(t.Context()))
	if n := len(slices.Collect(s.Engine.State().SigningKeys(""))); n != 1 {
		t.Errorf("%d keys are left", n)
	}
	_, out = a.refresh(out["refresh_token"].(string))
	before := out["access_token"].(string)
	if _, _, err := s.server.Rotate(t.Context(), enginetest.Actor, true); err != nil {
		t.Fatal(err)
	}
	if s.good(before, "jira") {
		t.Error("a token of a key that was stolen is still good")
	}
	if _, out = a.refresh(out["refresh_token"].(string)); !s.good(out["access_token"].(string), "jira") {
		t.Error("nothing is signed any more")
	}
}

func TestSessionsAreListedAndTokensGivenBackEndTheirs(t *testing.T) {
	s := newSite(t)
	a, b := s.register("one", loopbackRedirect), s.register("two", "https://agent.example/cb")
	_, first := a.signedIn()
	access, second := b.signedIn()
	list := func(f *adminv1.SessionFilter) []*adminv1.Session {
		t.Helper()
		all, _, err := s.server.ListSessions(t.Context(), f, 100, "")
		enginetest.Must(t, err)
		return all
	}
	if all := list(nil); len(all) != 2 || all[0].GetUser() != "okta/ann@example.com" || all[0].GetClientName() != "one" {
		t.Errorf("listed %v", all)
	}
	if all := list(&adminv1.SessionFilter{ClientId: b.id, User: "ann@example.com"}); len(all) != 1 || all[0].GetClientName() != "two" {
		t.Errorf("of the client: %v", all)
	}
	page, next, err := s.server.ListSessions(t.Context(), nil, 1, "")
	enginetest.Must(t, err)
	rest, _, err := s.server.ListSessions(t.Context(), nil, 1, next)
	enginetest.Must(t, err)
	if len(page) != 1 || len(rest) != 1 || page[0].GetId() == rest[0].GetId() {
		t.Errorf("pages %v and %v", page, rest)
	}
	revoke := func(client, token string) {
		t.Helper()
		want := http.StatusOK
		if client == a.id && token == second {
			want = http.StatusBadRequest
		}
		res, err := http.PostForm(s.web.URL+"/oauth/revoke", url.Values{"client_id": {client}, "token": {token}})
		enginetest.Must(t, err)
		if status, _ := read(t, res); status != want {
			t.Errorf("status %d", status)
		}
	}
	revoke(a.id, second) // another's
	if all := list(nil); len(all) != 2 {
		t.Error("a client ended another's session")
	}
	revoke(b.id, access)
	revoke(a.id, first)
	if all := list(nil); len(all) != 0 || s.good(access, "jira") {
		t.Errorf("left: %v, the access token is good: %t", all, s.good(access, "jira"))
	}
}

func TestAnAdminMayAskWhatATokenIs(t *testing.T) {
	s := newSite(t)
	a := s.register("one", loopbackRedirect)
	access, refresh := a.signedIn()
	_, token := s.Token(eventv1.TokenKind_TOKEN_KIND_ADMIN, "root")
	ask := func(bearer, token string) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.web.URL+"/oauth/introspect", strings.NewReader(url.Values{"token": {token}}.Encode()))
		enginetest.Must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", "Bearer "+bearer)
		res, err := http.DefaultClient.Do(req)
		enginetest.Must(t, err)
		return read(t, res)
	}
	if status, out := ask(token, access); status != http.StatusOK || out["active"] != true || out["sub"] != s.ann.ID.String() || out["aud"] != global {
		t.Errorf("an access token: %d %v", status, out)
	}
	if _, out := ask(token, refresh); out["active"] != true || out["token_type"] != "refresh_token" {
		t.Errorf("a refresh token: %v", out)
	}
	if _, out := ask(token, refresh[:len(refresh)-4]+"AAAA"); out["active"] != false {
		t.Errorf("one that was made up: %v", out)
	}
	if status, _ := ask(access, access); status != http.StatusUnauthorized {
		t.Errorf("an agent may ask: %d", status)
	}
	s.Do(core.RevokeSessions{ID: s.ann.ID})
	if _, out := ask(token, access); out["active"] != false || len(out) != 1 {
		t.Errorf("one that was revoked: %v", out)
	}
}
