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
}

func newAcks() *acks { return &acks{wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1)} }

func (a *acks) enforced(version uint64) { a.set(version, false) }

func (a *acks) resync(version uint64) {
	a.set(version, true)
	select {
	case a.urgent <- struct{}{}:
	default:
	}
}

func (a *acks) set(version uint64, again bool) {
	a.mu.Lock()
	a.version, a.due, a.again = version, true, a.again || again
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx is done, and then closes the sending side: net/http watches a stream's context only when that is
// closed, so that a receive on a stream that is silent would not end otherwise.
func (a *acks) run(ctx context.Context, conn *connect.BidiStreamForClient[fleetv1.SyncRequest, fleetv1.SyncResponse], every time.Duration) error {
	defer func() { _ = conn.CloseRequest() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
		a.mu.Lock()
		ack, due := &fleetv1.Ack{Version: a.version, Resync: a.again}, a.due
		a.due, a.again = false, false
		a.mu.Unlock()
		if !due {
			continue
		}
		if err := conn.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Ack{Ack: ack}}); err != nil {
			return fmt.Errorf("acknowledging: %w", err)
		}
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
