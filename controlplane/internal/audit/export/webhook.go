package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/vault"
	"sallyport.dev/controlplane/internal/webhook"
)

// hook posts batches, signed as Standard Webhooks says. A batch that is sent again has the id that it had.
type hook struct {
	*receiver
	name string
	key  []byte
	text bool // lines are no JSON
}

func openWebhook(e *policyv1.AuditExporter, secret vault.Secret) (*hook, error) {
	if len(secret.Reveal()) == 0 {
		return nil, errNoSecret
	}
	key, err := webhook.ReadKey(string(secret.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("its secret is no key of a webhook: %w", err)
	}
	r, err := newReceiver(e)
	if err != nil {
		return nil, err
	}
	name, _ := formatOf(e)
	return &hook{receiver: r, name: e.GetName(), key: key, text: name == "cef"}, nil
}

// Send posts a batch.
func (h *hook) Send(ctx context.Context, items []Item) error {
	id := sha256.New()
	records := make([]json.RawMessage, len(items))
	for i, item := range items {
		_, _ = fmt.Fprintln(id, item.ID()) // a hash does not fail
		records[i] = item.Line
		if h.text {
			quoted, err := json.Marshal(string(item.Line))
			if err != nil {
				return fmt.Errorf("writing the message: %w", err)
			}
			records[i] = quoted
		}
	}
	at := time.Now()
	body, err := json.Marshal(map[string]any{
		"type": "audit.records", "timestamp": at.UTC(), "data": map[string]any{"exporter": h.name, "records": records},
	})
	if err != nil {
		return fmt.Errorf("writing the message: %w", err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	webhook.Sign(header, h.key, "audit_"+hex.EncodeToString(id.Sum(nil)[:16]), at, body)
	_, err = h.post(ctx, h.url, header, body)
	return err
}

// Close lets go of connections.
func (h *hook) Close() error { return h.close() }
