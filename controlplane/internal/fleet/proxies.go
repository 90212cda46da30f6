package fleet

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Proxies lists the proxies that have a token as admins see them, and returns a channel that is closed
// when any of them changes. Those whose token was revoked are among them as long as they may serve.
func (r *Roster) Proxies(s *core.State, now time.Time) ([]*adminv1.Proxy, <-chan struct{}, error) {
	standings, changed, err := r.Standings(s, now)
	proxies := make([]*adminv1.Proxy, len(standings))
	for i, p := range standings {
		proxies[i] = &adminv1.Proxy{
			Name: p.Name, Region: p.Region, Connected: p.ServedBy != "", ServedBy: p.ServedBy, Version: p.Version, Build: p.Build, Troubles: p.troubles(),
			AcknowledgedAt: stamp(p.AcknowledgedAt), LeaseUntil: stamp(p.LeaseUntil), Revoked: p.Revoked, SpiffeId: p.SPIFFEID,
		}
	}
	return proxies, changed, err
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
