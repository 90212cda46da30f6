// Package doctor looks whether a directory's identity provider and Sallyport fit together: whether provisioning reaches us,
// whether people can sign in, whether the pair that joins the two agrees, and who has the one without the other.
//
// It judges by what is provisioned, by what is remembered of sign-ins, and by asking the provider what anybody may ask it. It
// holds no credentials of the provider's administrators, so it says what cannot be known without them. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
)

// Engine is what is needed of the engine.
type Engine interface{ State() *core.State }

// Activity knows what directories did by SCIM.
type Activity interface {
	Of(ctx context.Context, directory string) (*activity.Directory, error)
}

// Audit finds what became of sign-ins.
type Audit interface {
	Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error)
}

// Secrets keeps the secrets of clients at identity providers.
type Secrets interface {
	SignInSecret(ctx context.Context, secretID, directory string) (string, error)
}

// Config is what a Doctor is made of. Client and Now may be left out.
type Config struct {
	Engine    Engine
	Activity  Activity
	Audit     Audit
	Secrets   Secrets
	Sightings *Sightings
	// RedirectURI is what a directory's client must have at its provider.
	RedirectURI func(directory string) string
	// Client asks providers. It must follow no redirect. Default: one with a time-out of 10 seconds.
	Client *http.Client
	Now    func() time.Time
	Log    *slog.Logger
}

// Doctor makes diagnoses. It is safe for concurrent use.
type Doctor struct{ Config }

