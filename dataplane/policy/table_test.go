package policy

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// call is a request of ann's that needs no arguments.
func call(tool string) Request {
	return Request{Person: ann, Client: "agent", Connector: "github", Tool: tool, Region: "us", Arguments: NoArguments, Now: now}
}

// delta leads from one list of entries to another.
func delta(from, to []*fleetv1.Entry, version uint64) *fleetv1.Delta {
	d := &fleetv1.Delta{FromVersion: version - 1, Version: version}
	was, digest := map[Key]*fleetv1.Entry{}, Digest{}
	for _, e := range from {
		was[KeyOf(e)] = e
	}
	for _, e := range to {
		if !proto.Equal(was[KeyOf(e)], e) {
			d.Changed = append(d.Changed, e)
		}
		delete(was, KeyOf(e))
		digest.Add(e)
	}
	for key := range was {
		d.Removed = append(d.Removed, key.Wire())
	}
	d.Digest = digest.Bytes()
	return d
}

// TestReadersSeeADeltaWholeOrNotAtAll: each delta moves the only allow between a group of ann's and ann's
// membership of another, so that half of one would allow both tools or none.
func TestReadersSeeADeltaWholeOrNotAtAll(t *testing.T) {
	states := [2][]*fleetv1.Entry{
		slices.Concat(github(), []*fleetv1.Entry{user(ann, 1), groupEntry(1, "one"), groupEntry(2, "two"), grantOf(1, allow("read_file"))}),
		slices.Concat(github(), []*fleetv1.Entry{user(ann, 2), groupEntry(1, "one"), groupEntry(2, "two"), grantOf(2, allow("read_file"))}),
	}
	table, err := Compile(1, slices.Values(states[0]))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for last := uint64(0); ; {
				select {
				case <-done:
					return
				default:
				}
				d := table.Decide(call("read_file"))
				if !d.Allowed || d.Version < last || d.Group != []string{"two", "one"}[d.Version%2] {
					t.Errorf("at version %d, after %d: %+v", d.Version, last, d)
					return
				}
				last = d.Version
				if len(table.List(Request{Person: ann, Client: "agent", Connector: "github", Region: "us", Now: now})) != 1 {
					t.Error("the list is not of one state")
					return
				}
			}
		})
	}
	for version := uint64(2); version < 500; version++ {
		if _, err := table.Apply(delta(states[version%2], states[1-version%2], version)); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	readers.Wait()
}

func TestArgumentsOfAnotherToolOrOfNobodyAreNotDecidedBy(t *testing.T) {
	table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("*"), deny("delete_*")))
	other, err := table.Arguments("github", "push_files", []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	invalid, err := table.Arguments("github", "read_file", []byte(`{"path":7}`))
	if err == nil {
		t.Fatal("a path that is a number was accepted")
	}
	for name, a := range map[string]Arguments{"the zero value": {}, "of another tool": other, "refused": invalid} {
		r := call("read_file")
		r.Arguments = a
		if d := table.Decide(r); d.Allowed || d.Reason != auditv1.Reason_REASON_ARGUMENTS_INVALID {
			t.Errorf("%s: %+v", name, d)
		}
		r.Tool = "delete_branch" // what rules deny in any case is not explained by a schema
		if d := table.Decide(r); d.Allowed || d.Reason != auditv1.Reason_REASON_RULE_DENIED {
			t.Errorf("%s: %+v", name, d)
		}
	}
	r := call("read_file")
	r.Arguments = invalid
	if text := table.Decide(r).Text(); text != err.Error() {
		t.Errorf("the verdict says %q, want %q", text, err)
	}
}

func TestAPersonIsNotFoundByWhatTwoHave(t *testing.T) {
	one, two := user(ann), user(bob)
	two.GetUser().Subject = one.GetUser().GetSubject()
	before := slices.Concat(github(), []*fleetv1.Entry{one, two})
	table, err := Compile(1, slices.Values(before))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := table.Person("okta", ann.String()); ok {
		t.Fatalf("found %v", p)
	}
	after := slices.Concat(github(), []*fleetv1.Entry{one})
	if _, err := table.Apply(delta(before, after, 2)); err != nil {
		t.Fatal(err)
	}
	if p, ok := table.Person("okta", ann.String()); !ok || p.ID != ann {
		t.Fatalf("found %v, %v", p, ok)
	}
	if _, ok := table.Person("entra", ann.String()); ok {
		t.Fatal("a subject was found in another directory")
	}
}

func TestConnectorIsOfferedInItsRegionsOnly(t *testing.T) {
	entries := github()
	entries[0].GetConnector().Regions = []string{"eu"}
	entries = append(entries, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("*")))
	table, err := Compile(1, slices.Values(entries))
	if err != nil {
		t.Fatal(err)
	}
	r := call("read_file")
	if d := table.Decide(r); d.Allowed || d.Reason != auditv1.Reason_REASON_TOOL_UNKNOWN {
		t.Fatalf("got %+v", d)
	}
	if ids := table.Connectors(Request{Person: ann, Client: "agent", Region: "us", Now: now}); len(ids) != 0 {
		t.Fatalf("lists %v", ids)
	}
	r.Region = "eu"
	if d := table.Decide(r); !d.Allowed {
		t.Fatalf("got %+v", d)
	}
	if ids := table.Connectors(Request{Person: ann, Client: "agent", Region: "eu", Now: now}); !slices.Equal(ids, []string{"github"}) {
		t.Fatalf("lists %v", ids)
	}
}

