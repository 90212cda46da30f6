package fleetca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleetca"
)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) tell() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Minute)
}

// controlPlanes are two authorities over one vault.
func controlPlanes(t *testing.T) (a, b *fleetca.Authority, c *clock) {
	t.Helper()
	p, c := enginetest.New(t), &clock{now: time.Now()}
	var all [2]*fleetca.Authority
	for i := range all {
		var err error
		all[i], err = fleetca.Open(t.Context(), p.Vault, time.Hour, c.tell)
		enginetest.Must(t, err)
	}
	return all[0], all[1], c
}

func request(t *testing.T) *x509.CertificateRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	enginetest.Must(t, err)
	r, _, err := fleetca.ReadRequest(der)
	enginetest.Must(t, err)
	return r
}

// issued is a proxy's certificate, with the authorities that it came with.
func issued(t *testing.T, a *fleetca.Authority) (cert, by *x509.Certificate, all int) {
	t.Helper()
	got, err := a.Issue(t.Context(), request(t), uuid.New(), "p", "eu")
	enginetest.Must(t, err)
	cert, err = x509.ParseCertificate(got.Certificate)
	enginetest.Must(t, err)
	by, err = x509.ParseCertificate(got.Authority)
	enginetest.Must(t, err)
	enginetest.Must(t, cert.CheckSignatureFrom(by))
	return cert, by, len(got.Authorities)
}

func ready(fleetca.Holding) (bool, error) { return true, nil }

func TestARotationGoesStageByStageAtEveryControlPlane(t *testing.T) {
	a, b, c := controlPlanes(t)
	_, old, _ := issued(t, a)
	was := a.Certificate()
	fingerprint, err := a.Rotate(t.Context())
	enginetest.Must(t, err)
	if _, err := b.Rotate(t.Context()); !errors.Is(err, fleetca.ErrRotating) {
		t.Errorf("a second rotation: %v", err)
	}
	// Announced: both are believed, and nothing is certified by one that a proxy may not know.
	if _, by, all := issued(t, b); !by.Equal(old) || all != 2 {
		t.Errorf("by another, or with %d authorities", all)
	}
	if a.Fingerprint() == fingerprint || !a.Trusts(old) || !b.Trusts(old) {
		t.Error("the new authority serves before it is known, or the old one is not believed")
	}
	if stage, err := b.Advance(t.Context(), ready); stage != "" || err != nil {
		t.Errorf("it went on to %q before every control plane can know: %v", stage, err)
	}
	c.settle()
	if stage, err := b.Advance(t.Context(), func(want fleetca.Holding) (bool, error) {
		if len(want.Trusted) != 2 || want.Issuer == fingerprint {
			t.Errorf("proxies are to hold %v", want)
		}
		return false, nil
	}); stage != "" || err != nil {
		t.Errorf("it went on to %q though a proxy is behind: %v", stage, err)
	}
	stage, err := b.Advance(t.Context(), ready)
	if stage != fleetca.Issuing || err != nil {
		t.Fatalf("it is at %q: %v", stage, err)
	}
	// Issuing: a, which did not look yet, issues by the new one too, and both still show the old one's.
	_, fresh, all := issued(t, a)
	if fresh.Equal(old) || all != 2 || !bytes.Equal(a.Certificate(), was) || !bytes.Equal(b.Certificate(), was) {
		t.Error("it is not the new one that issues, or not the old one that serves")
	}
	c.settle()
	if stage, err := a.Advance(t.Context(), ready); stage != fleetca.Settled || err != nil {
		t.Fatalf("it is at %q: %v", stage, err)
	}
	if _, err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, cp := range []*fleetca.Authority{a, b} {
		if cp.Trusts(old) || !cp.Trusts(fresh) || cp.Fingerprint() != fingerprint || len(cp.Wanted().Trusted) != 1 {
			t.Error("the old authority is not gone")
		}
	}
	if _, _, all := issued(t, b); all != 1 {
		t.Errorf("proxies are told of %d authorities", all)
	}
}

func TestOneControlPlaneMovesARotationOn(t *testing.T) {
	a, b, c := controlPlanes(t)
	_, err := a.Rotate(t.Context())
	enginetest.Must(t, err)
	c.settle()
	stages := make(chan fleetca.Stage, 2)
	meet := make(chan struct{})
	var once sync.WaitGroup
	once.Add(2)
	go func() { once.Wait(); close(meet) }()
	for _, cp := range []*fleetca.Authority{a, b} {
		go func() {
			stage, err := cp.Advance(t.Context(), func(fleetca.Holding) (bool, error) { once.Done(); <-meet; return true, nil })
			if err != nil {
				t.Error(err)
			}
			stages <- stage
		}()
	}
	if one, other := <-stages, <-stages; one+other != fleetca.Issuing {
		t.Errorf("they went on to %q and %q", one, other)
	}
}

func TestTheOldAuthorityCanBeDroppedAtOnce(t *testing.T) {
	a, b, _ := controlPlanes(t)
	if err := a.Drop(t.Context()); !errors.Is(err, fleetca.ErrSettled) {
		t.Errorf("the only one was dropped: %v", err)
	}
	_, old, _ := issued(t, a)
	_, err := a.Rotate(t.Context())
	enginetest.Must(t, err)
	enginetest.Must(t, b.Drop(t.Context()))
	if _, by, all := issued(t, a); by.Equal(old) || all != 1 || a.Trusts(old) {
		t.Error("the old one is not gone")
	}
}
