package vault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/kv"
)

func TestARotationUnderLoadLosesNothingAndLeavesNoOldKey(t *testing.T) {
	s := newSite(t)
	a, b, ctx := s.open(t), s.open(t), within(t)
	ids := people(100)
	ensure(t, a, ids...)
	sealed := seal(t, a, ids[0], "personal")
	if err := a.Put(ctx, "secret.still", "owner", NewSecret([]byte("as it was"))); err != nil {
		t.Fatal(err)
	}
	before, _ := a.ring.primary()

	// Both control planes keep writing, reading and destroying while one rotates, twice.
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i, v := range []*Vault{a, b, a, b} {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name, value := fmt.Sprintf("secret.%d.%d", i, n%7), fmt.Sprint(n)
				if err := v.Put(ctx, name, "owner", NewSecret([]byte(value))); err != nil {
					t.Errorf("putting %s: %v", name, err)
				}
				if got, err := v.Get(ctx, name, "owner"); err != nil || string(got.Reveal()) != value {
					t.Errorf("reading %s: %q, %v", name, got.Reveal(), err)
				}
				if n%3 == 0 {
					if err := v.Destroy(ctx, name); err != nil {
						t.Errorf("destroying %s: %v", name, err)
					}
					if _, err := v.Get(ctx, name, "owner"); !errors.Is(err, ErrNotFound) {
						t.Errorf("a destroyed %s: %v", name, err)
					}
				}
				if err := v.EnsureKeys(ctx, people(1)); err != nil {
					t.Errorf("making a person's key: %v", err)
				}
			}
		})
	}
	for range 2 {
		if _, err := a.Rotate(ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	load.Wait()

	// What was wrapped by an old key meanwhile is wrapped anew before the old keys go.
	if err := b.finish(ctx, 0); err != nil {
		t.Fatal(err)
	}
	status, err := a.Status(ctx)
	if err != nil || status.OldKeys != 0 || status.WrappedByOld != 0 || status.Key == before || status.Wrapped < 100 {
		t.Fatalf("got %+v, %v", status, err)
	}
	for _, v := range []*Vault{a, b, s.open(t)} {
		if got, err := v.Get(ctx, "secret.still", "owner"); err != nil || string(got.Reveal()) != "as it was" {
			t.Fatalf("got %q, %v", got.Reveal(), err)
		}
		v.people.forgetAll()
		if got, erased, err := v.Open(ctx, ids[0], sealed); err != nil || erased || string(got) != "personal" {
			t.Fatalf("got %q, %v, %v", got, erased, err)
		}
	}
}

func TestOldKeysStayUntilNobodyCanWrapWithThem(t *testing.T) {
	s := newSite(t)
	a, b, ctx := s.open(t), s.open(t), within(t)
	if _, err := a.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.finish(ctx, settledAfter); err != nil {
		t.Fatal(err)
	}
	if _, old := a.ring.primary(); old != 1 {
		t.Fatalf("%d old keys are left", old)
	}
	// The other has not heard of the rotation, and wraps with what it knows.
	if err := b.Put(ctx, "late", "owner", NewSecret([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := a.finish(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := s.open(t).Get(ctx, "late", "owner"); err != nil || string(got.Reveal()) != "x" {
		t.Fatalf("got %q, %v", got.Reveal(), err)
	}
	if _, old := a.ring.primary(); old != 0 {
		t.Fatalf("%d old keys are left", old)
	}
}

// TestNoOldValueOpensOnceASecretIsDestroyed takes what the store held at each moment, as one does who reads its disk.
func TestNoOldValueOpensOnceASecretIsDestroyed(t *testing.T) {
	s := newSite(t)
	v, ctx := s.open(t), within(t)
	var values [][]byte
	for _, value := range []string{"first", "second"} {
		if err := v.Put(ctx, "token", "owner", NewSecret([]byte(value))); err != nil {
			t.Fatal(err)
		}
		e, err := s.store.Get(ctx, "token")
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, e.Value)
	}
	if err := v.Destroy(ctx, "token"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Get(ctx, keyPrefix+"token"); !errors.Is(err, kv.ErrNotFound) {
		t.Fatalf("its data key: %v", err)
	}
	if err := v.Put(ctx, "token", "owner", NewSecret([]byte("third"))); err != nil {
		t.Fatal(err)
	}
	for _, old := range values {
		if err := s.store.Put(ctx, "token", old); err != nil {
			t.Fatal(err)
		}
		if got, err := v.Get(ctx, "token", "owner"); err == nil {
			t.Errorf("%q opens again", got.Reveal())
		}
	}
}

func TestADestroyedKeyIsNotBroughtBackByARotation(t *testing.T) {
	s := newSite(t)
	v, ctx, id := s.open(t), within(t), uuid.New()
	ensure(t, v, id)
	e, err := s.store.Get(ctx, personName(id))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.DestroyKey(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := v.ring.rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.rewrapOne(ctx, e); err != nil { // which read it before
		t.Fatal(err)
	}
	if _, err := s.store.Get(ctx, personName(id)); !errors.Is(err, kv.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestOneVaultKeyTakesAnothersPlace(t *testing.T) {
	s := newSite(t)
	ctx := within(t)
	if err := s.open(t).Put(ctx, "x", "owner", NewSecret([]byte("kept"))); err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SALLYPORT_TEST_KEY", base64.StdEncoding.EncodeToString(key))
	const env = "env:SALLYPORT_TEST_KEY"
	opens := func(keys ...string) error {
		v, err := Open(ctx, s.store, Config{Keys: keys})
		if err != nil {
			return err
		}
		_, err = v.Get(ctx, "x", "owner")
		return errors.Join(err, rotated(ctx, v))
	}
	if err := opens(env); err == nil {
		t.Fatal("another key opens the vault")
	}
	if err := opens(env, "file:"+s.keyFile); err != nil { // it rotates, and so seals with the first
		t.Fatal(err)
	}
	if err := os.Remove(s.keyFile); err != nil {
		t.Fatal(err)
	}
	if err := opens(env); err != nil {
		t.Fatal(err)
	}
}

func rotated(ctx context.Context, v *Vault) error {
	_, err := v.Rotate(ctx)
	return err
}

func TestWhatIsNoVaultKeyIsRefusedAndNotQuoted(t *testing.T) {
	s := newSite(t)
	t.Setenv("SALLYPORT_TEST_KEY", "not base64: hunter2")
	for _, uri := range []string{"", "hunter2", "file", "env:SALLYPORT_TEST_KEY", "env:SALLYPORT_TEST_NONE", "hcvault://hunter2@host/transit/keys/x", "hcvault://host/x", "hcvault+http://vault.example/transit/keys/x",
		"aws-kms://arn:aws:kms:eu-west-1:1:key/hunter2", "aws-kms://arn:aws:kms:eu-west-1.evil.example/:111122223333:key/x", "aws-kms://", "gcp-kms://projects/hunter2", "gcp-kms:",
		"gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "gcp-kms://projects/../locations/l/keyRings/r/cryptoKeys/k", "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k?x=hunter2",
		"azure-kms://hunter2@abc.vault.azure.net/keys/x", "azure-kms://vault.azure.net.evil.example/keys/x", "azure-kms://abc.vault.azure.net/keys/x/1", "azure-kms://abc.vault.azure.net:8443/keys/x", "azure-kms:"} {
		_, err := Open(within(t), s.store, Config{Keys: []string{uri}})
		if err == nil {
			t.Errorf("%q was taken", uri)
		} else if msg := err.Error(); len(uri) > 0 && (contains(msg, "hunter2")) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}
