package policy

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

const (
	directory = "okta"
	// connector is what is asked about; others there are too, with grants of their own.
	connector = "github"
	tools     = 20
	// perGroup is how many people a group has, and groupsOf in how many a person is.
	perGroup, groupsOf = 100, 10
	// grantedOf is of how many groups one has a grant on the connector; everyone has one too.
	grantedOf   = 100
	departments = 50
)

// world is a state of many people, folded as from a log.
type world struct {
	state  *core.State
	people []uuid.UUID
	groups []uuid.UUID
	// folded, if not nil, is told what is folded.
	folded func(core.Record)
}

// do decides a command and folds what it became.
func (w *world) do(c core.Command) error {
	events, err := core.Decide(w.state, c, core.Env{Now: time.Now(), NewID: newID, Actor: &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}})
	if err != nil {
		return err
	}
	return w.fold(events...)
}

func (w *world) fold(events ...*eventv1.Event) error {
	for _, ev := range events {
		rec := core.Record{Seq: w.state.Seq() + 1, Event: ev}
		if err := w.state.Apply(rec); err != nil {
			return err
		}
		if w.folded != nil {
			w.folded(rec)
		}
	}
	return nil
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// newWorld makes so many people, each in ten groups of a hundred, a connector with grants to everyone and to each hundredth of these
// groups, some of whose rules read arguments or the department of a person, and 99 other connectors.
func newWorld(users int) (*world, error) { return newWorldOf(users, nil) }

func newWorldOf(users int, folded func(core.Record)) (*world, error) {
	w := &world{state: core.NewState(), folded: folded}
	if err := w.do(core.StartLog{Epoch: "bench"}); err != nil {
		return nil, err
	}
	if err := w.do(core.NewSetDirectory(&policyv1.Directory{Id: directory})); err != nil {
		return nil, err
	}
	for i := range users {
		id := newID().String()
		p := profile(i)
		err := w.fold(
			&eventv1.Event{Body: &eventv1.Event_UserCreated{UserCreated: &eventv1.UserCreated{UserId: id, DirectoryId: directory, Active: true}}},
			&eventv1.Event{PersonId: id, Body: &eventv1.Event_UserUpdated{UserUpdated: &eventv1.UserUpdated{UserId: id}}, Personal: &eventv1.Personal{
				UserName: p.UserName, ExternalId: p.ExternalID, DisplayName: p.DisplayName, Email: p.Email, Attributes: p.Attributes,
			}},
		)
		if err != nil {
			return nil, err
		}
	}
	for u := range w.state.AllUsersAfter("", 0) {
		w.people = append(w.people, u.ID)
	}
	for i := range max(users*groupsOf/perGroup, 1) {
		members := make([]byte, 0, perGroup*len(uuid.UUID{}))
		for range perGroup {
			id := w.people[rand.IntN(users)] //nolint:gosec // a load
			members = append(members, id[:]...)
		}
		id := newID()
		err := w.fold(
			&eventv1.Event{Body: &eventv1.Event_GroupCreated{GroupCreated: &eventv1.GroupCreated{GroupId: id.String(), DirectoryId: directory, DisplayName: fmt.Sprint("Team ", i)}}},
			&eventv1.Event{Body: &eventv1.Event_GroupMembersAdded{GroupMembersAdded: &eventv1.GroupMembersAdded{GroupId: id.String(), UserIds: members}}},
		)
		if err != nil {
			return nil, err
		}
		w.groups = append(w.groups, id)
	}
	err := w.policy()
	return w, err
}

// profile is what a directory says of somebody, about 600 bytes.
func profile(i int) core.Profile {
	return core.Profile{
		UserName: fmt.Sprintf("person.%d@example.com", i), ExternalID: fmt.Sprintf("00u%017d", i), DisplayName: fmt.Sprintf("Person %d", i), Email: fmt.Sprintf("person.%d@example.com", i),
		Attributes: fmt.Appendf(nil, `{"addresses":[{"country":"US","locality":"Springfield","postalCode":"%05d","streetAddress":"%d Main Street","type":"work"}],"locale":"en-US","name":{"familyName":"Person","givenName":"%d"},`+
			`"phoneNumbers":[{"primary":true,"type":"work","value":"+1 555 %07d"}],"title":"Engineer","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"costCenter":"%d","department":"Department %d","division":"Products","employeeNumber":"%d",`+
			`"manager":{"value":"00u%017d"},"organization":"Example"},"userType":"Employee"}`, i%99999, i, i, i, i%100, i%departments, i, i/10),
	}
}

func (w *world) policy() error {
	for i := range 100 {
		id := fmt.Sprint("connector-", i)
		if i == 0 {
			id = connector
		}
		if err := w.do(core.NewApplyPolicy([]*policyv1.Connector{{Id: id, Url: "https://up.example"}}, nil)); err != nil {
			return err
		}
		var pinned []*policyv1.Tool
		for t := range tools {
			pinned = append(pinned, &policyv1.Tool{Name: fmt.Sprint("tool_", t), Definition: fmt.Appendf(nil,
				`{"name":"tool_%d","description":"Does something","inputSchema":{"type":"object","properties":{"owner":{"type":"string"},"repository":{"type":"string"},"branch":{"type":"string"},"message":{"type":"string"}}}}`, t)})
		}
		if err := w.do(core.NewPinCatalogue(id, pinned)); err != nil {
			return err
		}
		grants := []core.GrantSpec{core.NewGrantTo(core.Grantee{Everyone: directory}, id, everyonesRules())}
		for g := range len(w.groups) / grantedOf {
			if i == 0 || g%100 == i {
				grants = append(grants, core.NewGrantSpec(w.groups[g], id, rulesOf(g)))
			}
		}
		for len(grants) > 0 {
			n := min(len(grants), 500)
			if err := w.do(core.NewApplyPolicy(nil, grants[:n])); err != nil {
				return err
			}
			grants = grants[n:]
		}
	}
	return nil
}

func everyonesRules() []*policyv1.Rule {
	return []*policyv1.Rule{
		{Allow: []string{"tool_0", "tool_1"}},
		{Allow: []string{"tool_2"}, When: `has(args.branch) && args.branch.startsWith("agent/")`},
		{Allow: []string{"tool_3"}, When: `has(user.department) && user.department == "Department 7"`},
		{Deny: []string{"tool_19"}},
	}
}

func rulesOf(group int) []*policyv1.Rule {
	return []*policyv1.Rule{
		{Allow: []string{fmt.Sprint("tool_", group%tools), "tool_1*"}},
		{Allow: []string{"tool_5"}, After: policyv1.Duty_DUTY_CONFIRM},
		{Deny: []string{"tool_4"}, When: `has(args.branch) && args.branch == "main"`},
	}
}
