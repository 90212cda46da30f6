package admin_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func (s *site) directories() adminv1connect.DirectoryServiceClient {
	return adminv1connect.NewDirectoryServiceClient(http.DefaultClient, s.server.URL, s.option)
}

func (s *site) tokens() adminv1connect.TokenServiceClient {
	return adminv1connect.NewTokenServiceClient(http.DefaultClient, s.server.URL, s.option)
}

// TestTheStatusSaysWhatAnAdminActsOn: who waits, until they are confirmed; which token is in use; what was refused.
func TestTheStatusSaysWhatAnAdminActsOn(t *testing.T) {
	s := newSite(t)
	s.Directory("entra")
	ada, bob := s.User("okta", "ada"), s.User("okta", "bob")
	s.User("entra", "eve")
	old, next := s.Group("okta", "Old", ada, bob), s.Group("okta", "New", bob)
	used, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	for _, active := range []bool{false, true} {
		s.Do(core.UpdateUser{Directory: "okta", ID: ada.ID, Profile: ada.Profile, Active: active})
	}
	s.Do(core.UpdateGroup{Directory: "okta", ID: next.ID, Members: []core.MemberChange{{Op: core.AddMembers, Users: []uuid.UUID{ada.ID}}}})
	s.Do(core.UpdateUser{Directory: "okta", ID: bob.ID, Profile: bob.Profile, Active: false})
	at := time.Now().Truncate(time.Second)
	s.activity.Note(activity.Request{At: at, Directory: "okta", Token: used})
	for i, r := range []activity.Refusal{{Method: "POST", Resource: "/Users", Status: 409, Type: "uniqueness"}, {Method: "GET", Resource: "/Users", Status: 401}} {
		r.At = at.Add(time.Duration(i) * time.Second)
		s.activity.Note(activity.Request{At: r.At, Directory: []string{"okta", ""}[i], Refusal: &r})
	}
	s.activity.Alarm(activity.Alarm{At: at, Directory: "okta", What: "deactivated", People: 30, Of: 100, Percent: 20})
	s.activity.Alarm(activity.Alarm{At: at.Add(time.Second), Directory: "okta", What: "regrouped", People: 31, Of: 100, Percent: 20})
	ask := func(directory string) []*adminv1.ProvisioningStatus {
		res, err := s.directories().GetProvisioningStatus(t.Context(), connect.NewRequest(&adminv1.GetProvisioningStatusRequest{DirectoryId: directory}))
		enginetest.Must(t, err)
		return res.Msg.GetDirectories()
	}
	all := ask("")
	if len(all) != 3 || all[0].GetDirectoryId() != "entra" || all[1].GetDirectoryId() != "okta" || all[2].GetDirectoryId() != "" {
		t.Fatalf("directories: %v", all)
	}
	okta := all[1]
	if okta.GetUsers() != 2 || okta.GetActiveUsers() != 1 || okta.GetGroups() != 2 || okta.GetMemberships() != 4 || okta.GetRequests() != 2 || okta.GetRefused() != 1 || !okta.GetLastRequestAt().AsTime().Equal(at) {
		t.Errorf("counts: %v", okta)
	}
	if r := okta.GetRefusals(); len(r) != 1 || r[0].GetStatus() != 409 || !strings.Contains(r[0].GetAdvice(), "userName") {
		t.Errorf("refusals: %v", r)
	}
	if r := all[2].GetRefusals(); len(r) != 1 || !strings.Contains(r[0].GetAdvice(), "tokens create scim") {
		t.Errorf("refusals of nobody: %v", r)
	}
	if a := okta.GetAlarms(); len(a) != 2 || a[0].GetWhat() != "regrouped" || a[1].GetPeople() != 30 || a[1].GetOf() != 100 || a[1].GetPercent() != 20 || !a[1].GetAt().AsTime().Equal(at) {
		t.Errorf("alarms: %v", a)
	}
	if k := okta.GetTokens(); len(k) != 1 || !k[0].GetLastUsedAt().AsTime().Equal(at) {
		t.Errorf("tokens: %v", k)
	}
	// The old membership waits, the new one counts.
	if w := okta.GetWaitingUsers(); okta.GetWaiting() != 1 || len(w) != 1 || w[0].GetUserName() != "ada" || len(w[0].GetHeldGroups()) != 1 || w[0].GetHeldGroups()[0].GetId() != old.ID.String() ||
		len(w[0].GetGroups()) != 1 || w[0].GetGroups()[0].GetId() != next.ID.String() {
		t.Errorf("waiting: %v", w)
	}
	_, err := s.directories().ConfirmMemberships(t.Context(), connect.NewRequest(&adminv1.ConfirmMembershipsRequest{User: "ada"}))
	enginetest.Must(t, err)
	if ask("okta")[0].GetWaiting() != 0 {
		t.Error("a person who was confirmed waits")
	}
	_, err = s.directories().GetProvisioningStatus(t.Context(), connect.NewRequest(&adminv1.GetProvisioningStatusRequest{DirectoryId: "none"}))
	code(t, "of no directory", err, connect.CodeNotFound)
}

