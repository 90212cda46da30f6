package vault

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// PutExporterSecret keeps what an exporter of audit shows its receiver, under a new name.
func (v *Vault) PutExporterSecret(ctx context.Context, exporter, value string) (secretID string, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming a secret: %w", err)
	}
	secretID = "exporter." + id.String()
	return secretID, v.Put(ctx, secretID, exporter, NewSecret([]byte(value)))
}

// ExporterSecret returns a value that was put for an exporter.
func (v *Vault) ExporterSecret(ctx context.Context, secretID, exporter string) (Secret, error) {
	return v.Get(ctx, secretID, exporter)
}

// DestroyExporterSecret removes one for good.
func (v *Vault) DestroyExporterSecret(ctx context.Context, secretID string) error {
	return v.Destroy(ctx, secretID)
}
