// Package fleettest is a control plane as proxies see it, for tests of what runs in a proxy: FleetService on loopback,
// with a log in memory. Its zero value works; it never decides anything and stores nothing.
package fleettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/policy"
	"sallyport.dev/dataplane/sealing"
)

// ControlPlane is a control plane with one region. Fields are set before Start.
type ControlPlane struct {
	fleetv1connect.UnimplementedFleetServiceHandler
	fleetv1connect.UnimplementedApprovalServiceHandler

	// Revoked refuses the proxy.
	Revoked bool
	// Proxy and Region that Welcome names. Default: "proxy" and "test".
	Proxy, Region string
	// ConditionValuesKey that Welcome has.
	ConditionValuesKey []byte
	// Lease and Heartbeat. Default: one minute, 50 ms.
	Lease, Heartbeat time.Duration
	// ChunkEntries is how many entries a snapshot's chunk holds. Default: 2.
	ChunkEntries int
	// Credential answers IssueCredential. Default: the header "Authorization: Bearer upstream-CONNECTOR" for a minute.
	Credential func(*fleetv1.IssueCredentialRequest) (*Issued, error)

	// Confirming and Reviewing answer Confirm and Review. Default: nobody can be asked.
	Confirming func(*fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error)
	Reviewing  func(*fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error)

	redeemed sync.Map // ids
	mu       sync.Mutex
	entries  map[string]*fleetv1.Entry
	digest   policy.Digest
	epoch    int
	version  uint64
	log      []*fleetv1.Delta // consecutive, up to version
	changed  chan struct{}    // closed at each change
	silent   bool
	corrupt  bool
	hellos   []*fleetv1.Hello
	acked    []*fleetv1.Ack
	sent     map[string]int // messages by kind
	streams  map[int]context.CancelFunc
	nextID   int
	audit    map[string][]*auditv1.AuditRecord
	auditErr error
	issued   int
}

// Start serves on loopback until the test ends, and returns the URL.
func (c *ControlPlane) Start(t testing.TB) string {
	mux := http.NewServeMux()
	mux.Handle(fleetv1connect.NewFleetServiceHandler(c))
	mux.Handle(fleetv1connect.NewApprovalServiceHandler(c))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		c.CutStreams()
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// Confirm asks the test.
func (c *ControlPlane) Confirm(_ context.Context, r *connect.Request[fleetv1.ConfirmRequest]) (*connect.Response[fleetv1.ConfirmResponse], error) {
	if c.Confirming == nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("nobody can be asked"))
	}
	res, err := c.Confirming(r.Msg)
	return connect.NewResponse(res), err
}

// Review asks the test.
func (c *ControlPlane) Review(_ context.Context, r *connect.Request[fleetv1.ReviewRequest]) (*connect.Response[fleetv1.ReviewResponse], error) {
	if c.Reviewing == nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("nobody can be asked"))
	}
	res, err := c.Reviewing(r.Msg)
	return connect.NewResponse(res), err
}

// Redeem is true once for each id.
func (c *ControlPlane) Redeem(_ context.Context, r *connect.Request[fleetv1.RedeemRequest]) (*connect.Response[fleetv1.RedeemResponse], error) {
	_, before := c.redeemed.LoadOrStore(r.Msg.GetId(), true)
	return connect.NewResponse(&fleetv1.RedeemResponse{Redeemed: !before}), nil
}

// lock locks and sees that the zero value works.
func (c *ControlPlane) lock() func() {
	c.mu.Lock()
	if c.changed == nil {
		c.entries, c.sent = map[string]*fleetv1.Entry{}, map[string]int{}
		c.streams, c.audit = map[int]context.CancelFunc{}, map[string][]*auditv1.AuditRecord{}
		c.changed, c.version = make(chan struct{}), 1
	}
	return c.mu.Unlock
}

func (c *ControlPlane) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *ControlPlane) epochName() string { return fmt.Sprintf("epoch-%d", c.epoch) }

// keyOf names an entry, as text and as the wire does.
func keyOf(e *fleetv1.Entry) (string, *fleetv1.EntryKey) {
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
	return keyText(k), k
}

func keyText(k *fleetv1.EntryKey) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(k)
	if err != nil {
		panic(err) // a key that was just built
	}
	return string(b)
}

