// Package fleet serves the proxies: it publishes what the core compiles, region by region, keeps who has
// acknowledged what, issues upstream credentials and takes audit in.
//
// Each committed round is encoded once per region and shared by all of its streams; a stream is a cursor.
// A proxy is known by the certificate of its connection alone: nothing that it says can make it another.
package fleet

import (
	"context"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/validate"
	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
)

// Engine is what the server needs of the engine.
type Engine interface {
	State() *core.State
	// Fence returns a state that was proved to stand at the end of the log.
	Fence(ctx context.Context) (*core.State, error)
}

// Secrets is what the server needs of the vault.
type Secrets interface {
	// RegionKeys returns the keys that seal session ids in a region since an epoch, newest first; it makes the first one.
	RegionKeys(ctx context.Context, region string, epoch uint64) ([]*fleetv1.SealingKey, error)
}

// Credentials gets what upstreams want to see.
type Credentials interface {
	// Issue returns what a connector's upstream wants to see for a person. A *core.Error says what an admin has to do.
	Issue(ctx context.Context, s *core.State, user *core.User, connector *core.Connector, ask credentials.Ask) (credentials.Issued, error)
}

// Audit is what the server needs of the audit store.
type Audit interface {
	// Take stores consecutive records of a proxy, as it encoded them, and returns the number up to which all are durable.
	Take(ctx context.Context, proxy, region, generation string, records [][]byte) (uint64, error)
}

// Trail takes the control plane's own audit records.
type Trail interface {
	// Note takes a record and does not wait until it is stored.
	Note(r *auditv1.AuditRecord)
}

// OwnTokens says who presents an access token of Sallyport's own authorization server.
type OwnTokens interface {
	// Verify returns the active person for whom a token was issued that is good for a connector, and when it ends. Own is
	// false for a token of another issuer.
	Verify(s *core.State, token, connector string) (user *core.User, expires time.Time, own bool, err error)
}

// Config is how a Server behaves. Engine, Commands, Authority, Secrets, Credentials, Audit, Roster and Publisher are required.
type Config struct {
	Engine Engine
	// Commands and Authority are for proxies that join.
	Commands  Commander
	Authority Authority
	Secrets   Secrets
	// Credentials are what proxies ask for.
	Credentials Credentials
	Audit       Audit
	Roster      *Roster
	Publisher   *Publisher
	// ConditionValuesKey is the public part of the key to which proxies seal what conditions read of arguments. Empty: they record none.
	ConditionValuesKey []byte
	// Verifier says who presents an access token.
	Verifier *Verifier
	// Own says the same of tokens of Sallyport's own authorization server. Nil: there is none.
	Own OwnTokens
	// Approvals asks people for the yes that rules want. Nil: nobody is asked.
	Approvals Approvals
	// Budgets keeps what is used of budgets. Nil: nobody does.
	Budgets Budgets
	// Seen is told which person used which client where and when, as proxies' audit says. Nil: nobody asks.
	Seen func(person, client, region string, at time.Time)
	// Issued is told of credentials that proxies were given. Nil: nobody asks.
	Issued func(c *core.Connector, person uuid.UUID, with credentials.Issued)
	// Delivered is told once proxies' audit is durable who used what: records with person, client, connector, kind, phase and time, of those that
	// are alike but for the time the first and the last. Nil: nobody asks.
	Delivered func(uses []*auditv1.AuditRecord)
	// Lease is how long a proxy may serve without hearing from a control plane. Default 30 minutes.
	// Longer survives longer outages; shorter makes an unreachable proxy stop sooner.
	Lease time.Duration
	// Heartbeat is how often the lease is renewed. Default 5 seconds.
	Heartbeat time.Duration
	// Name names this control plane in the roster.
	Name string
	// Trail takes records of credentials that were issued or refused. Nil: nobody does.
	Trail Trail
	// Now tells the time. Default time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Server implements FleetService, EnrolmentService, ApprovalService and LimitService.
type Server struct {
	config Config
	beat   *pulse
	prove  chan struct{} // asks Run for a proof before the next is due
	limits *limits
	// refusals to let workloads join that were recorded.
	refusals refusals
}

var (
	_ fleetv1connect.FleetServiceHandler     = (*Server)(nil)
	_ fleetv1connect.EnrolmentServiceHandler = (*Server)(nil)
	_ fleetv1connect.ApprovalServiceHandler  = (*Server)(nil)
	_ fleetv1connect.LimitServiceHandler     = (*Server)(nil)
)

// New returns a server. Run must be running for leases to be renewed.
func New(c Config) *Server {
	if c.Lease == 0 {
		c.Lease = 30 * time.Minute
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 5 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Server{config: c, beat: newPulse(), prove: make(chan struct{}, 1), limits: newLimits()}
}

// Run proves every heartbeat interval where the log ends, and when a stream has begun, once for all that wait,
// until ctx ends.
func (s *Server) Run(ctx context.Context) {
	defer s.config.Publisher.wait()
	ticker := time.NewTicker(s.config.Heartbeat)
	defer ticker.Stop()
	for {
		began := s.config.Now()
		state, err := s.config.Engine.Fence(ctx)
		switch {
		case err == nil:
			s.beat.set(proof{fenced: state.Seq(), at: began})
		case ctx.Err() == nil:
			s.config.Log.WarnContext(ctx, "the end of the log could not be proved: leases of proxies are not renewed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.prove:
		}
	}
}

// Validation holds requests to the rules of their messages, save deliveries of audit, whose records have no rules and are left as they came.
// DeliverAudit itself checks what a delivery has.
func Validation() connect.HandlerOption {
	rules := connect.WithInterceptors(validate.NewInterceptor())
	return connect.WithConditionalHandlerOptions(func(s connect.Spec) []connect.HandlerOption {
		if s.Procedure == fleetv1connect.FleetServiceDeliverAuditProcedure {
			return []connect.HandlerOption{connect.WithCodec(undecoded{})}
		}
		return []connect.HandlerOption{rules}
	})
}
