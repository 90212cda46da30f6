package fleetca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"sallyport.dev/controlplane/internal/vault"
)

// Stage is how far a rotation is. Each stage begins when what it needs is so at every live proxy, so that no proxy is ever shown a certificate
// that it cannot check.
type Stage string

const (
	// Settled: there is one authority.
	Settled Stage = "settled"
	// Announced: proxies come to believe the new authority; the old one still certifies everybody.
	Announced Stage = "announced"
	// Issuing: the new authority certifies proxies; control planes still show the old one's.
	Issuing Stage = "issuing"
)

// settleFor is how long a stage lasts at least: by then every control plane has read that it began.
const settleFor = 3 * refreshEvery

// ErrRotating: a rotation is under way.
var ErrRotating = errors.New("a rotation of the fleet's authority is under way: see sallyport proxies ca")

// ErrSettled: there is nothing to drop.
var ErrSettled = errors.New("the fleet has one authority: there is no old one to drop")

// authorities are what the vault holds.
type authorities struct {
	// All are oldest first: one, or two while the fleet moves from the one to the other.
	All   []*one    `json:"all"`
	Stage Stage     `json:"stage"`
	Since time.Time `json:"since"`

	pool     *x509.CertPool
	revision uint64
}

// one is an authority.
type one struct {
	// Cert and Key are DER.
	Cert []byte    `json:"cert"`
	Key  []byte    `json:"key"`
	Made time.Time `json:"made"`

	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
	fingerprint [sha256.Size]byte
}

func newAuthority(now time.Time) (*one, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate("Sallyport fleet", now, authorityFor)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &one{Cert: der, Key: keyDER, Made: now}, nil
}

func (s *authorities) secret() vault.Secret {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // bytes, text and times
	}
	return vault.NewSecret(data)
}

// open reads what the vault holds.
func open(secret vault.Secret, revision uint64) (*authorities, error) {
	s := &authorities{revision: revision, pool: x509.NewCertPool()}
	if json.Unmarshal(secret.Reveal(), s) != nil || len(s.All) == 0 {
		return nil, errors.New("what the vault holds is no authority")
	}
	for _, o := range s.All {
		var err error
		if o.cert, err = x509.ParseCertificate(o.Cert); err != nil {
			return nil, fmt.Errorf("an authority's certificate: %w", err)
		}
		if o.key, err = x509.ParseECPrivateKey(o.Key); err != nil {
			return nil, errors.New("an authority's key cannot be read")
		}
		o.fingerprint = sha256.Sum256(o.Cert)
		s.pool.AddCert(o.cert)
	}
	return s, nil
}

// issuing certifies proxies.
func (s *authorities) issuing() *one {
	if s.Stage == Issuing {
		return s.All[len(s.All)-1]
	}
	return s.All[0]
}

// serving certifies control planes.
func (s *authorities) serving() *one { return s.All[0] }

func (s *authorities) certificates() [][]byte {
	all := make([][]byte, len(s.All))
	for i, o := range s.All {
		all[i] = o.Cert
	}
	return all
}

// Refresh reads what the vault holds now.
func (a *Authority) Refresh(ctx context.Context) (*authorities, error) {
	secret, revision, err := a.secrets.Read(ctx, secretName, secretName)
	if err != nil {
		return nil, fmt.Errorf("reading the fleet's certificate authority: %w", err)
	}
	now := a.current.Load()
	if now != nil && now.revision >= revision {
		return now, nil
	}
	read, err := open(secret, revision)
	if err != nil {
		return nil, err
	}
	a.current.Store(read)
	return read, nil
}

// refreshEvery is how often a control plane looks whether another moved the rotation on.
const refreshEvery = 5 * time.Second

// change has the vault hold something else, if nobody was faster, and reads it.
func (a *Authority) change(ctx context.Context, from *authorities, to authorities) error {
	to.Since = a.now()
	if err := a.secrets.Replace(ctx, secretName, secretName, to.secret(), from.revision); err != nil {
		return fmt.Errorf("keeping the fleet's certificate authority: %w", err)
	}
	_, err := a.Refresh(ctx)
	return err
}

