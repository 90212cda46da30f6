package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"regexp"
	"strings"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// gcpKMS is a symmetric key of Google Cloud KMS. It is spoken to by its HTTP API, of which two calls are needed: the client library
// would bring gRPC along.
type gcpKMS struct {
	key    string // its resource name
	tokens oauth2.TokenSource
	client *http.Client
}

const (
	gcpHost  = "https://cloudkms.googleapis.com/v1/"
	gcpScope = "https://www.googleapis.com/auth/cloudkms"
	gcpLimit = 64 << 10 // bytes that it seals at once; 8 KiB with an HSM, which it then says
)

var (
	gcpKey    = regexp.MustCompile(`^projects/[a-z0-9][a-z0-9.:-]*/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]+/cryptoKeys/[A-Za-z0-9_-]+$`)
	gcpStatus = regexp.MustCompile(`^[A-Z_]{1,40}$`)
)

// openGCP finds the credentials as any program of Google Cloud does.
func openGCP(ctx context.Context, uri string) (*gcpKMS, error) {
	client := remoteClient(&http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true})
	g, err := newGCP(uri, nil, client)
	if err != nil {
		return nil, err
	}
	// The source of tokens keeps the context, and outlives who opens the vault.
	found, err := google.FindDefaultCredentials(context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, client), gcpScope)
	if err != nil {
		return nil, fmt.Errorf("there are no Google Cloud credentials: set GOOGLE_APPLICATION_CREDENTIALS to a file of them, or run where a service account is attached: %w", err)
	}
	g.tokens = found.TokenSource
	return g, nil
}

func newGCP(uri string, tokens oauth2.TokenSource, client *http.Client) (*gcpKMS, error) {
	key := strings.TrimPrefix(uri, "gcp-kms://")
	if !gcpKey.MatchString(key) {
		return nil, errors.New("a key of Google Cloud KMS is gcp-kms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY")
	}
	return &gcpKMS{key: key, tokens: tokens, client: client}, nil
}

// Each field has a checksum beside it, as Google advises, so that what is altered on the way is seen.
type gcpEncrypt struct {
	Plaintext    []byte `json:"plaintext"`
	PlaintextSum int64  `json:"plaintextCrc32c,string"`
	Binding      []byte `json:"additionalAuthenticatedData"`
	BindingSum   int64  `json:"additionalAuthenticatedDataCrc32c,string"`
}