// TestRulesThatThisBuildDoesNotUnderstandOnlyDeny: a newer control plane may say more than is read here.
func TestRulesThatThisBuildDoesNotUnderstandOnlyDeny(t *testing.T) {
	newer := func(r *policyv1.Rule) *policyv1.Rule {
		r.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
		return r
	}
	for name, c := range map[string]struct {
		rules []*policyv1.Rule
		want  auditv1.Reason
	}{
		"an allow up to more":       {[]*policyv1.Rule{newer(allow("*"))}, auditv1.Reason_REASON_NOTHING_ALLOWS},
		"a deny up to more":         {[]*policyv1.Rule{allow("*"), newer(deny("read_file"))}, auditv1.Reason_REASON_RULE_DENIED},
		"neither allow nor deny":    {[]*policyv1.Rule{allow("*"), {}}, auditv1.Reason_REASON_RULE_DENIED},
		"an allow that cannot run":  {[]*policyv1.Rule{when(allow("*"), `future(args)`)}, auditv1.Reason_REASON_NOTHING_ALLOWS},
		"a deny that cannot run":    {[]*policyv1.Rule{allow("*"), when(deny("*"), `future(args)`)}, auditv1.Reason_REASON_RULE_DENIED},
		"one understood beside one": {[]*policyv1.Rule{newer(allow("*")), allow("*")}, auditv1.Reason_REASON_RULE_ALLOWED},
	} {
		t.Run(name, func(t *testing.T) {
			table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, c.rules...))
			if d := table.Decide(call("read_file")); d.Reason != c.want {
				t.Fatalf("got %+v", d)
			}
		})
	}
	if _, err := Compile(1, slices.Values([]*fleetv1.Entry{{}})); err == nil {
		t.Fatal("an entry of an unknown kind was accepted")
	}
	if _, err := Compile(1, slices.Values([]*fleetv1.Entry{blockEntry(&policyv1.Block{Id: "b"})})); err == nil {
		t.Fatal("a block against nothing known was accepted")
	}
}

func TestEffectNamesThosePeopleWhoseVerdictsMayDiffer(t *testing.T) {
	before := slices.Concat(github(), []*fleetv1.Entry{user(ann, 1), user(bob, 1), groupEntry(1, "g"), grantOf(1, allow("*"))})
	block := blockEntry(&policyv1.Block{Id: "b", Target: &policyv1.Block_PersonId{PersonId: ann.String()}})
	moved := slices.Clone(before)
	moved[slices.IndexFunc(moved, func(e *fleetv1.Entry) bool { return KeyOf(e) == KeyOf(user(bob)) })] = user(bob)
	for name, c := range map[string]struct {
		to        []*fleetv1.Entry
		people    []uuid.UUID
		everybody bool
	}{
		"nothing":           {before, nil, false},
		"a member moved":    {moved, []uuid.UUID{bob}, false},
		"a person blocked":  {append(slices.Clone(before), block), []uuid.UUID{ann}, false},
		"a grant gone":      {before[:len(before)-1], nil, true},
		"a group more":      {append(slices.Clone(before), groupEntry(2, "h")), nil, true},
		"a region blocked":  {append(slices.Clone(before), blockEntry(&policyv1.Block{Id: "r", Target: &policyv1.Block_Region{Region: "us"}})), nil, true},
		"a connector moved": {append(slices.Clone(before[1:]), &fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://other.example"}}}), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := Compile(1, slices.Values(before))
			if err != nil {
				t.Fatal(err)
			}
			effect, err := table.Apply(delta(before, c.to, 2))
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(effect.People, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
			if effect.Everybody != c.everybody || !slices.Equal(slices.Compact(effect.People), c.people) {
				t.Fatalf("got %+v", effect)
			}
		})
	}
}

func TestDecidingAllocatesNothingThoughBlocksStand(t *testing.T) {
	until := timestamppb.New(now.Add(time.Hour))
	table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("*")),
		blockEntry(&policyv1.Block{Id: "1", Until: until, Target: &policyv1.Block_PersonId{PersonId: bob.String()}}),
		blockEntry(&policyv1.Block{Id: "2", Until: until, Target: &policyv1.Block_ClientId{ClientId: "other"}}),
		blockEntry(&policyv1.Block{Id: "3", Until: until, Target: &policyv1.Block_Connector{Connector: "jira"}}),
		blockEntry(&policyv1.Block{Id: "4", Until: until, Target: &policyv1.Block_Region{Region: "eu"}}),
		blockEntry(&policyv1.Block{Id: "5", Until: until, Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "github", Tool: "push_files"}}}))
	r := call("read_file")
	if n := testing.AllocsPerRun(1000, func() {
		if !table.Decide(r).Allowed {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// TestWhatIsRememberedIsBounded: forgotten sets are resolved again, and decide as before.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	entries := slices.Concat(github(), []*fleetv1.Entry{grantOf(1, allow("*"))})
	for no := uint32(1); no <= 40; no++ {
		entries = append(entries, groupEntry(no, "g"))
	}
	people := make([]uuid.UUID, 40)
	for i := range people {
		people[i] = uuid.UUID{1, byte(i)}
		entries = append(entries, user(people[i], 1, uint32(i+1)))
	}
	table, err := Compile(1, slices.Values(entries))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, p := range people {
			r := call("read_file")
			r.Person = p
			if !table.Decide(r).Allowed {
				t.Fatal("denied")
			}
			table.memory.hold(table.state().resolve(table.state().person(p).members), rememberedBytes/4) // as if it were large
		}
	}
	held := 0
	for _, p := range people {
		if table.state().person(p).members.resolved.Load() != nil {
			held++
		}
	}
	if held == 0 || held > 5 || table.memory.bytes > 2*rememberedBytes {
		t.Fatalf("%d sets are remembered, of %d bytes", held, table.memory.bytes)
	}
}
