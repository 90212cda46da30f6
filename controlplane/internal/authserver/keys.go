package authserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// system is who makes the changes that nobody asked for.
var system = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}

// tokenType is what marks an access token (RFC 9068, section 2.1).
const tokenType = "at+jwt"

// grace is how long past a token's end its key, or the end of its session, is still known: clocks differ.
const grace = 2 * time.Minute

// signers are the signing keys that were read from the vault, by id.
type signers struct {
	mu  sync.Mutex
	all map[string]jose.Signer
}

// Prepare makes the issuer's first key where it has none. Where the newest key is of another address that the server had, it makes
// one that is newer, so that agents are sent here and no longer there.
func (s *Server) Prepare(ctx context.Context) error {
	has, newest, now := false, s.Engine.State().NewestSigningKey(), s.Now()
	for range s.Engine.State().SigningKeys(s.Issuer) {
		has = true
	}
	if has && newest.GetIssuer() == s.Issuer {
		return nil
	}
	if !has {
		if _, _, err := s.addKey(ctx, system, now, false, true); err != nil || newest == nil || newest.GetNotBefore().AsTime().Before(now) {
			return err
		}
	}
	from := now.Add(s.Lease)
	if other := newest.GetNotBefore().AsTime(); !other.Before(from) {
		from = other.Add(time.Second)
	}
	_, _, err := s.addKey(ctx, system, from, false, false)
	return err
}

// Rotate makes a new key. It signs once every proxy has heard of it or lost its lease; one that was stolen is retired at once.
func (s *Server) Rotate(ctx context.Context, actor *eventv1.Actor, compromised bool) (*policyv1.SigningKey, uint64, error) {
	from := s.Now().Add(s.Lease)
	if compromised {
		from = s.Now()
	}
	return s.addKey(ctx, actor, from, compromised, false)
}

func (s *Server) addKey(ctx context.Context, actor *eventv1.Actor, from time.Time, alone, ifNone bool) (*policyv1.SigningKey, uint64, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, 0, fmt.Errorf("making a signing key: %w", err)
	}
	key := &policyv1.SigningKey{Id: rand.Text(), Issuer: s.Issuer, NotBefore: timestamppb.New(from)}
	if key.Jwk, err = json.Marshal(jose.JSONWebKey{Key: private.Public(), KeyID: key.GetId(), Algorithm: string(jose.ES256), Use: "sig"}); err != nil {
		return nil, 0, fmt.Errorf("making a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, 0, fmt.Errorf("making a signing key: %w", err)
	}
	// The private part first: a crash between the two leaves a secret that nothing names, never a name without one.
	if err := s.Keys.PutSigningKey(ctx, key.GetId(), der); err != nil {
		return nil, 0, fmt.Errorf("keeping a signing key: %w", err)
	}
	out, err := s.Engine.Do(ctx, actor, core.NewAddSigningKey(key, alone, ifNone))
	if err != nil || len(out.Events) == 0 {
		if gone := s.Keys.DestroySigningKey(context.WithoutCancel(ctx), key.GetId()); gone != nil {
			s.Log.ErrorContext(ctx, "a signing key that is not used could not be destroyed", "key", key.GetId(), "error", gone)
		}
	}
	for _, e := range out.Events {
		if id := e.GetSigningKeyRetired().GetKeyId(); id != "" {
			s.destroyKey(ctx, id)
		}
	}
	return key, out.Seq, err
}

func (s *Server) destroyKey(ctx context.Context, id string) {
	s.signer.mu.Lock()
	delete(s.signer.all, id)
	s.signer.mu.Unlock()
	if err := s.Keys.DestroySigningKey(context.WithoutCancel(ctx), id); err != nil {
		s.Log.ErrorContext(ctx, "a retired signing key could not be destroyed", "key", id, "error", err)
	}
}

// current is the key that signs now: the last that began.
func (s *Server) current(state *core.State) *policyv1.SigningKey {
	var newest *policyv1.SigningKey
	for k := range state.SigningKeys(s.Issuer) {
		at := k.GetNotBefore().AsTime()
		if !at.After(s.Now()) && (newest == nil || at.After(newest.GetNotBefore().AsTime())) {
			newest = k
		}
	}
	return newest
}

// sign makes a token of claims.
func (s *Server) sign(ctx context.Context, state *core.State, claims any) (string, error) {
	key := s.current(state)
	if key == nil {
		return "", errors.New("there is no signing key")
	}
	signer, err := s.signerOf(ctx, key.GetId())
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return signed.CompactSerialize()
}

func (s *Server) signerOf(ctx context.Context, id string) (jose.Signer, error) {
	s.signer.mu.Lock()
	signer := s.signer.all[id]
	s.signer.mu.Unlock()
	if signer != nil {
		return signer, nil
	}
	der, err := s.Keys.SigningKey(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading a signing key: %w", err)
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("a signing key in the vault is not one")
	}
	signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: id}}, (&jose.SignerOptions{}).WithType(tokenType))
	if err != nil {
		return nil, errors.New("a signing key in the vault is of another kind")
	}
	s.signer.mu.Lock()
	defer s.signer.mu.Unlock()
	if s.signer.all == nil {
		s.signer.all = map[string]jose.Signer{}
	}
	s.signer.all[id] = signer
	return signer, nil
}

// Run retires keys whose last token has expired, and forgets ended sessions of which nobody needs to know any more, until
// ctx ends.
func (s *Server) Run(ctx context.Context) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "old signing keys and revocations stay for now", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Sweep does once what Run does now and then.
func (s *Server) Sweep(ctx context.Context) error {
	state, now := s.Engine.State(), s.Now()
	current := s.current(state)
	for k := range state.SigningKeys("") {
		// A key's last token was signed when the current one began, or when the issuer was another.
		older := current != nil && k.GetId() != current.GetId() && k.GetNotBefore().AsTime().Before(current.GetNotBefore().AsTime())
		if older && now.After(current.GetNotBefore().AsTime().Add(s.Lease+grace)) {
			if _, err := s.Engine.Do(ctx, system, core.RetireSigningKey{ID: k.GetId()}); err != nil {
				return err
			}
			s.destroyKey(ctx, k.GetId())
		}
	}
	_, err := s.Engine.Do(ctx, system, core.ForgetEndedSessions{})
	return err
}
