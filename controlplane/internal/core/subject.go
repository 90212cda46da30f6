package core

import (
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// subjectPrefix begins the subject of every event.
const subjectPrefix = "sallyport.event."

// Subject is where an event lies on the log: sallyport.event.<aggregate>.<id>. It holds no personal data.
func Subject(ev *eventv1.Event) string {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_DirectorySet:
		return subjectPrefix + "directory." + b.DirectorySet.GetDirectory().GetId()
	case *eventv1.Event_UserCreated:
		return subjectPrefix + "user." + b.UserCreated.GetUserId()
	case *eventv1.Event_UserUpdated:
		return subjectPrefix + "user." + b.UserUpdated.GetUserId()
	case *eventv1.Event_UserDeactivated:
		return subjectPrefix + "user." + b.UserDeactivated.GetUserId()
	case *eventv1.Event_UserReactivated:
		return subjectPrefix + "user." + b.UserReactivated.GetUserId()
	case *eventv1.Event_UserSessionsRevoked:
		return subjectPrefix + "user." + b.UserSessionsRevoked.GetUserId()
	case *eventv1.Event_UserDeleted:
		return subjectPrefix + "user." + b.UserDeleted.GetUserId()
	case *eventv1.Event_UserErased:
		return subjectPrefix + "user." + b.UserErased.GetUserId()
	case *eventv1.Event_UserSubjectRebound:
		return subjectPrefix + "user." + b.UserSubjectRebound.GetUserId()
	case *eventv1.Event_UserMembershipsConfirmed:
		return subjectPrefix + "user." + b.UserMembershipsConfirmed.GetUserId()
	case *eventv1.Event_GroupCreated:
		return subjectPrefix + "group." + b.GroupCreated.GetGroupId()
	case *eventv1.Event_GroupUpdated:
		return subjectPrefix + "group." + b.GroupUpdated.GetGroupId()
	case *eventv1.Event_GroupDeleted:
		return subjectPrefix + "group." + b.GroupDeleted.GetGroupId()
	case *eventv1.Event_GroupMembersAdded:
		return subjectPrefix + "group." + b.GroupMembersAdded.GetGroupId()
	case *eventv1.Event_GroupMembersRemoved:
		return subjectPrefix + "group." + b.GroupMembersRemoved.GetGroupId()
	case *eventv1.Event_ConnectorSet:
		return subjectPrefix + "connector." + b.ConnectorSet.GetConnector().GetId()
	case *eventv1.Event_ConnectorRetired:
		return subjectPrefix + "connector." + b.ConnectorRetired.GetConnectorId()
	case *eventv1.Event_CataloguePinned:
		return subjectPrefix + "connector." + b.CataloguePinned.GetConnectorId()
	case *eventv1.Event_CatalogueOffered:
		return subjectPrefix + "connector." + b.CatalogueOffered.GetConnectorId()
	case *eventv1.Event_ConnectorSecretSet:
		return subjectPrefix + "connector." + b.ConnectorSecretSet.GetConnectorId()
	case *eventv1.Event_CredentialSet:
		return subjectPrefix + "credential." + b.CredentialSet.GetCredential().GetId()
	case *eventv1.Event_CredentialWithdrawn:
		return subjectPrefix + "credential." + b.CredentialWithdrawn.GetCredentialId()
	case *eventv1.Event_CredentialRenewed:
		return subjectPrefix + "credential." + b.CredentialRenewed.GetCredentialId()
	case *eventv1.Event_CredentialRevocationTried:
		return subjectPrefix + "credential." + b.CredentialRevocationTried.GetCredentialId()
	case *eventv1.Event_CredentialDestroyed:
		return subjectPrefix + "credential." + b.CredentialDestroyed.GetCredentialId()
	case *eventv1.Event_UpstreamServerPinned:
		return subjectPrefix + "connector." + b.UpstreamServerPinned.GetConnectorId()
	case *eventv1.Event_GrantApplied:
		return grantSubject(b.GrantApplied)
	case *eventv1.Event_GrantRemoved:
		return grantSubject(b.GrantRemoved)
	case *eventv1.Event_RuleSetSet:
		return subjectPrefix + "ruleset." + b.RuleSetSet.GetRuleSet().GetName()
	case *eventv1.Event_RuleSetRemoved:
		return subjectPrefix + "ruleset." + b.RuleSetRemoved.GetName()
	case *eventv1.Event_PolicyApplied:
		return subjectPrefix + "policy.applied"
	case *eventv1.Event_BlockPlaced:
		return subjectPrefix + "block." + b.BlockPlaced.GetBlock().GetId()
	case *eventv1.Event_BlockLifted:
		return subjectPrefix + "block." + b.BlockLifted.GetBlockId()
	case *eventv1.Event_TokenIssued:
		return subjectPrefix + "token." + b.TokenIssued.GetToken().GetId()
	case *eventv1.Event_TokenRevoked:
		return subjectPrefix + "token." + b.TokenRevoked.GetTokenId()
	case *eventv1.Event_TokenExpirySet:
		return subjectPrefix + "token." + b.TokenExpirySet.GetTokenId()
	case *eventv1.Event_ServiceKeyAdded:
		return subjectPrefix + "user." + b.ServiceKeyAdded.GetUserId()
	case *eventv1.Event_ServiceKeyRemoved:
		return subjectPrefix + "user." + b.ServiceKeyRemoved.GetUserId()
	case *eventv1.Event_ProxyJoined:
		return subjectPrefix + "token." + b.ProxyJoined.GetTokenId()
	case *eventv1.Event_AdminDirectoryNamed:
		return subjectPrefix + "admin.directory"
	case *eventv1.Event_GroupRoleSet:
		return subjectPrefix + "group." + b.GroupRoleSet.GetGroupId()
	case *eventv1.Event_BreakGlassOpened:
		return subjectPrefix + "token." + b.BreakGlassOpened.GetTokenId()
	}
	return reviewSubject(ev)
}

