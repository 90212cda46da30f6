// Package admin is the Connect API that admins and the CLI call: directories, tokens, connectors, grants,
// blocks, proxies and audit.
//
// Every call, unary or streaming, is authenticated, permitted by role and validated before it is looked at; a change answers
// with the version at which it is durable. The package holds no rules: it turns requests into commands of
// the core, and state into answers.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"connectrpc.com/validate"
	"golang.org/x/time/rate"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
)

// Engine is what the API needs of the engine.
type Engine interface {
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
	State() *core.State
	Fence(ctx context.Context) (*core.State, error)
	// At returns the state as it was at a version or, for version zero, at a time.
	At(ctx context.Context, version uint64, at time.Time) (*engine.Past, error)
}

// Secrets is what the API needs of the vault.
type Secrets interface {
	// PutConnectorSecret keeps a header value for a connector and returns its name in the vault.
	PutConnectorSecret(ctx context.Context, connector, value string) (secretID string, err error)
	// DestroyConnectorSecret removes one for good.
	DestroyConnectorSecret(ctx context.Context, secretID string) error
}

// Fleet is what the API needs to know of the proxies.
type Fleet interface {
	// Proxies lists the proxies that have a token or may still be serving, and returns a channel that is closed
	// when any of them changes. An error says that not all of them are known yet.
	Proxies(s *core.State, now time.Time) ([]*adminv1.Proxy, <-chan struct{}, error)
}

// Discoverer asks an upstream for its tools.
type Discoverer interface {
	// Discover lists what an upstream offers, with a header and a query, of which either may be empty.
	Discover(ctx context.Context, c *policyv1.Connector, header, value, query string) ([]*policyv1.Tool, error)
}

// AuditStore is what the API needs of the audit store.
type AuditStore interface {
	// Search returns matching records, newest first, and the cursor with which to go on; empty: there are no more.
	Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error)
	// Tail calls fn with matching records stored after a sequence, zero for from now on, until ctx ends or fn fails.
	Tail(ctx context.Context, filter *adminv1.AuditFilter, after uint64, fn func(*adminv1.StoredRecord) error) error
	// Since calls fn with the records stored at or after a time, as they are stored, up to the last that is there now.
	Since(ctx context.Context, from time.Time, fn func(data []byte) error) error
	// Unseal opens what is sealed in a person's record; nil: the person was erased.
	Unseal(ctx context.Context, person string, sealed []byte) ([]byte, error)
	// Last is the sequence of the newest record.
	Last(ctx context.Context) (uint64, error)
	// Export calls fn with the items of an export; zero times stand for the beginning and for now, no filter for all.
	Export(ctx context.Context, from, to time.Time, filter *adminv1.AuditFilter, fn func(*auditv1.ExportItem) error) error
	// Checkpoint signs what there is now, again if asked to, and PublicKeys are those to check it with.
	Checkpoint(ctx context.Context, again bool) (*auditv1.Checkpoint, error)
	PublicKeys() [][]byte
	// Value returns the arguments or the result of the record at a sequence, whole, and the record.
	Value(ctx context.Context, sequence uint64, result bool) ([]byte, *auditv1.AuditRecord, error)
	// Count counts matching records.
	Count(ctx context.Context, r *adminv1.CountAuditRequest) (*adminv1.CountAuditResponse, error)
}

// Sessions knows the admins who signed in as people.
type Sessions interface {
	// Find returns who holds a session's token, or nil. Fenced: as the end of the log has it.
	Find(ctx context.Context, token string, fenced bool) (*core.AdminPerson, error)
}

// Config is what the API is made of. All but Now are required.
type Config struct {
	Engine     Engine
	Secrets    Secrets
	Fleet      Fleet
	Discoverer Discoverer
	// Credentials keeps what upstreams want to see.
	Credentials Credentials
	Audit       AuditStore
	// AuditIndex keeps an index of audit. Nil: there is none.
	AuditIndex AuditIndex
	// Trail takes records of who read audit. Nil: nobody does.
	Trail    Trail
	Activity Activity
	Sessions Sessions
	Vault    Vault
	// Invitation is what a proxy joins with, made of its token.
	Invitation func(token string) string
	// SignInSecrets keeps the secrets of clients at identity providers; SignInURL is where people sign in, for redirect URIs.
	SignInSecrets  SignInSecrets
	SignInURL      string
	Authorization  Authorization
	Doctor         Doctor
	Reviews        Reviews
	Budgets        Budgets
	Usage          Usage
	FleetAuthority FleetAuthority
	Catalogues     Catalogues
	// Exporters send audit on, with secrets that ExporterSecrets keeps.
	Exporters       Exporters
	ExporterSecrets ExporterSecrets
	AuditConsumers  AuditConsumers
	Now             func() time.Time
	Log             *slog.Logger
}

// maxRequest bounds a request: a policy of 1,000 grants is well below.
const maxRequest = 8 << 20

