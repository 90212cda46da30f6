package admin

import (
	"connectrpc.com/grpcreflect"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

const (
	anyone  = policyv1.Role_ROLE_UNSPECIFIED // whoever shows a token that is valid
	viewer  = policyv1.Role_ROLE_VIEWER
	auditor = policyv1.Role_ROLE_AUDITOR
	admin   = policyv1.Role_ROLE_ADMIN
	owner   = policyv1.Role_ROLE_OWNER
)

// roles says which role each call needs. A call that is not here is let through for nobody: a test of the module says so.
var roles = map[string]policyv1.Role{
	adminv1connect.DirectoryServiceSetDirectoryProcedure:          admin,
	adminv1connect.DirectoryServiceListDirectoriesProcedure:       viewer,
	adminv1connect.DirectoryServiceListUsersProcedure:             viewer,
	adminv1connect.DirectoryServiceGetUserProcedure:               viewer,
	adminv1connect.DirectoryServiceRevokeSessionsProcedure:        admin,
	adminv1connect.DirectoryServiceConfirmMembershipsProcedure:    admin,
	adminv1connect.DirectoryServiceRebindUserProcedure:            admin,
	adminv1connect.DirectoryServiceEraseUserProcedure:             admin,
	adminv1connect.DirectoryServiceListErasuresProcedure:          viewer,
	adminv1connect.DirectoryServiceListGroupsProcedure:            viewer,
	adminv1connect.DirectoryServiceGetGroupProcedure:              viewer,
	adminv1connect.DirectoryServiceGetProvisioningStatusProcedure: viewer,
	adminv1connect.DirectoryServicePreviewMembersProcedure:        viewer,

	adminv1connect.TokenServiceCreateTokenProcedure: admin,
	adminv1connect.TokenServiceRotateTokenProcedure: admin,
	adminv1connect.TokenServiceListTokensProcedure:  viewer,
	adminv1connect.TokenServiceRevokeTokenProcedure: admin,

	adminv1connect.ConnectorServiceListConnectorsProcedure:     viewer,
	adminv1connect.ConnectorServiceGetConnectorProcedure:       viewer,
	adminv1connect.ConnectorServiceRetireConnectorProcedure:    admin,
	adminv1connect.ConnectorServiceSetConnectorSecretProcedure: admin,
	adminv1connect.ConnectorServiceDiscoverCatalogueProcedure:  admin,
	adminv1connect.ConnectorServiceApproveCatalogueProcedure:   admin,
	adminv1connect.CatalogueServiceListCataloguesProcedure:     viewer,
	adminv1connect.CatalogueServiceDiffCatalogueProcedure:      admin,

	adminv1connect.PolicyServiceApplyProcedure:       admin,
	adminv1connect.PolicyServiceListGrantsProcedure:  viewer,
	adminv1connect.PolicyServiceRemoveGrantProcedure: admin,
	adminv1connect.PolicyServicePlaceBlockProcedure:  admin,
	adminv1connect.PolicyServiceLiftBlockProcedure:   admin,
	adminv1connect.PolicyServiceListBlocksProcedure:  viewer,
	adminv1connect.PolicyServiceExplainProcedure:     viewer,

	adminv1connect.CredentialServiceListCredentialsProcedure:     viewer,
	adminv1connect.CredentialServiceSetKeyProcedure:              admin,
	adminv1connect.CredentialServiceRenewCredentialProcedure:     admin,
	adminv1connect.CredentialServiceRevokeCredentialsProcedure:   admin,
	adminv1connect.CredentialServiceFindUpstreamServerProcedure:  admin,
	adminv1connect.CredentialServiceTrustUpstreamServerProcedure: admin,

	adminv1connect.LimitServiceListLimitsProcedure:  viewer,
	adminv1connect.LimitServiceGetBudgetProcedure:   viewer,
	adminv1connect.LimitServiceResetBudgetProcedure: admin,

	adminv1connect.RuleSetServiceListRuleSetsProcedure:  viewer,
	adminv1connect.RuleSetServiceRemoveRuleSetProcedure: admin,

	adminv1connect.AccessServiceWhoCanProcedure:  viewer,
	adminv1connect.AccessServiceWhatCanProcedure: viewer,

	adminv1connect.ExportServiceExportPolicyProcedure: viewer,
	// It tells what people's agents did.
	adminv1connect.BacktestServiceBacktestPolicyProcedure: auditor,

	adminv1connect.PlanServicePlanPolicyProcedure:     viewer,
	adminv1connect.PlanServiceTestPolicyProcedure:     viewer,
	adminv1connect.PlanServiceRollbackPolicyProcedure: admin,

	// Who may approve is said by groups, for each review.
	adminv1connect.ReviewServiceListReviewsProcedure:   viewer,
	adminv1connect.ReviewServiceGetReviewProcedure:     viewer,
	adminv1connect.ReviewServiceApproveReviewProcedure: viewer,
	adminv1connect.ReviewServiceRefuseReviewProcedure:  viewer,

	adminv1connect.MigrationServiceGetMigrationReportProcedure: auditor,

	adminv1connect.FleetAuthorityServiceGetFleetAuthorityProcedure:    viewer,
	adminv1connect.FleetAuthorityServiceRotateFleetAuthorityProcedure: owner,
	adminv1connect.FleetAuthorityServiceDropFleetAuthorityProcedure:   owner,

	adminv1connect.FleetAdminServiceListProxiesProcedure: viewer,
	adminv1connect.FleetAdminServiceGetReceiptProcedure:  viewer,

	adminv1connect.AuditServiceSearchAuditProcedure: auditor,
	adminv1connect.AuditServiceTailAuditProcedure:   auditor,
	adminv1connect.AuditServiceCountAuditProcedure:  auditor,

	adminv1connect.AuditProofServiceGetAuditCheckpointProcedure: auditor,
	adminv1connect.AuditProofServiceExportAuditProcedure:        auditor,

	adminv1connect.AuditValueServiceGetAuditValueProcedure: auditor,

	adminv1connect.AuditExporterServiceListAuditExportersProcedure:     viewer,
	adminv1connect.AuditExporterServiceGetAuditExporterProcedure:       viewer,
	adminv1connect.AuditExporterServiceRemoveAuditExporterProcedure:    admin,
	adminv1connect.AuditExporterServiceSetAuditExporterSecretProcedure: admin,
	adminv1connect.AuditExporterServiceRetryDeadLettersProcedure:       admin,

	adminv1connect.AuditConsumerServiceCreateAuditConsumerProcedure: admin,
	adminv1connect.AuditConsumerServiceListAuditConsumersProcedure:  viewer,
	adminv1connect.AuditConsumerServiceDeleteAuditConsumerProcedure: admin,

	adminv1connect.AuditIndexServiceGetAuditIndexProcedure:     viewer,
	adminv1connect.AuditIndexServiceRebuildAuditIndexProcedure: admin,

	adminv1connect.VaultServiceRotateVaultKeyProcedure: owner,
	adminv1connect.VaultServiceGetVaultStatusProcedure: viewer,
	adminv1connect.SignalServiceSetSignalsProcedure:    admin,

	// It asks providers, and says whom they signed in.
	adminv1connect.DoctorServiceDiagnoseDirectoryProcedure: admin,

	adminv1connect.ServiceAccountServiceCreateServiceAccountProcedure:    admin,
	adminv1connect.ServiceAccountServiceListServiceAccountsProcedure:     viewer,
	adminv1connect.ServiceAccountServiceSetServiceAccountActiveProcedure: admin,
	adminv1connect.ServiceAccountServiceDeleteServiceAccountProcedure:    admin,
	adminv1connect.ServiceAccountServiceAddServiceKeyProcedure:           admin,
	adminv1connect.ServiceAccountServiceRemoveServiceKeyProcedure:        admin,
	adminv1connect.ServiceAccountServiceCreateServiceGroupProcedure:      admin,
	adminv1connect.ServiceAccountServiceDeleteServiceGroupProcedure:      admin,
	adminv1connect.ServiceAccountServiceChangeServiceGroupProcedure:      admin,

	adminv1connect.ProxyServiceInviteProxyProcedure:  admin,
	adminv1connect.ProxyServiceRevokeProxyProcedure:  admin,
	adminv1connect.ProxyServiceReadmitProxyProcedure: admin,

	adminv1connect.AdminServiceWhoAmIProcedure:             anyone,
	adminv1connect.AdminServiceBecomeFirstOwnerProcedure:   anyone,
	adminv1connect.AdminServiceListAdminsProcedure:         viewer,
	adminv1connect.AdminServiceNameAdminDirectoryProcedure: owner,
	adminv1connect.AdminServiceSetGroupRoleProcedure:       owner,
	adminv1connect.AdminServiceCreateBreakGlassProcedure:   owner,
	adminv1connect.AdminServiceOpenBreakGlassProcedure:     anyone,

	adminv1connect.ClientServiceListClientsProcedure:            viewer,
	adminv1connect.ClientServiceSetClientProcedure:              admin,
	adminv1connect.ClientServiceRemoveClientProcedure:           admin,
	adminv1connect.ClientServiceGetAuthorizationPolicyProcedure: viewer,
	adminv1connect.ClientServiceSetAuthorizationPolicyProcedure: admin,
	adminv1connect.ClientServiceListSigningKeysProcedure:        viewer,
	adminv1connect.ClientServiceRotateSigningKeysProcedure:      admin,

	adminv1connect.SessionServiceListSessionsProcedure: viewer,
	adminv1connect.SessionServiceEndSessionsProcedure:  admin,

	// Who says where people sign in says who they are, owners included.
	adminv1connect.SignInServiceSetSignInProcedure:    owner,
	adminv1connect.SignInServiceRemoveSignInProcedure: owner,

	"/" + grpcreflect.ReflectV1ServiceName + "/ServerReflectionInfo":      viewer,
	"/" + grpcreflect.ReflectV1AlphaServiceName + "/ServerReflectionInfo": viewer,
}

// exchanges are the calls that exchange a token of a kind that opens nothing else, and no other token.
var exchanges = map[string]eventv1.TokenKind{
	adminv1connect.AdminServiceBecomeFirstOwnerProcedure: eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP,
	adminv1connect.AdminServiceOpenBreakGlassProcedure:   eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS,
}

// RoleFor is the role that a call needs; known is false for a call that nobody may make.
func RoleFor(procedure string) (role policyv1.Role, known bool) {
	role, known = roles[procedure]
	return role, known
}
