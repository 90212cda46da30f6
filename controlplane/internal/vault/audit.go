package vault

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
)

// AuditKey returns the key that signs audit, and makes it at the first call.
func (v *Vault) AuditKey(ctx context.Context) (ed25519.PrivateKey, error) {
	secret, err := v.GetOrMake(ctx, "audit-signing-key", "audit", func() Secret {
		seed := make([]byte, ed25519.SeedSize)
		_, _ = rand.Read(seed) // never fails
		return NewSecret(seed)
	})
	if err != nil {
		return nil, err
	}
	if len(secret.Reveal()) != ed25519.SeedSize {
		return nil, errors.New("the vault's key that signs audit is none")
	}
	return ed25519.NewKeyFromSeed(secret.Reveal()), nil
}
