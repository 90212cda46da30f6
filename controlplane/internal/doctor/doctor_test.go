package doctor_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/doctor"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

const (
	okta  = adminv1.Provider_PROVIDER_OKTA
	entra = adminv1.Provider_PROVIDER_ENTRA

	good    = adminv1.Severity_SEVERITY_GOOD
	unknown = adminv1.Severity_SEVERITY_UNKNOWN
	warning = adminv1.Severity_SEVERITY_WARNING
	problem = adminv1.Severity_SEVERITY_PROBLEM
)

// did is what a directory did by SCIM.
type did struct{ activity.Directory }

func (d *did) Of(context.Context, string) (*activity.Directory, error) { return &d.Directory, nil }

// records are audit's, of sign-ins.
type records []*auditv1.AuditRecord

func (r *records) Search(_ context.Context, f *adminv1.AuditFilter, limit int, _ string) (found []*adminv1.StoredRecord, _ string, _ error) {
	for _, one := range *r {
		if slices.Contains(f.GetKinds(), one.GetKind()) && (f.GetAction() == "" || f.GetAction() == one.GetAction()) && f.GetTarget() == one.GetTarget() && len(found) < limit {
			found = append(found, &adminv1.StoredRecord{Record: one})
		}
	}
	return found, "", nil
}

// site is a directory that is as it should be, and the doctor.
type site struct {
	*enginetest.Plane
	t         *testing.T
	idp       *signintest.Provider
	did       *did
	audit     *records
	sightings *doctor.Sightings
	doctor    *doctor.Doctor
	ann       *core.User
	now       time.Time
	redirect  string
}

const annID = "00u1abcdefghijkl5d7"

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t, did: &did{}, audit: &records{}, now: time.Now(), redirect: "https://sallyport.example/signin/callback/"}
	s.Directory("okta", "other")
	out := s.Do(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: "ann@example.com", ExternalID: annID, Email: "ann.smith@example.com", Attributes: []byte(`{"emails":[{"value":"ann.smith@example.com","primary":true}]}`)}, Active: true})
	s.ann = out.State.UserByName("okta", "ann@example.com")
	s.Group("okta", "Engineers", s.ann)
	s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	s.idp = signintest.NewProvider(t, annID)
	s.idp.Redirect(s.redirect + "okta")
	s.signIn(&policyv1.SignIn{}, signintest.Secret)
	s.Do(core.NewSetSignals("okta", &policyv1.Signals{Issuer: "https://okta.example", JwksUrl: "https://okta.example/keys", Audiences: []string{"x"}}))
	s.did.LastRequest = s.now
	*s.audit = records{{Kind: auditv1.Kind_KIND_SIGN_IN, Action: "signed_in", Target: "directory/okta", At: timestamppb.New(s.now)}}
	clock := func() time.Time { return s.now }
	s.sightings = &doctor.Sightings{Store: s.Shared, Key: s.Vault.SightingsKey, Now: clock}
	enginetest.Must(t, s.sightings.SignedIn(t.Context(), s.ann.ID))
	s.doctor = doctor.New(doctor.Config{
		Engine: s.Engine, Activity: s.did, Audit: s.audit, Secrets: s.Vault, Sightings: s.sightings, RedirectURI: func(d string) string { return s.redirect + d }, Now: clock, Log: s.Log,
	})
	return s
}

func (s *site) signIn(in *policyv1.SignIn, secret string) {
	s.t.Helper()
	in.Issuer, in.ClientId = s.idp.URL, signintest.ClientID
	if secret != "" {
		var err error
		in.SecretId, err = s.Vault.PutSignInSecret(s.t.Context(), "okta", secret)
		enginetest.Must(s.t, err)
	}
	s.Do(core.NewSetSignIn("okta", in))
}

func (s *site) diagnose(p adminv1.Provider) []*adminv1.Finding {
	s.t.Helper()
	res, err := s.doctor.Diagnose(s.t.Context(), "okta", p)
	enginetest.Must(s.t, err)
	return res.GetFindings()
}

func TestNothingIsFoundWhereAllFits(t *testing.T) {
	s := newSite(t)
	for _, f := range s.diagnose(okta) {
		if f.GetSeverity() != good || f.GetText() == "" {
			t.Errorf("%v", f)
		}
	}
	var refused *core.Error
	if _, err := s.doctor.Diagnose(t.Context(), "nobody", okta); err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("a directory that is not there: %v %v", err, refused)
	}
}

