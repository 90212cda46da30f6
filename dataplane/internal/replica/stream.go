package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"
)

// stream is one Sync stream. Its fields belong to the goroutine that receives.
type stream struct {
	r     *Replica
	acks  *acks
	marks *marks
	epoch string // of Welcome
	// snapshot is the table of chunks that are not complete yet; nil between snapshots.
	snapshot        *policy.Builder
	snapshotVersion uint64
	// resyncing: a full snapshot was asked for, deltas do not count until it is there.
	resyncing bool
	lived     bool // a heartbeat came
	// troubles are what the control plane was told last.
	troubles *fleetv1.Troubles
	// holds is what the control plane was told last of the authorities that the proxy holds.
	holds *fleetv1.Authorities
}

// leaveWithin is how long a stream lives on to tell that the proxy leaves.
const leaveWithin = time.Second

// silence is how long a stream may say nothing.
func (r *Replica) silence() time.Duration { return 3 * r.cfg.Heartbeat }

var errSilent = errors.New("the control plane fell silent")

// follow opens a stream and takes in what comes until it ends. It reports whether the stream lived to a heartbeat.
func (r *Replica) follow(ctx context.Context) (lived bool, err error) {
	// The stream outlives ctx by the message that the proxy leaves.
	stop := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	watchdog := time.AfterFunc(r.silence(), func() { cancel(errSilent) })
	defer watchdog.Stop()

	conn := r.cfg.Client.peer().Sync(ctx)
	defer func() {
		cancel(nil) // first: closing waits for the rest of an answer that has no end
		wg.Wait()   // the sender closes its side
		_ = conn.CloseResponse()
	}()
	s := &stream{r: r, acks: newAcks(), marks: &marks{}}
	unwatch := context.AfterFunc(stop, func() {
		r.giveUp("the proxy stops")
		s.acks.leave()
		time.AfterFunc(leaveWithin, func() { cancel(context.Cause(stop)) })
	})
	defer unwatch()
	hello := r.hello()
	hello.Mark = s.marks.next(r.cfg.Now())
	s.holds = hello.GetAuthorities()
	if err := conn.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: hello}}); err != nil {
		_ = conn.CloseRequest()
		return false, reason(ctx, fmt.Errorf("opening the stream: %w", openError(conn, err)))
	}
	wg.Go(func() {
		if err := s.acks.run(ctx, conn, r.cfg.AckEvery, func() uint64 { return s.marks.next(r.cfg.Now()) }); err != nil {
			cancel(err)
		}
	})
	heard := r.cfg.Now()
	for {
		m, err := conn.Receive()
		if err != nil {
			return s.lived, reason(ctx, fmt.Errorf("receiving: %w", err))
		}
		now := r.cfg.Now()
		// After a suspension what lies in the connection's buffer is old: a heartbeat in it proves nothing about now.
		if elapsed(heard, now) > r.silence() {
			return s.lived, errSilent
		}
		watchdog.Stop() // taking a large snapshot in may take its time
		if err := s.take(m); err != nil {
			return s.lived, err
		}
		heard = r.cfg.Now()
		watchdog.Reset(r.silence())
	}
}

// openError finds why a stream was refused: Send only knows that it was.
func openError(conn *connect.BidiStreamForClient[fleetv1.SyncRequest, fleetv1.SyncResponse], err error) error {
	if _, refused := conn.Receive(); refused != nil {
		return refused
	}
	return err
}

func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (r *Replica) hello() *fleetv1.Hello {
	h := &fleetv1.Hello{Build: r.cfg.Build, FeatureLevel: r.cfg.FeatureLevel, PeerUrl: r.cfg.PeerURL}
	if r.cfg.Authorities != nil {
		h.Authorities = r.cfg.Authorities()
	}
	if v := r.view.Load(); v != nil && !v.broken {
		h.Epoch, h.Version, h.Digest = v.epoch, v.table.Version(), v.table.Digest()
	}
	return h
}

// take takes one message in.
func (s *stream) take(m *fleetv1.SyncResponse) error {
	if s.epoch == "" {
		return s.welcome(m.GetWelcome())
	}
	if s.snapshot != nil && m.GetChunk() == nil {
		return errors.New("something came between the chunks of a snapshot")
	}
	switch m := m.GetMessage().(type) {
	case *fleetv1.SyncResponse_Chunk:
		return s.chunk(m.Chunk)
	case *fleetv1.SyncResponse_Delta:
		return s.delta(m.Delta)
	case *fleetv1.SyncResponse_Heartbeat:
		s.heartbeat(m.Heartbeat)
		return nil
	default:
		return errors.New("a message that this proxy does not know: it is older than the control plane, upgrade it")
	}
}