// Rotate makes a new authority, which proxies come to believe, and returns its fingerprint.
func (a *Authority) Rotate(ctx context.Context) (fingerprint [sha256.Size]byte, err error) {
	now, err := a.Refresh(ctx)
	if err != nil {
		return fingerprint, err
	}
	if now.Stage != Settled {
		return fingerprint, ErrRotating
	}
	made, err := newAuthority(a.now())
	if err != nil {
		return fingerprint, fmt.Errorf("making an authority: %w", err)
	}
	err = a.change(ctx, now, authorities{All: append(slices.Clone(now.All), made), Stage: Announced})
	if errors.Is(err, vault.ErrChanged) {
		err = ErrRotating
	}
	return sha256.Sum256(made.Cert), err
}

// Advance goes on to the next stage if every live proxy is there already, and tells whether it did. ready is asked what holds the rotation
// up: it gets what proxies are to have by now.
func (a *Authority) Advance(ctx context.Context, ready func(want Holding) (bool, error)) (advanced Stage, err error) {
	now, err := a.Refresh(ctx)
	if err != nil || now.Stage == Settled || a.now().Sub(now.Since) < settleFor {
		return "", err
	}
	ok, err := ready(now.holding())
	if err != nil || !ok {
		return "", err
	}
	next := authorities{All: now.All, Stage: Issuing}
	if now.Stage == Issuing {
		next = authorities{All: now.All[len(now.All)-1:], Stage: Settled}
	}
	err = a.change(ctx, now, next)
	if errors.Is(err, vault.ErrChanged) { // another control plane did
		return "", nil
	}
	return next.Stage, err
}

// Drop drops the old authority, whoever still needs it.
func (a *Authority) Drop(ctx context.Context) error {
	now, err := a.Refresh(ctx)
	if err != nil {
		return err
	}
	if now.Stage == Settled {
		return ErrSettled
	}
	return a.change(ctx, now, authorities{All: now.All[len(now.All)-1:], Stage: Settled})
}

// Run keeps up with what other control planes do, and moves a rotation on, until ctx ends. told is told of each stage that this control plane
// began, and of what failed.
func (a *Authority) Run(ctx context.Context, ready func(want Holding) (bool, error), told func(Stage, error)) {
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if stage, err := a.Advance(ctx, ready); (stage != "" || err != nil) && ctx.Err() == nil {
			told(stage, err)
		}
	}
}

// Holding is what a proxy holds of the fleet's authorities, or is to hold: fingerprints.
type Holding struct {
	Issuer [sha256.Size]byte
	// Trusted are ascending.
	Trusted [][sha256.Size]byte
}

func (s *authorities) holding() Holding {
	h := Holding{Issuer: s.issuing().fingerprint}
	for _, o := range s.All {
		h.Trusted = append(h.Trusted, o.fingerprint)
	}
	slices.SortFunc(h.Trusted, func(x, y [sha256.Size]byte) int { return bytes.Compare(x[:], y[:]) })
	return h
}

// Wanted is what proxies are to hold now.
func (a *Authority) Wanted() Holding { return a.current.Load().holding() }

// Trusts tells whether an authority that a connection was verified by is one still: a connection may be older than a rotation.
func (a *Authority) Trusts(root *x509.Certificate) bool {
	return slices.ContainsFunc(a.current.Load().All, func(o *one) bool { return bytes.Equal(o.Cert, root.Raw) })
}

// Standing is how the authorities stand, for admins.
type Standing struct {
	Stage       Stage
	Since       time.Time
	Authorities []StandingOf // oldest first
}

// StandingOf is one authority.
type StandingOf struct {
	Fingerprint    [sha256.Size]byte
	Made           time.Time
	Issues, Serves bool
}

// Standing says how the authorities stand.
func (a *Authority) Standing(ctx context.Context) (Standing, error) {
	now, err := a.Refresh(ctx)
	if err != nil {
		return Standing{}, err
	}
	s := Standing{Stage: now.Stage, Since: now.Since}
	for _, o := range now.All {
		s.Authorities = append(s.Authorities, StandingOf{o.fingerprint, o.Made, o == now.issuing(), o == now.serving()})
	}
	return s, nil
}
