package doctor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/kv"
)

// Store is where sightings lie.
type Store interface {
	Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error)
	Each(ctx context.Context, prefix string, fn func(kv.Entry) error) error
	Purge(ctx context.Context, key string) error
}

// Sightings remembers who signed in, and whom a provider signed in who is not provisioned: by what the provider calls them, which
// is all that is known of them, and for a month.
type Sightings struct {
	Store Store
	Now   func() time.Time
}

const (
	signedInFor = 400 * 24 * time.Hour
	strangerFor = 30 * 24 * time.Hour
)

// stranger is somebody whom a provider signed in and nobody provisioned.
type stranger struct {
	Subject string    `json:"subject"`
	At      time.Time `json:"at"`
	Times   int       `json:"times"`
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
	subject = strings.ToValidUTF8(subject[:min(len(subject), 200)], "")
	key := strangersOf(directory) + uuid.NewSHA1(uuid.NameSpaceURL, []byte(subject)).String()
	_, err := s.Store.Change(ctx, key, strangerFor, func(value []byte) ([]byte, error) {
		var held stranger
		if value != nil && json.Unmarshal(value, &held) != nil {
			held = stranger{}
		}
		return json.Marshal(stranger{subject, s.Now(), held.Times + 1})
	})
	if err != nil {
		return fmt.Errorf("remembering who is not provisioned: %w", err)
	}
	return nil
}

// strangers are a directory's, the last seen first.
func (s *Sightings) strangers(ctx context.Context, directory string) ([]stranger, error) {
	bySubject := map[string]stranger{} // a store may list one twice
	err := s.Store.Each(ctx, strangersOf(directory), func(e kv.Entry) error {
		var one stranger
		if json.Unmarshal(e.Value, &one) == nil {
			bySubject[one.Subject] = one
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading who is not provisioned: %w", err)
	}
	all := make([]stranger, 0, len(bySubject))
	for _, one := range bySubject {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b stranger) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(a.Subject, b.Subject)
	})
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
