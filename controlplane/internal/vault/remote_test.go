package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// standIn is what the stand-ins of the key management services share. Each speaks as its vendor documents; none is the vendor's.
type standIn struct {
	*httptest.Server
	mu       sync.Mutex
	versions [][]byte // nil: destroyed
	busy     int      // so many answers are 503 yet
	asked    int
	answer   string // in place of each answer
	deny     bool   // whoever asks has no right to the key
}

// newStandIn starts one over TLS. What arrives goes to serve with the lock held.
func newStandIn(t *testing.T, serve http.HandlerFunc) *standIn {
	s := &standIn{}
	s.rotate()
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked++
		switch {
		case s.busy > 0:
			s.busy--
			w.WriteHeader(http.StatusServiceUnavailable)
		case s.answer != "":
			_, _ = io.WriteString(w, s.answer)
		default:
			serve(w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// transport reaches it under each name, as one that its certificate is for.
func (s *standIn) transport() *http.Transport {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		DialContext:     s.dial,
	}
}

func (s *standIn) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
}

func (s *standIn) rotate() {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	s.set(func() { s.versions = append(s.versions, key) })
}

func (s *standIn) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *standIn) seal(plain, aad []byte) []byte {
	version := binary.BigEndian.AppendUint32(nil, uint32(len(s.versions)-1))
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce)
	return append(version, gcm(s.versions[len(s.versions)-1]).Seal(nonce, nonce, plain, aad)...)
}

func (s *standIn) unseal(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < 16 {
		return nil, errors.New("too short")
	}
	version := int(binary.BigEndian.Uint32(sealed))
	if version >= len(s.versions) || s.versions[version] == nil {
		return nil, errors.New("no such version")
	}
	return gcm(s.versions[version]).Open(nil, sealed[4:16], sealed[16:], aad)
}

// opener opens a root anew, as another control plane does.
type opener func() (root, error)

func (o opener) vault(ctx context.Context, t *testing.T, s site) *Vault {
	t.Helper()
	ring, err := openRing(ctx, s.store, []string{"kms"}, func(context.Context, string) (root, error) { return o() })
	if err != nil {
		t.Fatal(err)
	}
	return &Vault{store: s.store, ring: ring, people: newCache(10)}
}

// testRemote asks of a root what each must do.
func testRemote(t *testing.T, server *standIn, open opener) {
	must := func(t *testing.T) root {
		t.Helper()
		r, err := open()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	plain, binding := []byte("the keys: hunter2"), []byte("bound\x00\xff")
	seal := func(t *testing.T, r root) []byte {
		t.Helper()
		sealed, err := r.EncryptWithContext(within(t), plain, binding)
		if err != nil || bytes.Contains(sealed, plain) {
			t.Fatalf("got %q, %v", sealed, err)
		}
		return sealed
	}
	t.Run("opens what was sealed, with its binding alone", func(t *testing.T) {
		r := must(t)
		sealed := seal(t, r)
		if got, err := r.DecryptWithContext(within(t), sealed, binding); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %q, %v", got, err)
		}
		for _, other := range []string{"", "bound", "bound\x00\xfe", "bound\x00\xff\x00"} {
			if got, err := r.DecryptWithContext(within(t), sealed, []byte(other)); err == nil {
				t.Errorf("bound to %q it gives %q", other, got)
			}
		}
		sealed[len(sealed)-3] ^= 1
		if got, err := r.DecryptWithContext(within(t), sealed, binding); err == nil {
			t.Errorf("changed it gives %q", got)
		}
	})
	t.Run("rotated there", func(t *testing.T) {
		r := must(t)
		sealed := seal(t, r)
		server.rotate()
		if got, err := must(t).DecryptWithContext(within(t), sealed, binding); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("seals a vault", func(t *testing.T) {
		ctx, s := within(t), newSite(t)
		before := server.asked
		v := open.vault(ctx, t, s)
		for i := range 50 {
			if err := v.Put(ctx, fmt.Sprint("x.", i), "owner", NewSecret([]byte("kept"))); err != nil {
				t.Fatal(err)
			}
		}
		if n := server.asked - before; n > 4 {
			t.Errorf("it was asked %d times", n)
		}
		server.rotate()
		server.set(func() { server.busy = 2 })
		other := open.vault(ctx, t, s)
		if _, err := other.Rotate(ctx); err != nil {
			t.Fatal(err)
		}
		server.set(func() { clear(server.versions[:len(server.versions)-1]) }) // what they sealed need not open any more
		for _, v := range []*Vault{v, other, open.vault(ctx, t, s)} {
			if got, err := v.Get(ctx, "x.7", "owner"); err != nil || string(got.Reveal()) != "kept" {
				t.Fatalf("got %q, %v", got.Reveal(), err)
			}
		}
	})
	sealed := seal(t, must(t))
	for name, c := range map[string]struct {
		change func()
		want   string
	}{
		"busy":         {func() { server.busy = 1000 }, "cannot answer now"},
		"denied":       {func() { server.deny = true }, "needs"},
		"garbage":      {func() { server.answer = `{"Plaintext": "hunter2` }, "cannot be read"},
		"another page": {func() { server.answer = "<html>hunter2</html>" }, "cannot be read"},
		"endless":      {func() { server.answer = `{"x": "` + strings.Repeat("x", remoteAnswer) + `"}` }, "cannot be read"},
		"empty":        {func() { server.answer = `{}` }, "without"},
	} {
		t.Run(name, func(t *testing.T) {
			server.set(c.change)
			defer server.set(func() { server.busy, server.deny, server.answer = 0, false, "" })
			r := must(t)
			got, err := r.EncryptWithContext(within(t), plain, binding)
			if err == nil || !contains(err.Error(), c.want) || contains(err.Error(), "hunter2") {
				t.Errorf("sealing gives %q, %v", got, err)
			}
			got, err = r.DecryptWithContext(within(t), sealed, binding)
			if bytes.Equal(got, plain) || err == nil && len(got) > 0 || err != nil && contains(err.Error(), "hunter2") {
				t.Errorf("opening gives %q, %v", got, err)
			}
		})
	}
}

func TestTheKeysOfEachCloudAreNamedAsItNamesThem(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	client := remoteClient(http.DefaultTransport)
	for _, uri := range []string{
		"aws-kms://arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
		"aws-kms://arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		"aws-kms://arn:aws-cn:kms:cn-north-1:111122223333:alias/team/sallyport_1",
		"gcp-kms://projects/example.com:site-1/locations/global/keyRings/Ring_1/cryptoKeys/key-1",
		"azure-kms://site-1.vault.azure.net/keys/Key-1",
		"azure-kms://site-1.managedhsm.azure.net/keys/key/0123456789abcdef0123456789abcdef",
		"azure-kms://site-1.vault.usgovcloudapi.net/keys/key",
	} {
		var err error
		switch scheme, _, _ := strings.Cut(uri, ":"); scheme {
		case "aws-kms":
			_, err = newAWS(within(t), uri)
		case "gcp-kms":
			_, err = newGCP(uri, nil, client)
		default:
			_, err = newAzure(uri, azureToken(""), client)
		}
		if err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
