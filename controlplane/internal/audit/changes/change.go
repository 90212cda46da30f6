package changes

import (
	"encoding/json"
	"maps"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// change is what an event made of something.
type change struct {
	// of names what was changed, where what it was before counts. Empty: the event says all.
	of            string
	before, after facts
}

// changeOf is what an event changes, in the state before it.
func changeOf(s *core.State, ev *eventv1.Event) change {
	if c, known := changeOfPeople(s, ev); known {
		return c
	}
	if c, known := changeOfPolicy(s, ev); known {
		return c
	}
	said := factsOf(core.Body(ev))
	for _, id := range []string{"userId", "groupId", "connectorId", "credentialId", "tokenId", "reviewId", "personId"} {
		delete(said, id) // it is the target, or whose it is
	}
	if len(said) == 1 { // a message that wraps another
		for _, inner := range said {
			if m, ok := inner.(map[string]any); ok {
				return change{after: m}
			}
		}
	}
	return change{after: said}
}

// changeOfPeople is what an event makes of users and groups.
func changeOfPeople(s *core.State, ev *eventv1.Event) (change, bool) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_UserUpdated:
		c := change{of: "profile " + b.UserUpdated.GetUserId(), after: personal(ev.GetPersonal())}
		if u := userOf(s, b.UserUpdated.GetUserId()); u != nil {
			c.before = personal(&eventv1.Personal{UserName: u.UserName, ExternalId: u.ExternalID, DisplayName: u.DisplayName, Email: u.Email, Attributes: u.Attributes})
		}
		return c, true
	case *eventv1.Event_UserCreated:
		return change{of: "user " + b.UserCreated.GetUserId(), after: facts{"active": b.UserCreated.GetActive(), "directory": b.UserCreated.GetDirectoryId()}}, true
	case *eventv1.Event_UserDeactivated:
		return ofUser(s, b.UserDeactivated.GetUserId(), func(f facts) { f["active"], f["generation"] = false, b.UserDeactivated.GetGeneration() }), true
	case *eventv1.Event_UserReactivated:
		return ofUser(s, b.UserReactivated.GetUserId(), func(f facts) { f["active"], f["membershipsHeld"] = true, b.UserReactivated.GetHoldMemberships() }), true
	case *eventv1.Event_UserSessionsRevoked:
		return ofUser(s, b.UserSessionsRevoked.GetUserId(), func(f facts) { f["generation"] = b.UserSessionsRevoked.GetGeneration() }), true
	case *eventv1.Event_UserDeleted:
		return ofUser(s, b.UserDeleted.GetUserId(), func(f facts) { clear(f) }), true
	case *eventv1.Event_GroupCreated:
		return change{of: "group " + b.GroupCreated.GetGroupId(), after: facts{"name": b.GroupCreated.GetDisplayName(), "externalId": b.GroupCreated.GetExternalId(), "directory": b.GroupCreated.GetDirectoryId()}}, true
	case *eventv1.Event_GroupUpdated:
		return ofGroup(s, b.GroupUpdated.GetGroupId(), func(f facts) {
			f["name"], f["externalId"] = b.GroupUpdated.GetDisplayName(), b.GroupUpdated.GetExternalId()
		}), true
	case *eventv1.Event_GroupDeleted:
		return ofGroup(s, b.GroupDeleted.GetGroupId(), func(f facts) { clear(f) }), true
	case *eventv1.Event_GroupMembersAdded:
		return change{after: members("added", b.GroupMembersAdded)}, true
	case *eventv1.Event_GroupMembersRemoved:
		return change{after: members("removed", b.GroupMembersRemoved)}, true
	}
	return change{}, false
}

func userOf(s *core.State, id string) *core.User {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil
	}
	return s.User(parsed)
}

// ofUser is a change of what is known of a person beside the profile.
func ofUser(s *core.State, id string, make func(facts)) change {
	c := change{of: "user " + id, after: facts{}}
	if u := userOf(s, id); u != nil {
		c.before = facts{"active": u.Active, "generation": u.Generation, "directory": u.Directory}
		c.after = facts{"active": u.Active, "generation": u.Generation, "directory": u.Directory}
	}
	make(c.after)
	return c
}

