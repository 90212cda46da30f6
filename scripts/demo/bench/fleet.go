package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"sallyport.dev/dataplane/policy"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"
)

// fleet is many replicas of the policy table in this process. Each follows Sync on a connection of its own, applies what
// comes, decides, and acknowledges.
type fleet struct {
	cancel  context.CancelFunc
	group   sync.WaitGroup
	n       int
	ready   chan error            // one per replica: its first table is there, or why it never will be
	watched atomic.Pointer[watch] // who is to be deactivated
	failed  chan error
	one     *policy.Table // any replica's, to look people up in
	setOne  sync.Once
}

// watch collects the time at which each replica first refused a person.
type watch struct {
	request policy.Request
	refused chan time.Time
}

const region = "us-east"

func (l *lab) startFleet(ctx context.Context, n int) (*fleet, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{cancel: cancel, n: n, ready: make(chan error, n), failed: make(chan error, n)}
	url, admin := l.installation.AdminURL()
	proxies := adminv1connect.NewProxyServiceClient(admin, url)
	for i := range n {
		invited, err := proxies.InviteProxy(ctx, connect.NewRequest(&adminv1.InviteProxyRequest{Name: fmt.Sprintf("replica-%d", i+1), Region: region}))
		if err != nil {
			f.close()
			return nil, fmt.Errorf("invite a replica: %w", err)
		}
		r := &replica{fleet: f, base: l.installation.FleetURL(), invitation: invited.Msg.GetToken()}
		f.group.Go(func() {
			if err := r.follow(ctx); err != nil && ctx.Err() == nil {
				err = fmt.Errorf("replica %d: %w", i+1, err)
				f.failed <- err
				if r.table == nil {
					f.ready <- err
				}
			}
		})
	}
	for range n {
		select {
		case err := <-f.ready:
			if err != nil {
				f.close()
				return nil, err
			}
		case <-ctx.Done():
			f.close()
			return nil, fmt.Errorf("wait for the replicas' tables: %w", ctx.Err())
		}
	}
	return f, l.installation.Enforced(ctx)
}

func (f *fleet) close() {
	f.cancel()
	f.group.Wait()
}

// watch makes every replica decide the calls of a person after each change. They must be allowed now.
func (f *fleet) watch(oktaID string) error {
	person, ok := f.one.Person("okta", oktaID)
	if !ok {
		return fmt.Errorf("the table has nobody with the id %s", oktaID)
	}
	arguments, err := f.one.Arguments(loaded, toolName, []byte(`{"key":"item/4711"}`))
	if err != nil {
		return fmt.Errorf("read the arguments of the call: %w", err)
	}
	w := &watch{refused: make(chan time.Time, f.n), request: policy.Request{
		Person: person.ID, Client: "bench", Connector: loaded, Tool: toolName, Region: region, Arguments: arguments, Now: time.Now(),
	}}
	if d := f.one.Decide(w.request); !d.Allowed {
		return errors.New("a call is refused before the deactivation: " + d.Text())
	}
	f.watched.Store(w)
	return nil
}

// last waits for the last refusal.
func (f *fleet) last(ctx context.Context) (time.Time, error) {
	var last time.Time
	w := f.watched.Load()
	for range f.n {
		select {
		case at := <-w.refused:
			if at.After(last) {
				last = at
			}
		case err := <-f.failed:
			return time.Time{}, err
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for refusals: %w", ctx.Err())
		}
	}
	f.watched.Store(nil)
	return last, nil
}

// replica is one table that is kept current.
type replica struct {
	fleet      *fleet
	base       string
	invitation string
	entries    []*fleetv1.Entry // of a snapshot that is coming
	table      *policy.Table
	told       *watch // that has this replica's refusal
}

// follow takes in what one Sync stream brings until it ends.
func (r *replica) follow(ctx context.Context) error {
	identity, err := join(ctx, r.base, r.invitation)
	if err != nil {
		return err
	}
	var http2 http.Protocols
	http2.SetHTTP2(true)
	transport := &http.Transport{Protocols: &http2, TLSClientConfig: identity}
	defer transport.CloseIdleConnections()
	stream := fleetv1connect.NewFleetServiceClient(&http.Client{Transport: transport}, r.base).Sync(ctx)
	defer func() {
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
	}()
	hello := &fleetv1.Hello{Build: "bench", FeatureLevel: 1}
	if err := stream.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: hello}}); err != nil {
		return fmt.Errorf("open the stream: %w", err)
	}
	// A receive on a silent stream ends only with the sending side (net/http).
	stop := context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })
	defer stop()
	for {
		m, err := stream.Receive()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		enforced, err := r.take(m)
		if err != nil {
			return err
		}
		if enforced == 0 {
			continue
		}
		if err := stream.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Ack{Ack: &fleetv1.Ack{Version: enforced}}}); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
}

// take takes one message in; the version is what is enforced now, if that changed.
func (r *replica) take(m *fleetv1.SyncResponse) (enforced uint64, err error) {
	switch {
	case m.GetChunk() != nil:
		r.entries = append(r.entries, m.GetChunk().GetEntries()...)
		if !m.GetChunk().GetLast() {
			return 0, nil
		}
		table, err := policy.Compile(m.GetChunk().GetVersion(), slices.Values(r.entries))
		if err != nil {
			return 0, fmt.Errorf("compile the snapshot: %w", err)
		}
		again := r.table != nil
		r.table, r.entries = table, nil
		if again {
			return 0, errors.New("a second snapshot came: the stream fell behind")
		}
		r.fleet.setOne.Do(func() { r.fleet.one = table })
		r.fleet.ready <- nil
	case m.GetDelta() != nil:
		if r.table == nil {
			return 0, errors.New("a change came before a snapshot")
		}
		effect, err := r.table.Apply(m.GetDelta())
		if err != nil {
			return 0, fmt.Errorf("apply a change: %w", err)
		}
		w := r.fleet.watched.Load()
		if w != nil && w != r.told && slices.Contains(effect.People, w.request.Person) && !r.table.Decide(w.request).Allowed {
			w.refused <- time.Now() // one a replica: there is room
			r.told = w
		}
	default:
		return 0, nil // a welcome or a heartbeat
	}
	return r.table.Version(), nil
}
