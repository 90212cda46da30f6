package access_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
)

var now = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)

// failer is a test or a property's run.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is a state, made by commands.
type world struct {
	t     failer
	state *core.State
	rules func(*rapid.T) []*policyv1.Rule
}

func env() core.Env {
	return core.Env{Now: now, NewID: uuid.New, Actor: &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}}
}

func (w *world) must(c core.Command) []*eventv1.Event {
	w.t.Helper()
	events, err := core.Decide(w.state, c, env())
	if err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	if w.state, err = access.After(w.state, events); err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	return events
}

func definition(name, annotations string) *policyv1.Tool {
	return &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil, `{"name":%q,"inputSchema":{"type":"object","properties":{"branch":{"type":"string"}}},"annotations":%s}`, name, annotations)}
}

func newWorld(t failer) *world {
	w := &world{t: t, state: core.NewState(), rules: randomRules}
	w.must(core.StartLog{Epoch: "epoch"})
	for _, id := range []string{"okta", "entra"} {
		w.must(core.NewSetDirectory(&policyv1.Directory{Id: id}))
	}
	for _, id := range []string{"github", "jira"} {
		w.must(core.NewApplyPolicy([]*policyv1.Connector{{Id: id, Url: "https://up.example"}}, nil))
		w.must(core.NewPinCatalogue(id, []*policyv1.Tool{definition("read", `{"readOnlyHint":true}`), definition("push", `{}`), definition("delete", `{}`)}))
	}
	return w
}

var conditions = []string{
	"", `has(args.branch) && args.branch == "x"`, `has(user.department) && user.department == "Sales"`, `user.directory == "okta"`, `"okta/g2" in user.groups`,
	`request.region == "us"`, "true", "false",
}

func randomRules(t *rapid.T) []*policyv1.Rule {
	var rules []*policyv1.Rule
	for range rapid.IntRange(1, 3).Draw(t, "rules") {
		globs := []string{rapid.SampledFrom([]string{"*", "read", "pu*", "delete"}).Draw(t, "glob")}
		r := &policyv1.Rule{When: rapid.SampledFrom(conditions).Draw(t, "when")}
		if rapid.IntRange(0, 3).Draw(t, "deny") == 0 {
			r.Deny = globs
		} else {
			r.Allow = globs
		}
		rules = append(rules, r)
	}
	return rules
}

// randomTerms are rules of all kinds.
func randomTerms(t *rapid.T) []*policyv1.Rule {
	rules := randomRules(t)
	for _, r := range rules {
		globs := slices.Concat(r.GetAllow(), r.GetDeny())
		switch rapid.IntRange(0, 4).Draw(t, "effect") {
		case 0:
			r.Allow, r.Deny, r.Require, r.Tools = nil, nil, policyv1.Duty_DUTY_LIMIT, globs
			r.Limit = &policyv1.Limit{Budget: "b", Window: durationpb.New(time.Hour), Calls: rapid.Uint64Range(1, 3).Draw(t, "calls"), ResultBytes: rapid.Uint64Range(0, 2).Draw(t, "bytes")}
		case 1:
			r.Allow, r.Deny, r.Require, r.Tools = nil, nil, policyv1.Duty_DUTY_REDACT, globs
			r.Redact = &policyv1.Redaction{Results: []string{rapid.SampledFrom([]string{"ssn", "$..SSN", "card"}).Draw(t, "path")}, Agent: rapid.Bool().Draw(t, "agent")}
		case 2:
			r.Allow, r.Deny, r.After = globs, nil, policyv1.Duty_DUTY_CONFIRM
			r.Assurance = rapid.SampledFrom([]policyv1.ConfirmationAssurance{1, 2}).Draw(t, "assurance")
		}
	}
	return rules
}

// randomGrants are to groups, people and everyone, each to whom at most once.
func (w *world) randomGrants(t *rapid.T, groups []*core.Group, people []*core.User) []core.GrantSpec {
	var to []core.Grantee
	for _, g := range groups {
		to = append(to, core.Grantee{Group: g.ID})
	}
	to = append(to, core.Grantee{Person: people[0].ID}, core.Grantee{Everyone: "okta"}, core.Grantee{Everyone: core.Everyone})
	var specs []core.GrantSpec
	for _, one := range to {
		for _, connector := range []string{"github", "jira"} {
			if rapid.IntRange(0, 4).Draw(t, "granted") == 0 {
				specs = append(specs, core.NewGrantTo(one, connector, w.rules(t)))
			}
		}
	}
	return specs
}

func (w *world) populate(t *rapid.T) (groups []*core.Group, people []*core.User) {
	for i := range 6 {
		directory := []string{"okta", "entra"}[i%2]
		name := fmt.Sprintf("u%d", i)
		attributes := []byte(fmt.Sprintf(`{"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"department":%q}}`, rapid.SampledFrom([]string{"Sales", "Legal"}).Draw(t, "department")))
		w.must(core.CreateUser{Directory: directory, Profile: core.Profile{UserName: name, ExternalID: name, Attributes: attributes}, Active: i != 5})
		people = append(people, w.state.UserByName(directory, name))
	}
	for i := range 4 {
		create := core.CreateGroup{Directory: "okta", DisplayName: fmt.Sprintf("g%d", i)}
		for _, u := range people {
			if u.Directory == "okta" && rapid.Bool().Draw(t, "in") {
				create.Users = append(create.Users, u.ID)
			}
		}
		for _, g := range groups {
			if rapid.IntRange(0, 2).Draw(t, "nested") == 0 {
				create.Groups = append(create.Groups, g.ID)
			}
		}
		events := w.must(create)
		groups = append(groups, w.state.Group(uuid.MustParse(events[0].GetGroupCreated().GetGroupId())))
	}
	if rapid.IntRange(0, 3).Draw(t, "blocked") == 0 {
		w.must(core.NewPlaceBlock(&policyv1.Block{Reason: "r", Target: &policyv1.Block_PersonId{PersonId: people[1].ID.String()}}))
	}
	return groups, people
}