func TestEachThingThatDoesNotFitIsFoundWithWhatToDo(t *testing.T) {
	user := func(s *site, name, external string, active bool) {
		s.Do(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: name, ExternalID: external}, Active: active})
	}
	failed := func(s *site, action string) {
		*s.audit = append(*s.audit, &auditv1.AuditRecord{Kind: auditv1.Kind_KIND_SIGN_IN_FAILED, Action: action, Target: "directory/okta"})
	}
	stranger := func(s *site, subject string) {
		enginetest.Must(s.t, s.sightings.Stranger(s.t.Context(), "okta", subject))
	}
	for name, c := range map[string]struct {
		provider adminv1.Provider
		make     func(s *site)
		check    string
		severity adminv1.Severity
		text     string
		people   []string
	}{
		"no SCIM token": {okta, func(s *site) {
			for tk := range s.Engine.State().Tokens() {
				s.Do(core.RevokeToken{ID: tk.ID})
			}
		}, "scim: token", problem, "no SCIM token", nil},
		"never heard of": {okta, func(s *site) { s.did.LastRequest = time.Time{} }, "scim: reached", problem, "never sent anything", nil},
		"refused lately": {okta, func(s *site) { s.did.Refusals = []activity.Refusal{{At: s.now, Status: 409}} }, "scim: refusals", warning, "1 requests", nil},
		"many at once": {okta, func(s *site) {
			s.did.Alarms = []activity.Alarm{{At: s.now.Add(-30 * 24 * time.Hour), What: "regrouped", People: 99}, {At: s.now, What: "deactivated", People: 30, Of: 100, Percent: 20}}
		}, "scim: alarm", warning, "30 of 100 active people were deactivated; 20% are let pass", nil},
		"sign-in is not set up":      {okta, func(s *site) { s.Do(core.NewSetSignIn("okta", nil)) }, "sign-in: set up", problem, "nobody of this directory can sign in", nil},
		"the provider is down":       {okta, func(s *site) { s.idp.Down(true) }, "sign-in: issuer", problem, "cannot be read", nil},
		"another redirect URI":       {okta, func(s *site) { s.redirect = "https://elsewhere.example/signin/callback/" }, "sign-in: client", problem, "refuses the client or its redirect URI", nil},
		"another client's secret":    {okta, func(s *site) { s.signIn(&policyv1.SignIn{}, "not the secret") }, "sign-in: secret", problem, "does not take the secret of the client", nil},
		"the secret is missing":      {okta, func(s *site) { s.signIn(&policyv1.SignIn{}, "") }, "sign-in: secret", problem, "does not take the secret of the client", nil},
		"nobody signed in lately":    {okta, func(s *site) { *s.audit = nil }, "sign-in: lately", unknown, "nobody signed in", nil},
		"the provider refuses":       {okta, func(s *site) { failed(s, "refused") }, "sign-in: refused", warning, "1 sign-ins were refused", nil},
		"too weak":                   {okta, func(s *site) { failed(s, "too_weak"); failed(s, "too_weak") }, "sign-in: too_weak", warning, "2 sign-ins were weaker", nil},
		"the claim holds the login":  {okta, func(s *site) { stranger(s, "ann@example.com") }, "pair", problem, "is what SCIM sent as userName", []string{"ann@example.com"}},
		"the claim holds an address": {okta, func(s *site) { stranger(s, "Ann.Smith@example.com") }, "pair", problem, "as an email address", []string{"ann@example.com"}},
		"no externalId":              {okta, func(s *site) { user(s, "bob@example.com", "", true) }, "pair", problem, "without externalId", nil},
		"not of Okta's form":         {okta, func(s *site) { user(s, "bob@example.com", "bob", true) }, "pair", warning, "not of Okta's form", nil},
		"nobody was matched yet":     {okta, func(s *site) { enginetest.Must(s.t, s.sightings.Forget(s.t.Context(), s.ann.ID)) }, "pair", unknown, "nobody signed in yet", nil},
		"who is not provisioned": {okta, func(s *site) {
			stranger(s, "00u9zzzzzzzzzzzz5d7")
			stranger(s, "00u9zzzzzzzzzzzz5d7")
			stranger(s, "00u8zzzzzzzzzzzz5d7")
		}, "people: not provisioned", warning, "2 signed in", nil},
		"who never signed in":  {okta, func(s *site) { user(s, "bob@example.com", "00u2abcdefghijkl5d7", true) }, "people: never signed in", unknown, "cannot be told from here", []string{"bob@example.com"}},
		"no signals":           {okta, func(s *site) { s.Do(core.NewSetSignals("okta", nil)) }, "signals", warning, "suspending a person in Okta", nil},
		"Entra's sub":          {entra, func(*site) {}, "pair", problem, "another for each application", nil},
		"Entra's mailNickname": {entra, func(s *site) { s.signIn(&policyv1.SignIn{UserClaim: "oid"}, signintest.Secret) }, "pair", problem, "no objectId", nil},
		"reactivated people": {okta, func(s *site) {
			s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile})
			s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile, Active: true})
		}, "scim: held groups", warning, "were reactivated", []string{"ann@example.com"}},
		"nobody is active": {okta, func(s *site) { s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile}) }, "scim: people", problem, "none of them is active", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c.make(s)
			all := s.diagnose(c.provider)
			i := slices.IndexFunc(all, func(f *adminv1.Finding) bool { return f.GetCheck() == c.check && f.GetSeverity() == c.severity })
			if i < 0 {
				t.Fatalf("%s %v was not found in %v", c.check, c.severity, all)
			}
			if f := all[i]; !strings.Contains(f.GetText(), c.text) || f.GetNext() == "" || c.people != nil && !slices.Equal(f.GetPeople(), c.people) {
				t.Errorf("found %v", f)
			}
			for _, f := range all {
				if strings.Contains(f.String(), signintest.Secret) {
					t.Error("a finding tells the secret")
				}
			}
		})
	}
}