// Set creates or replaces entries as one version, and returns it.
func (c *ControlPlane) Set(entries ...*fleetv1.Entry) uint64 { return c.change(entries, nil) }

// Remove removes the entries that have the keys of the given ones, as one version, and returns it.
func (c *ControlPlane) Remove(entries ...*fleetv1.Entry) uint64 { return c.change(nil, entries) }

func (c *ControlPlane) change(set, removed []*fleetv1.Entry) uint64 {
	defer c.lock()()
	d := &fleetv1.Delta{FromVersion: c.version, Version: c.version + 1}
	for _, e := range set {
		e = proto.Clone(e).(*fleetv1.Entry)
		key, _ := keyOf(e)
		if old := c.entries[key]; old != nil {
			c.digest.Remove(old)
		}
		c.entries[key] = e
		c.digest.Add(e)
		d.Changed = append(d.Changed, e)
	}
	for _, e := range removed {
		key, wire := keyOf(e)
		if old := c.entries[key]; old != nil {
			c.digest.Remove(old)
			delete(c.entries, key)
			d.Removed = append(d.Removed, wire)
		}
	}
	d.Digest = c.digest.Bytes()
	c.version++
	c.log = append(c.log, d)
	c.announce()
	return c.version
}

// CorruptNextChange makes the next change that is sent carry a digest that is wrong.
func (c *ControlPlane) CorruptNextChange() {
	defer c.lock()()
	c.corrupt = true
}

// Rollback puts the version back, in the same log, as a control plane that lost its disk would, and cuts all streams.
func (c *ControlPlane) Rollback(version uint64) {
	unlock := c.lock()
	c.version, c.log = version, nil
	unlock()
	c.CutStreams()
}

// NewEpoch begins another log at version 1 with what is there, and cuts all streams.
func (c *ControlPlane) NewEpoch() {
	unlock := c.lock()
	c.epoch++
	c.version, c.log = 1, nil
	unlock()
	c.CutStreams()
}

// SetSilent stops or resumes heartbeats. Streams stay open.
func (c *ControlPlane) SetSilent(silent bool) {
	defer c.lock()()
	c.silent = silent
	c.announce()
}

// CutStreams ends the open streams. Proxies open new ones.
func (c *ControlPlane) CutStreams() {
	unlock := c.lock()
	cuts := slices.Collect(maps.Values(c.streams))
	unlock()
	for _, cut := range cuts {
		cut()
	}
}

// Acks returns what proxies acknowledged, in order.
func (c *ControlPlane) Acks() []*fleetv1.Ack {
	defer c.lock()()
	return slices.Clone(c.acked)
}

// WaitAcked waits until a version was acknowledged.
func (c *ControlPlane) WaitAcked(t testing.TB, version uint64) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		unlock := c.lock()
		changed := c.changed
		done := slices.ContainsFunc(c.acked, func(a *fleetv1.Ack) bool { return !a.GetResync() && a.GetVersion() >= version })
		unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("version %d was not acknowledged", version)
		}
	}
}

// Hellos returns what proxies said they had, in order.
func (c *ControlPlane) Hellos() []*fleetv1.Hello {
	defer c.lock()()
	return slices.Clone(c.hellos)
}

// Sent returns how many messages of a kind were sent: "snapshot", "delta", "heartbeat".
func (c *ControlPlane) Sent(kind string) int {
	defer c.lock()()
	return c.sent[kind]
}

