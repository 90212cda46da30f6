package vault

import (
	"context"
	"crypto/rand"
)

// SightingsKey returns the key of the digests by which whoever is not provisioned is remembered, and makes it at the first call.
func (v *Vault) SightingsKey(ctx context.Context) ([]byte, error) {
	secret, err := v.GetOrMake(ctx, "sightings-key", "sightings", func() Secret {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		return NewSecret(key)
	})
	if err != nil {
		return nil, err
	}
	return secret.Reveal(), nil
}
