package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

// azureKMS is an RSA key of Azure Key Vault or of a managed HSM. RSA binds nothing and has little room: each time it wraps a fresh key,
// under which the rest is sealed with its binding. What it wraps, everybody can wrap who has its public half: it keeps secrets, and
// does not say who sealed them.
type azureKMS struct {
	key, version string // the version that seals; without one it is the newest
	client       *azkeys.Client
}

// azureSealed is what was sealed, with the version of the key that it needs.
type azureSealed struct {
	Version string `json:"version"`
	Key     []byte `json:"key"`     // wrapped
	Payload []byte `json:"payload"` // AES-256-GCM, the nonce first
}

var azureKey = regexp.MustCompile(`^azure-kms://([A-Za-z0-9-]{3,24}\.(?:vault|managedhsm)\.(?:azure\.net|azure\.cn|usgovcloudapi\.net))/keys/([A-Za-z0-9-]{1,127})(?:/([0-9a-f]{32}))?$`)

var azureVersion = regexp.MustCompile(`^[0-9a-f]{32}$`)

// openAzure finds the credentials as any program of Azure does, when they are first needed.
func openAzure(uri string) (*azureKMS, error) {
	found, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("reading what the environment says on Azure: %w", err)
	}
	return newAzure(uri, found, remoteClient(&http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}))
}

func newAzure(uri string, credential azcore.TokenCredential, client *http.Client) (*azureKMS, error) {
	parts := azureKey.FindStringSubmatch(uri)
	if parts == nil {
		return nil, errors.New("a key of Azure is azure-kms://NAME.vault.azure.net/keys/KEY[/VERSION], or one at NAME.managedhsm.azure.net")
	}
	// The library sends a token only where the vault's question for one names the domain that the vault is in.
	keys, err := azkeys.NewClient("https://"+parts[1], azureCredential{credential}, &azkeys.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: client, Telemetry: policy.TelemetryOptions{Disabled: true},
		Retry: policy.RetryOptions{MaxRetries: remoteTries - 1, TryTimeout: remoteTimeout, RetryDelay: remotePause / 20, MaxRetryDelay: remotePause},
	}})
	if err != nil {
		return nil, fmt.Errorf("making a client of Azure: %w", err)
	}
	return &azureKMS{key: parts[2], version: parts[3], client: keys}, nil
}

// EncryptWithContext seals.
func (a *azureKMS) EncryptWithContext(ctx context.Context, plain, binding []byte) ([]byte, error) {
	fresh := make([]byte, keyBytes)
	defer clear(fresh)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	under, err := subtle.NewAESGCM(fresh)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	payload, err := under.Encrypt(plain, binding)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	var out azkeys.WrapKeyResponse
	err = a.ask(ctx, "wrap", func(ctx context.Context) (err error) {
		out, err = a.client.WrapKey(ctx, a.key, a.version, azureParameters(fresh), nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(out.Result) == 0 || out.KID == nil || !strings.EqualFold(out.KID.Name(), a.key) || !azureVersion.MatchString(out.KID.Version()) {
		return nil, errors.New("asking Azure to wrap: it answered without a wrapped key, or with another's")
	}
	sealed, err := json.Marshal(azureSealed{Version: out.KID.Version(), Key: out.Result, Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed, nil
}

// DecryptWithContext opens what was sealed with any version of the key that is still enabled.
func (a *azureKMS) DecryptWithContext(ctx context.Context, sealed, binding []byte) ([]byte, error) {
	var in azureSealed
	if err := json.Unmarshal(sealed, &in); err != nil || !azureVersion.MatchString(in.Version) {
		return nil, fmt.Errorf("what is to be opened was not sealed with Azure's key %s", a.key)
	}
	var out azkeys.UnwrapKeyResponse
	err := a.ask(ctx, "unwrap", func(ctx context.Context) (err error) {
		out, err = a.client.UnwrapKey(ctx, a.key, in.Version, azureParameters(in.Key), nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer clear(out.Result)
	if len(out.Result) != keyBytes {
		return nil, errors.New("asking Azure to unwrap: it answered without a key")
	}
	under, err := subtle.NewAESGCM(out.Result)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	plain, err := under.Decrypt(in.Payload, binding)
	if err != nil {
		return nil, fmt.Errorf("what Azure's key %s sealed was changed since, or belongs elsewhere", a.key)
	}
	return plain, nil
}

func azureParameters(value []byte) azkeys.KeyOperationParameters {
	algorithm := azkeys.EncryptionAlgorithmRSAOAEP256
	return azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: value}
}

// errNoCredential: nobody gives a token.
var errNoCredential = errors.New("there is no token: set AZURE_TENANT_ID and AZURE_CLIENT_ID with AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH or AZURE_FEDERATED_TOKEN_FILE, or run where a managed identity is attached")

// azureCredential tells its own errors from the vault's.
type azureCredential struct{ azcore.TokenCredential }

// GetToken gets a token.
func (c azureCredential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := c.TokenCredential.GetToken(ctx, o)
	if err != nil {
		return token, noAzureToken{err}
	}
	return token, nil
}

// noAzureToken is why there is no token. It is not asked for again at once: the credential has done so where that may help.
type noAzureToken struct{ cause error }

// NonRetriable says so to the library.
func (noAzureToken) NonRetriable() {}

// Error tells the cause in one line, and of a refusal only that: what came back may hold more.
func (e noAzureToken) Error() string {
	var refused *azidentity.AuthenticationFailedError
	if errors.As(e.cause, &refused) && refused.RawResponse != nil {
		return fmt.Sprintf("%v: it answers %s", errNoCredential, refused.RawResponse.Status)
	}
	return fmt.Sprintf("%v: %s", errNoCredential, strings.Join(strings.Fields(e.cause.Error()), " "))
}

// ask asks; the library tries again. Of what comes back only the status is told: the rest may quote what was asked.
func (a *azureKMS) ask(ctx context.Context, operation string, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, remoteTries*remoteTimeout)
	defer cancel()
	err := question(ctx)
	var said *azcore.ResponseError
	var unasked noAzureToken
	var unreached *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unasked):
		err = unasked
	case errors.As(err, &said):
		err = a.refused(operation, said.StatusCode)
	case errors.As(err, &unreached), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		err = fmt.Errorf("it %w: %w", errBusy, err)
	default:
		err = errors.New("it gave an answer that cannot be read")
	}
	return fmt.Errorf("asking Azure to %s: %w", operation, err)
}

func (a *azureKMS) refused(operation string, code int) error {
	switch {
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return fmt.Errorf("it %w: it answers %d", errBusy, code)
	case code == http.StatusUnauthorized:
		return errors.New("it does not take the token of the Azure credentials: see that they are of the key's tenant")
	case code == http.StatusForbidden:
		return fmt.Errorf("it refuses: the identity of the Azure credentials needs wrapKey and unwrapKey on the key %s (the role Key Vault Crypto Service Encryption User), the key must be enabled, and the vault's firewall must let this machine in", a.key)
	case code == http.StatusNotFound:
		return fmt.Errorf("it has no key %s, or not that version", a.key)
	case operation == "unwrap" && code == http.StatusBadRequest:
		return fmt.Errorf("it cannot open this with %s: another key sealed it, or it was changed", a.key)
	}
	return fmt.Errorf("it answers %d with the key %s", code, a.key)
}