// reviewSubject is where events about reviews lie.
func reviewSubject(ev *eventv1.Event) string {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_ReviewRequested:
		return subjectPrefix + "review." + b.ReviewRequested.GetReviewId()
	case *eventv1.Event_ReviewApproved:
		return subjectPrefix + "review." + b.ReviewApproved.GetReviewId()
	case *eventv1.Event_ReviewRefused:
		return subjectPrefix + "review." + b.ReviewRefused.GetReviewId()
	case *eventv1.Event_ReviewUsed:
		return subjectPrefix + "review." + b.ReviewUsed.GetReviewId()
	case *eventv1.Event_ReviewsForgotten:
		return subjectPrefix + "review.all"
	}
	return authorizationSubject(ev)
}

// authorizationSubject is where events about the authorization server lie. A client's id, which may be a URL, is no part of it.
func authorizationSubject(ev *eventv1.Event) string {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_SigningKeyAdded:
		return subjectPrefix + "key." + b.SigningKeyAdded.GetKey().GetId()
	case *eventv1.Event_SigningKeyRetired:
		return subjectPrefix + "key." + b.SigningKeyRetired.GetKeyId()
	case *eventv1.Event_SessionRevoked:
		return subjectPrefix + "session." + b.SessionRevoked.GetSessionId()
	case *eventv1.Event_ClientSet, *eventv1.Event_ClientRemoved, *eventv1.Event_ClientSessionsRevoked, *eventv1.Event_AuthorizationPolicySet, *eventv1.Event_SessionRevocationsForgotten:
		return subjectPrefix + "authorization.server"
	}
	return subjectPrefix + "log." + "journal"
}

// grantSubject is where a grant lies: by the group or person that it is to.
func grantSubject(b interface {
	GetGroupId() string
	GetPersonId() string
}) string {
	id := b.GetGroupId() + b.GetPersonId()
	if id == "" {
		id = "everyone"
	}
	return subjectPrefix + "grant." + id
}
