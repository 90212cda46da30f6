package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// transitServer answers as HashiCorp Vault's transit engine does for a key of type aes256-gcm96.
type transitServer struct {
	*httptest.Server
	mu       sync.Mutex
	versions [][]byte
	minimum  int // min_decryption_version
	sealed   int // so many answers are 503 yet
	asked    int
}

const transitToken = "hvs.stand-in-token"

func newTransitServer(t *testing.T) *transitServer {
	s := &transitServer{minimum: 1}
	s.rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/secrets/transit/{operation}/{key}", s.serve)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Setenv("VAULT_TOKEN", transitToken)
	return s
}

func (s *transitServer) uri() string {
	return strings.Replace(s.URL, "http://", "hcvault+http://", 1) + "/secrets/transit/keys/sallyport"
}

func (s *transitServer) rotate() {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, key)
}

func (s *transitServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	fail := func(status int, message string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {message}})
	}
	var in struct{ Plaintext, Ciphertext, AssociatedData string }
	var raw map[string]string
	switch {
	case s.sealed > 0:
		s.sealed--
		fail(http.StatusServiceUnavailable, "Vault is sealed")
		return
	case r.Header.Get("X-Vault-Token") != transitToken, r.PathValue("key") != "sallyport":
		fail(http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		return
	case json.NewDecoder(r.Body).Decode(&raw) != nil:
		fail(http.StatusBadRequest, "failed to parse JSON input")
		return
	}
	in.Plaintext, in.Ciphertext, in.AssociatedData = raw["plaintext"], raw["ciphertext"], raw["associated_data"]
	aad, err := base64.StdEncoding.DecodeString(in.AssociatedData)
	if err != nil {
		fail(http.StatusBadRequest, "failed to base64-decode associated_data")
		return
	}
	data := map[string]any{}
	switch r.PathValue("operation") {
	case "encrypt":
		plain, err := base64.StdEncoding.DecodeString(in.Plaintext)
		if err != nil {
			fail(http.StatusBadRequest, "failed to base64-decode plaintext")
			return
		}
		version := len(s.versions)
		nonce := make([]byte, 12)
		_, _ = rand.Read(nonce)
		sealed := gcm(s.versions[version-1]).Seal(nonce, nonce, plain, aad)
		data["ciphertext"] = fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(sealed))
		data["key_version"] = version
	case "decrypt":
		parts := strings.SplitN(in.Ciphertext, ":", 3)
		if len(parts) != 3 || parts[0] != "vault" {
			fail(http.StatusBadRequest, "invalid ciphertext: no prefix")
			return
		}
		version, _ := strconv.Atoi(strings.TrimPrefix(parts[1], "v"))
		sealed, err := base64.StdEncoding.DecodeString(parts[2])
		if err != nil || version < s.minimum || version > len(s.versions) || len(sealed) < 12 {
			fail(http.StatusBadRequest, "ciphertext or signature version is disallowed by policy (too old)")
			return
		}
		plain, err := gcm(s.versions[version-1]).Open(nil, sealed[:12], sealed[12:], aad)
		if err != nil {
			fail(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		data["plaintext"] = base64.StdEncoding.EncodeToString(plain)
	default:
		fail(http.StatusNotFound, "unsupported path")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "1", "lease_duration": 0, "renewable": false, "data": data})
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	c, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return c
}

func TestHashiCorpVaultSealsTheKeysAndIsAskedSeldom(t *testing.T) {
	server, s, ctx := newTransitServer(t), newSite(t), within(t)
	open := func() *Vault {
		t.Helper()
		v, err := Open(ctx, s.store, Config{Keys: []string{server.uri()}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := open()
	for i := range 50 {
		if err := v.Put(ctx, fmt.Sprint("x.", i), "owner", NewSecret([]byte("kept"))); err != nil {
			t.Fatal(err)
		}
	}
	if server.asked > 3 {
		t.Errorf("it was asked %d times", server.asked)
	}
	// Its own rotation, and ours, and one that is sealed for a moment.
	server.rotate()
	server.sealed = 2
	other := open()
	if _, err := other.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	server.minimum = 2 // what its first version sealed opens no more, and need not
	for _, v := range []*Vault{v, other, open()} {
		if got, err := v.Get(ctx, "x.7", "owner"); err != nil || string(got.Reveal()) != "kept" {
			t.Fatalf("got %q, %v", got.Reveal(), err)
		}
	}
}

func TestHashiCorpVaultsRefusalsSayWhatToDo(t *testing.T) {
	server, s := newTransitServer(t), newSite(t)
	if _, err := Open(within(t), s.store, Config{Keys: []string{server.uri()}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func()
		want   string
	}{
		"no token":      {func() { t.Setenv("VAULT_TOKEN", "") }, "VAULT_TOKEN"},
		"a wrong token": {func() { t.Setenv("VAULT_TOKEN", "hvs.wrong") }, "needs update"},
		"sealed":        {func() { server.sealed = 1000 }, "cannot answer now"},
	} {
		t.Setenv("VAULT_TOKEN", transitToken)
		server.sealed = 0
		c.change()
		_, err := Open(within(t), s.store, Config{Keys: []string{server.uri()}})
		if err == nil || !contains(err.Error(), c.want) || contains(err.Error(), "hvs.") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
