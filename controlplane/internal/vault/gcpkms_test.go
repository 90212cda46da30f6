package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/oauth2"
)

const (
	gcpTestKey   = "projects/site-1/locations/europe-west1/keyRings/ring/cryptoKeys/sallyport"
	gcpTestToken = "ya29.stand-in-token"
)

// gcpServer answers as Google Cloud KMS does.
type gcpServer struct {
	*standIn
	altered int // so many answers have a wrong checksum yet
}

func newGCPServer(t *testing.T) *gcpServer {
	s := &gcpServer{}
	s.standIn = newStandIn(t, s.serve)
	return s
}

func (s *gcpServer) serve(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, status string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": code, "message": "on what was asked: hunter2", "status": status}})
	}
	var in struct {
		Plaintext, Ciphertext, AdditionalAuthenticatedData                   []byte
		PlaintextCrc32c, CiphertextCrc32c, AdditionalAuthenticatedDataCrc32c *string
	}
	name, operation, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), ":")
	switch {
	case r.Header.Get("Authorization") != "Bearer "+gcpTestToken:
		fail(http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	case s.deny:
		fail(http.StatusForbidden, "PERMISSION_DENIED")
		return
	case r.Host != "cloudkms.googleapis.com", r.Method != http.MethodPost, name != gcpTestKey:
		fail(http.StatusNotFound, "NOT_FOUND")
		return
	case json.NewDecoder(r.Body).Decode(&in) != nil,
		!fits(in.AdditionalAuthenticatedData, in.AdditionalAuthenticatedDataCrc32c):
		fail(http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	switch operation {
	case "encrypt":
		if !fits(in.Plaintext, in.PlaintextCrc32c) {
			fail(http.StatusBadRequest, "INVALID_ARGUMENT")
			return
		}
		sealed := s.seal(in.Plaintext, in.AdditionalAuthenticatedData)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": fmt.Sprint(name, "/cryptoKeyVersions/", len(s.versions)), "ciphertext": sealed, "ciphertextCrc32c": s.sum(sealed),
			"verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true, "protectionLevel": "SOFTWARE",
		})
	case "decrypt":
		plain, err := s.unseal(in.Ciphertext, in.AdditionalAuthenticatedData)
		if err != nil || !fits(in.Ciphertext, in.CiphertextCrc32c) {
			fail(http.StatusBadRequest, "INVALID_ARGUMENT")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"plaintext": plain, "plaintextCrc32c": s.sum(plain), "usedPrimary": true, "protectionLevel": "SOFTWARE"})
	default:
		fail(http.StatusNotFound, "NOT_FOUND")
	}
}

func crc(data []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))), 10)
}

func fits(data []byte, sum *string) bool { return sum != nil && *sum == crc(data) }

func (s *gcpServer) sum(data []byte) string {
	if s.altered > 0 {
		s.altered--
		return "1"
	}
	return crc(data)
}

func (s *gcpServer) open(tokens oauth2.TokenSource) (root, error) {
	return newGCP("gcp-kms://"+gcpTestKey, tokens, remoteClient(s.transport()))
}

// tokens is a stubbed source.
type tokens func() (*oauth2.Token, error)

func (t tokens) Token() (*oauth2.Token, error) { return t() }

func TestGoogleCloudSealsTheKeys(t *testing.T) {
	server := newGCPServer(t)
	testRemote(t, server.standIn, func() (root, error) {
		return server.open(oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcpTestToken}))
	})
}

func TestGoogleCloudsAnswersAreTakenWithTheirChecksumsAlone(t *testing.T) {
	server := newGCPServer(t)
	r, err := server.open(oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcpTestToken}))
	if err != nil {
		t.Fatal(err)
	}
	server.altered = 2
	sealed, err := r.EncryptWithContext(within(t), []byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	server.altered = 2
	if got, err := r.DecryptWithContext(within(t), sealed, nil); err != nil || string(got) != "plain" {
		t.Errorf("got %q, %v", got, err)
	}
	server.altered = 1000
	if _, err := r.EncryptWithContext(within(t), []byte("plain"), nil); err == nil || !contains(err.Error(), "checksums") {
		t.Errorf("got %v", err)
	}
	if got, err := r.DecryptWithContext(within(t), sealed, nil); err == nil || got != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestGoogleCloudsRefusalsSayWhatToDo(t *testing.T) {
	server := newGCPServer(t)
	for name, c := range map[string]struct {
		tokens tokens
		want   string
	}{
		"a wrong token":     {func() (*oauth2.Token, error) { return &oauth2.Token{AccessToken: "hunter2"}, nil }, "not take the token"},
		"no token":          {func() (*oauth2.Token, error) { return nil, errors.New("the metadata server is away") }, "is away"},
		"withdrawn":         {func() (*oauth2.Token, error) { return nil, refusedToken(http.StatusBadRequest) }, "withdrawn"},
		"no token just now": {func() (*oauth2.Token, error) { return nil, refusedToken(http.StatusBadGateway) }, "cannot answer now"},
	} {
		r, err := server.open(c.tokens)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.EncryptWithContext(within(t), []byte("hunter2"), nil); err == nil || !contains(err.Error(), c.want) || contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	r, err := newGCP("gcp-kms://"+gcpTestKey, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcpTestToken}), remoteClient(&http.Transport{DialContext: server.dial}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.EncryptWithContext(within(t), []byte("hunter2"), nil); err == nil || !contains(err.Error(), "certificate") || server.asked > 1 {
		t.Errorf("of one who is not Google: got %v", err)
	}
	if _, err := r.EncryptWithContext(within(t), make([]byte, gcpLimit+1), nil); err == nil || !contains(err.Error(), "65536") {
		t.Errorf("got %v", err)
	}
}

func refusedToken(code int) error {
	return &oauth2.RetrieveError{Response: &http.Response{StatusCode: code, Status: http.StatusText(code)}, Body: []byte("hunter2")}
}

func TestGoogleCloudsCredentialsAreThoseOfTheEnvironment(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", t.TempDir()+"/none.json")
	if _, err := openRoot(within(t), "gcp-kms://"+gcpTestKey); err == nil || !contains(err.Error(), "GOOGLE_APPLICATION_CREDENTIALS") {
		t.Errorf("got %v", err)
	}
}
