package enrolment

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/spiffe"
)

// Workload is a proxy's identity where a SPIFFE authority gives it, as files on disk, in place of the fleet's own. It is safe for concurrent use.
type Workload struct {
	source       *spiffe.Source
	controlPlane spiffeid.ID
	// peers are the ids of the region's proxies, as the control plane told them last.
	peers atomic.Pointer[map[string]bool]
}

// OpenWorkload waits for an identity as long as ctx lives. controlPlane is the SPIFFE id of control planes.
func OpenWorkload(ctx context.Context, c spiffe.Config, controlPlane string) (*Workload, error) {
	id, err := spiffeid.FromString(controlPlane)
	if err != nil || id.Path() == "" {
		return nil, fmt.Errorf("--spiffe-control-plane names control planes by their SPIFFE id, such as spiffe://example.org/sallyport/control-plane, not %q", controlPlane)
	}
	source, err := spiffe.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	w := &Workload{source: source, controlPlane: id}
	w.peers.Store(&map[string]bool{})
	return w, nil
}

// ForControlPlanes is how the proxy meets control planes.
func (w *Workload) ForControlPlanes() *tls.Config { return w.meets(w.controlPlane.String()) }

// ForPeer is how the proxy meets another of its region.
func (w *Workload) ForPeer(p *fleetv1.Peer) *tls.Config { return w.meets(p.GetSpiffeId()) }

func (w *Workload) meets(want string) *tls.Config {
	return w.source.Client(func(id spiffeid.ID) error {
		if id.String() != want {
			return fmt.Errorf("%s answers, where %s was expected", id, want)
		}
		return nil
	})
}

// Peers takes the proxies of the region: a proxy that was revoked is none of them.
func (w *Workload) Peers(all []*fleetv1.Peer) {
	peers := make(map[string]bool, len(all))
	for _, p := range all {
		if p.GetSpiffeId() != "" {
			peers[p.GetSpiffeId()] = true
		}
	}
	w.peers.Store(&peers)
}

// FromPeers is how other proxies of the region meet this one.
func (w *Workload) FromPeers() *tls.Config {
	return w.source.Server(func(id spiffeid.ID) error {
		if !(*w.peers.Load())[id.String()] {
			return errors.New("no proxy of this region")
		}
		return nil
	})
}

// Holds says nothing: a workload has nothing of the fleet's own authorities.
func (w *Workload) Holds() *fleetv1.Authorities { return nil }

// Want does nothing: what a workload is to hold, its trust domain says.
func (w *Workload) Want(*fleetv1.Authorities) {}

// Run takes what changes on disk until ctx ends.
func (w *Workload) Run(ctx context.Context) { w.source.Run(ctx) }
