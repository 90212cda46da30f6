package gateway

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// maxTroubles bounds what admins are told of at a time.
const maxTroubles = 200

// Troubles are what is wrong here, for admins: names that are hidden because several things would bear them, and connectors whose
// upstream failed more than once in a row. They are in an order that stays.
func (g *Gateway) Troubles() *fleetv1.Troubles {
	out := &fleetv1.Troubles{}
	offered := func(string) bool { return false }
	if table, err := g.Replica.Usable(g.Now()); err == nil {
		offered = func(connector string) bool { _, ok := table.Connector(connector); return ok }
		names := table.Collisions()
		slices.Sort(names)
		for _, name := range names {
			out.Troubles = append(out.Troubles, &fleetv1.Trouble{HiddenName: clipTo(name, 150)})
		}
	}
	for _, h := range g.Upstream.Health() {
		if !offered(h.Connector) {
			continue
		}
		if alone := !h.Until.IsZero(); alone || h.Failures > 1 {
			out.Troubles = append(out.Troubles, &fleetv1.Trouble{Connector: h.Connector, Reason: h.Last.String(), Since: timestamppb.New(h.Since), LeftAlone: alone})
		}
	}
	slices.SortStableFunc(out.Troubles, func(a, b *fleetv1.Trouble) int { return cmp.Compare(a.GetConnector(), b.GetConnector()) })
	out.Troubles = out.Troubles[:min(len(out.Troubles), maxTroubles)]
	return out
}