func TestATokenIsRotated(t *testing.T) {
	s := newSite(t)
	id, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	rotate := func(id uuid.UUID, overlap *durationpb.Duration) (*adminv1.RotateTokenResponse, error) {
		res, err := s.tokens().RotateToken(t.Context(), connect.NewRequest(&adminv1.RotateTokenRequest{Id: id.String(), Overlap: overlap}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	first, err := rotate(id, nil)
	enginetest.Must(t, err)
	if left := time.Until(first.GetOldExpiresAt().AsTime()); left < 23*time.Hour || left > 24*time.Hour || first.GetToken() == "" {
		t.Errorf("the old one has %s", left)
	}
	again, err := rotate(id, durationpb.New(100*time.Hour)) // an end is never put off
	enginetest.Must(t, err)
	if !again.GetOldExpiresAt().AsTime().Equal(first.GetOldExpiresAt().AsTime()) {
		t.Error("a second rotation put the old token's end off")
	}
	now, err := rotate(uuid.MustParse(first.GetId()), durationpb.New(0))
	enginetest.Must(t, err)
	if time.Now().Before(now.GetOldExpiresAt().AsTime()) {
		t.Error("without overlap the old token goes on")
	}
	_, err = rotate(uuid.MustParse(first.GetId()), nil)
	code(t, "of one that ended", err, connect.CodeFailedPrecondition)
	_, err = rotate(uuid.New(), nil)
	code(t, "of none", err, connect.CodeNotFound)
	proxy, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-1")
	_, err = rotate(proxy, nil)
	code(t, "of a proxy", err, connect.CodeFailedPrecondition)
}

// TestAPreviewSaysWhatTheChangeThenDoes: random changes of random groups in groups, held memberships and inactive people
// among them, are previewed, carried out, and compared with what proxies would show before and after.
func TestAPreviewSaysWhatTheChangeThenDoes(t *testing.T) {
	s := newSite(t)
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}, {Id: "jira", Url: "https://mcp.example/jira"}}, nil))
	for _, connector := range []string{"github", "jira"} {
		s.Do(core.NewPinCatalogue(connector, []*policyv1.Tool{{Name: "push", Definition: []byte(`{"name":"push","inputSchema":{"type":"object"}}`)}, {Name: "read", Definition: []byte(`{"name":"read","inputSchema":{"type":"object"}}`)}}))
	}
	var people []*core.User
	var groups []*core.Group
	for i := range 6 {
		people = append(people, s.User("okta", fmt.Sprintf("person-%d", i)))
	}
	for i := range 4 {
		groups = append(groups, s.Group("okta", fmt.Sprintf("Group %d", i)))
	}
	grant := func(g *core.Group, connector string, rules ...*policyv1.Rule) {
		s.Do(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(g.ID, connector, rules)}))
	}
	grant(groups[0], "github", &policyv1.Rule{Allow: []string{"*"}})
	grant(groups[1], "github", &policyv1.Rule{Deny: []string{"push"}}, &policyv1.Rule{Allow: []string{"read"}})
	grant(groups[2], "jira", &policyv1.Rule{Allow: []string{"read"}})
	s.Do(core.NewPlaceBlock(&policyv1.Block{Id: "b", Target: &policyv1.Block_PersonId{PersonId: people[5].ID.String()}, Reason: "lost"}))
	s.Do(core.UpdateGroup{Directory: "okta", ID: groups[2].ID, Members: []core.MemberChange{{Op: core.AddMembers, Groups: []uuid.UUID{groups[3].ID}}}})
	shown := func() map[string][]string {
		state := s.Engine.State()
		table, err := policy.Compile(state.Seq(), state.Entries(""))
		enginetest.Must(t, err)
		all := map[string][]string{}
		for _, u := range people {
			for _, tool := range table.List(policy.Request{Person: u.ID, Now: time.Now()}) {
				all[u.ID.String()] = append(all[u.ID.String()], tool.Connector+"/"+tool.Name)
			}
			slices.Sort(all[u.ID.String()])
		}
		return all
	}
	random := rand.New(rand.NewPCG(1, 2))
	affected := 0
	for range 60 {
		if random.IntN(4) == 0 { // somebody comes and goes
			u := s.Engine.State().User(people[random.IntN(len(people))].ID)
			s.Do(core.UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: !u.Active})
		}
		g := groups[random.IntN(len(groups))]
		var names []string
		var ids []uuid.UUID
		for _, u := range people {
			if random.IntN(2) == 0 {
				names, ids = append(names, []string{strings.ToUpper(u.UserName), u.ID.String()}[random.IntN(2)]), append(ids, u.ID)
			}
		}
		kind := adminv1.MemberChange(1 + random.IntN(3))
		before := shown()
		version := s.Engine.State().Seq()
		res, err := s.directories().PreviewMembers(t.Context(), connect.NewRequest(&adminv1.PreviewMembersRequest{Group: g.ID.String(), Change: kind, Members: names}))
		enginetest.Must(t, err)
		if s.Engine.State().Seq() != version {
			t.Fatal("a preview changed something")
		}
		op := map[adminv1.MemberChange]core.MemberOp{adminv1.MemberChange_MEMBER_CHANGE_REPLACE: core.ReplaceMembers, adminv1.MemberChange_MEMBER_CHANGE_ADD: core.AddMembers, adminv1.MemberChange_MEMBER_CHANGE_REMOVE: core.RemoveMembers}[kind]
		var children []uuid.UUID
		for child := range s.Engine.State().MemberGroups(s.Engine.State().Group(g.ID)) {
			children = append(children, child.ID)
		}
		if op != core.ReplaceMembers {
			children = nil
		}
		s.Do(core.UpdateGroup{Directory: "okta", ID: g.ID, Members: []core.MemberChange{{Op: op, Users: ids, Groups: children}}})
		after := shown()
		for _, c := range res.Msg.GetChanges() {
			affected++
			got := before[c.GetUserId()]
			for _, tool := range c.GetLoses() {
				got = slices.DeleteFunc(slices.Clone(got), func(name string) bool { return name == tool.GetConnector()+"/"+tool.GetTool() })
			}
			for _, tool := range c.GetGains() {
				got = append(slices.Clone(got), tool.GetConnector()+"/"+tool.GetTool())
			}
			slices.Sort(got)
			if !slices.Equal(got, after[c.GetUserId()]) {
				t.Fatalf("%v of %s: previewed %v, then %v", kind, g.DisplayName, got, after[c.GetUserId()])
			}
			before[c.GetUserId()] = got
		}
		for id, tools := range after {
			if !slices.Equal(before[id], tools) {
				t.Fatalf("%v of %s: %s was not previewed: %v, then %v", kind, g.DisplayName, id, before[id], tools)
			}
		}
	}
	if affected < 20 {
		t.Errorf("only %d changes of access were compared", affected)
	}
	_, err := s.directories().PreviewMembers(t.Context(), connect.NewRequest(&adminv1.PreviewMembersRequest{Group: groups[0].ID.String(), Change: adminv1.MemberChange_MEMBER_CHANGE_ADD, Members: []string{"nobody"}}))
	code(t, "of nobody", err, connect.CodeNotFound)
}

