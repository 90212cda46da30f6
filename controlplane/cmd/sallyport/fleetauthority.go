package main

import (
	"context"

	"sallyport.dev/controlplane/internal/fleet"
	"sallyport.dev/controlplane/internal/fleetca"
)

// rotate moves a rotation of the fleet's authority on, and keeps up with what other control planes do of it, until ctx ends.
func (p *plane) rotate(ctx context.Context, r *fleet.Rotation) {
	r.Authority.Run(ctx, r.Ready, func(stage fleetca.Stage, err error) {
		if err != nil {
			p.log.WarnContext(ctx, "the rotation of the fleet's authority does not go on; it is tried again", "error", err)
			return
		}
		p.log.InfoContext(ctx, "the rotation of the fleet's authority went on", "stage", stage)
		r.Told(stage)
	})
}