func TestAStrangerIsForgottenOnceProvisioned(t *testing.T) {
	s := newSite(t)
	enginetest.Must(t, s.sightings.Stranger(t.Context(), "okta", "00u3abcdefghijkl5d7"))
	enginetest.Must(t, s.sightings.Stranger(t.Context(), "other", "00u4abcdefghijkl5d7"))
	has := func() bool {
		return slices.ContainsFunc(s.diagnose(okta), func(f *adminv1.Finding) bool {
			return f.GetCheck() == "people: not provisioned" || f.GetSeverity() == problem
		})
	}
	if !has() {
		t.Error("the stranger is not found")
	}
	out := s.Do(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: "cy@example.com", ExternalID: "00u3abcdefghijkl5d7"}, Active: true})
	enginetest.Must(t, s.sightings.SignedIn(t.Context(), uuid.MustParse(out.Events[0].GetUserCreated().GetUserId())))
	if has() {
		t.Errorf("the stranger is found though provisioned: %v", s.diagnose(okta))
	}
}

// TestNothingThatNamesAStrangerIsKept: no erasure could find them.
func TestNothingThatNamesAStrangerIsKept(t *testing.T) {
	s := newSite(t)
	for _, subject := range []string{"eve@example.com", strings.Repeat("very long ", 1000), "\xff\x00"} {
		enginetest.Must(t, s.sightings.Stranger(t.Context(), "okta", subject))
	}
	kept := 0
	enginetest.Must(t, s.Shared.Each(t.Context(), "sighting.stranger.", func(e kv.Entry) error {
		kept++
		if all := e.Key + string(e.Value); strings.Contains(strings.ToLower(all), "eve") || len(all) > 300 {
			t.Errorf("kept: %s", all)
		}
		return nil
	}))
	if kept != 3 {
		t.Errorf("%d are kept", kept)
	}
	// The digests of one directory are not those of another, nor those of another installation.
	other := &doctor.Sightings{Store: s.Shared, Key: func(context.Context) ([]byte, error) { return []byte("another"), nil }, Now: time.Now}
	enginetest.Must(t, other.Stranger(t.Context(), "okta", "eve@example.com"))
	enginetest.Must(t, s.sightings.Stranger(t.Context(), "other", "eve@example.com"))
	digests := map[string]bool{}
	enginetest.Must(t, s.Shared.Each(t.Context(), "sighting.stranger.", func(e kv.Entry) error {
		digests[e.Key[strings.LastIndexByte(e.Key, '.'):]] = true
		return nil
	}))
	if len(digests) != 5 {
		t.Errorf("%d digests of 5", len(digests))
	}
}

func TestAProviderCannotLeadTheDoctorAstray(t *testing.T) {
	s := newSite(t)
	s.idp.Answer(nil)
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if !strings.HasPrefix(r.URL.String(), s.idp.URL) {
			t.Errorf("asked %s", r.URL)
		}
		return http.DefaultTransport.RoundTrip(r)
	}), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.doctor.Client = client
	s.diagnose(okta)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
