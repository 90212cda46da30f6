package access_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
)

const (
	denied  = adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED
	allowed = adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED
	asked   = adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
)

// called is a record of a call that was allowed.
func called(u *core.User, tool, arguments string, groups ...string) *auditv1.AuditRecord {
	return &auditv1.AuditRecord{
		At: timestamppb.New(now), Phase: auditv1.Phase_PHASE_AUTHORIZED, Method: "tools/call", PersonId: u.ID.String(), Groups: groups, Connector: "github", Tool: tool,
		Arguments: &auditv1.Payload{Head: []byte(arguments)}, Authentication: &auditv1.Authentication{}, Region: "us",
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED},
	}
}

// backtest decides records, of which what is sealed is opened as it is.
func backtest(s *core.State, records ...*auditv1.AuditRecord) (*access.Tested, error) {
	opened := func(_ context.Context, _ string, sealed []byte) ([]byte, error) {
		if string(sealed) == "erased" {
			return nil, nil
		}
		return sealed, nil
	}
	return access.Backtest(context.Background(), s, 1000, opened, func(add func([]byte) error) error {
		for _, r := range records {
			data, err := proto.Marshal(r)
			if err == nil {
				err = add(data)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TestABacktestDecidesAsProxiesWould: under a random policy a recorded call comes out as the table that a proxy has decides it.
func TestABacktestDecidesAsProxiesWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		groups, people := w.populate(t)
		w.must(core.NewApplyPolicy(nil, w.randomGrants(t, groups, people)))
		var records []*auditv1.AuditRecord
		want := map[access.BacktestKey]uint64{}
		same := uint64(0)
		for _, u := range people {
			if !u.Active || slices.ContainsFunc(slices.Collect(w.state.Blocks()), func(b *policyv1.Block) bool { return b.GetPersonId() == u.ID.String() }) {
				continue
			}
			table, err := policy.Compile(w.state.Seq(), w.state.EntriesFor(u, ""))
			if err != nil {
				t.Fatal(err)
			}
			for _, tool := range []string{"read", "push", "delete"} {
				for _, raw := range []string{`{}`, `{"branch":"x"}`, `{"branch":"y"}`} {
					records = append(records, called(u, tool, raw, table.Groups(u.ID)...))
					args, err := table.Arguments("github", tool, []byte(raw))
					if err != nil {
						t.Fatal(err)
					}
					if table.Decide(policy.Request{Person: u.ID, Connector: "github", Tool: tool, Region: "us", From: &policy.Origin{}, Arguments: args, Now: now}).Allowed {
						same++
					} else {
						want[access.BacktestKey{Person: u.ID.String(), Connector: "github", Tool: tool, Before: allowed, After: denied}]++
					}
				}
			}
		}
		b, err := backtest(w.state, records...)
		if err != nil {
			t.Fatal(err)
		}
		got := map[access.BacktestKey]uint64{}
		for key, c := range b.Changes {
			got[key] = c.Calls
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || b.Unchanged != same || len(b.Unknown) != 0 || b.GroupsOfNow != 0 {
			t.Fatalf("changes %v, want %v; unchanged %d, want %d; unknown %v", got, want, b.Unchanged, same, b.Unknown)
		}
	})
}

func TestABacktestCountsWhatItCannotKnowAsUnknown(t *testing.T) {
	w := newWorld(t)
	w.must(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: "ann", ExternalID: "1"}, Active: true})
	ann := w.state.UserByName("okta", "ann")
	group := func(name string) *core.Group {
		return w.state.Group(uuid.MustParse(w.must(core.CreateGroup{Directory: "okta", DisplayName: name})[0].GetGroupCreated().GetGroupId()))
	}
	leads, staff := group("Leads"), group("Staff")
	w.must(core.NewApplyPolicy(nil, []core.GrantSpec{
		core.NewGrantSpec(leads.ID, "github", []*policyv1.Rule{
			{Allow: []string{"read"}}, {Allow: []string{"push"}, When: `has(args.branch) && args.branch == "x"`}, {Allow: []string{"delete"}, After: policyv1.Duty_DUTY_CONFIRM},
		}),
		core.NewGrantSpec(staff.ID, "github", []*policyv1.Rule{{Deny: []string{"*"}, When: `has(request.acr) && request.acr == "weak"`}}),
	}))
	w.must(core.UpdateUser{Directory: "okta", ID: ann.ID, Profile: ann.Profile, Active: false}) // gone since, with her groups
	w.must(core.NewPlaceBlock(&policyv1.Block{Reason: "r", Target: &policyv1.Block_Connector{Connector: "github"}}))

	type counts struct{ unchanged, changed, arguments, person, tool, signIn, notByRules, ofNow uint64 }
	record := func(tool, arguments string, change func(r *auditv1.AuditRecord)) *auditv1.AuditRecord {
		r := called(ann, tool, arguments, "okta/Leads")
		if change != nil {
			change(r)
		}
		return r
	}
	for name, c := range map[string]struct {
		record *auditv1.AuditRecord
		want   counts
	}{
		"by the groups that counted then":                {record("read", `{}`, nil), counts{unchanged: 1}},
		"by arguments that are whole":                    {record("push", `{"branch":"x"}`, nil), counts{unchanged: 1}},
		"by arguments that are whole, and say otherwise": {record("push", `{"branch":"y"}`, nil), counts{changed: 1}},
		"now asked first":                                {record("delete", `{}`, nil), counts{changed: 1}},
		"asked first, as it was":                         {record("delete", `{}`, func(r *auditv1.AuditRecord) { r.Decision.Confirmed = "browser" }), counts{unchanged: 1}},
		"arguments that were cut, where they have a say": {record("push", `{"branch":"x"`, func(r *auditv1.AuditRecord) { r.Arguments.Truncated = true }), counts{arguments: 1}},
		"arguments that were masked":                     {record("push", `{"branch":"[masked]"}`, func(r *auditv1.AuditRecord) { r.Arguments.Masked = true }), counts{arguments: 1}},
		"arguments that were redacted":                   {record("push", `{"branch":"[redacted]"}`, func(r *auditv1.AuditRecord) { r.Arguments.Redacted = true }), counts{arguments: 1}},
		"arguments that were cut, of which what conditions read was recorded": {record("push", `{"branch":"x`, func(r *auditv1.AuditRecord) {
			r.Arguments.Truncated, r.ConditionValues = true, valuesOf(w, `{"branch":"x","note":"long"}`)
		}), counts{unchanged: 1}},
		"and say otherwise": {record("push", `{"branch":"[redacted]"}`, func(r *auditv1.AuditRecord) {
			r.Arguments.Redacted, r.ConditionValues = true, valuesOf(w, `{"branch":"y"}`)
		}), counts{changed: 1}},
		"of which other conditions read": {record("push", `{"branch":"x`, func(r *auditv1.AuditRecord) {
			r.Arguments.Truncated, r.ConditionValues = true, must(proto.Marshal(&auditv1.ConditionValues{Definition: definitionOf(w).GetDefinition()}))
		}), counts{arguments: 1}},
		"of another definition of the tool": {record("push", `{"branch":"x`, func(r *auditv1.AuditRecord) {
			values := definitionOf(w)
			values.Definition[0] ^= 1
			r.Arguments.Truncated, r.ConditionValues = true, must(proto.Marshal(values))
		}), counts{arguments: 1}},
		"of a person who was erased": {record("push", `{"branch":"x`, func(r *auditv1.AuditRecord) {
			r.Arguments.Truncated, r.ConditionValues = true, []byte("erased")
		}), counts{arguments: 1}},
		"arguments that were erased": {record("push", ``, func(r *auditv1.AuditRecord) { r.Arguments, r.Erased = nil, true }), counts{arguments: 1}},
		"arguments that were sealed": {record("push", ``, func(r *auditv1.AuditRecord) {
			r.Arguments, r.Sealed = nil, must(proto.Marshal(&auditv1.AuditRecord{Arguments: &auditv1.Payload{Head: []byte(`{"branch":"x"}`)}, Salt: []byte("salt")}))
		}), counts{unchanged: 1}},
		"arguments that were sealed, and erased":   {record("push", ``, func(r *auditv1.AuditRecord) { r.Arguments, r.Sealed = nil, []byte("erased") }), counts{arguments: 1}},
		"arguments that were cut, and have no say": {record("read", `{"branch":"x"`, func(r *auditv1.AuditRecord) { r.Arguments.Truncated = true }), counts{unchanged: 1}},
		"arguments that do not fit any more":       {record("push", `{"branch":1}`, nil), counts{tool: 1}},
		"a tool that is not pinned any more":       {record("merge", `{}`, nil), counts{tool: 1}},
		"a person who is gone":                     {record("read", `{}`, func(r *auditv1.AuditRecord) { r.PersonId = uuid.NewString() }), counts{person: 1}},
		"a group that is gone":                     {record("read", `{}`, func(r *auditv1.AuditRecord) { r.Groups = []string{"okta/Former"} }), counts{changed: 1, ofNow: 1}},
		"no word of how they signed in, where it has a say": {record("read", `{}`, func(r *auditv1.AuditRecord) {
			r.Groups, r.Authentication = []string{"okta/Leads", "okta/Staff"}, nil
		}), counts{signIn: 1}},
		"refused for another reason": {record("read", `{}`, func(r *auditv1.AuditRecord) { r.Decision.Reason = auditv1.Reason_REASON_BLOCKED }), counts{notByRules: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := backtest(w.state, c.record)
			if err != nil {
				t.Fatal(err)
			}
			got := counts{
				unchanged: b.Unchanged, arguments: b.Unknown[adminv1.BacktestObstacle_BACKTEST_OBSTACLE_ARGUMENTS], person: b.Unknown[adminv1.BacktestObstacle_BACKTEST_OBSTACLE_PERSON],
				tool: b.Unknown[adminv1.BacktestObstacle_BACKTEST_OBSTACLE_TOOL], signIn: b.Unknown[adminv1.BacktestObstacle_BACKTEST_OBSTACLE_SIGN_IN], notByRules: b.NotByRules, ofNow: b.GroupsOfNow,
			}
			for key, change := range b.Changes {
				if got.changed += change.Calls; key.After != denied && key.After != asked {
					t.Errorf("it became %v", key.After)
				}
			}
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// valuesOf is what a proxy records of arguments for conditions.
func valuesOf(w *world, raw string) []byte {
	table := must(policy.Compile(w.state.Seq(), w.state.Entries("")))
	arguments := must(table.Arguments("github", "push", []byte(raw)))
	return must(proto.Marshal(table.ConditionValues(policy.Request{Connector: "github", Tool: "push", Arguments: arguments}, func([]byte) bool { return true })))
}

func definitionOf(w *world) *auditv1.ConditionValues {
	values := &auditv1.ConditionValues{}
	if err := proto.Unmarshal(valuesOf(w, `{"branch":"x"}`), values); err != nil {
		panic(err)
	}
	return values
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestABacktestEndsAtItsLimitAndWithWhatFails(t *testing.T) {
	w := newWorld(t)
	w.must(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: "ann", ExternalID: "1"}, Active: true})
	w.must(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantTo(core.Grantee{Everyone: "okta"}, "github", []*policyv1.Rule{{Allow: []string{"*"}, When: `has(args.branch)`}})}))
	r := called(w.state.UserByName("okta", "ann"), "push", ``)
	r.Arguments, r.Sealed = nil, []byte("sealed")
	data := must(proto.Marshal(r))
	failed := errors.New("the vault is away")
	seals := 0
	count := func(limit uint64, plain []byte, err error) (*access.Tested, error) {
		seals = 0
		return access.Backtest(t.Context(), w.state, limit, func(context.Context, string, []byte) ([]byte, error) { seals++; return plain, err }, func(add func([]byte) error) error {
			for {
				if err := add(data); err != nil {
					return err
				}
			}
		})
	}
	if b, err := count(1000, nil, nil); err != nil || b.Calls != 1000 || seals != 1000 || !b.Until.Equal(now) {
		t.Errorf("%+v (%v), %d opened", b, err, seals)
	}
	if _, err := count(1_000_000, nil, failed); !errors.Is(err, failed) {
		t.Errorf("with a vault that is away: %v", err)
	}
}
