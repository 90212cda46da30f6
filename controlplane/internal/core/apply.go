package core

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// errPackedIDs says that a membership event's ids are no whole UUIDs.
var errPackedIDs = errors.New("ids are not a multiple of 16 bytes")

func invalidLog(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Apply records a fact. It fails only on a log that Decide did not write, or that a newer build wrote:
// the state is then not to be used any more. A record at or below Seq is refused.
func (s *State) Apply(rec Record) error {
	if rec.Seq <= s.seq {
		return fmt.Errorf("folding event %d: the state stands at %d already", rec.Seq, s.seq)
	}
	if err := s.apply(rec); err != nil {
		return fmt.Errorf("folding event %d (%T): %w", rec.Seq, rec.Event.GetBody(), err)
	}
	s.seq = rec.Seq
	return nil
}

func (s *State) apply(rec Record) error {
	switch b := rec.Event.GetBody().(type) {
	case *eventv1.Event_LogStarted:
		s.epoch = b.LogStarted.GetEpoch()
	case *eventv1.Event_FeatureLevelRaised:
		if b.FeatureLevelRaised.GetLevel() > FeatureLevel {
			return invalidLog("feature level %d is above this build's %d: upgrade", b.FeatureLevelRaised.GetLevel(), FeatureLevel)
		}
		s.level = b.FeatureLevelRaised.GetLevel()
	case *eventv1.Event_Barrier:
	case *eventv1.Event_DirectorySet:
		s.applyDirectorySet(b.DirectorySet.GetDirectory())
	case *eventv1.Event_UserCreated:
		if s.populations[b.UserCreated.GetDirectoryId()] == nil {
			return invalidLog("there is no directory %q", b.UserCreated.GetDirectoryId())
		}
		return s.applyUserCreated(rec, b.UserCreated)
	case *eventv1.Event_UserUpdated:
		return s.changeUser(rec, b.UserUpdated.GetUserId(), func(u *User) {
			u.Profile = profileOf(rec.Event.GetPersonal())
			if u.Subject == "" && s.matchesByName(u.Directory) {
				u.Subject = u.UserName
			}
		})
	case *eventv1.Event_UserDeactivated:
		return s.endGeneration(rec, b.UserDeactivated.GetUserId(), func(u *User) {
			u.Active, u.Generation, u.ValidAfter = false, b.UserDeactivated.GetGeneration(), momentOf(b.UserDeactivated.GetValidAfter().AsTime())
		})
	case *eventv1.Event_UserReactivated:
		return s.applyUserReactivated(rec, b.UserReactivated)
	case *eventv1.Event_UserSessionsRevoked:
		return s.endGeneration(rec, b.UserSessionsRevoked.GetUserId(), func(u *User) {
			u.Generation, u.ValidAfter = b.UserSessionsRevoked.GetGeneration(), momentOf(b.UserSessionsRevoked.GetValidAfter().AsTime())
		})
	case *eventv1.Event_UserDeleted:
		return s.applyUserDeleted(rec, b.UserDeleted)
	case *eventv1.Event_UserErased:
		return s.applyUserErased(b.UserErased)
	case *eventv1.Event_UserSubjectRebound:
		return s.changeUser(rec, b.UserSubjectRebound.GetUserId(), func(u *User) { u.Subject = u.UserName })
	case *eventv1.Event_UserMembershipsConfirmed:
		return s.applyMembershipsConfirmed(b.UserMembershipsConfirmed)
	case *eventv1.Event_GroupCreated:
		if s.populations[b.GroupCreated.GetDirectoryId()] == nil {
			return invalidLog("there is no directory %q", b.GroupCreated.GetDirectoryId())
		}
		return s.applyGroupCreated(rec, b.GroupCreated)
	case *eventv1.Event_GroupUpdated:
		return s.applyGroupUpdated(rec, b.GroupUpdated)
	case *eventv1.Event_GroupDeleted:
		return s.applyGroupDeleted(rec, b.GroupDeleted)
	case *eventv1.Event_GroupMembersAdded:
		return s.applyMembersAdded(rec, b.GroupMembersAdded)
	case *eventv1.Event_GroupMembersRemoved:
		return s.applyMembersRemoved(rec, b.GroupMembersRemoved)
	default:
		return s.applyPolicy(rec)
	}
	return nil
}

// applyPolicy folds what is not about people.
func (s *State) applyPolicy(rec Record) error {
	if known, err := s.applyAuthorization(rec.Event); known {
		return err
	}
	if s.applyExporter(rec) {
		return nil
	}
	if known, err := s.applyCredential(rec); known {
		return err
	}
	switch b := rec.Event.GetBody().(type) {
	case *eventv1.Event_ConnectorSet:
		return s.applyConnectorSet(rec, b.ConnectorSet.GetConnector())
	case *eventv1.Event_ConnectorRetired:
		return s.applyConnectorRetired(rec, b.ConnectorRetired.GetConnectorId())
	case *eventv1.Event_CataloguePinned:
		tools := b.CataloguePinned.GetTools()
		return s.changeConnector(b.CataloguePinned.GetConnectorId(), func(c *Connector) {
			c.Tools, c.Digest = tools, DigestTools(tools)
			c.settle()
		})
	case *eventv1.Event_CatalogueOffered:
		return s.applyCatalogueOffered(rec, b.CatalogueOffered)
	case *eventv1.Event_GrantApplied:
		return s.applyGrant(b.GrantApplied)
	case *eventv1.Event_GrantRemoved:
		return s.applyGrantRemoved(b.GrantRemoved)
	case *eventv1.Event_RuleSetSet:
		s.putRuleSet(b.RuleSetSet.GetRuleSet().GetName(), b.RuleSetSet.GetRuleSet())
	case *eventv1.Event_RuleSetRemoved:
		s.putRuleSet(b.RuleSetRemoved.GetName(), nil)
	case *eventv1.Event_PolicyApplied:
		s.applyPolicyApplied(b.PolicyApplied)
	case *eventv1.Event_ReviewRequested:
		s.applyReviewRequested(rec.Event, b.ReviewRequested)
	case *eventv1.Event_ReviewApproved:
		return s.applyReviewApproved(rec.Event, b.ReviewApproved)
	case *eventv1.Event_ReviewRefused:
		return s.applyReviewRefused(b.ReviewRefused)
	case *eventv1.Event_ReviewUsed:
		return s.changeReview(b.ReviewUsed.GetReviewId(), func(r *Review) { r.Used = true })
	case *eventv1.Event_ReviewsForgotten:
		s.applyReviewsForgotten(b.ReviewsForgotten)
	case *eventv1.Event_BlockPlaced:
		s.blocks.Set(b.BlockPlaced.GetBlock().GetId(), b.BlockPlaced.GetBlock())
	case *eventv1.Event_BlockLifted:
		s.blocks.Delete(b.BlockLifted.GetBlockId())
	case *eventv1.Event_TokenIssued:
		return s.applyTokenIssued(rec, b.TokenIssued.GetToken())
	case *eventv1.Event_TokenRevoked:
		return s.applyTokenRevoked(rec, b.TokenRevoked.GetTokenId())
	case *eventv1.Event_TokenExpirySet:
		return s.applyTokenExpirySet(b.TokenExpirySet)
	case *eventv1.Event_ServiceKeyAdded:
		return s.applyServiceKeyAdded(rec, b.ServiceKeyAdded)
	case *eventv1.Event_ServiceKeyRemoved:
		return s.applyServiceKeyRemoved(b.ServiceKeyRemoved)
	case *eventv1.Event_ProxyJoined:
		return s.applyProxyJoined(b.ProxyJoined)
	case *eventv1.Event_ProxyAdmitted:
		return s.applyProxyAdmitted(rec, b.ProxyAdmitted)
	case *eventv1.Event_ProxyReadmitted:
		s.barred.Delete(b.ProxyReadmitted.GetSpiffeId())
	case *eventv1.Event_AdminDirectoryNamed:
		s.applyAdminDirectoryNamed(b.AdminDirectoryNamed.GetDirectoryId())
	case *eventv1.Event_GroupRoleSet:
		return s.applyGroupRoleSet(b.GroupRoleSet)
	case *eventv1.Event_BreakGlassOpened:
		return s.applyBreakGlassOpened(rec, b.BreakGlassOpened)
	default:
		return invalidLog("this build does not know the event: was it written by a newer one? upgrade")
	}
	return nil
}

func (s *State) mustUser(id string) (*User, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, err
	}
	return s.mustUserID(parsed)
}

func (s *State) mustUserID(id uuid.UUID) (*User, error) {
	if u := s.User(id); u != nil {
		return u, nil
	}
	return nil, invalidLog("there is no user %s", id)
}

func (s *State) mustGroup(id string) (*Group, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, err
	}
	return s.mustGroupID(parsed)
}

func (s *State) mustGroupID(id uuid.UUID) (*Group, error) {
	if g := s.Group(id); g != nil {
		return g, nil
	}
	return nil, invalidLog("there is no group %s", id)
}
