package okta

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Receiver is where an org tells what SCIM does not: security events (RFC 8935) and universal logouts.
type Receiver struct {
	// EventsURL takes security event tokens. Empty: none are sent.
	EventsURL string
	// LogoutURL takes universal logouts. Empty: none are sent.
	LogoutURL string
	// Audience of the event stream.
	Audience string
}

const (
	sessionRevoked = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	signalTimeout  = 10 * time.Second
)

// ConnectReceiver has the org tell a receiver. The org must have been started: it signs by the keys that it shows.
func (o *Org) ConnectReceiver(r Receiver) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.receiver = r
}

// Transmitter is what a receiver must know of the org: the issuer of its signals, and where its keys are.
func (o *Org) Transmitter() (issuer, keysURL string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.baseURL, o.baseURL + IssuerPath + "/v1/keys"
}

// LogOut is an admin's "Clear sessions and revoke tokens", or what a risk policy does: the receiver is asked by a universal
// logout to end everything that a person has. The person may sign in again.
func (o *Org) LogOut(ctx context.Context, login string) (Push, error) {
	return o.change(func(s *session) error {
		o.mu.Lock()
		u, to := o.logins[fold(login)], o.receiver.LogoutURL
		o.mu.Unlock()
		if u == nil {
			return notFound("person", login)
		}
		if to == "" {
			return errors.New("no receiver of universal logouts is connected")
		}
		token, err := o.signal("global-token-revocation+jwt", to, nil)
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]any{"sub_id": o.subject(u)})
		if err != nil {
			return fmt.Errorf("encode a universal logout: %w", err)
		}
		return s.tell(ctx, to, "application/json", token, body, http.StatusNoContent)
	})
}

// revokeSessions sends the event that goes with a suspension, if a receiver is connected.
func (s *session) revokeSessions(ctx context.Context, u *person) error {
	o := s.org
	o.mu.Lock()
	to, audience := o.receiver.EventsURL, o.receiver.Audience
	o.mu.Unlock()
	if to == "" {
		return nil
	}
	token, err := o.signal("secevent+jwt", audience, map[string]any{
		"sub_id": map[string]any{"format": "complex", "user": o.subject(u)},
		"events": map[string]any{sessionRevoked: map[string]any{"event_timestamp": o.cfg.Now().Unix(), "initiating_entity": "admin"}},
	})
	if err != nil {
		return err
	}
	return s.tell(ctx, to, "application/secevent+jwt", "", []byte(token), http.StatusAccepted)
}

func (o *Org) subject(u *person) map[string]any {
	issuer, _ := o.Transmitter()
	return map[string]any{"format": "iss_sub", "iss": issuer, "sub": u.id}
}

// signal signs the claims of a signal, with those that each has.
func (o *Org) signal(kind, audience string, claims map[string]any) (string, error) {
	issuer, _ := o.Transmitter()
	o.mu.Lock()
	key := o.key
	o.mu.Unlock()
	if key.private == nil {
		return "", errors.New("the org was not started")
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(kind)))
	if err != nil {
		return "", fmt.Errorf("make the signer of signals: %w", err)
	}
	all := map[string]any{"iss": issuer, "aud": audience, "jti": rand.Text(), "iat": o.cfg.Now().Unix()}
	for name, value := range claims {
		all[name] = value
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a signal: %w", err)
	}
	return token, nil
}

// tell posts a signal, once: what a receiver refuses is for the org's admin to see.
func (s *session) tell(ctx context.Context, to, kind, bearer string, body []byte, want int) error {
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("send a signal: %w", err)
	}
	req.Header.Set("Content-Type", kind)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("send a signal: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != want {
		var said struct{ Err, Description string }
		_ = json.NewDecoder(resp.Body).Decode(&said) // the status says enough
		return fmt.Errorf("the receiver answers %d to a signal: %s", resp.StatusCode, strings.TrimSpace(said.Err+" "+said.Description))
	}
	s.push.Signals++
	s.push.Answered = time.Now()
	s.push.Took += s.push.Answered.Sub(begin)
	return nil
}
