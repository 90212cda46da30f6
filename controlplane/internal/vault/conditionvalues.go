package vault

import (
	"context"
	"crypto/rand"
)

// ConditionValuesSeed returns the seed of the key to which proxies seal what conditions read of arguments, and makes it at the first call.
func (v *Vault) ConditionValuesSeed(ctx context.Context) ([]byte, error) {
	secret, err := v.GetOrMake(ctx, "condition-values-key", "audit", func() Secret {
		seed := make([]byte, 32)
		_, _ = rand.Read(seed) // never fails
		return NewSecret(seed)
	})
	if err != nil {
		return nil, err
	}
	return secret.Reveal(), nil
}
