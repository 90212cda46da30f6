package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Sync keeps one proxy current.
func (s *Server) Sync(ctx context.Context, stream *connect.BidiStream[fleetv1.SyncRequest, fleetv1.SyncResponse]) error {
	token, err := s.proxy(ctx)
	if err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return fmt.Errorf("reading a proxy's hello: %w", err)
	}
	hello := first.GetHello()
	if hello == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("a stream begins with hello"))
	}
	state, err := s.catchUp(ctx, token, hello)
	if err != nil {
		return err
	}
	keys, err := s.config.Secrets.RegionKeys(ctx, token.Region, state.SealingEpoch(token.Region))
	if err != nil {
		s.config.Log.ErrorContext(ctx, "a region's keys could not be read", "region", token.Region, "error", err)
		return connect.NewError(connect.CodeUnavailable, errors.New("the region's keys cannot be read now: try again"))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &cursor{
		server: s, stream: stream, token: token, feed: s.config.Publisher.feed(token.Region, state.Epoch()), epoch: state.Epoch(), resync: make(chan struct{}, 1),
		began: s.config.Now(), sealing: state.SealingEpoch(token.Region),
	}
	c.mark(hello.GetMark())
	select {
	case s.prove <- struct{}{}:
	default: // it was asked for already
	}
	err = c.send(&fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Welcome{Welcome: &fleetv1.Welcome{
		Epoch: c.epoch, Proxy: token.Name, Region: token.Region, SealingKeys: keys, ConditionValuesKey: s.config.ConditionValuesKey,
	}}})
	if err != nil {
		return err
	}
	s.config.Roster.Connected(token, hello, s.config.Name)
	c.holding(hello.GetAuthorities())
	defer s.config.Roster.Disconnected(token, s.config.Name)

	received := make(chan error, 1)
	go func() {
		received <- c.receive()
		cancel()
	}()
	if hello.GetEpoch() == c.epoch && bytes.Equal(c.feed.digestAt(hello.GetVersion()), hello.GetDigest()) && len(hello.GetDigest()) > 0 {
		c.version = hello.GetVersion()
		s.config.Roster.Acknowledged(token, c.version, s.config.Now())
	} else if err := c.sendSnapshot(ctx); err != nil {
		return err
	}
	err = c.run(ctx)
	if ctx.Err() != nil {
		select {
		case got := <-received:
			if got == nil || errors.Is(got, io.EOF) {
				return nil
			}
			return got
		default:
		}
	}
	return err
}

// catchUp refuses to serve a proxy that knows more of the log than this control plane does, until it has
// caught up. A proxy that knows more than the log holds shows that the log was rolled back.
func (s *Server) catchUp(ctx context.Context, token *core.Token, hello *fleetv1.Hello) (*core.State, error) {
	state := s.config.Engine.State()
	if hello.GetEpoch() != state.Epoch() || hello.GetVersion() <= state.Seq() {
		return state, nil
	}
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("this control plane is behind the proxy and cannot catch up now: try another"))
	}
	if hello.GetVersion() > state.Seq() {
		s.config.Log.ErrorContext(ctx, "the log was rolled back: a proxy enforces a version that the log does not hold; restore the log or start a new epoch",
			"proxy", token.Name, "proxy_version", hello.GetVersion(), "log_version", state.Seq())
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the log ends before this proxy's version: it was rolled back, an admin must act"))
	}
	return state, nil
}

// cursor is one proxy's place in its region's feed.
type cursor struct {
	server  *Server
	stream  *connect.BidiStream[fleetv1.SyncRequest, fleetv1.SyncResponse]
	token   *core.Token
	feed    *feed
	epoch   string
	version uint64
	resync  chan struct{}
	began   time.Time
	sealing uint64 // the epoch of the sealing keys that the proxy was told
	marked  atomic.Pointer[marked]
	peers   string                              // what the proxy was told of, see Roster.Peers
	holds   atomic.Pointer[fleetv1.Authorities] // what the proxy said that it holds
}

// marked is the newest mark that was read, and when.
type marked struct {
	mark uint64
	at   time.Time
}

func (c *cursor) mark(mark uint64) { c.marked.Store(&marked{mark, c.server.config.Now()}) }

