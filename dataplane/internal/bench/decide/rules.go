package decide

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// The load of the figures with 500 rules: each person is in 20 groups, which have 25 rules each.
const (
	manyGroups    = 20
	rulesPerGroup = 25
)

// RunPolicy prints policy_decide_500 and policy_decide_500_cel for a number of users.
func RunPolicy(_ context.Context, out io.Writer, users int, scale float64) error {
	table, err := policy.Compile(1, manyRules(users))
	if err != nil {
		return err
	}
	people := make([]uuid.UUID, workingSet)
	for i := range people {
		people[i] = id(rand.IntN(users))
	}
	index := make(map[uuid.UUID]int, users)
	for i := range users {
		index[id(i)] = i
	}
	found := 0
	reference := measure(func(i int) { found += index[people[i%workingSet]] })
	arguments, err := table.Arguments("github", "conditional", []byte(`{"branch":"agent/feature","title":"Change the colour","files":["a.go"],"count":3}`))
	if err != nil {
		return err
	}
	request := policy.Request{Client: "agent", Connector: "github", Region: "us-east", From: &policy.Origin{Address: "10.1.2.3"}, Now: time.Now()}
	decide := func(tool string, a policy.Arguments) func(int) {
		return func(i int) {
			r := request
			r.Person, r.Tool, r.Arguments = people[i%workingSet], tool, a
			if !table.Decide(r).Allowed {
				panic("the load is one of calls that are allowed")
			}
		}
	}
	for i := range people { // each set of groups is resolved once; that is not what is measured
		decide("plain", policy.NoArguments)(i)
		decide("conditional", arguments)(i)
	}
	if n := len(table.Explain(policy.Request{Person: people[0], Connector: "github", Tool: "plain", Now: time.Now()}).Rules); n != manyGroups*rulesPerGroup {
		return fmt.Errorf("a person has %d rules, not %d", n, manyGroups*rulesPerGroup)
	}
	load := fmt.Sprintf("%d users in %d groups and with %d rules each, calls of %d random people in turn; reference: a lookup of the person in a Go map (found %t)",
		users, manyGroups, manyGroups*rulesPerGroup, workingSet, found > 0)
	for _, f := range []struct {
		name, load string
		run        func(int)
	}{
		{"policy_decide_500", load, decide("plain", policy.NoArguments)},
		{"policy_decide_500_cel", load + "; three conditions are evaluated: two of denies, on an argument and on an attribute of the person, and one of an allow", decide("conditional", arguments)},
	} {
		result := measure(f.run)
		err := json.NewEncoder(out).Encode(Figure{
			Name: f.name, Value: perOp(result), Unit: "ns/op", Allocations: result.AllocsPerOp(),
			Reference: perOp(reference), Ratio: perOp(result) / perOp(reference), Scale: scale, Load: f.load,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// manyRules are a snapshot in which of any 20 groups in a row one denies by an argument, one denies by a person's attribute, and one
// allows by an argument.
func manyRules(users int) iter.Seq[*fleetv1.Entry] {
	return func(yield func(*fleetv1.Entry) bool) {
		var tools []*policyv1.Tool
		for _, name := range append([]string{"plain", "conditional"}, toolNames()...) {
			tools = append(tools, &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil,
				`{"name":%q,"inputSchema":{"type":"object","properties":{"branch":{"type":"string"},"title":{"type":"string"},"files":{"type":"array","items":{"type":"string"}},"count":{"type":"integer"}}}}`, name)})
		}
		yield(&fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}})
		yield(&fleetv1.Entry{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: tools}}})
		for no := uint32(1); no <= groupCount; no++ {
			yield(&fleetv1.Entry{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: no, Name: fmt.Sprintf("okta/Group %d", no)}}})
			yield(&fleetv1.Entry{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: no, Connector: "github", Rules: manyRulesOf(no)}}})
		}
		for i := range users {
			u := id(i)
			first := uint32(i % (groupCount - manyGroups))
			groups := make([]uint32, manyGroups)
			for g := range groups {
				groups[g] = first + uint32(g) + 1
			}
			if !yield(&fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{
				Id: u[:], Active: true, Generation: 1, Directory: "okta", Subject: u.String(), Groups: groups, Attributes: fmt.Appendf(nil, `{"department":"Department %d"}`, i%50),
			}}}) {
				return
			}
		}
	}
}

func toolNames() []string {
	names := make([]string, toolCount)
	for i := range names {
		names[i] = fmt.Sprintf("tool_%d", i)
	}
	return names
}

// manyRulesOf are one group's.
func manyRulesOf(no uint32) []*policyv1.Rule {
	var all []*policyv1.Rule
	switch no % manyGroups {
	case 0:
		all = append(all, &policyv1.Rule{Allow: []string{"plain"}})
	case 1:
		all = append(all, &policyv1.Rule{Deny: []string{"conditional"}, When: `has(args.branch) && args.branch == "main"`})
	case 2:
		all = append(all, &policyv1.Rule{Deny: []string{"conditional"}, When: `has(user.department) && user.department == "Contractors"`})
	case 3:
		all = append(all, &policyv1.Rule{Allow: []string{"conditional"}, When: `has(args.branch) && args.branch.startsWith("agent/")`})
	}
	for i := len(all); i < rulesPerGroup; i++ {
		all = append(all, &policyv1.Rule{Allow: []string{fmt.Sprintf("tool_%d*", i)}})
	}
	return all
}
