package vault

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

const (
	azureTestHost  = "site-1.vault.azure.net"
	azureTestToken = "eyJ.stand-in-token"
)

// azureServer answers as Azure Key Vault does: without a token it says where to get one.
type azureServer struct {
	*standIn
	resource string
	keys     map[int]*rsa.PrivateKey // by version
}

func newAzureServer(t *testing.T) *azureServer {
	s := &azureServer{resource: "https://vault.azure.net", keys: map[int]*rsa.PrivateKey{}}
	s.standIn = newStandIn(t, s.serve)
	return s
}

func (s *azureServer) private(version int) *rsa.PrivateKey {
	if s.keys[version] == nil {
		s.keys[version], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return s.keys[version]
}

var azurePath = regexp.MustCompile(`^/keys/sallyport(?:/([0-9a-f]{32}))?/(wrapkey|unwrapkey)$`)

func (s *azureServer) serve(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, word string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": word, "message": "on what was asked: hunter2"}})
	}
	var in struct{ Alg, Value string }
	path := azurePath.FindStringSubmatch(r.URL.Path)
	switch {
	case r.Header.Get("Authorization") != "Bearer "+azureTestToken:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="https://login.microsoftonline.com/tenant-1", resource="%s"`, s.resource))
		fail(http.StatusUnauthorized, "Unauthorized")
		return
	case s.deny:
		fail(http.StatusForbidden, "Forbidden")
		return
	case r.Host != azureTestHost, r.Method != http.MethodPost, path == nil, r.URL.Query().Get("api-version") == "":
		fail(http.StatusNotFound, "KeyNotFound")
		return
	case json.NewDecoder(r.Body).Decode(&in) != nil, in.Alg != "RSA-OAEP-256":
		fail(http.StatusBadRequest, "BadParameter")
		return
	}
	version := len(s.versions) - 1
	if path[1] != "" {
		n, _ := strconv.ParseInt(path[1], 16, 32)
		version = int(n)
	}
	value, err := base64.RawURLEncoding.DecodeString(in.Value)
	if err == nil && (version >= len(s.versions) || s.versions[version] == nil) {
		fail(http.StatusNotFound, "KeyNotFound")
		return
	}
	if err == nil && path[2] == "wrapkey" {
		value, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &s.private(version).PublicKey, value, nil)
	} else if err == nil {
		value, err = rsa.DecryptOAEP(sha256.New(), nil, s.private(version), value, nil)
	}
	if err != nil {
		fail(http.StatusBadRequest, "BadParameter")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{
		"kid": fmt.Sprintf("https://%s/keys/sallyport/%032x", azureTestHost, version), "value": base64.RawURLEncoding.EncodeToString(value),
	})
}

// azureTokens is a stubbed credential.
type azureTokens func(policy.TokenRequestOptions) (azcore.AccessToken, error)

func (t azureTokens) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return t(o)
}

func azureToken(text string) azureTokens {
	return func(o policy.TokenRequestOptions) (azcore.AccessToken, error) {
		if !slices.Equal(o.Scopes, []string{"https://vault.azure.net/.default"}) || o.TenantID != "tenant-1" {
			return azcore.AccessToken{}, fmt.Errorf("asked for %q of %q", o.Scopes, o.TenantID)
		}
		return azcore.AccessToken{Token: text, ExpiresOn: time.Now().Add(time.Hour)}, nil
	}
}

func (s *azureServer) open(version string, credential azcore.TokenCredential) (root, error) {
	return newAzure("azure-kms://"+azureTestHost+"/keys/sallyport"+version, credential, remoteClient(s.transport()))
}

func TestAzureSealsTheKeys(t *testing.T) {
	server := newAzureServer(t)
	testRemote(t, server.standIn, func() (root, error) { return server.open("", azureToken(azureTestToken)) })
}

func TestAzureSealsWithTheVersionThatIsNamedAndOpensWithEach(t *testing.T) {
	server := newAzureServer(t)
	server.rotate()
	var sealed [][]byte
	for _, version := range []string{"", fmt.Sprintf("/%032x", 0)} {
		r, err := server.open(version, azureToken(azureTestToken))
		if err != nil {
			t.Fatal(err)
		}
		text, err := r.EncryptWithContext(within(t), []byte("plain"), nil)
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, text)
		for _, text := range sealed {
			if got, err := r.DecryptWithContext(within(t), text, nil); err != nil || string(got) != "plain" {
				t.Errorf("got %q, %v", got, err)
			}
		}
	}
	if first := string(sealed[1]); !contains(first, fmt.Sprintf(`"version":"%032x"`, 0)) {
		t.Errorf("got %s", first)
	}
}

func TestAzuresRefusalsSayWhatToDo(t *testing.T) {
	server := newAzureServer(t)
	for name, c := range map[string]struct {
		credential azureTokens
		resource   string
		want       string
	}{
		"a wrong token": {azureToken("hunter2"), "https://vault.azure.net", "not take the token"},
		"no token": {func(policy.TokenRequestOptions) (azcore.AccessToken, error) {
			return azcore.AccessToken{}, errors.New("no identity\n\there")
		}, "https://vault.azure.net", "no identity here"},
		"for somebody else's": {azureToken(azureTestToken), "https://evil.example", ""},
	} {
		server.set(func() { server.resource = c.resource })
		r, err := server.open("", c.credential)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.EncryptWithContext(within(t), []byte("hunter2"), nil); err == nil || !contains(err.Error(), c.want) || contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	r, err := newAzure("azure-kms://"+azureTestHost+"/keys/sallyport", azureToken(azureTestToken), remoteClient(&http.Transport{DialContext: server.dial}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.EncryptWithContext(within(t), []byte("hunter2"), nil); err == nil || !contains(err.Error(), "certificate") {
		t.Errorf("of one who is not Azure: got %v", err)
	}
	for _, sealed := range []string{"", "{}", `{"version":"../../secrets/x","key":"AA==","payload":"AA=="}`} {
		before := server.asked
		if _, err := r.DecryptWithContext(within(t), []byte(sealed), nil); err == nil || !strings.Contains(err.Error(), "not sealed with") || server.asked != before {
			t.Errorf("%s: got %v", sealed, err)
		}
	}
}

func TestAzuresCredentialsAreThoseOfTheEnvironment(t *testing.T) {
	r, err := openRoot(within(t), "azure-kms://"+azureTestHost+"/keys/sallyport")
	if _, ok := r.(*azureKMS); err != nil || !ok {
		t.Errorf("got %T, %v", r, err)
	}
}
