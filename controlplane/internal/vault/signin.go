package vault

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// PutSignInSecret keeps the secret of the client with which a directory's people are signed in, under a new name.
func (v *Vault) PutSignInSecret(ctx context.Context, directory, value string) (secretID string, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming a secret: %w", err)
	}
	secretID = "signin." + id.String()
	return secretID, v.Put(ctx, secretID, "signin "+directory, NewSecret([]byte(value)))
}

// SignInSecret returns a value that was put for a directory.
func (v *Vault) SignInSecret(ctx context.Context, secretID, directory string) (string, error) {
	secret, err := v.Get(ctx, secretID, "signin "+directory)
	if err != nil {
		return "", err
	}
	return string(secret.Reveal()), nil
}

// DestroySignInSecret removes one for good.
func (v *Vault) DestroySignInSecret(ctx context.Context, secretID string) error {
	return v.Destroy(ctx, secretID)
}
