package credentials

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/vault"
)

// ticketFor is how long a link that an agent was given leads anywhere.
const ticketFor = 30 * time.Minute

var encoding = base64.RawURLEncoding

// ticket is what the link in an agent's hands says: for whom it is, and why. It opens nothing: whoever opens it must be signed in as that
// person.
type ticket struct {
	Person    uuid.UUID `json:"p"`
	Connector string    `json:"c"`
	Scopes    []string  `json:"s,omitempty"`
	Ends      int64     `json:"e"`
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return encoding.EncodeToString(sum[:])
}

// connect is what a person must do first: open the connector's page, as themselves.
func (k *Keeper) connect(ctx context.Context, user *core.User, connector *core.Connector, scopes []string, reason string) (Issued, error) {
	// To the whole quarter of an hour, so that calls at about the same time lead to the same page.
	ends := k.Now().Add(ticketFor).Truncate(ticketFor / 2).Unix()
	text, err := k.sign(ctx, ticket{Person: user.ID, Connector: connector.Settings.GetId(), Scopes: scopes, Ends: ends})
	if err != nil {
		return Issued{}, err
	}
	return Issued{Connect: &Connect{URL: k.URL + "/connect/" + connector.Settings.GetId() + "?t=" + text, ID: digest(text), Reason: reason}}, nil
}

func (k *Keeper) mac(ctx context.Context, body []byte) ([]byte, error) {
	key, err := k.Vault.GetOrMake(ctx, "connect.tickets", "connect", func() vault.Secret {
		made := make([]byte, 32)
		_, _ = rand.Read(made) // never fails
		return vault.NewSecret(made)
	})
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key.Reveal())
	_, _ = mac.Write(body)
	return mac.Sum(nil), nil
}

func (k *Keeper) sign(ctx context.Context, t ticket) (string, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	mac, err := k.mac(ctx, body)
	return encoding.EncodeToString(body) + "." + encoding.EncodeToString(mac), err
}

// errTicket: a link is forged, or too old.
var errTicket = errors.New("the link is not good any more")

func (k *Keeper) readTicket(ctx context.Context, text, connector string) (ticket, error) {
	var t ticket
	left, right, _ := strings.Cut(text, ".")
	body, err1 := encoding.DecodeString(left)
	mac, err2 := encoding.DecodeString(right)
	if err1 != nil || err2 != nil || len(text) > 8192 {
		return t, errTicket
	}
	want, err := k.mac(ctx, body)
	if err != nil {
		return t, err
	}
	if !hmac.Equal(mac, want) || json.Unmarshal(body, &t) != nil || t.Connector != connector || k.Now().Unix() > t.Ends {
		return t, errTicket
	}
	return t, nil
}
