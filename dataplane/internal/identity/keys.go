package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	fetchTimeout = 10 * time.Second
	// Unknown key ids and failed fetches lead to at most one fetch per issuer in this time.
	refetchAfter = 10 * time.Second
	maxDocument  = 1 << 20
	maxKeys      = 100
	minRSABits   = 2048
)

// key is one signing key of an issuer. gone is set when the issuer takes it away: what it signed counts no longer.
type key struct {
	id, alg string
	public  any
	gone    atomic.Bool
}

// suits says whether the key may have made a signature with that algorithm.
func (k *key) suits(alg jose.SignatureAlgorithm) bool {
	if k.alg != "" && k.alg != string(alg) {
		return false
	}
	switch p := k.public.(type) {
	case *rsa.PublicKey:
		return alg == jose.RS256 || alg == jose.PS256
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && p.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

func (k *key) equal(o *key) bool {
	p, ok := k.public.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.id == o.id && k.alg == o.alg && p.Equal(o.public)
}

// keySet is the keys of one issuer, as last fetched. Keys stay while the issuer cannot be reached.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time

	keys atomic.Pointer[[]*key] // nil: never fetched

	fetching chan struct{} // holds a token while nobody fetches
	mu       sync.Mutex
	tried    time.Time // guarded by mu
	err      error     // of the last try, guarded by mu
}

func newKeySet(issuer string, client *http.Client, now func() time.Time) *keySet {
	s := &keySet{issuer: issuer, client: client, now: now, fetching: make(chan struct{}, 1)}
	s.fetching <- struct{}{}
	return s
}

// candidates returns the keys that may have made a signature. Without a key id those of the fitting kind.
func (s *keySet) candidates(id string, alg jose.SignatureAlgorithm) []*key {
	all := s.keys.Load()
	if all == nil {
		return nil
	}
	var fit []*key
	for _, k := range *all {
		if (id == "" || k.id == id) && k.suits(alg) {
			fit = append(fit, k)
		}
	}
	return fit
}

// find returns the candidates, after a fetch where there are none and the last one is long enough ago.
func (s *keySet) find(ctx context.Context, id string, alg jose.SignatureAlgorithm) ([]*key, error) {
	if fit := s.candidates(id, alg); len(fit) > 0 {
		return fit, nil
	}
	err := s.refresh(ctx, refetchAfter)
	if fit := s.candidates(id, alg); len(fit) > 0 {
		return fit, nil
	}
	if s.keys.Load() == nil && err == nil {
		err = errors.New("no keys were fetched yet")
	}
	if s.keys.Load() == nil {
		return nil, err
	}
	return nil, nil
}

// refresh fetches the keys, unless they were fetched within the given time, or a try failed just now. Callers at the same time share one fetch, which
// goes on when the caller that does it goes away.
func (s *keySet) refresh(ctx context.Context, within time.Duration) error {
	select {
	case <-s.fetching:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.fetching <- struct{}{} }()
	s.mu.Lock()
	if s.err != nil {
		within = refetchAfter
	}
	recent, last := !s.tried.IsZero() && s.now().Sub(s.tried).Abs() < within, s.err
	s.mu.Unlock()
	if recent {
		return last
	}
	fetchCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	keys, err := s.fetch(fetchCtx)
	if err == nil {
		s.replace(keys)
	}
	s.mu.Lock()
	s.tried, s.err = s.now(), err
	s.mu.Unlock()
	return err
}

// replace puts fetched keys in place, keeping those that are unchanged, so that what they verified stays known.
func (s *keySet) replace(fetched []*key) {
	var before []*key
	if p := s.keys.Load(); p != nil {
		before = *p
	}
	kept := map[*key]bool{}
	for i, k := range fetched {
		for _, old := range before {
			if old.equal(k) {
				fetched[i] = old
				kept[old] = true
			}
		}
	}
	s.keys.Store(&fetched)
	for _, old := range before {
		if !kept[old] {
			old.gone.Store(true)
		}
	}
}

// retire makes everything that the keys verified count no longer.
func (s *keySet) retire() { s.replace(nil) }

func (s *keySet) fetch(ctx context.Context) ([]*key, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, s.client), s.issuer)
	if err != nil {
		return nil, brief("discovering the issuer", err)
	}
	var doc struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := provider.Claims(&doc); err != nil {
		return nil, brief("reading the issuer's metadata", err)
	}
	at, err := url.Parse(doc.JWKS)
	if err != nil || at.Host == "" || at.Scheme != "https" && (at.Scheme != "http" || !isHTTP(s.issuer)) {
		return nil, errors.New("the issuer's jwks_uri is not an https URL")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, doc.JWKS, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for the issuer's keys: %w", err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, brief("fetching the issuer's keys", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching the issuer's keys: status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, brief("reading the issuer's keys", err)
	}
	return parseKeys(body)
}

func isHTTP(issuer string) bool {
	u, err := url.Parse(issuer)
	return err == nil && u.Scheme == "http"
}

// brief keeps what a foreign server said in an error short enough to log.
func brief(doing string, err error) error {
	text := err.Error()
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return fmt.Errorf("%s: %q", doing, text)
}

// parseKeys reads a JWK set (RFC 7517), passing over keys that cannot sign access tokens here.
func parseKeys(body []byte) ([]*key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("reading the issuer's keys: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the issuer has %d keys; at most %d are taken", len(set.Keys), maxKeys)
	}
	keys := []*key{}
	for _, raw := range set.Keys {
		var j jose.JSONWebKey
		if json.Unmarshal(raw, &j) != nil || !j.IsPublic() || !j.Valid() || j.Use != "" && j.Use != "sig" {
			continue
		}
		if p, ok := j.Key.(*rsa.PublicKey); ok && p.N.BitLen() < minRSABits {
			continue
		}
		k := &key{id: j.KeyID, alg: j.Algorithm, public: j.Key}
		for _, alg := range algorithms {
			if k.suits(alg) {
				keys = append(keys, k)
				break
			}
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the issuer has no usable signing key")
	}
	return keys, nil
}

// guardedClient returns a client for talking to issuers: answers are bounded, and a redirect stays on its origin.
func guardedClient(base http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: boundedTransport{base},
		Timeout:   fetchTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if first := via[0].URL; len(via) > 3 || req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
				return errors.New("a redirect away from the issuer is not followed")
			}
			return nil
		},
	}
}

type boundedTransport struct{ base http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	return resp, nil
}
