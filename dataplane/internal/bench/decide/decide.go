// Package decide measures verdicts: one without a condition, one with, and the reading of arguments before
// it, each beside a bare lookup of the person in a map of the same size in the same run.
package decide

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// The load: users in groups, each person with rules from several groups.
const (
	rulesPerPerson = 100
	groupsOfPerson = 10
	groupCount     = 1000
	toolCount      = 50
	// workingSet is how many people's agents are calling at a time.
	workingSet = 1024
)

// Figure is one line of output.
type Figure struct {
	Name        string  `json:"name"`
	Value       float64 `json:"value"`
	Unit        string  `json:"unit"`
	Allocations int64   `json:"allocations"`
	Reference   float64 `json:"reference"`
	Ratio       float64 `json:"ratio"`
	// Scale is what part of the sizes that the name speaks of was measured; 0: it speaks of none.
	Scale float64 `json:"scale,omitempty"`
	Load  string  `json:"load"`
}

// Run prints decide_plain, decide_condition and decide_decode for a number of users.
func Run(_ context.Context, out io.Writer, users int) error {
	table, err := policy.Compile(1, entries(users))
	if err != nil {
		return err
	}
	people := make([]uuid.UUID, workingSet)
	index := make(map[uuid.UUID]int, users)
	for i := range users {
		index[id(i)] = i
	}
	for i := range people {
		people[i] = id(rand.IntN(users))
	}
	now := time.Now()
	raw := []byte(`{"branch":"agent/feature","title":"Change the colour of the button","files":["a.go","b.go"],"count":3}`)
	arguments, err := table.Arguments("github", "tool_1", raw)
	if err != nil {
		return err
	}
	found := 0
	reference := measure(func(i int) { found += index[people[i%workingSet]] })
	request := policy.Request{Client: "agent", Connector: "github", Region: "us-east", Now: now}
	decide := func(tool string, a policy.Arguments) func(int) {
		return func(i int) {
			r := request
			r.Person, r.Tool, r.Arguments = people[i%workingSet], tool, a
			if !table.Decide(r).Allowed {
				panic("the load is one of calls that are allowed")
			}
		}
	}
	// Every distinct set of groups is resolved once; that is not what is measured.
	for i := range people {
		decide("tool_0", policy.NoArguments)(i)
		decide("tool_1", arguments)(i)
	}
	if found == 0 {
		return errors.New("the lookups of the reference found nobody")
	}
	load := fmt.Sprintf("%d users, %d rules each, calls of %d random people in turn; reference: a lookup of the person in a Go map", users, rulesPerPerson, workingSet)
	for _, f := range []struct {
		name string
		run  func(int)
	}{
		{"decide_plain", decide("tool_0", policy.NoArguments)},
		{"decide_condition", decide("tool_1", arguments)},
		{"decide_decode", func(int) {
			if _, err := table.Arguments("github", "tool_1", raw); err != nil {
				panic(err)
			}
		}},
	} {
		result := measure(f.run)
		err := json.NewEncoder(out).Encode(Figure{
			Name: f.name, Value: perOp(result), Unit: "ns/op", Allocations: result.AllocsPerOp(),
			Reference: perOp(reference), Ratio: perOp(result) / perOp(reference), Load: load,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func measure(op func(i int)) testing.BenchmarkResult {
	return testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			op(i)
		}
	})
}

func perOp(r testing.BenchmarkResult) float64 { return float64(r.T.Nanoseconds()) / float64(r.N) }

func id(i int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%d", i))
}

// entries are a snapshot: sets of groups overlap as they do among colleagues.
func entries(users int) iter.Seq[*fleetv1.Entry] {
	return func(yield func(*fleetv1.Entry) bool) {
		var tools []*policyv1.Tool
		for i := range toolCount {
			name := fmt.Sprintf("tool_%d", i)
			tools = append(tools, &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil,
				`{"name":%q,"inputSchema":{"type":"object","properties":{"branch":{"type":"string"},"title":{"type":"string"},"files":{"type":"array","items":{"type":"string"}},"count":{"type":"integer"}}}}`, name)})
		}
		yield(&fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}})
		yield(&fleetv1.Entry{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: tools}}})
		for no := uint32(1); no <= groupCount; no++ {
			yield(&fleetv1.Entry{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: no, Name: fmt.Sprintf("okta/Group %d", no)}}})
			yield(&fleetv1.Entry{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: no, Connector: "github", Rules: rules()}}})
		}
		for i := range users {
			u := id(i)
			first := uint32(i % (groupCount - groupsOfPerson))
			groups := make([]uint32, groupsOfPerson)
			for g := range groups {
				groups[g] = first + uint32(g) + 1
			}
			if !yield(&fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{Id: u[:], Active: true, Generation: 1, Directory: "okta", Subject: u.String(), Groups: groups}}}) {
				return
			}
		}
	}
}

// rules are one group's: each person has them from ten groups.
func rules() []*policyv1.Rule {
	all := []*policyv1.Rule{{Allow: []string{"tool_0"}}, {Allow: []string{"tool_1"}, When: `has(args.branch) && args.branch.startsWith("agent/")`}}
	for i := len(all); i < rulesPerPerson/groupsOfPerson; i++ {
		all = append(all, &policyv1.Rule{Allow: []string{fmt.Sprintf("tool_%d*", i+2)}})
	}
	return all
}
