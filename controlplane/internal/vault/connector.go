package vault

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// PutConnectorSecret keeps the value of a connector's authentication header under a new name.
func (v *Vault) PutConnectorSecret(ctx context.Context, connector, value string) (secretID string, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming a secret: %w", err)
	}
	secretID = "connector." + id.String()
	return secretID, v.Put(ctx, secretID, connector, NewSecret([]byte(value)))
}

// ConnectorSecret returns a value that was put for a connector.
func (v *Vault) ConnectorSecret(ctx context.Context, secretID, connector string) (string, error) {
	secret, err := v.Get(ctx, secretID, connector)
	if err != nil {
		return "", err
	}
	return string(secret.Reveal()), nil
}

// DestroyConnectorSecret removes one for good.
func (v *Vault) DestroyConnectorSecret(ctx context.Context, secretID string) error {
	return v.Destroy(ctx, secretID)
}

// RegionKeys returns the keys that seal session ids in a region since an epoch, newest first, and makes the first one. Those of another
// epoch open nothing any more.
func (v *Vault) RegionKeys(ctx context.Context, region string, epoch uint64) ([]*fleetv1.SealingKey, error) {
	name := fmt.Sprintf("region.%s.%d", region, epoch)
	secret, err := v.GetOrMake(ctx, name, region, func() Secret { return NewSecret(newKey()[:]) })
	if err != nil {
		return nil, err
	}
	return []*fleetv1.SealingKey{{Id: uint32(epoch) + 1, Key: secret.Reveal()}}, nil
}
