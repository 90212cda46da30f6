package admin

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/fleetca"
)

// FleetAuthority rotates the authority that certifies proxies and control planes.
type FleetAuthority interface {
	Standing(ctx context.Context) (*adminv1.GetFleetAuthorityResponse, error)
	// Rotate begins a rotation and returns the new authority's fingerprint.
	Rotate(ctx context.Context, by *auditv1.Actor) (string, error)
	// Drop ends one at once and names whom it cuts off.
	Drop(ctx context.Context, by *auditv1.Actor) ([]string, error)
}

// rotating translates what a rotation refuses.
func rotating(err error) error {
	if errors.Is(err, fleetca.ErrRotating) || errors.Is(err, fleetca.ErrSettled) {
		return &core.Error{Code: core.FailedPrecondition, Message: err.Error()}
	}
	return err
}

func (a *api) GetFleetAuthority(ctx context.Context, _ *connect.Request[adminv1.GetFleetAuthorityRequest]) (*connect.Response[adminv1.GetFleetAuthorityResponse], error) {
	res, err := a.FleetAuthority.Standing(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func (a *api) RotateFleetAuthority(ctx context.Context, _ *connect.Request[adminv1.RotateFleetAuthorityRequest]) (*connect.Response[adminv1.RotateFleetAuthorityResponse], error) {
	fingerprint, err := a.FleetAuthority.Rotate(ctx, auditActor(ctx))
	if err != nil {
		return nil, rotating(err)
	}
	return connect.NewResponse(&adminv1.RotateFleetAuthorityResponse{Fingerprint: fingerprint}), nil
}

func (a *api) DropFleetAuthority(ctx context.Context, _ *connect.Request[adminv1.DropFleetAuthorityRequest]) (*connect.Response[adminv1.DropFleetAuthorityResponse], error) {
	cut, err := a.FleetAuthority.Drop(ctx, auditActor(ctx))
	if err != nil {
		return nil, rotating(err)
	}
	return connect.NewResponse(&adminv1.DropFleetAuthorityResponse{CutOff: cut}), nil
}

// auditActor is the caller as audit names them.
func auditActor(ctx context.Context) *auditv1.Actor {
	return &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_ADMIN, Id: callerOf(ctx).actor().GetId()}
}
