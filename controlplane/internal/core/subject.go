package core

import (
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// SubjectPrefix begins the subject of every event.
const SubjectPrefix = "sallyport.event."

// Subject is where an event lies on the log: sallyport.event.<aggregate>.<id>. It holds no personal data.
func Subject(ev *eventv1.Event) string {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_DirectorySet:
		return SubjectPrefix + "directory." + b.DirectorySet.GetDirectory().GetId()
	case *eventv1.Event_UserCreated:
		return SubjectPrefix + "user." + b.UserCreated.GetUserId()
	case *eventv1.Event_UserUpdated:
		return SubjectPrefix + "user." + b.UserUpdated.GetUserId()
	case *eventv1.Event_UserDeactivated:
		return SubjectPrefix + "user." + b.UserDeactivated.GetUserId()
	case *eventv1.Event_UserReactivated:
		return SubjectPrefix + "user." + b.UserReactivated.GetUserId()
	case *eventv1.Event_UserSessionsRevoked:
		return SubjectPrefix + "user." + b.UserSessionsRevoked.GetUserId()
	case *eventv1.Event_UserDeleted:
		return SubjectPrefix + "user." + b.UserDeleted.GetUserId()
	case *eventv1.Event_UserErased:
		return SubjectPrefix + "user." + b.UserErased.GetUserId()
	case *eventv1.Event_UserSubjectRebound:
		return SubjectPrefix + "user." + b.UserSubjectRebound.GetUserId()
	case *eventv1.Event_UserMembershipsConfirmed:
		return SubjectPrefix + "user." + b.UserMembershipsConfirmed.GetUserId()
	case *eventv1.Event_GroupCreated:
		return SubjectPrefix + "group." + b.GroupCreated.GetGroupId()
	case *eventv1.Event_GroupUpdated:
		return SubjectPrefix + "group." + b.GroupUpdated.GetGroupId()
	case *eventv1.Event_GroupDeleted:
		return SubjectPrefix + "group." + b.GroupDeleted.GetGroupId()
	case *eventv1.Event_GroupMembersAdded:
		return SubjectPrefix + "group." + b.GroupMembersAdded.GetGroupId()
	case *eventv1.Event_GroupMembersRemoved:
		return SubjectPrefix + "group." + b.GroupMembersRemoved.GetGroupId()
	case *eventv1.Event_ConnectorSet:
		return SubjectPrefix + "connector." + b.ConnectorSet.GetConnector().GetId()
	case *eventv1.Event_ConnectorRetired:
		return SubjectPrefix + "connector." + b.ConnectorRetired.GetConnectorId()
	case *eventv1.Event_CataloguePinned:
		return SubjectPrefix + "connector." + b.CataloguePinned.GetConnectorId()
	case *eventv1.Event_CatalogueOffered:
		return SubjectPrefix + "connector." + b.CatalogueOffered.GetConnectorId()
	case *eventv1.Event_ConnectorSecretSet:
		return SubjectPrefix + "connector." + b.ConnectorSecretSet.GetConnectorId()
	case *eventv1.Event_CredentialSet:
		return SubjectPrefix + "credential." + b.CredentialSet.GetCredential().GetId()
	case *eventv1.Event_CredentialWithdrawn:
		return SubjectPrefix + "credential." + b.CredentialWithdrawn.GetCredentialId()
	case *eventv1.Event_CredentialRenewed:
		return SubjectPrefix + "credential." + b.CredentialRenewed.GetCredentialId()
	case *eventv1.Event_CredentialRevocationTried:
		return SubjectPrefix + "credential." + b.CredentialRevocationTried.GetCredentialId()
	case *eventv1.Event_CredentialDestroyed:
		return SubjectPrefix + "credential." + b.CredentialDestroyed.GetCredentialId()
	case *eventv1.Event_UpstreamServerPinned:
		return SubjectPrefix + "connector." + b.UpstreamServerPinned.GetConnectorId()
	case *eventv1.Event_GrantApplied:
		return grantSubject(b.GrantApplied)
	case *eventv1.Event_GrantRemoved:
		return grantSubject(b.GrantRemoved)
	case *eventv1.Event_RuleSetSet:
		return SubjectPrefix + "ruleset." + b.RuleSetSet.GetRuleSet().GetName()
	case *eventv1.Event_RuleSetRemoved:
		return SubjectPrefix + "ruleset." + b.RuleSetRemoved.GetName()
	case *eventv1.Event_AuditExporterSet:
		return SubjectPrefix + "exporter." + b.AuditExporterSet.GetExporter().GetName()
	case *eventv1.Event_AuditExporterRemoved:
		return SubjectPrefix + "exporter." + b.AuditExporterRemoved.GetName()
	case *eventv1.Event_AuditExporterSecretSet:
		return SubjectPrefix + "exporter." + b.AuditExporterSecretSet.GetName()
	case *eventv1.Event_PolicyApplied:
		return SubjectPrefix + "policy.applied"
	case *eventv1.Event_BlockPlaced:
		return SubjectPrefix + "block." + b.BlockPlaced.GetBlock().GetId()
	case *eventv1.Event_BlockLifted:
		return SubjectPrefix + "block." + b.BlockLifted.GetBlockId()
	case *eventv1.Event_TokenIssued:
		return SubjectPrefix + "token." + b.TokenIssued.GetToken().GetId()
	case *eventv1.Event_TokenRevoked:
		return SubjectPrefix + "token." + b.TokenRevoked.GetTokenId()
	case *eventv1.Event_TokenExpirySet:
		return SubjectPrefix + "token." + b.TokenExpirySet.GetTokenId()
	case *eventv1.Event_ServiceKeyAdded:
		return SubjectPrefix + "user." + b.ServiceKeyAdded.GetUserId()
	case *eventv1.Event_ServiceKeyRemoved:
		return SubjectPrefix + "user." + b.ServiceKeyRemoved.GetUserId()
	case *eventv1.Event_ProxyJoined:
		return SubjectPrefix + "token." + b.ProxyJoined.GetTokenId()
	case *eventv1.Event_ProxyAdmitted:
		return SubjectPrefix + "token." + b.ProxyAdmitted.GetTokenId()
	case *eventv1.Event_ProxyReadmitted:
		return SubjectPrefix + "token.readmitted"
	case *eventv1.Event_AdminDirectoryNamed:
		return SubjectPrefix + "admin.directory"
	case *eventv1.Event_GroupRoleSet:
		return SubjectPrefix + "group." + b.GroupRoleSet.GetGroupId()
	case *eventv1.Event_BreakGlassOpened:
		return SubjectPrefix + "token." + b.BreakGlassOpened.GetTokenId()
	}
	return reviewSubject(ev)
}

