package vault

import "context"

// PutSigningKey keeps the private part of a key that signs access tokens.
func (v *Vault) PutSigningKey(ctx context.Context, id string, private []byte) error {
	return v.Put(ctx, "signing."+id, id, NewSecret(private))
}

// SigningKey returns a private part that was put.
func (v *Vault) SigningKey(ctx context.Context, id string) ([]byte, error) {
	secret, err := v.Get(ctx, "signing."+id, id)
	if err != nil {
		return nil, err
	}
	return secret.Reveal(), nil
}

// DestroySigningKey removes one for good.
func (v *Vault) DestroySigningKey(ctx context.Context, id string) error {
	return v.Destroy(ctx, "signing."+id)
}
