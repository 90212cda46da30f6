package main

import (
	"context"
	"path/filepath"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/vault"
)

// vaultKeys is the vault as the admin API sees it.
type vaultKeys struct{ *vault.Vault }

// RotateKey rotates the vault's keys.
func (v vaultKeys) RotateKey(ctx context.Context) (*adminv1.VaultStatus, error) {
	return vaultStatus(v.Rotate(ctx))
}

// KeyStatus says where the last rotation stands.
func (v vaultKeys) KeyStatus(ctx context.Context) (*adminv1.VaultStatus, error) {
	return vaultStatus(v.Status(ctx))
}

func vaultStatus(r vault.Rotation, err error) (*adminv1.VaultStatus, error) {
	return &adminv1.VaultStatus{
		KeyId: r.Key, OldKeys: uint32(r.OldKeys), DataKeys: uint64(r.Wrapped), DataKeysOfOld: uint64(r.WrappedByOld),
	}, err
}

// keysOfVault are what the flags name, or the default.
func (c *serveConfig) keysOfVault() []string {
	if len(c.vaultKeys) > 0 {
		return c.vaultKeys
	}
	return []string{"file:" + filepath.Join(c.dataDir, "key-encryption-key.json")}
}