// reviewSubject is where events about reviews lie.
func reviewSubject(ev *eventv1.Event) string {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_ReviewRequested:
		return SubjectPrefix + "review." + b.ReviewRequested.GetReviewId()
	case *eventv1.Event_ReviewApproved:
		return SubjectPrefix + "review." + b.ReviewApproved.GetReviewId()
	case *eventv1.Event_ReviewRefused:
		return SubjectPrefix + "review." + b.ReviewRefused.GetReviewId()
	case *eventv1.Event_ReviewUsed:
		return SubjectPrefix + "review." + b.ReviewUsed.GetReviewId()
	case *eventv1.Event_ReviewsForgotten:
		return SubjectPrefix + "review.all"
	}
	return authorizationSubject(ev)
}

// authorizationSubject is where events about the authorization server lie. A client's id, which may be a URL, is no part of it.
func authorizationSubject(ev *eventv1.Event) string {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_SigningKeyAdded:
		return SubjectPrefix + "key." + b.SigningKeyAdded.GetKey().GetId()
	case *eventv1.Event_SigningKeyRetired:
		return SubjectPrefix + "key." + b.SigningKeyRetired.GetKeyId()
	case *eventv1.Event_SessionRevoked:
		return SubjectPrefix + "session." + b.SessionRevoked.GetSessionId()
	case *eventv1.Event_ClientSet, *eventv1.Event_ClientRemoved, *eventv1.Event_ClientSessionsRevoked, *eventv1.Event_AuthorizationPolicySet, *eventv1.Event_SessionRevocationsForgotten:
		return SubjectPrefix + "authorization.server"
	}
	return SubjectPrefix + "log." + "journal"
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
	return SubjectPrefix + "grant." + id
}