// TestAGrantNamesGroupsOfAnyDirectory, and gives nothing to a group of its name in another.
func TestAGrantNamesGroupsOfAnyDirectory(t *testing.T) {
	s := newSite(t)
	s.Directory("entra")
	people := map[string]*core.User{}
	for _, directory := range []string{"okta", "entra"} {
		for _, group := range []string{"Engineers", "Sales"} {
			u := s.User(directory, directory+"-"+group)
			people[directory+"/"+group] = u
			s.Group(directory, group, u)
		}
	}
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}}, nil))
	s.Do(core.NewPinCatalogue("github", []*policyv1.Tool{{Name: "read", Definition: []byte(`{"name":"read","inputSchema":{"type":"object"}}`)}}))
	rules := []*policyv1.Rule{{Allow: []string{"read"}}}
	_, err := s.policy().Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Grants: []*adminv1.Grant{
		{Group: "okta/Engineers", Connector: "github", Rules: rules}, {Group: "entra/Sales", Connector: "github", Rules: rules},
	}}))
	enginetest.Must(t, err)
	state := s.Engine.State()
	table, err := policy.Compile(state.Seq(), state.Entries(""))
	enginetest.Must(t, err)
	for group, u := range people {
		want := group == "okta/Engineers" || group == "entra/Sales"
		if got := len(table.List(policy.Request{Person: u.ID, Now: time.Now()})) > 0; got != want {
			t.Errorf("somebody of %s may use the connector: %v", group, got)
		}
	}
}
