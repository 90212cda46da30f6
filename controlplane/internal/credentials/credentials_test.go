package credentials_test

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
	"sallyport.dev/controlplane/internal/vault"
)

func digest(value string) []byte {
	sum := sha256.Sum256([]byte(value))
	return sum[:]
}

func header(holder policyv1.KeyHolder) *policyv1.UpstreamAuth {
	return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: "X-Key", Template: "Key {key}", Holder: holder}}}
}

func TestAPersonLetsTheGatewayInAndItsTokenIsIssued(t *testing.T) {
	s := newSite(t, oauth())
	link := s.link(credentials.Ask{})
	// Somebody else who opens the link of ann's agent links nothing.
	s.okta.Become("ext-bob@example.com")
	if status, body := s.visit(signintest.NewBrowser(t), link); status != http.StatusForbidden || !strings.Contains(body, "somebody else") {
		t.Errorf("of another person: status %d: %s", status, body)
	}
	s.okta.Become("ext-ann@example.com")
	for name, bad := range map[string]string{"changed": strings.Replace(link, "?t=", "?t=A", 1), "of another connector": strings.Replace(link, "/demo?", "/other?", 1)} {
		if status, body := s.visit(signintest.NewBrowser(t), bad); status < 400 {
			t.Errorf("a link that is %s: status %d: %s", name, status, body)
		}
	}
	b := signintest.NewBrowser(t)
	if status, body := s.visit(b, link); status != http.StatusOK || !strings.Contains(body, "Demo is connected") {
		t.Fatalf("status %d: %s", status, body)
	}
	issued := s.must(credentials.Ask{})
	if issued.Header != "Authorization" || !s.upstream.good(strings.TrimPrefix(issued.Value, "Bearer ")) || issued.Identity != s.ann.ID.String() || time.Until(issued.Expires) > time.Hour {
		t.Errorf("issued for header %q, expires %s", issued.Header, issued.Expires)
	}
	// An answer that this browser does not wait for is taken from nobody.
	if status, _, _ := b.Get(s.web.URL + "/connect/demo/callback?code=x&state=y&iss=" + url.QueryEscape(s.upstream.URL)); status != http.StatusBadRequest {
		t.Errorf("a forged answer: status %d", status)
	}
	s.connect2(b)
	if s.upstream.registrations != 1 {
		t.Errorf("the gateway registered %d times", s.upstream.registrations)
	}
	for _, secret := range []string{strings.TrimPrefix(issued.Value, "Bearer "), "dcr-secret-"} {
		if files := enginetest.OnDisk(t, s.Dir, []byte(secret)); len(files) > 0 {
			t.Errorf("%.9s… is on disk, in %v", secret, files)
		}
	}
}

// connect2 links again from the person's own page, without an agent.
func (s *site) connect2(b *signintest.Browser) {
	s.t.Helper()
	if status, body := s.visit(b, s.web.URL+"/connect/demo"); status != http.StatusOK || !strings.Contains(body, "is connected") {
		s.t.Fatalf("status %d: %s", status, body)
	}
	enginetest.Eventually(s.t, "the first link to be ended", func() bool { return s.upstream.living() == 1 })
}