// api implements every admin service; each has a file.
type api struct {
	Config
	tries *rate.Limiter // of the break-glass credential
}

// NewHandler returns the API with reflection and health, for a server that speaks HTTP/1.1 and HTTP/2.
func NewHandler(c Config) http.Handler {
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &api{c, newTries()}
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(&authenticator{a}, &failures{a.Log}, validate.NewInterceptor()),
		connect.WithReadMaxBytes(maxRequest),
	)
	mux := http.NewServeMux()
	mux.Handle(adminv1connect.NewDirectoryServiceHandler(a, options))
	mux.Handle(adminv1connect.NewTokenServiceHandler(a, options))
	mux.Handle(adminv1connect.NewConnectorServiceHandler(a, options))
	mux.Handle(adminv1connect.NewPolicyServiceHandler(a, options))
	mux.Handle(adminv1connect.NewFleetAdminServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAuditServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAuditIndexServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAuditProofServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAuditValueServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAdminServiceHandler(a, options))
	mux.Handle(adminv1connect.NewSignInServiceHandler(a, options))
	mux.Handle(adminv1connect.NewVaultServiceHandler(a, options))
	mux.Handle(adminv1connect.NewServiceAccountServiceHandler(a, options))
	mux.Handle(adminv1connect.NewSignalServiceHandler(a, options))
	mux.Handle(adminv1connect.NewDoctorServiceHandler(a, options))
	mux.Handle(adminv1connect.NewClientServiceHandler(a, options))
	mux.Handle(adminv1connect.NewSessionServiceHandler(a, options))
	mux.Handle(adminv1connect.NewProxyServiceHandler(a, options))
	mux.Handle(adminv1connect.NewRuleSetServiceHandler(a, options))
	mux.Handle(adminv1connect.NewCredentialServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAccessServiceHandler(a, options))
	mux.Handle(adminv1connect.NewPlanServiceHandler(a, options))
	mux.Handle(adminv1connect.NewExportServiceHandler(a, options))
	mux.Handle(adminv1connect.NewBacktestServiceHandler(a, options))
	mux.Handle(adminv1connect.NewReviewServiceHandler(a, options))
	mux.Handle(adminv1connect.NewMigrationServiceHandler(a, options))
	mux.Handle(adminv1connect.NewFleetAuthorityServiceHandler(a, options))
	mux.Handle(adminv1connect.NewCatalogueServiceHandler(a, options))
	mux.Handle(adminv1connect.NewLimitServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAuditExporterServiceHandler(a, options))
	mux.Handle(adminv1connect.NewAuditConsumerServiceHandler(a, options))

	services := []string{
		adminv1connect.DirectoryServiceName, adminv1connect.TokenServiceName, adminv1connect.ConnectorServiceName,
		adminv1connect.PolicyServiceName, adminv1connect.FleetAdminServiceName, adminv1connect.AuditServiceName, adminv1connect.AdminServiceName,
		adminv1connect.AuditIndexServiceName, adminv1connect.AuditProofServiceName, adminv1connect.AuditValueServiceName,
		adminv1connect.VaultServiceName,
		adminv1connect.ProxyServiceName,
		adminv1connect.ServiceAccountServiceName, adminv1connect.SignalServiceName, adminv1connect.DoctorServiceName,
		adminv1connect.SignInServiceName, adminv1connect.ClientServiceName, adminv1connect.SessionServiceName,
		adminv1connect.RuleSetServiceName, adminv1connect.CredentialServiceName,
		adminv1connect.AccessServiceName, adminv1connect.PlanServiceName, adminv1connect.ExportServiceName, adminv1connect.BacktestServiceName, adminv1connect.ReviewServiceName,
		adminv1connect.MigrationServiceName, adminv1connect.FleetAuthorityServiceName, adminv1connect.CatalogueServiceName, adminv1connect.LimitServiceName,
		adminv1connect.AuditExporterServiceName, adminv1connect.AuditConsumerServiceName,
	}
	reflector := grpcreflect.NewStaticReflector(services...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options))
	mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(services...)))
	return mux
}

// do runs a command under the caller's identity.
func (a *api) do(ctx context.Context, c core.Command) (engine.Outcome, error) {
	return a.Engine.Do(ctx, callerOf(ctx).actor(), c)
}

// coded translates what the core refuses; anything else is the failures interceptor's to hide.
func coded(err error) error {
	var refusal *core.Error
	if !errors.As(err, &refusal) {
		return err
	}
	codes := map[core.Code]connect.Code{
		core.InvalidArgument: connect.CodeInvalidArgument, core.NotFound: connect.CodeNotFound,
		core.AlreadyExists: connect.CodeAlreadyExists, core.Conflict: connect.CodeAborted,
		core.FailedPrecondition: connect.CodeFailedPrecondition, core.Forbidden: connect.CodePermissionDenied, core.TooLarge: connect.CodeResourceExhausted,
	}
	return connect.NewError(codes[refusal.Code], refusal)
}
