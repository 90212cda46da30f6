package gateway

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/identity"
	"sallyport.dev/dataplane/policy"
)

// TestAVerdictStandsUntilThePolicyOrTheTimeChanges, though nobody has told the call yet: between the two lies what would be sent.
func TestAVerdictStandsUntilThePolicyOrTheTimeChanges(t *testing.T) {
	var (
		person = uuid.UUID{15: 1}
		now    = time.Now()
		user   = &fleetv1.User{Id: person[:], Active: true, Generation: 1, Directory: "okta", Subject: "ada", Groups: []uint32{1}}
		grant  = func(rules ...*policyv1.Rule) *fleetv1.Entry {
			return &fleetv1.Entry{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: 1, Connector: "demo", Rules: rules}}}
		}
		allow = &policyv1.Rule{Allow: []string{"echo"}}
	)
	for name, c := range map[string]struct {
		change *fleetv1.Entry
		before bool // the verdict, and after who calls was found out
		later  time.Duration
		stands bool
	}{
		"nothing":          {stands: true},
		"something else":   {change: &fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "other"}}}, stands: true},
		"nothing for long": {later: time.Minute, stands: true},
		"the rule":         {change: grant(allow, &policyv1.Rule{Deny: []string{"echo"}})},
		"the person":       {change: &fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{Id: person[:], Generation: 1, Directory: "okta", Subject: "ada", Groups: []uint32{1}}}}},
		"whose token counts, before": {before: true, change: &fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{
			Id: person[:], Active: true, Generation: 2, Directory: "okta", Subject: "ada", Groups: []uint32{1}, ValidAfterMs: now.UnixMilli(),
		}}}},
		"the time, at the rule's end": {later: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			allow := &policyv1.Rule{Allow: []string{"echo"}, Until: timestamppb.New(now.Add(30 * time.Minute))}
			b := policy.NewBuilder()
			if err := b.Put(slices.Values([]*fleetv1.Entry{
				{Value: &fleetv1.Entry_User{User: user}}, {Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: 1, Id: make([]byte, 16), Name: "okta/Engineers"}}},
				{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "demo"}}},
				{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "demo", Tools: []*policyv1.Tool{{Name: "echo", Definition: []byte(`{"name":"echo","inputSchema":{"type":"object"}}`)}}}}},
				grant(allow),
			})); err != nil {
				t.Fatal(err)
			}
			table := b.Table(1)
			arguments, err := table.Arguments("demo", "echo", []byte(`{}`))
			if err != nil {
				t.Fatal(err)
			}
			change := func() {
				if c.change == nil {
					return
				}
				if err := table.Put(slices.Values([]*fleetv1.Entry{c.change})); err != nil {
					t.Fatal(err)
				}
			}
			if c.before {
				change()
			}
			caller := identity.Caller{Person: policy.Person{ID: person}, IssuedAt: now.Add(-time.Minute)}
			l := &leg{edition: table.Edition(), flight: &flight{caller: caller, call: &policy.Request{Person: person, Connector: "demo", Tool: "echo", Arguments: arguments, Now: now}}}
			if d := table.Decide(*l.flight.call); !d.Allowed {
				t.Fatalf("it is not allowed to begin with: %+v", d)
			}
			if !c.before {
				change()
			}
			if got := l.stands(table, now.Add(c.later)); got != c.stands {
				t.Errorf("it stands: %v", got)
			}
		})
	}
}