// run sends rounds as they come and heartbeats as they are proved, until the stream ends or the proxy's
// token is no longer valid. A heartbeat waits until the proxy was sent all up to the position that it proves.
func (c *cursor) run(ctx context.Context) error {
	last, beat := c.server.beat.get()
	for {
		rounds, more, ok := c.feed.after(c.version)
		if !ok {
			if err := c.sendSnapshot(ctx); err != nil {
				return err
			}
			continue
		}
		for _, r := range rounds {
			if err := c.send(r.message); err != nil {
				return err
			}
			c.version = r.to
		}
		if last.fenced != 0 && last.fenced <= c.version {
			if err := c.heartbeat(ctx, last); err != nil {
				return err
			}
			last = proof{}
		}
		if len(rounds) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case <-c.resync:
			if err := c.sendSnapshot(ctx); err != nil {
				return err
			}
		case <-beat:
			last, beat = c.server.beat.get()
		}
		state := c.server.config.Engine.State()
		if state.Token(c.token.ID) == nil {
			return connect.NewError(connect.CodeUnauthenticated, errors.New("the proxy was revoked"))
		}
		if c.server.outdated(ctx) {
			return errOutdated()
		}
		if state.SealingEpoch(c.token.Region) != c.sealing {
			// A welcome tells them, and the stream that follows goes on where this one ended.
			return connect.NewError(connect.CodeAborted, errors.New("the region's sealing keys were replaced: connect again"))
		}
	}
}

// leaseAhead is the part of a lease by which it is written down as longer than it is.
const leaseAhead = 10

// heartbeat renews the lease from when the position was proved: a control plane that has been cut off from
// the log has an old proof, with which no proxy may begin a whole lease. One from before the stream began
// begins none: the proxy may have enforced, and acknowledged elsewhere, what came after it, and have lost it
// in a restart. A lease that cannot be written down is not given.
func (c *cursor) heartbeat(ctx context.Context, last proof) error {
	now, marked := c.server.config.Now(), c.marked.Load()
	lease := c.server.config.Lease - now.Sub(last.at)
	if lease <= 0 || last.at.Before(c.began) {
		return nil
	}
	// The proxy counts from when it sent the mark, which was before it was read.
	if err := c.server.config.Roster.Lease(ctx, c.token, marked.at.Add(lease), c.server.config.Lease/leaseAhead); err != nil {
		c.server.config.Log.WarnContext(ctx, "a proxy's lease is not renewed", "proxy", c.token.Name, "error", err)
		return nil
	}
	beat := &fleetv1.Heartbeat{FencedVersion: last.fenced, Lease: durationpb.New(lease), At: timestamppb.New(now), Mark: marked.mark}
	if peers, told := c.server.config.Roster.Peers(c.server.config.Engine.State(), c.token, now); told != c.peers {
		beat.Peers, c.peers = peers, told
	}
	if wanted := wire(c.server.config.Authority.Wanted()); c.token.SPIFFEID == "" && !proto.Equal(wanted, c.holds.Load()) {
		beat.Authorities = wanted
	}
	return c.send(&fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Heartbeat{Heartbeat: beat}})
}

func (c *cursor) sendSnapshot(ctx context.Context) error {
	snapshot := c.feed.full(c.epoch)
	for i := 0; ; i++ {
		chunk, err := snapshot.chunk(ctx, i)
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return connect.NewError(connect.CodeInternal, errors.New("the snapshot could not be made"))
		case chunk == nil:
			c.version = snapshot.version
			return nil
		}
		if err := c.send(chunk); err != nil {
			return err
		}
	}
}

func (c *cursor) send(m *fleetv1.SyncResponse) error {
	if err := c.stream.Send(m); err != nil {
		return fmt.Errorf("sending to proxy %s: %w", c.token.Name, err)
	}
	return nil
}

// receive takes acknowledgements until the stream ends.
func (c *cursor) receive() error {
	for {
		m, err := c.stream.Receive()
		if err != nil {
			return err
		}
		ack := m.GetAck()
		if ack == nil {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("after hello only acknowledgements are expected"))
		}
		if ack.GetLeaving() {
			c.server.config.Roster.Left(c.token)
			return nil
		}
		c.mark(ack.GetMark())
		c.holding(ack.GetAuthorities())
		if t := ack.GetTroubles(); t != nil {
			c.server.config.Roster.Troubled(c.token, t)
		}
		if ack.GetResync() {
			c.server.config.Log.Warn("a proxy's table differed from its digest: it gets a full snapshot", "proxy", c.token.Name, "version", ack.GetVersion())
			c.server.config.Roster.Resynced(c.token)
			select {
			case c.resync <- struct{}{}:
			default:
			}
			continue
		}
		c.server.config.Roster.Acknowledged(c.token, ack.GetVersion(), c.server.config.Now())
	}
}