// Sync serves one proxy.
func (c *ControlPlane) Sync(ctx context.Context, stream *connect.BidiStream[fleetv1.SyncRequest, fleetv1.SyncResponse]) error {
	if err := c.authorize(); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unlock := c.lock()
	c.hellos = append(c.hellos, hello)
	id := c.nextID
	c.nextID++
	c.streams[id] = cancel
	welcome := &fleetv1.Welcome{
		Epoch: c.epochName(), Proxy: or(c.Proxy, "proxy"), Region: or(c.Region, "test"),
		SealingKeys: []*fleetv1.SealingKey{{Id: 1, Key: make([]byte, 32)}}, ConditionValuesKey: c.ConditionValuesKey,
	}
	c.announce()
	unlock()
	defer func() {
		defer c.lock()()
		delete(c.streams, id)
	}()
	if err := stream.Send(&fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	received := make(chan error, 1)
	resync := make(chan struct{}, 1)
	var mark atomic.Uint64
	mark.Store(hello.GetMark())
	go func() {
		received <- c.receive(stream, resync, &mark)
		cancel()
	}()
	// Receive ends when this handler returns, so nothing waits for it here.
	return c.serve(ctx, stream, hello, resync, &mark)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Revoke refuses the proxy from now on.
func (c *ControlPlane) Revoke() {
	defer c.lock()()
	c.Revoked = true
}

func (c *ControlPlane) authorize() error {
	defer c.lock()()
	if c.Revoked {
		return connect.NewError(connect.CodeUnauthenticated, errors.New("the proxy was revoked"))
	}
	return nil
}

func (c *ControlPlane) receive(stream *connect.BidiStream[fleetv1.SyncRequest, fleetv1.SyncResponse], resync chan<- struct{}, mark *atomic.Uint64) error {
	for {
		m, err := stream.Receive()
		if err != nil {
			return err
		}
		unlock := c.lock()
		c.acked = append(c.acked, m.GetAck())
		c.announce()
		unlock()
		mark.Store(m.GetAck().GetMark())
		if m.GetAck().GetResync() {
			resync <- struct{}{}
		}
	}
}

// serve sends what a proxy lacks, then each change, and heartbeats.
func (c *ControlPlane) serve(ctx context.Context, stream *connect.BidiStream[fleetv1.SyncRequest, fleetv1.SyncResponse], hello *fleetv1.Hello, resync <-chan struct{}, mark *atomic.Uint64) error {
	every := c.Heartbeat
	if every <= 0 {
		every = 50 * time.Millisecond
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	at, full := hello.GetVersion(), true
	unlock := c.lock()
	current := at == c.version && bytes.Equal(hello.GetDigest(), c.digest.Bytes())
	if hello.GetEpoch() == c.epochName() && (current || at != c.version && slices.ContainsFunc(c.log, func(d *fleetv1.Delta) bool { return d.GetFromVersion() == at })) {
		full = false
	}
	unlock()
	beat := true
	for {
		messages, version, changed := c.messages(at, full, beat, mark.Load())
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		at, full, beat = version, false, false
		select {
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("the stream was cut"))
		case <-resync:
			full = true
		case <-changed:
		case <-ticker.C:
			beat = true
		}
	}
}

// messages returns what follows on a version, and the version that it leads to.
func (c *ControlPlane) messages(at uint64, full, beat bool, mark uint64) ([]*fleetv1.SyncResponse, uint64, <-chan struct{}) {
	defer c.lock()()
	var out []*fleetv1.SyncResponse
	if full {
		out = c.snapshot()
		c.sent["snapshot"]++
	} else {
		for _, d := range c.log {
			if d.GetFromVersion() < at {
				continue
			}
			if c.corrupt {
				d = proto.Clone(d).(*fleetv1.Delta)
				d.Digest = []byte("wrong")
				c.corrupt = false
			}
			out = append(out, &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Delta{Delta: d}})
			c.sent["delta"]++
		}
	}
	if beat && !c.silent {
		lease := c.Lease
		if lease <= 0 {
			lease = time.Minute
		}
		out = append(out, &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Heartbeat{Heartbeat: &fleetv1.Heartbeat{
			FencedVersion: c.version, Lease: durationpb.New(lease), At: timestamppb.Now(), Mark: mark,
		}}})
		c.sent["heartbeat"]++
	}
	return out, c.version, c.changed
}

func (c *ControlPlane) snapshot() []*fleetv1.SyncResponse {
	size := c.ChunkEntries
	if size <= 0 {
		size = 2
	}
	var chunks []*fleetv1.SnapshotChunk
	for _, key := range slices.Sorted(maps.Keys(c.entries)) {
		if n := len(chunks); n == 0 || len(chunks[n-1].GetEntries()) == size {
			chunks = append(chunks, &fleetv1.SnapshotChunk{Epoch: c.epochName(), Version: c.version})
		}
		last := chunks[len(chunks)-1]
		last.Entries = append(last.Entries, c.entries[key])
	}
	if len(chunks) == 0 {
		chunks = append(chunks, &fleetv1.SnapshotChunk{Epoch: c.epochName(), Version: c.version})
	}
	chunks[len(chunks)-1].Last = true
	chunks[len(chunks)-1].Digest = c.digest.Bytes()
	var out []*fleetv1.SyncResponse
	for _, chunk := range chunks {
		out = append(out, &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Chunk{Chunk: chunk}})
	}
	return out
}