func ofGroup(s *core.State, id string, make func(facts)) change {
	c := change{of: "group " + id, after: facts{}}
	parsed, err := uuid.Parse(id)
	if g := s.Group(parsed); err == nil && g != nil {
		c.before = facts{"name": g.DisplayName, "externalId": g.ExternalID, "directory": g.Directory}
		c.after = facts{"name": g.DisplayName, "externalId": g.ExternalID, "directory": g.Directory}
	}
	make(c.after)
	return c
}

// personal is a person's profile. An erasure takes it.
func personal(p *eventv1.Personal) facts {
	f := facts{}
	for key, value := range map[string]string{"userName": p.GetUserName(), "externalId": p.GetExternalId(), "displayName": p.GetDisplayName(), "email": p.GetEmail()} {
		if value != "" {
			f[key] = value
		}
	}
	attributes := map[string]any{}
	if json.Unmarshal(p.GetAttributes(), &attributes) == nil {
		for key, value := range attributes {
			f["attributes."+key] = value
		}
	}
	return f
}

// members are how many were added or removed, and who the first of them are.
func members(what string, m interface {
	GetUserIds() []byte
	GetGroupIds() []byte
}) facts {
	f := facts{}
	for of, packed := range map[string][]byte{"users": m.GetUserIds(), "groups": m.GetGroupIds()} {
		if len(packed) == 0 {
			continue
		}
		f[what+"."+of] = len(packed) / 16
		var first []any
		for i := 0; i+16 <= len(packed) && len(first) < maxList; i += 16 {
			first = append(first, uuid.UUID(packed[i:i+16]).String())
		}
		f["first."+of] = first
	}
	return f
}

// changeOfPolicy is what an event makes of what admins say.
func changeOfPolicy(s *core.State, ev *eventv1.Event) (change, bool) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_DirectorySet:
		d := b.DirectorySet.GetDirectory()
		return change{"directory " + d.GetId(), factsOf(s.Directory(d.GetId())), factsOf(d)}, true
	case *eventv1.Event_ConnectorSet:
		return change{"connector " + b.ConnectorSet.GetConnector().GetId(), settings(s, b.ConnectorSet.GetConnector().GetId()), factsOf(b.ConnectorSet.GetConnector())}, true
	case *eventv1.Event_ConnectorRetired:
		return change{"connector " + b.ConnectorRetired.GetConnectorId(), settings(s, b.ConnectorRetired.GetConnectorId()), nil}, true
	case *eventv1.Event_CataloguePinned:
		var pinned []*policyv1.Tool
		if c := s.Connector(b.CataloguePinned.GetConnectorId()); c != nil {
			pinned = c.Tools
		}
		return change{after: differences(pinned, b.CataloguePinned.GetTools(), len(b.CataloguePinned.GetTools()))}, true
	case *eventv1.Event_CatalogueOffered:
		return change{after: facts{"differing": labels(b.CatalogueOffered.GetTools()), "gone": labels(b.CatalogueOffered.GetGone())}}, true
	case *eventv1.Event_GrantApplied:
		g := b.GrantApplied
		after := factsOf(&eventv1.GrantApplied{Rules: g.GetRules(), RuleSets: g.GetRuleSets(), Until: g.GetUntil()})
		return grantChange(s, g, after), true
	case *eventv1.Event_GrantRemoved:
		return grantChange(s, b.GrantRemoved, nil), true
	case *eventv1.Event_RuleSetSet:
		name := b.RuleSetSet.GetRuleSet().GetName()
		return change{"rule set " + name, factsOf(s.RuleSet(name)), factsOf(b.RuleSetSet.GetRuleSet())}, true
	case *eventv1.Event_RuleSetRemoved:
		return change{"rule set " + b.RuleSetRemoved.GetName(), factsOf(s.RuleSet(b.RuleSetRemoved.GetName())), nil}, true
	case *eventv1.Event_PolicyApplied:
		return change{after: facts{"source": b.PolicyApplied.GetSource(), "resources": len(b.PolicyApplied.GetResources())}}, true
	case *eventv1.Event_BlockPlaced:
		return change{of: "block " + b.BlockPlaced.GetBlock().GetId(), after: factsOf(b.BlockPlaced.GetBlock())}, true
	case *eventv1.Event_BlockLifted:
		c := change{of: "block " + b.BlockLifted.GetBlockId()}
		for block := range s.Blocks() {
			if block.GetId() == b.BlockLifted.GetBlockId() {
				c.before = factsOf(block)
			}
		}
		return c, true
	case *eventv1.Event_ClientSet:
		id := b.ClientSet.GetClient().GetId()
		return change{"client " + id, factsOf(s.Client(id)), factsOf(b.ClientSet.GetClient())}, true
	case *eventv1.Event_ClientRemoved:
		return change{"client " + b.ClientRemoved.GetClientId(), factsOf(s.Client(b.ClientRemoved.GetClientId())), facts{}}, true
	case *eventv1.Event_AuthorizationPolicySet:
		return change{"authorization policy", factsOf(s.AuthorizationPolicy()), factsOf(b.AuthorizationPolicySet.GetPolicy())}, true
	}
	return changeOfAdmission(s, ev)
}