// outlookOf is asked of one person alone, with all that proxies would have of them.
func outlookOf(t failer, s *core.State, u *core.User, connector, tool string) policy.Outlook {
	table, err := policy.Compile(s.Seq(), s.EntriesFor(u, ""))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return table.Outlook(policy.Request{Person: u.ID, Connector: connector, Tool: tool, Now: now})
}

// effective is what all limits, redactions and confirmations together come to, made slowly and from nothing.
func effective(o policy.Outlook) string {
	if o.Access == policy.Never {
		return ""
	}
	least, most := map[string]uint64{}, map[string]int{}
	for _, b := range o.Terms.Limits {
		for of, n := range map[string]uint64{"calls": b.Limit.Calls, "bytes": b.Limit.ResultBytes} {
			key := fmt.Sprint(of, b.Certain, b.Rule)
			if have := least[key]; n != 0 && (have == 0 || n < have) {
				least[key] = n
			}
		}
	}
	var rules []string
	for _, one := range o.Terms.Taken {
		path := map[string]string{"ssn": "ssn", "$..SSN": "ssn", "card": "card"}[one.Path]
		level := 1
		if one.Certain {
			level = 2
		} else {
			rules = append(rules, fmt.Sprint(path, one.Rule))
		}
		most[path] = max(most[path], level)
		if one.Agent {
			most["agent "+path] = max(most["agent "+path], level)
		}
	}
	for path, level := range most {
		if level == 2 && most["agent "+path] != 1 { // what is certain is the same whatever else takes it out
			rules = slices.DeleteFunc(rules, func(r string) bool { return strings.HasPrefix(r, path) })
		}
	}
	slices.Sort(rules)
	return fmt.Sprint(least, most, slices.Compact(rules), o.Terms.Confirm)
}

// TestPeopleWhoAreAskedAboutTogetherGetTheirOwnAnswers compares what is found for all people at once with what each alone is told.
func TestPeopleWhoAreAskedAboutTogetherGetTheirOwnAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.rules = randomTerms
		groups, people := w.populate(t)
		w.must(core.NewApplyPolicy(nil, w.randomGrants(t, groups, people)))
		before := w.state
		for _, tool := range []string{"read", "push", "delete"} {
			who, err := access.WhoCan(t.Context(), before, "github", tool, now, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			var got, want []string
			for _, one := range who.People {
				got = append(got, fmt.Sprint(one.User.UserName, one.Outlook))
			}
			for _, u := range people {
				if o := outlookOf(t, before, u, "github", tool); o.Access != policy.Never {
					want = append(want, fmt.Sprint(u.UserName, o))
				}
			}
			if !slices.Equal(got, want) || who.Always+who.Sometimes != len(want) {
				t.Fatalf("%s: together %v (%d and %d), one by one %v", tool, got, who.Always, who.Sometimes, want)
			}
		}

		events := w.must(core.NewApplyPolicy(nil, w.randomGrants(t, groups, people)))
		affected, err := access.Compare(t.Context(), before, w.state, events, now)
		if err != nil {
			t.Fatal(err)
		}
		changes := map[string]access.Change{}
		for _, a := range affected {
			for _, u := range a.People {
				for _, c := range a.Changes {
					changes[u.UserName+c.Connector+c.Tool] = c
				}
			}
		}
		for _, u := range people {
			for _, connector := range []string{"github", "jira"} {
				for _, tool := range []string{"read", "push", "delete"} {
					was, is := outlookOf(t, before, u, connector, tool), outlookOf(t, w.state, u, connector, tool)
					c, told := changes[u.UserName+connector+tool]
					if differs := was.Access != is.Access || was.Duty != is.Duty || was.Rules != is.Rules || effective(was) != effective(is); differs != told {
						t.Fatalf("%s on %s %s went from %+v to %+v; told: %v", u.UserName, connector, tool, was, is, told)
					}
					if told && (c.Before.Access != was.Access || c.After.Access != is.Access) {
						t.Fatalf("%s on %s %s went from %+v to %+v, and %+v was told", u.UserName, connector, tool, was, is, c)
					}
				}
			}
		}
	})
}

func TestWhoCanGoesOnWhereItEnded(t *testing.T) {
	w := newWorld(t)
	for i := range 7 {
		w.must(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: fmt.Sprint("u", i), ExternalID: fmt.Sprint(i)}, Active: true})
	}
	w.must(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantTo(core.Grantee{Everyone: "okta"}, "github", []*policyv1.Rule{{Allow: []string{"read"}}})}))
	var names []string
	after := uint32(0)
	for {
		who, err := access.WhoCan(t.Context(), w.state, "github", "read", now, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range who.People {
			names = append(names, one.User.UserName)
			after = one.User.No
		}
		if who.Always != 7 {
			t.Fatalf("%d of 7 are counted", who.Always)
		}
		if !who.More {
			break
		}
	}
	if want := []string{"u0", "u1", "u2", "u3", "u4", "u5", "u6"}; !slices.Equal(names, want) {
		t.Errorf("pages hold %v", names)
	}
	if _, err := access.WhoCan(t.Context(), w.state, "github", "nothing", now, 0, 3); err == nil {
		t.Error("a tool that is not pinned is answered for")
	}
}
