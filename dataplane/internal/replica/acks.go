package replica

import (
	"context"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// acks sends what a stream says after Hello. The first acknowledgement after a quiet time goes out at once, since an
// admin may wait for it; then one covers all that came meanwhile.
type acks struct {
	wake   chan struct{}
	urgent chan struct{} // ends the pause between two

	mu      sync.Mutex
	version uint64
	due     bool
	again   bool // a full snapshot is asked for
	leaving bool
	// troubles, if they are others than was said.
	troubles *fleetv1.Troubles
	// holds, if it is something else than was said.
	holds *fleetv1.Authorities
}

func newAcks() *acks { return &acks{wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1)} }

func (a *acks) enforced(version uint64) {
	a.mu.Lock()
	a.version, a.due = version, true
	a.mu.Unlock()
	signal(a.wake)
}

func (a *acks) resync(version uint64) {
	a.mu.Lock()
	a.version, a.due, a.again = version, true, true
	a.mu.Unlock()
	signal(a.wake)
	signal(a.urgent)
}

// trouble has the next acknowledgement say what is wrong.
func (a *acks) trouble(t *fleetv1.Troubles) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.troubles = t
}

// authority has the next acknowledgement say what the proxy holds of the fleet's authorities.
func (a *acks) authority(holds *fleetv1.Authorities) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holds = holds
}

// leave has run send that the proxy leaves, and return.
func (a *acks) leave() {
	a.mu.Lock()
	a.due, a.leaving = true, true
	a.mu.Unlock()
	signal(a.wake)
	signal(a.urgent)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run sends, numbered by mark, until ctx is done or the proxy leaves, and then closes the sending side: net/http watches a
// stream's context only when that is closed, so that a receive on a stream that is silent would not end otherwise.
func (a *acks) run(ctx context.Context, conn *connect.BidiStreamForClient[fleetv1.SyncRequest, fleetv1.SyncResponse], every time.Duration, mark func() uint64) error {
	defer func() { _ = conn.CloseRequest() }()
	said := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
		a.mu.Lock()
		ack, due := &fleetv1.Ack{Version: a.version, Resync: a.again, Leaving: a.leaving, Troubles: a.troubles, Authorities: a.holds}, a.due
		a.due, a.again, a.troubles, a.holds = false, false, nil, nil
		a.mu.Unlock()
		if !due {
			continue
		}
		ack.Mark = mark()
		if err := conn.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Ack{Ack: ack}}); err != nil {
			return fmt.Errorf("acknowledging: %w", err)
		}
		if ack.GetLeaving() {
			return nil
		}
		if ack.GetVersion() == said && !ack.GetResync() {
			continue // it answered a heartbeat, which may not make a change wait
		}
		said = ack.GetVersion()
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-a.urgent:
		case <-timer.C:
		}
		timer.Stop()
	}
}