type gcpDecrypt struct {
	Ciphertext    []byte `json:"ciphertext"`
	CiphertextSum int64  `json:"ciphertextCrc32c,string"`
	Binding       []byte `json:"additionalAuthenticatedData"`
	BindingSum    int64  `json:"additionalAuthenticatedDataCrc32c,string"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) int64 { return int64(crc32.Checksum(b, castagnoli)) }

// EncryptWithContext seals. What comes back names the version of the key.
func (g *gcpKMS) EncryptWithContext(ctx context.Context, plain, binding []byte) ([]byte, error) {
	if len(plain) > gcpLimit {
		return nil, fmt.Errorf("the key at Google Cloud KMS seals %d bytes at once, and the vault's key-encryption keys are %d: wait until the keys before the newest are destroyed (sallyport vault status says when)", gcpLimit, len(plain))
	}
	var out struct {
		Name          string `json:"name"`
		Ciphertext    []byte `json:"ciphertext"`
		CiphertextSum int64  `json:"ciphertextCrc32c,string"`
		PlainSeen     bool   `json:"verifiedPlaintextCrc32c"`
		BindingSeen   bool   `json:"verifiedAdditionalAuthenticatedDataCrc32c"`
	}
	err := g.ask(ctx, "encrypt", gcpEncrypt{Plaintext: plain, PlaintextSum: sum(plain), Binding: binding, BindingSum: sum(binding)}, &out, func() error {
		switch {
		case len(out.Ciphertext) == 0 || !strings.HasPrefix(out.Name, g.key+"/cryptoKeyVersions/"):
			return errors.New("it answered without a ciphertext of this key")
		case !out.PlainSeen || !out.BindingSeen || out.CiphertextSum != sum(out.Ciphertext):
			return errGCPAltered
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out.Ciphertext, nil
}

// DecryptWithContext opens what was sealed with any version of the key that is still enabled.
func (g *gcpKMS) DecryptWithContext(ctx context.Context, sealed, binding []byte) ([]byte, error) {
	var out struct {
		Plaintext    []byte `json:"plaintext"`
		PlaintextSum int64  `json:"plaintextCrc32c,string"`
	}
	err := g.ask(ctx, "decrypt", gcpDecrypt{Ciphertext: sealed, CiphertextSum: sum(sealed), Binding: binding, BindingSum: sum(binding)}, &out, func() error {
		if out.PlaintextSum != sum(out.Plaintext) {
			return errGCPAltered
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

// errGCPAltered: Google advises to ask again.
var errGCPAltered = fmt.Errorf("it %w: its checksums do not fit, something on the way alters what is sent", errBusy)

func (g *gcpKMS) ask(ctx context.Context, operation string, question, answer any, check func() error) error {
	body, err := json.Marshal(question)
	if err == nil {
		err = tries(ctx, func() error {
			if err := g.once(ctx, operation, body, answer); err != nil {
				return err
			}
			return check()
		})
	}
	if err != nil {
		return fmt.Errorf("asking Google Cloud KMS to %s: %w", operation, err)
	}
	return nil
}

func (g *gcpKMS) once(ctx context.Context, operation string, body []byte, answer any) error {
	token, err := g.tokens.Token()
	if err != nil {
		return gcpNoToken(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, gcpHost+g.key+":"+operation, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	token.SetAuthHeader(req)
	res, err := g.client.Do(req)
	if err != nil {
		return fmt.Errorf("it %w: %w", errBusy, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fmt.Errorf("it %w: %w", errBusy, err)
	case res.StatusCode != http.StatusOK:
		return g.refused(operation, res.StatusCode, data)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return errors.New("it gave an answer that cannot be read")
	}
	return nil
}

// gcpNoToken says why there is no token, without what came back: it may hold more than the reason.
func gcpNoToken(err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case !errors.As(err, &refused):
		return fmt.Errorf("there is no token: %w", err)
	case refused.Response != nil && refused.Response.StatusCode >= 500:
		return fmt.Errorf("its token service %w: it answers %s", errBusy, refused.Response.Status)
	}
	return errors.New("there is no token for the credentials of GOOGLE_APPLICATION_CREDENTIALS, or of the attached service account: see that they were not withdrawn")
}

func (g *gcpKMS) refused(operation string, code int, data []byte) error {
	var said struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	_ = json.Unmarshal(data, &said) // a proxy on the way answers in its own way
	status := said.Error.Status
	if !gcpStatus.MatchString(status) {
		status = http.StatusText(code)
	}
	switch {
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return fmt.Errorf("it %w: it answers %d %s to %s", errBusy, code, status, operation)
	case code == http.StatusUnauthorized:
		return errors.New("it does not take the token of the Google Cloud credentials: see that they are for Google Cloud, and were not withdrawn")
	case code == http.StatusForbidden:
		return fmt.Errorf("it refuses: the identity of the Google Cloud credentials needs roles/cloudkms.cryptoKeyEncrypterDecrypter on %s, and its project the Cloud KMS API", g.key)
	case code == http.StatusNotFound:
		return fmt.Errorf("it has no key %s", g.key)
	case status == "FAILED_PRECONDITION":
		return fmt.Errorf("it does not use the key %s now: enable its version, or restore it", g.key)
	case operation == "decrypt" && code == http.StatusBadRequest:
		return fmt.Errorf("it cannot open this with %s: another key sealed it, or it was changed", g.key)
	}
	return fmt.Errorf("it answers %d %s to %s with the key %s", code, status, operation, g.key)
}