// changeOfAdmission is what an event makes of who may administer, and of tokens.
func changeOfAdmission(s *core.State, ev *eventv1.Event) (change, bool) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_AdminDirectoryNamed:
		return change{"admin directory", facts{"directory": s.AdminDirectory()}, facts{"directory": b.AdminDirectoryNamed.GetDirectoryId()}}, true
	case *eventv1.Event_GroupRoleSet:
		id, err := uuid.Parse(b.GroupRoleSet.GetGroupId())
		if err != nil {
			return change{}, false
		}
		return change{"role " + id.String(), facts{"role": s.GroupRole(id).String()}, facts{"role": b.GroupRoleSet.GetRole().String()}}, true
	case *eventv1.Event_TokenIssued:
		said := factsOf(b.TokenIssued.GetToken())
		delete(said, "id")
		return change{of: "token " + b.TokenIssued.GetToken().GetId(), after: said}, true
	case *eventv1.Event_TokenRevoked:
		return change{"token " + b.TokenRevoked.GetTokenId(), tokenFacts(s, b.TokenRevoked.GetTokenId()), nil}, true
	case *eventv1.Event_TokenExpirySet:
		before := tokenFacts(s, b.TokenExpirySet.GetTokenId())
		after := maps.Clone(before)
		if after == nil {
			after = facts{}
		}
		after["expiresAt"] = factsOf(b.TokenExpirySet)["expiresAt"]
		return change{"token " + b.TokenExpirySet.GetTokenId(), before, after}, true
	}
	return change{}, false
}

func settings(s *core.State, connector string) facts {
	if c := s.Connector(connector); c != nil {
		return factsOf(c.Settings)
	}
	return nil
}

// differences are by what one catalogue differs from another.
func differences(was, is []*policyv1.Tool, pinned int) facts {
	f := facts{"pinned": pinned}
	by := map[string][]any{}
	for _, d := range core.Differences(was, is) {
		word := "changed"
		switch {
		case d.Pinned == nil:
			word = "added"
		case d.Offered == nil:
			word = "removed"
		}
		by[word] = append(by[word], core.Visible(d.Label()))
	}
	for word, names := range by {
		f[word] = names
	}
	return f
}

func labels(tools []*policyv1.Tool) []any {
	all := []any{}
	for _, d := range core.Differences(nil, tools) {
		all = append(all, core.Visible(d.Label()))
	}
	return all
}

func grantChange(s *core.State, to interface {
	GetGroupId() string
	GetPersonId() string
	GetEveryone() string
	GetConnectorId() string
}, after facts,
) change {
	grantee := core.Grantee{Everyone: to.GetEveryone()}
	if id, err := uuid.Parse(to.GetGroupId()); err == nil {
		grantee.Group = id
	}
	if id, err := uuid.Parse(to.GetPersonId()); err == nil {
		grantee.Person = id
	}
	c := change{of: "grant " + to.GetGroupId() + to.GetPersonId() + to.GetEveryone() + " " + to.GetConnectorId(), after: after}
	if g := s.Grant(grantee, to.GetConnectorId()); g != nil {
		was := &eventv1.GrantApplied{Rules: g.Rules, RuleSets: g.RuleSets}
		if !g.Until.IsZero() {
			was.Until = timestamppb.New(g.Until)
		}
		c.before = factsOf(was)
	}
	return c
}

func tokenFacts(s *core.State, id string) facts {
	parsed, err := uuid.Parse(id)
	t := s.Token(parsed)
	if err != nil || t == nil {
		return nil
	}
	said := &eventv1.Token{Kind: t.Kind, Name: t.Name, DirectoryId: t.Directory, Region: t.Region, Role: t.Role}
	if !t.ExpiresAt.IsZero() {
		said.ExpiresAt = timestamppb.New(t.ExpiresAt)
	}
	return factsOf(said)
}
