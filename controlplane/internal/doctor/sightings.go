package doctor

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// Store is where sightings lie.
type Store interface {
	Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error)
	Each(ctx context.Context, prefix string, fn func(kv.Entry) error) error
	Purge(ctx context.Context, key string) error
}

// Sightings remembers who signed in, and whom a provider signed in who is not provisioned. No erasure could name those, so that
// nothing is kept of them but a digest by a key that lies in the vault, for a month: it tells whether somebody who is provisioned
// is meant, and names nobody.
type Sightings struct {
	Store Store
	// Key returns the key of the digests.
	Key func(ctx context.Context) ([]byte, error)
	Now func() time.Time
}

const (
	signedInFor = 400 * 24 * time.Hour
	strangerFor = 30 * 24 * time.Hour
)

// stranger is somebody whom a provider signed in and nobody provisioned.
type stranger struct {
	// exact is the digest of what the provider calls them, Folded of that where letter case does not matter.
	exact  string
	Folded string `json:"folded"`
}

// digests make digests of what a provider calls people of a directory.
type digests struct{ mac hash.Hash }

func (s *Sightings) digests(ctx context.Context, directory string) (*digests, error) {
	key, err := s.Key(ctx)
	if err != nil {
		return nil, fmt.Errorf("the key of the sightings: %w", err)
	}
	own := hmac.New(sha256.New, key)
	own.Write([]byte(directory))
	return &digests{hmac.New(sha256.New, own.Sum(nil))}, nil
}

func (d *digests) of(text string) string {
	d.mac.Reset()
	d.mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(d.mac.Sum(nil))
}

func personKey(person uuid.UUID) string { return "sighting.person." + person.String() }

func strangersOf(directory string) string {
	return "sighting.stranger." + base64.RawURLEncoding.EncodeToString([]byte(directory)) + "."
}

// SignedIn remembers that a person signed in.
func (s *Sightings) SignedIn(ctx context.Context, person uuid.UUID) error {
	now := s.Now()
	_, err := s.Store.Change(ctx, personKey(person), signedInFor, func([]byte) ([]byte, error) { return json.Marshal(now) })
	if err != nil {
		return fmt.Errorf("remembering that somebody signed in: %w", err)
	}
	return nil
}

// Stranger remembers that a provider signed in somebody who is not provisioned.
func (s *Sightings) Stranger(ctx context.Context, directory, subject string) error {
	digests, err := s.digests(ctx, directory)
	if err != nil {
		return err
	}
	value, err := json.Marshal(stranger{Folded: digests.of(core.Fold(subject))})
	if err == nil {
		_, err = s.Store.Change(ctx, strangersOf(directory)+digests.of(subject), strangerFor, func([]byte) ([]byte, error) { return value, nil })
	}
	if err != nil {
		return fmt.Errorf("remembering who is not provisioned: %w", err)
	}
	return nil
}

// strangers are a directory's, by the exact digest.
func (s *Sightings) strangers(ctx context.Context, directory string) (map[string]stranger, error) {
	all := map[string]stranger{}
	err := s.Store.Each(ctx, strangersOf(directory), func(e kv.Entry) error {
		one := stranger{exact: strings.TrimPrefix(e.Key, strangersOf(directory))}
		if json.Unmarshal(e.Value, &one) == nil {
			all[one.exact] = one
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading who is not provisioned: %w", err)
	}
	return all, nil
}

// everSignedIn are the ids of the people who signed in.
func (s *Sightings) everSignedIn(ctx context.Context) (map[string]bool, error) {
	all := map[string]bool{}
	err := s.Store.Each(ctx, "sighting.person.", func(e kv.Entry) error {
		all[strings.TrimPrefix(e.Key, "sighting.person.")] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading who signed in: %w", err)
	}
	return all, nil
}

// Forget removes what is remembered of a person.
func (s *Sightings) Forget(ctx context.Context, person uuid.UUID) error {
	if err := s.Store.Purge(ctx, personKey(person)); err != nil {
		return fmt.Errorf("forgetting that somebody signed in: %w", err)
	}
	return nil
}
