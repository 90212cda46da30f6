package admin

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// Vault is what the API needs to rotate the vault's keys.
type Vault interface {
	RotateKey(ctx context.Context) (*adminv1.VaultStatus, error)
	KeyStatus(ctx context.Context) (*adminv1.VaultStatus, error)
}

func (a *api) RotateVaultKey(ctx context.Context, _ *connect.Request[adminv1.RotateVaultKeyRequest]) (*connect.Response[adminv1.RotateVaultKeyResponse], error) {
	status, err := a.Vault.RotateKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("rotating the vault's keys: %w", err)
	}
	a.Log.InfoContext(ctx, "the vault's keys were rotated", "key", status.GetKeyId(), "actor", callerOf(ctx).actor().GetId())
	return connect.NewResponse(&adminv1.RotateVaultKeyResponse{Status: status}), nil
}

func (a *api) GetVaultStatus(ctx context.Context, _ *connect.Request[adminv1.GetVaultStatusRequest]) (*connect.Response[adminv1.GetVaultStatusResponse], error) {
	status, err := a.Vault.KeyStatus(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the vault's keys: %w", err)
	}
	return connect.NewResponse(&adminv1.GetVaultStatusResponse{Status: status}), nil
}
