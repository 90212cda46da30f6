package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
	"sallyport.dev/controlplane/internal/fleetca"
	"sallyport.dev/controlplane/internal/kv"
)

// site is a fleet server over a real engine, served by cleartext HTTP/2, with a proxy's token.
type site struct {
	*enginetest.Plane
	server    *httptest.Server
	roster    *fleet.Roster
	audit     *audit.Store
	trail     *noted
	fleet     *fleet.Server
	authority *fleetca.Authority
	workloads *fleet.Workloads // nil: none
	token     string
	id        uuid.UUID // of the token
	lags      bool
	frozen    atomic.Pointer[core.State]
}

// freeze has a control plane that lags read nothing from now on, unless it asks.
func (s *site) freeze() {
	if s.lags {
		s.frozen.Store(s.Engine.State())
	}
}

// config is what a test may choose of a site.
type config struct {
	lease time.Duration
	ring  int
	// cutOff makes the end of the log unprovable while it is true.
	cutOff *atomic.Bool
	// lags: once frozen, the engine's state stays as it is; a fence reads on. meanwhile happens while a credential is fetched.
	lags      bool
	meanwhile func()
	// approvals asks people. Nil: nobody does.
	approvals fleet.Approvals
	// now tells the fleet server the time. Nil: time.Now.
	now func() time.Time
}

// fenced is the engine with a fence that can be made to fail.
type fenced struct {
	fleet.Engine
	cutOff *atomic.Bool
	frozen *atomic.Pointer[core.State]
}

func (f fenced) State() *core.State {
	if old := f.frozen.Load(); old != nil {
		return old
	}
	return f.Engine.State()
}

func (f fenced) Fence(ctx context.Context) (*core.State, error) {
	if f.cutOff != nil && f.cutOff.Load() {
		return nil, errors.New("cut off")
	}
	return f.Engine.Fence(ctx)
}

// ledger keeps standings in real key-value.
type ledger struct{ *kv.Store }

func (l ledger) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) (uint64, error) {
	return l.Change(ctx, key, 0, change)
}

func (l ledger) Watch(ctx context.Context, synced func(), fn func(key string, value []byte, revision uint64)) error {
	return l.Store.Watch(ctx, "proxy.", synced, func(e kv.Entry) error {
		if e.Value != nil {
			fn(e.Key, e.Value, e.Revision)
		}
		return nil
	})
}

func newSite(t *testing.T, c config) *site {
	t.Helper()
	p := enginetest.New(t)
	publisher := fleet.NewPublisher(p.Engine.State(), c.ring)
	p.Start(publisher.Publish)
	p.Directory("okta")
	records, err := audit.Open(t.Context(), p.Conn.Conn, audit.Config{})
	enginetest.Must(t, err)
	if c.lease == 0 {
		c.lease = time.Minute
	}
	s := &site{Plane: p, roster: fleet.NewRoster(ledger{p.Shared}, p.Log), audit: records, trail: &noted{}}
	s.id, s.token = p.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-1")
	s.authority, err = fleetca.Open(t.Context(), p.Vault, time.Hour, time.Now)
	enginetest.Must(t, err)
	if c.meanwhile == nil {
		c.meanwhile = func() {}
	}
	s.lags = c.lags
	keeper := credentials.New(credentials.Config{Engine: p.Engine, Store: p.Shared, Vault: p.Vault, URL: "http://127.0.0.1:1", Log: p.Log})
	server := fleet.New(fleet.Config{
		Engine: fenced{p.Engine, c.cutOff, &s.frozen}, Commands: p.Engine, Authority: s.authority, Secrets: p.Vault, Credentials: meanwhile{keeper, c.meanwhile}, Audit: records, Roster: s.roster, Publisher: publisher,
		Verifier: fleet.NewVerifier(nil, nil), Lease: c.lease, Heartbeat: 20 * time.Millisecond, Name: "cp-1", Trail: s.trail, Approvals: c.approvals, Now: c.now, Log: p.Log,
	})
	s.fleet = server
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { server.Run(ctx); done <- struct{}{} }()
	go func() { _ = s.roster.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	enginetest.Eventually(t, "the roster to be read", func() bool {
		_, _, err := s.roster.Standings(p.Engine.State(), time.Now())
		return err == nil
	})
	mux := http.NewServeMux()
	mux.Handle(fleetv1connect.NewFleetServiceHandler(server, fleet.Validation()))
	mux.Handle(fleetv1connect.NewEnrolmentServiceHandler(server, fleet.Validation()))
	mux.Handle(fleetv1connect.NewApprovalServiceHandler(server, fleet.Validation()))
	// Tests name a proxy by its token, where the real listener does by its certificate.
	s.server = enginetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := bearer.Check(p.Engine.State(), eventv1.TokenKind_TOKEN_KIND_PROXY, bearer.FromHeader(r.Header), time.Now()); token != nil {
			r = r.WithContext(fleet.AsProxy(r.Context(), token.ID))
		}
		mux.ServeHTTP(w, r)
	}))
	return s
}