func TestAThousandCallsWithOneExpiredTokenRenewItOnce(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	before := s.must(credentials.Ask{}).Value
	s.later(2 * time.Hour)
	s.upstream.set(func() { s.upstream.lives = 4 * 3600 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	values := map[string]int{}
	for i := range 1000 {
		wg.Go(func() {
			issued, err := s.issue([]*credentials.Keeper{s.keeper, s.second}[i%2], s.ann, credentials.Ask{})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			values[issued.Value]++
		})
	}
	wg.Wait()
	if s.upstream.refreshes != 1 || len(values) != 1 || values[before] != 0 {
		t.Errorf("%s; %d different tokens were issued", s.upstream, len(values))
	}
	// The same for one that the upstream refuses before its time.
	rejected := digest(s.must(credentials.Ask{}).Value)
	if _, err := s.issue(s.keeper, s.ann, credentials.Ask{Rejected: rejected}); err != nil || s.upstream.refreshes != 1 {
		t.Errorf("a token of just now was renewed because it was refused: %s, %v", s.upstream, err)
	}
	s.later(time.Minute)
	for i := range 200 {
		wg.Go(func() {
			if _, err := s.issue([]*credentials.Keeper{s.keeper, s.second}[i%2], s.ann, credentials.Ask{Rejected: rejected}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.upstream.refreshes != 2 {
		t.Errorf("after a refusal: %s", s.upstream)
	}
}

func TestATokenIsRenewedBeforeItExpiresAndWithPatience(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	first := s.must(credentials.Ask{}).Value
	s.later(57 * time.Minute)
	if again := s.must(credentials.Ask{}).Value; again != first {
		t.Error("a token that is good was not used")
	}
	enginetest.Eventually(t, "a renewal ahead of time", func() bool { return s.must(credentials.Ask{}).Value != first })
	s.later(2 * time.Hour)
	tries := 0
	s.upstream.set(func() {
		s.upstream.before = func(url.Values) int {
			if tries++; tries < 3 {
				return http.StatusServiceUnavailable
			}
			return 0
		}
	})
	// Who comes while the renewal of before still ends gets what that got.
	enginetest.Eventually(t, "a renewal after two failures", func() bool { s.must(credentials.Ask{}); return tries == 3 })
}

func TestWhoseRefreshTokenIsRevokedIsAskedAgain(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	s.upstream.set(func() {
		for _, f := range s.upstream.refresh {
			f.dead = true
		}
	})
	s.later(2 * time.Hour)
	s.link(credentials.Ask{})
	s.connect(credentials.Ask{})
	s.must(credentials.Ask{})
}

func TestStepUpAsksForMoreAndKeepsWhatThereWas(t *testing.T) {
	s := newSite(t, oauth(func(o *policyv1.OAuth) { o.Scopes = []string{"read"} }))
	s.connect(credentials.Ask{})
	s.must(credentials.Ask{Scopes: []string{"read"}})
	s.connect(credentials.Ask{Scopes: []string{"read", "write"}})
	s.must(credentials.Ask{Scopes: []string{"read", "write"}})
	enginetest.Eventually(t, "the narrow token to be revoked", func() bool { return s.upstream.living() == 1 })
}

func TestOnlyAnAccountThatTheRuleNamesCanBeLinked(t *testing.T) {
	s := newSite(t, oauth())
	for _, c := range []struct {
		allowed string
		want    bool
	}{{"@example.com", false}, {"ann@PRIVATE.example", true}, {"@private.example", true}} {
		allowed, want := c.allowed, c.want
		s.connector(oauth(func(o *policyv1.OAuth) {
			o.Account = &policyv1.AccountRule{Url: s.upstream.URL + "/me", Member: "email", Allowed: []string{allowed}}
		}))
		status, body := s.visit(signintest.NewBrowser(t), s.web.URL+"/connect/demo")
		if (status == http.StatusOK) != want || !want && !strings.Contains(body, "work account") {
			t.Errorf("%s: status %d: %s", allowed, status, body)
		}
		if !want && s.upstream.living() != 0 {
			t.Errorf("%s: the token of a private account is still good", allowed)
		}
	}
	s.connector(oauth(func(o *policyv1.OAuth) {
		o.Account = &policyv1.AccountRule{Url: s.upstream.URL + "/me", Member: "orgs.login", Allowed: []string{"acme"}}
	}))
	s.connect2(signintest.NewBrowser(t))
}

func TestAChangedAuthorizationServerIsHeld(t *testing.T) {
	s := newSite(t, oauth())
	s.upstream.set(func() { s.upstream.tokenPath = "/elsewhere" })
	if status, body := s.visit(signintest.NewBrowser(t), s.link(credentials.Ask{})); status != http.StatusServiceUnavailable || !strings.Contains(body, "token endpoint") {
		t.Errorf("status %d: %s", status, body)
	}
	s.upstream.set(func() { s.upstream.tokenPath = "/token" })
	s.connect(credentials.Ask{})
}

func TestDeactivationRevokesUpstreamAndDestroysWithRetry(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	s.upstream.set(func() { s.upstream.failRevocation = 2 })
	s.deactivate()
	if got, err := s.issue(s.keeper, s.ann, credentials.Ask{}); err == nil && got.Connect == nil {
		t.Error("a credential that was withdrawn was issued")
	}
	enginetest.Eventually(t, "a try that failed", func() bool {
		for w := range s.Engine.State().Withdrawals() {
			return w.Tries > 0 && w.Outcome == policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_FAILED
		}
		return false
	})
	for range 3 {
		s.later(time.Minute)
		time.Sleep(20 * time.Millisecond) // the worker looks every 10, and has tries of its own to wait for
	}
	s.nothingLeft()
	for w := range s.Engine.State().Withdrawals() {
		if w.Owner.Person == s.ann.ID && w.Outcome != policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_REVOKED {
			t.Errorf("the receipt says %v", w.Outcome)
		}
	}
}

func TestARevocationThatNeverSucceedsIsGivenUpAndSaid(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	s.upstream.set(func() { s.upstream.failRevocation = -1 })
	s.deactivate()
	enginetest.Eventually(t, "giving up", func() bool {
		s.later(10 * time.Minute)
		for w := range s.Engine.State().Withdrawals() {
			if w.Owner.Person == s.ann.ID && w.Outcome == policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_GIVEN_UP {
				return true
			}
		}
		return false
	})
	if names, err := s.Vault.Names(t.Context(), "credential."); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestDeactivationDuringARenewalOrALinkLeavesNothing(t *testing.T) {
	for _, during := range []string{"refresh_token", "authorization_code"} {
		t.Run(during, func(t *testing.T) {
			s := newSite(t, oauth())
			if during == "refresh_token" {
				s.connect(credentials.Ask{})
				s.later(2 * time.Hour)
			}
			var once sync.Once
			s.upstream.set(func() {
				s.upstream.before = func(form url.Values) int {
					if form.Get("grant_type") == during {
						once.Do(s.deactivate)
					}
					return 0
				}
			})
			if during == "refresh_token" {
				if issued, err := s.issue(s.keeper, s.ann, credentials.Ask{}); err == nil && issued.Value != "" {
					t.Error("a token was issued for somebody who was deactivated meanwhile")
				}
			} else if status, body := s.visit(signintest.NewBrowser(t), s.link(credentials.Ask{})); status == http.StatusOK {
				t.Errorf("linked: %s", body)
			}
			s.nothingLeft()
		})
	}
}

func TestARetiredConnectorsCredentialsAreRevokedBeforeItsOwnSecretGoes(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	s.Do(core.RetireConnector{ID: "demo"})
	s.nothingLeft()
	if s.upstream.living() != 0 || len(s.upstream.revoked) == 0 {
		t.Errorf("%s", s.upstream)
	}
}

func TestASecretThatTheLogDoesNotKnowIsSwept(t *testing.T) {
	s := newSite(t, header(policyv1.KeyHolder_KEY_HOLDER_PERSON))
	id := uuid.Must(uuid.NewV7())
	ahead := uint64(time.Now().Add(time.Hour).UnixMilli()) << 16 //nolint:gosec // a time of today
	copy(id[:6], binary.BigEndian.AppendUint64(nil, ahead))      // it is made in an hour, when the next sweep comes
	name := "credential.demo.1.person." + s.ann.ID.String() + "." + id.String()
	enginetest.Must(t, s.Vault.Put(t.Context(), name, "demo person "+s.ann.ID.String(), vault.NewSecret([]byte("orphan"))))
	s.later(time.Hour + time.Minute)
	time.Sleep(30 * time.Millisecond) // the worker looks every 10; that it does nothing has no sign
	if names, _ := s.Vault.Names(t.Context(), "credential."); !slices.Contains(names, name) {
		t.Error("a secret that may be on its way was destroyed")
	}
	s.later(2 * time.Hour)
	enginetest.Eventually(t, "the orphan to be destroyed", func() bool {
		names, err := s.Vault.Names(t.Context(), "credential.")
		return err == nil && !slices.Contains(names, name)
	})
}

func TestKeysAreTheirHoldersAndRotateWithoutAGap(t *testing.T) {
	s := newSite(t, header(policyv1.KeyHolder_KEY_HOLDER_PERSON))
	bob := s.Engine.State().UserByName("okta", "bob@example.com")
	set := func(owner core.Grantee, value string, keep bool) {
		t.Helper()
		_, err := s.keeper.SetKey(t.Context(), enginetest.Actor, s.Engine.State(), owner, "demo", value, keep)
		enginetest.Must(t, err)
	}
	if _, err := s.issue(s.keeper, s.ann, credentials.Ask{}); err == nil {
		t.Error("a key was issued that nobody set")
	}
	set(core.Grantee{Person: s.ann.ID}, "anns", false)
	if got := s.must(credentials.Ask{}); got.Header != "X-Key" || got.Value != "Key anns" {
		t.Errorf("%q", got.Value)
	}
	if _, err := s.issue(s.keeper, bob, credentials.Ask{}); err == nil {
		t.Error("somebody has another's key")
	}
	set(core.Grantee{Person: s.ann.ID}, "newer", true)
	if got := s.must(credentials.Ask{}); got.Value != "Key newer" {
		t.Errorf("%q", got.Value)
	}
	if got := s.must(credentials.Ask{Rejected: digest("Key newer")}); got.Value != "Key anns" {
		t.Errorf("in place of one that was refused: %q", got.Value)
	}
	set(core.Grantee{Person: s.ann.ID}, "newest", false)
	if got := s.must(credentials.Ask{Rejected: digest("Key newest")}); got.Value != "Key newest" {
		t.Errorf("old keys are still used: %q", got.Value)
	}
	if _, err := s.keeper.SetKey(t.Context(), enginetest.Actor, s.Engine.State(), core.Grantee{Group: s.group.ID}, "demo", "x", false); err == nil {
		t.Error("a group's key was taken where each person has one")
	}
	s.deactivate()
	enginetest.Eventually(t, "the keys to be destroyed", func() bool {
		names, err := s.Vault.Names(t.Context(), "credential.")
		return err == nil && len(names) == 0
	})

	s.connector(&policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Query{Query: &policyv1.QueryKey{Name: "api_key", Holder: policyv1.KeyHolder_KEY_HOLDER_GROUP}}})
	set(core.Grantee{Group: s.group.ID}, "a&b", false)
	if got, err := s.issue(s.keeper, bob, credentials.Ask{}); err != nil || got.Query != "api_key=a%26b" || got.Header != "" {
		t.Errorf("%q, %v", got.Query, err)
	}
	s.Do(core.DeleteGroup{Directory: "okta", ID: s.group.ID})
	if c := s.Engine.State().Connector("demo"); c.Settings.GetCredentials() != 0 {
		t.Error("the settings hold what is for proxies")
	}
	if _, err := s.issue(s.keeper, bob, credentials.Ask{}); err == nil {
		t.Error("the key of a group that is gone was issued")
	}
}

func TestTheGatewaysOwnAccountHasOneTokenForEverybody(t *testing.T) {
	signing, key := signingClient(t)
	for name, c := range map[string]struct {
		client authorityClient
		secret string
		proof  policyv1.ClientAuthentication
	}{
		"secret":      {authorityClient{secret: "s3cret of the gateway"}, "s3cret of the gateway", 0},
		"private key": {signing, key, policyv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, serviceAccount(c.proof))
			s.upstream.set(func() { s.upstream.clients["gateway"] = c.client })
			s.secret(c.secret)
			bob := s.Engine.State().UserByName("okta", "bob@example.com")
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					if _, err := s.issue([]*credentials.Keeper{s.keeper, s.second}[i%2], []*core.User{s.ann, bob}[i/2%2], credentials.Ask{}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			first := s.must(credentials.Ask{})
			if s.upstream.living() != 1 || !s.upstream.good(strings.TrimPrefix(first.Value, "Bearer ")) || first.Identity != "" {
				t.Errorf("%d tokens, identity %q", s.upstream.living(), first.Identity)
			}
			s.later(time.Minute)
			if second := s.must(credentials.Ask{Rejected: digest(first.Value)}); second.Value == first.Value {
				t.Error("a refused token was issued again")
			}
		})
	}
}