// New returns a doctor.
func New(c Config) *Doctor {
	if c.Client == nil {
		c.Client = &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Doctor{c}
}

const (
	// shown is how many people of a finding are named.
	shown = 100
	// lately is how far back sign-ins are looked at.
	lately = 7 * 24 * time.Hour
	// soon is when the end of a token is worth a word.
	soon = 14 * 24 * time.Hour
)

// diagnosis is one under way.
type diagnosis struct {
	*Doctor
	state    *core.State
	d        *policyv1.Directory
	provider adminv1.Provider
	now      time.Time
	found    []*adminv1.Finding
	// misjoined are the people whom the provider signs in by another attribute than the pair's, by that attribute; strangers is how
	// many it signed in whom nothing knows.
	misjoined map[string][]string
	strangers int
}

// Diagnose looks at a directory.
func (d *Doctor) Diagnose(ctx context.Context, directory string, provider adminv1.Provider) (*adminv1.DiagnoseDirectoryResponse, error) {
	x := &diagnosis{Doctor: d, state: d.Engine.State(), provider: provider, now: d.Now()}
	if x.d = x.state.Directory(directory); x.d == nil {
		return nil, &core.Error{Code: core.NotFound, Field: "directory_id", Message: fmt.Sprintf("there is no directory %q: sallyport directories list shows those that there are", directory)}
	}
	for _, look := range []func(context.Context) error{x.provisioning, x.signIn, x.signIns, x.pair, x.people, x.signals} {
		if err := look(ctx); err != nil {
			return nil, err
		}
	}
	return &adminv1.DiagnoseDirectoryResponse{DirectoryId: directory, Findings: x.found}, nil
}

func (x *diagnosis) add(severity adminv1.Severity, check, text, next string, people ...string) {
	x.found = append(x.found, &adminv1.Finding{Check: check, Severity: severity, Text: text, Next: next, People: people[:min(len(people), shown)], Count: uint32(len(people))})
}

const (
	good    = adminv1.Severity_SEVERITY_GOOD
	unknown = adminv1.Severity_SEVERITY_UNKNOWN
	warning = adminv1.Severity_SEVERITY_WARNING
	problem = adminv1.Severity_SEVERITY_PROBLEM
)

// app is what the provider calls its part that provisions.
func (x *diagnosis) app() string {
	switch x.provider {
	case adminv1.Provider_PROVIDER_OKTA:
		return "the SCIM app at Okta (Provisioning)"
	case adminv1.Provider_PROVIDER_ENTRA:
		return "the enterprise application at Entra (Provisioning)"
	}
	return "the provider's SCIM client"
}

// provisioning looks at tokens and at what came by SCIM.
func (x *diagnosis) provisioning(ctx context.Context) error {
	id := x.d.GetId()
	did, err := x.Activity.Of(ctx, id)
	if err != nil {
		return err
	}
	valid, last := 0, time.Time{}
	for t := range x.state.Tokens() {
		if t.Kind != eventv1.TokenKind_TOKEN_KIND_SCIM || t.Directory != id {
			continue
		}
		switch {
		case t.ExpiresAt.IsZero():
			valid, last = valid+1, x.now.Add(1<<62)
		case t.ExpiresAt.After(x.now):
			valid++
			if t.ExpiresAt.After(last) {
				last = t.ExpiresAt
			}
		}
	}
	create := "sallyport tokens create scim --directory " + id + ", and enter it at " + x.app()
	switch {
	case valid == 0:
		x.add(problem, "scim: token", "no SCIM token of this directory is valid: nothing it sends is taken", create)
	case last.Before(x.now.Add(soon)):
		x.add(warning, "scim: token", "the last SCIM token ends at "+stamp(last), create)
	default:
		x.add(good, "scim: token", fmt.Sprintf("%d valid", valid), "")
	}
	if did.LastRequest.IsZero() {
		x.add(problem, "scim: reached", "the directory never sent anything", "enter the SCIM URL (…/scim/v2) and a token at "+x.app()+", test the connection there, and see that the SCIM listener can be reached from outside")
	} else {
		x.add(good, "scim: reached", "the last request came at "+stamp(did.LastRequest), "")
	}
	for _, a := range did.Alarms {
		if x.now.Sub(a.At) < lately {
			x.add(warning, "scim: alarm", fmt.Sprintf("at %s, within an hour, %d of %d active people were %s; %d%% are let pass", stamp(a.At), a.People, a.Of, a.What, a.Percent),
				"see at the provider who did that; sallyport scim status --directory "+id+" says what to do if it was a mistake or an attack")
		}
	}
	recent := 0
	for _, r := range did.Refusals {
		if x.now.Sub(r.At) < 24*time.Hour {
			recent++
		}
	}
	if recent > 0 {
		x.add(warning, "scim: refusals", fmt.Sprintf("%d requests or signals were refused within a day", recent), "sallyport scim status --directory "+id+" says which, why, and what to do about each")
	}
	users, active, groups := 0, 0, x.state.GroupCount(id)
	for u := range x.state.Users(id, 0) {
		if users++; u.Active {
			active++
		}
	}
	switch {
	case active == 0:
		x.add(problem, "scim: people", fmt.Sprintf("%d people are provisioned and none of them is active", users), "assign people, or a group of them, to "+x.app())
	case groups == 0:
		x.add(warning, "scim: groups", fmt.Sprintf("%d active people, and no group: grants name groups", active), map[adminv1.Provider]string{
			adminv1.Provider_PROVIDER_OKTA:  "push groups under Push Groups, apart from those by which the app is assigned",
			adminv1.Provider_PROVIDER_ENTRA: "switch on the mapping of groups, and assign groups to the application",
		}[x.provider])
	default:
		x.add(good, "scim: people", fmt.Sprintf("%d active people of %d, %d groups", active, users, groups), "")
	}
	waiting := names(x.state.Waiting(id))
	if len(waiting) > 0 {
		x.add(warning, "scim: held groups", "people were reactivated, and their groups of before count for nothing until they are pushed again", "push the groups again, or sallyport users confirm-memberships USER", waiting...)
	}
	return nil
}

// signIns looks at what became of sign-ins lately.
func (x *diagnosis) signIns(ctx context.Context) error {
	if x.d.GetSignIn() == nil {
		return nil
	}
	filter := &adminv1.AuditFilter{
		Kinds: []auditv1.Kind{auditv1.Kind_KIND_SIGN_IN}, Action: "signed_in", Target: "directory/" + x.d.GetId(), Since: timestamppb.New(x.now.Add(-lately)),
	}
	last, _, err := x.Audit.Search(ctx, filter, 1, "")
	if err != nil {
		return fmt.Errorf("looking for sign-ins: %w", err)
	}
	if len(last) > 0 {
		x.add(good, "sign-in: lately", "somebody signed in at "+stamp(last[0].GetRecord().GetAt().AsTime()), "")
	} else {
		x.add(unknown, "sign-in: lately", "nobody signed in within seven days", "sign in yourself as a test: open the sign-in URL in a browser")
	}
	filter.Kinds, filter.Action = []auditv1.Kind{auditv1.Kind_KIND_SIGN_IN_FAILED}, ""
	failed, _, err := x.Audit.Search(ctx, filter, 1000, "")
	if err != nil {
		return fmt.Errorf("looking for sign-ins that failed: %w", err)
	}
	counts := map[string]int{}
	for _, r := range failed {
		counts[r.GetRecord().GetAction()]++
	}
	for _, c := range []struct {
		outcome, text, next string
	}{
		{"refused", "sign-ins were refused by the provider", "the application must be assigned to the person at the provider; the control plane's log has the provider's own words"},
		{"unreachable", "sign-ins failed since the provider did not answer", "see that the control plane can reach " + x.d.GetSignIn().GetIssuer()},
		{"forged", "answers of the provider did not verify, came twice or too late", "if people are affected: the control plane's log says what was wrong; clocks and several browsers are the usual reasons"},
		{"too_weak", "sign-ins were weaker than is demanded", "the provider's policy for the application must demand the same: a second factor, or a fresh sign-in"},
		{"deactivated", "people who are deactivated tried to sign in", "if somebody should have access, activate them at the provider"},
	} {
		if n := counts[c.outcome]; n > 0 {
			x.add(warning, "sign-in: "+c.outcome, fmt.Sprintf("%d %s within seven days", n, c.text), c.next)
		}
	}
	return nil
}

// signals looks whether the provider can say that somebody is suspended.
func (x *diagnosis) signals(context.Context) error {
	switch {
	case x.d.GetSignals() != nil:
		x.add(good, "signals", "security events and Universal Logout of "+x.d.GetSignals().GetIssuer()+" are taken", "")
	case x.provider == adminv1.Provider_PROVIDER_OKTA:
		x.add(warning, "signals", "suspending a person in Okta sends no SCIM, and no other way is set up: a suspended person's agents go on", "sallyport directories signals "+x.d.GetId()+": see docs/okta.md, Suspensions")
	default:
		x.add(unknown, "signals", "security events are not set up", "sallyport directories signals "+x.d.GetId()+", where the provider sends them: see docs/signals.md")
	}
	return nil
}

func stamp(at time.Time) string { return at.UTC().Format("2006-01-02 15:04 UTC") }

func names(all func(func(*core.User) bool)) (out []string) {
	for u := range all {
		out = append(out, u.UserName)
	}
	return out
}