// standings returns what the roster knows of each proxy.
func (s *site) standings() []fleet.Standing {
	all, _, err := s.roster.Standings(s.Engine.State(), time.Now())
	if err != nil {
		panic(err) // newSite saw to it
	}
	return all
}

func (s *site) client(t *testing.T, options ...connect.ClientOption) fleetv1connect.FleetServiceClient {
	return fleetv1connect.NewFleetServiceClient(enginetest.H2C(t), s.server.URL, options...)
}

// proxy is a hand-written proxy: it holds entries by key as it was sent them, and checks every digest.
type proxy struct {
	t       *testing.T
	stream  *connect.BidiStreamForClient[fleetv1.SyncRequest, fleetv1.SyncResponse]
	cancel  context.CancelFunc
	welcome *fleetv1.Welcome
	epoch   string
	version uint64
	digest  []byte
	entries map[string]*fleetv1.Entry
	// chunks and deltas count what came; heartbeats are kept.
	chunks, deltas int
	midway         bool // in a snapshot
	heartbeats     []*fleetv1.Heartbeat
}

// helloMark is the mark of a proxy's first message.
const helloMark = 7

// dial opens a stream; a proxy from before goes on with what it holds.
func (s *site) dial(t *testing.T, token string, before *proxy) *proxy {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	p := &proxy{t: t, entries: map[string]*fleetv1.Entry{}}
	if before != nil {
		p.epoch, p.version, p.digest, p.entries = before.epoch, before.version, before.digest, before.entries
	}
	p.stream = s.client(t).Sync(ctx)
	p.stream.RequestHeader().Set("Authorization", "Bearer "+token)
	p.cancel = func() {
		cancel()
		_ = p.stream.CloseRequest() // the client does not notice the end of ctx while it waits for what to send
	}
	t.Cleanup(p.cancel)
	p.send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{Mark: helloMark, Epoch: p.epoch, Version: p.version, Digest: p.digest, Build: "test"}}})
	return p
}

func (p *proxy) send(m *fleetv1.SyncRequest) { _ = p.stream.Send(m) } // its failure shows at the next receive

func (p *proxy) ack(resync bool) { p.say(&fleetv1.Ack{Version: p.version, Resync: resync}) }

func (p *proxy) say(ack *fleetv1.Ack) {
	p.send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Ack{Ack: ack}})
}

