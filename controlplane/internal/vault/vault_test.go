package vault

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func openStore(t testing.TB, nc *nats.Conn) *kv.Store {
	t.Helper()
	s, err := kv.Open(within(t), nc, kv.Config{Bucket: "VAULT"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// site is a store, and a key file that its vaults share.
type site struct {
	nc      *nats.Conn
	store   *kv.Store
	keyFile string
}

func newSite(t testing.TB) site {
	t.Helper()
	nc := natstest.Embedded(t).Conn
	return site{nc, openStore(t, nc), filepath.Join(t.TempDir(), "kek.json")}
}

// open opens the vault, as one more control plane does.
func (s site) open(t testing.TB) *Vault {
	t.Helper()
	v, err := Open(within(t), s.store, Config{Keys: []string{"file:" + s.keyFile}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestASecretOpensForItsNameAndOwnerAlone(t *testing.T) {
	s := newSite(t)
	v, ctx := s.open(t), within(t)
	if err := v.Put(ctx, "connector.1", "github", NewSecret([]byte("hunter2"))); err != nil {
		t.Fatal(err)
	}
	got, err := s.open(t).Get(ctx, "connector.1", "github")
	if err != nil || string(got.Reveal()) != "hunter2" {
		t.Fatalf("got %q, %v", got.Reveal(), err)
	}
	if _, err := v.Get(ctx, "connector.1", "jira"); err == nil {
		t.Fatal("a secret opened for another owner")
	}
	// What lies in the store under one name does not open under another, and holds nothing to read.
	e, err := s.store.Get(ctx, "connector.1")
	if err != nil || bytes.Contains(e.Value, []byte("hunter2")) {
		t.Fatalf("the store holds %q, %v", e.Value, err)
	}
	if err := s.store.Put(ctx, "connector.2", e.Value); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(ctx, "connector.2", "github"); err == nil {
		t.Fatal("a secret opened under another name")
	}
	e.Value[len(e.Value)/2] ^= 1
	if err := s.store.Put(ctx, "connector.1", e.Value); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(ctx, "connector.1", "github"); err == nil {
		t.Fatal("a changed secret opened")
	}
	if err := v.Destroy(ctx, "connector.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(ctx, "connector.1", "github"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a destroyed secret: got %v", err)
	}
}

func TestOfTwoThatMakeASecretAtOnceBothGetTheFirst(t *testing.T) {
	s := newSite(t)
	a, b, ctx := s.open(t), s.open(t), within(t)
	got, err := a.GetOrMake(ctx, "region.eu", "eu", func() Secret {
		if _, err := b.GetOrMake(ctx, "region.eu", "eu", func() Secret { return NewSecret([]byte("rival's")) }); err != nil {
			t.Error(err)
		}
		return NewSecret([]byte("late"))
	})
	if err != nil || string(got.Reveal()) != "rival's" {
		t.Fatalf("got %q, %v", got.Reveal(), err)
	}
}

func TestTheKeyFileIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	s := newSite(t)
	s.open(t)
	info, err := os.Stat(s.keyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v", info.Mode(), err)
	}
	before, _ := os.ReadFile(s.keyFile)
	s.open(t)
	if after, _ := os.ReadFile(s.keyFile); !bytes.Equal(before, after) {
		t.Fatal("the key was replaced")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.keyFile), ".key-*")); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestAVaultRefusesKeysThatAreNotItsOwn(t *testing.T) {
	s := newSite(t)
	s.open(t)
	other := newSite(t)
	other.open(t)
	ours, _ := os.ReadFile(s.keyFile)
	theirs, _ := os.ReadFile(other.keyFile)
	for name, c := range map[string]struct {
		prepare func(path string) error
		want    string
	}{
		"others may read it": {func(p string) error { return errors.Join(os.WriteFile(p, ours, 0o600), os.Chmod(p, 0o640)) }, "chmod 600"},
		"another vault's":    {func(p string) error { return os.WriteFile(p, theirs, 0o600) }, "not the one"},
		"none":               {func(string) error { return nil }, "restore it"},
		"cut off":            {func(p string) error { return os.WriteFile(p, ours[:len(ours)/2], 0o600) }, "not a keyset"},
		"empty":              {func(p string) error { return os.WriteFile(p, nil, 0o600) }, "not a keyset"},
		"a folder":           {func(p string) error { return os.Mkdir(p, 0o700) }, "not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kek.json")
			if err := c.prepare(path); err != nil {
				t.Fatal(err)
			}
			_, err := Open(within(t), s.store, Config{Keys: []string{"file:" + path}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to say %q", err, c.want)
			}
			if strings.Contains(err.Error(), "keyMaterial") || strings.Contains(err.Error(), "primaryKeyId") {
				t.Fatalf("the error quotes the key: %v", err)
			}
			if name == "none" {
				if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
					t.Fatal("a new key was made for a vault that has one")
				}
			}
		})
	}
}

// TestASecretShowsItselfToNobody tries what prints, logs and encodes.
func TestASecretShowsItselfToNobody(t *testing.T) {
	type holder struct {
		Open   Secret
		hidden Secret
		List   []Secret
		Ptr    *Secret
	}
	secret := NewSecret([]byte("hunter2"))
	all := []any{secret, &secret, []Secret{secret}, holder{secret, secret, []Secret{secret}, &secret}, map[string]Secret{"x": secret}}
	shown := func(what string, out []byte) {
		t.Helper()
		// As text, in hexadecimal, in base64 and as a list of numbers.
		for _, form := range []string{"hunter2", "68756e746572", "68756E746572", "aHVudGVy", "104 117 110", "0x68, 0x75"} {
			if bytes.Contains(out, []byte(form)) {
				t.Errorf("%s shows the secret: %s", what, out)
			}
		}
	}
	for _, v := range all {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%o", "% x"} {
			shown(fmt.Sprintf("%s of %T", verb, v), fmt.Appendf(nil, verb, v))
		}
		for _, h := range []func(io.Writer) slog.Handler{
			func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
			func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
		} {
			var out bytes.Buffer
			slog.New(h(&out)).Info("x", "v", v)
			shown(fmt.Sprintf("the log of %T", v), out.Bytes())
		}
		if out, err := json.Marshal(v); err == nil {
			t.Errorf("json of %T: got %s", v, out)
		}
		var out bytes.Buffer
		if err := gob.NewEncoder(&out).Encode(v); err == nil {
			shown(fmt.Sprintf("gob of %T", v), out.Bytes())
		}
	}
	if _, err := secret.MarshalText(); err == nil {
		t.Error("it marshals as a text")
	}
	if (Secret{}).Reveal() != nil {
		t.Error("the zero secret holds something")
	}
}