// IssueCredential answers with Credential.
func (c *ControlPlane) IssueCredential(_ context.Context, req *connect.Request[fleetv1.IssueCredentialRequest]) (*connect.Response[fleetv1.IssueCredentialResponse], error) {
	if err := c.authorize(); err != nil {
		return nil, err
	}
	unlock := c.lock()
	c.issued++
	unlock()
	issue := c.Credential
	if issue == nil {
		issue = func(r *fleetv1.IssueCredentialRequest) (*Issued, error) {
			return &Issued{Header: "Authorization", Value: "Bearer upstream-" + r.GetConnector(), Lifetime: time.Minute}, nil
		}
	}
	issued, err := issue(req.Msg)
	if err != nil {
		return nil, err
	}
	resp, err := issued.seal(req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// Issued is what a control plane hands out for an upstream, before it is sealed.
type Issued struct {
	Header, Value, Query, Identity string
	Lifetime                       time.Duration
	Connect                        *fleetv1.ConnectRequired
	// Change has the sealed answer changed on its way. Nil: it is not.
	Change func(*fleetv1.IssueCredentialResponse)
}

func (i *Issued) seal(r *fleetv1.IssueCredentialRequest) (*fleetv1.IssueCredentialResponse, error) {
	if i.Connect != nil {
		return &fleetv1.IssueCredentialResponse{Connect: i.Connect}, nil
	}
	secret, err := proto.Marshal(&fleetv1.UpstreamSecret{HeaderValue: i.Value, Query: i.Query})
	if err != nil {
		return nil, err
	}
	sealed, err := sealing.Seal(r.GetSealingKey(), secret, r.GetConnector(), i.Header, i.Identity, r.GetAccessToken())
	if err != nil {
		return nil, err
	}
	m := &fleetv1.IssueCredentialResponse{HeaderName: i.Header, Identity: i.Identity, Sealed: sealed, Lifetime: durationpb.New(i.Lifetime)}
	if i.Change != nil {
		i.Change(m)
	}
	return m, nil
}

// Issued returns how many credentials were asked for.
func (c *ControlPlane) Issued() int {
	defer c.lock()()
	return c.issued
}

// DeliverAudit stores records as the control plane does: each once, in order, none left out.
func (c *ControlPlane) DeliverAudit(_ context.Context, req *connect.Request[fleetv1.DeliverAuditRequest]) (*connect.Response[fleetv1.DeliverAuditResponse], error) {
	if err := c.authorize(); err != nil {
		return nil, err
	}
	defer c.lock()()
	if c.auditErr != nil {
		return nil, connect.NewError(connect.CodeUnavailable, c.auditErr)
	}
	have := c.audit[req.Msg.GetSpoolGeneration()]
	for _, r := range req.Msg.GetRecords() {
		if r.GetNumber() == uint64(len(have))+1 {
			have = append(have, r)
		}
	}
	c.audit[req.Msg.GetSpoolGeneration()] = have
	c.announce()
	return connect.NewResponse(&fleetv1.DeliverAuditResponse{Acknowledged: uint64(len(have))}), nil
}

// FailAudit makes deliveries of audit fail with err; nil ends that.
func (c *ControlPlane) FailAudit(err error) {
	defer c.lock()()
	c.auditErr = err
}

// Audit returns the records that were delivered, those of one generation in their order.
func (c *ControlPlane) Audit() []*auditv1.AuditRecord {
	defer c.lock()()
	var all []*auditv1.AuditRecord
	for _, generation := range slices.Sorted(maps.Keys(c.audit)) {
		all = append(all, c.audit[generation]...)
	}
	return all
}

// WaitAudit waits until enough says that the delivered records are what the test waits for, and returns them.
func (c *ControlPlane) WaitAudit(t testing.TB, enough func([]*auditv1.AuditRecord) bool) []*auditv1.AuditRecord {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		unlock := c.lock()
		changed := c.changed
		unlock()
		if all := c.Audit(); enough(all) {
			return all
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the audit records did not come: there are %d", len(c.Audit()))
		}
	}
}