func (s *stream) welcome(w *fleetv1.Welcome) error {
	if w.GetEpoch() == "" {
		return errors.New("the stream did not begin with a welcome")
	}
	s.epoch = w.GetEpoch()
	if v := s.r.view.Load(); v != nil && v.epoch != s.epoch {
		s.r.cfg.Logger.Warn("the control plane has another log than before, as after a restore: its snapshot replaces what is enforced",
			"was", v.epoch, "is", s.epoch)
	}
	s.r.connected.Store(true)
	if s.r.cfg.OnWelcome != nil {
		s.r.cfg.OnWelcome(w)
	}
	return nil
}

// enforced returns what is enforced of the stream's log, or nil.
func (s *stream) enforced() *view {
	if v := s.r.view.Load(); v != nil && v.epoch == s.epoch {
		return v
	}
	return nil
}

func (s *stream) chunk(c *fleetv1.SnapshotChunk) error {
	switch {
	case c.GetEpoch() != s.epoch:
		return fmt.Errorf("a snapshot of log %q in a stream of %q", c.GetEpoch(), s.epoch)
	case s.snapshot != nil && c.GetVersion() != s.snapshotVersion:
		return errors.New("the chunks of a snapshot differ in version")
	}
	if v := s.enforced(); v != nil && c.GetVersion() < v.table.Version() {
		s.r.refused.Add(1)
		return fmt.Errorf("refused a snapshot of version %d, lower than %d, which is enforced", c.GetVersion(), v.table.Version())
	}
	if s.snapshot == nil {
		s.snapshot, s.snapshotVersion = policy.NewBuilder(), c.GetVersion()
	}
	if err := s.snapshot.Put(slices.Values(c.GetEntries())); err != nil {
		return fmt.Errorf("a snapshot of version %d: %w", c.GetVersion(), err)
	}
	if !c.GetLast() {
		return nil
	}
	table := s.snapshot.Table(c.GetVersion())
	s.snapshot = nil
	if !bytes.Equal(table.Digest(), c.GetDigest()) {
		// Asking again at once would most likely bring the same.
		s.r.resyncs.Add(1)
		return fmt.Errorf("the digest of a snapshot of version %d differs", c.GetVersion())
	}
	s.resyncing = false
	s.r.install(s.epoch, table)
	s.acks.enforced(table.Version())
	return nil
}

func (s *stream) delta(d *fleetv1.Delta) error {
	if s.resyncing {
		return nil
	}
	v := s.enforced()
	if v == nil {
		return errors.New("a change came before a snapshot")
	}
	if d.GetVersion() <= v.table.Version() {
		s.r.refused.Add(1)
		return fmt.Errorf("refused a change to version %d, when %d is enforced", d.GetVersion(), v.table.Version())
	}
	if d.GetFromVersion() != v.table.Version() {
		return fmt.Errorf("a change from version %d came when %d is enforced", d.GetFromVersion(), v.table.Version())
	}
	if err := s.r.apply(v, d); err != nil {
		s.r.resyncs.Add(1)
		s.r.cfg.Logger.Error("the table differs from the control plane's: asking for a full snapshot", "version", d.GetVersion(), "error", err)
		s.resyncing = true
		s.acks.resync(d.GetFromVersion())
		return nil
	}
	s.acks.enforced(d.GetVersion())
	return nil
}

// heartbeat renews the lease, if all that the proved position covers is enforced.
func (s *stream) heartbeat(h *fleetv1.Heartbeat) {
	s.lived = true
	if h.GetPeers() != nil && s.r.cfg.OnPeers != nil {
		s.r.cfg.OnPeers(h.GetPeers().GetPeers())
	}
	v := s.enforced()
	if v == nil {
		return
	}
	if h.GetAuthorities() != nil && s.r.cfg.OnAuthorities != nil {
		s.r.cfg.OnAuthorities(h.GetAuthorities())
	}
	if s.r.cfg.Authorities != nil {
		if now := s.r.cfg.Authorities(); !proto.Equal(now, s.holds) {
			s.holds = now
			s.acks.authority(now)
		}
	}
	if s.r.cfg.Troubles != nil {
		if now := s.r.cfg.Troubles(); !proto.Equal(now, s.troubles) && (s.troubles != nil || len(now.GetTroubles()) > 0) {
			s.troubles = now
			s.acks.trouble(now)
		}
	}
	s.acks.enforced(v.table.Version()) // so that the next heartbeat has a new mark
	began, known := s.marks.when(h.GetMark())
	if !known || h.GetFencedVersion() > v.table.Version() {
		return
	}
	s.r.renew(lease{began: began, length: h.GetLease().AsDuration()})
}