func TestABlobOpensWholeOrNotAtAll(t *testing.T) {
	v := newSite(t).open(t)
	plain := bytes.Repeat([]byte("state "), 500_000) // several segments
	var sealed bytes.Buffer
	w, err := v.SealBlob(&sealed, "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	open := func(data []byte, name string) ([]byte, error) {
		r, err := v.OpenBlob(bytes.NewReader(data), name)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	if got, err := open(sealed.Bytes(), "checkpoint"); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if _, err := open(sealed.Bytes(), "other"); err == nil {
		t.Fatal("a blob opened under another name")
	}
	for _, cut := range []int{0, 1, 50, 200, 1 << 20, 1<<20 + 500, sealed.Len() - 1} {
		if _, err := open(sealed.Bytes()[:cut], "checkpoint"); err == nil {
			t.Errorf("the first %d bytes of a blob opened", cut)
		}
	}
	for _, at := range []int{0, 30, 200, 1 << 20, sealed.Len() - 1} {
		changed := bytes.Clone(sealed.Bytes())
		changed[at] ^= 1
		if got, err := open(changed, "checkpoint"); err == nil {
			t.Errorf("a blob whose byte %d was changed opened, with %d bytes", at, len(got))
		}
	}
}

func TestARegionKeepsItsKey(t *testing.T) {
	s := newSite(t)
	a, err := s.open(t).RegionKeys(within(t), "eu-west", 0)
	if err != nil || len(a) != 1 || len(a[0].GetKey()) != keyBytes {
		t.Fatalf("got %d keys, %v", len(a), err)
	}
	b, err := s.open(t).RegionKeys(within(t), "eu-west", 0)
	if err != nil || !bytes.Equal(a[0].GetKey(), b[0].GetKey()) {
		t.Fatalf("another control plane got another key (%v)", err)
	}
	c, err := s.open(t).RegionKeys(within(t), "us-east", 0)
	if err != nil || bytes.Equal(a[0].GetKey(), c[0].GetKey()) {
		t.Fatalf("another region got the same key (%v)", err)
	}
	d, err := s.open(t).RegionKeys(within(t), "eu-west", 7)
	if err != nil || bytes.Equal(a[0].GetKey(), d[0].GetKey()) || a[0].GetId() == d[0].GetId() {
		t.Fatalf("another epoch got the same key (%v)", err)
	}
}

func TestAConnectorsSecretIsItsOwn(t *testing.T) {
	v, ctx := newSite(t).open(t), within(t)
	id, err := v.PutConnectorSecret(ctx, "github", "Bearer x")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := v.ConnectorSecret(ctx, id, "github"); err != nil || got != "Bearer x" {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := v.ConnectorSecret(ctx, id, "jira"); err == nil {
		t.Fatal("another connector got it")
	}
	if err := v.DestroyConnectorSecret(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ConnectorSecret(ctx, id, "github"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestAllControlPlanesSignAuditWithTheSameKey(t *testing.T) {
	s := newSite(t)
	a, err := s.open(t).AuditKey(within(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.open(t).AuditKey(within(t))
	if err != nil || !a.Equal(b) {
		t.Fatalf("another control plane got another key (%v)", err)
	}
	if other, err := newSite(t).open(t).AuditKey(within(t)); err != nil || a.Equal(other) {
		t.Fatalf("another installation got the same key (%v)", err)
	}
}