// step takes one message.
func (p *proxy) step() error {
	m, err := p.stream.Receive()
	if err != nil {
		return err
	}
	switch m := m.GetMessage().(type) {
	case *fleetv1.SyncResponse_Welcome:
		p.welcome = m.Welcome
	case *fleetv1.SyncResponse_Chunk:
		if !p.midway {
			p.entries = map[string]*fleetv1.Entry{}
		}
		p.chunks++
		p.midway = !m.Chunk.GetLast()
		for _, e := range m.Chunk.GetEntries() {
			p.entries[keyOf(e)] = e
		}
		if m.Chunk.GetLast() {
			p.epoch, p.version = m.Chunk.GetEpoch(), m.Chunk.GetVersion()
			p.check(m.Chunk.GetDigest())
		}
	case *fleetv1.SyncResponse_Delta:
		p.deltas++
		if m.Delta.GetFromVersion() != p.version {
			p.t.Fatalf("a delta leads on from %d, the proxy is at %d", m.Delta.GetFromVersion(), p.version)
		}
		for _, e := range m.Delta.GetChanged() {
			p.entries[keyOf(e)] = e
		}
		for _, k := range m.Delta.GetRemoved() {
			delete(p.entries, keyText(k))
		}
		p.version = m.Delta.GetVersion()
		p.check(m.Delta.GetDigest())
	case *fleetv1.SyncResponse_Heartbeat:
		if m.Heartbeat.GetFencedVersion() > p.version {
			p.t.Fatalf("a heartbeat proves %d, the proxy was sent up to %d", m.Heartbeat.GetFencedVersion(), p.version)
		}
		p.heartbeats = append(p.heartbeats, m.Heartbeat)
	}
	return nil
}

func (p *proxy) check(digest []byte) {
	p.t.Helper()
	var d policy.Digest
	for _, e := range p.entries {
		d.Add(e)
	}
	if p.digest = d.Bytes(); !bytes.Equal(p.digest, digest) {
		p.t.Fatalf("at version %d the digest is %x, want %x", p.version, p.digest, digest)
	}
}

// until takes messages until something is so.
func (p *proxy) until(what string, done func() bool) {
	p.t.Helper()
	for !done() {
		if err := p.step(); err != nil {
			p.t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

func (p *proxy) reach(version uint64) {
	p.t.Helper()
	p.until(fmt.Sprintf("version %d", version), func() bool { return p.version >= version })
}

// end takes messages until the stream ends, and returns why.
func (p *proxy) end() error {
	for {
		if err := p.step(); err != nil {
			return err
		}
	}
}

// keyText is a key as a text: the same key, the same text.
func keyText(k *fleetv1.EntryKey) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(k)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func keyOf(e *fleetv1.Entry) string {
	k := &fleetv1.EntryKey{}
	switch v := e.GetValue().(type) {
	case *fleetv1.Entry_User:
		k.Key = &fleetv1.EntryKey_User{User: v.User.GetId()}
	case *fleetv1.Entry_Group:
		k.Key = &fleetv1.EntryKey_Group{Group: v.Group.GetNumber()}
	case *fleetv1.Entry_Grant:
		k.Key = &fleetv1.EntryKey_Grant{Grant: &fleetv1.GrantKey{Group: v.Grant.GetGroup(), Connector: v.Grant.GetConnector()}}
	case *fleetv1.Entry_Connector:
		k.Key = &fleetv1.EntryKey_Connector{Connector: v.Connector.GetId()}
	case *fleetv1.Entry_Catalogue:
		k.Key = &fleetv1.EntryKey_Catalogue{Catalogue: v.Catalogue.GetConnector()}
	case *fleetv1.Entry_Block:
		k.Key = &fleetv1.EntryKey_Block{Block: v.Block.GetId()}
	case *fleetv1.Entry_Issuer:
		k.Key = &fleetv1.EntryKey_Issuer{Issuer: v.Issuer.GetIssuer().GetUrl()}
	case *fleetv1.Entry_AuthorizationServer:
		k.Key = &fleetv1.EntryKey_AuthorizationServer{AuthorizationServer: v.AuthorizationServer.GetIssuer()}
	case *fleetv1.Entry_RevokedSession:
		k.Key = &fleetv1.EntryKey_RevokedSession{RevokedSession: v.RevokedSession.GetId()}
	case *fleetv1.Entry_RevokedClient:
		k.Key = &fleetv1.EntryKey_RevokedClient{RevokedClient: v.RevokedClient.GetClientId()}
	}
	return keyText(k)
}

// noted collects what is recorded.
type noted struct {
	mu      sync.Mutex
	records []*auditv1.AuditRecord
}

func (n *noted) Note(r *auditv1.AuditRecord) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = append(n.records, r)
}

func (n *noted) last(t *testing.T) *auditv1.AuditRecord {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.records) == 0 {
		t.Fatal("nothing was recorded")
	}
	return n.records[len(n.records)-1]
}
