package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"sallyport.dev/controlplane/internal/core"
)

// algorithms are those that an access token may be signed with: never none, never a shared key.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.PS256, jose.EdDSA}

// Verifier says who presents an access token of an issuer that a directory trusts.
type Verifier struct {
	client *http.Client
	now    func() time.Time

	mu        sync.Mutex
	providers map[string]*oidc.Provider
}

// NewVerifier returns a verifier. A nil client stands for one with a time-out of 10 seconds.
func NewVerifier(client *http.Client, now func() time.Time) *Verifier {
	if client == nil {
		client = &http.Client{Timeout: 10 * time.Second}
	}
	if now == nil {
		now = time.Now
	}
	return &Verifier{client: client, now: now, providers: map[string]*oidc.Provider{}}
}

// Verify returns the active user for whom a token was issued, and when the token ends. Its errors are for
// the caller to see and hold nothing of the token.
func (v *Verifier) Verify(ctx context.Context, s *core.State, token, resource string) (*core.User, time.Time, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return nil, time.Time{}, errors.New("the access token is no signed JWT")
	}
	var unverified struct {
		Issuer string `json:"iss"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&unverified); err != nil {
		return nil, time.Time{}, errors.New("the access token cannot be read")
	}
	directory, issuer := s.DirectoryOfIssuer(unverified.Issuer)
	if issuer == nil {
		return nil, time.Time{}, errors.New("the access token is of an issuer that no directory trusts")
	}
	provider, err := v.provider(ctx, issuer.GetUrl())
	if err != nil {
		return nil, time.Time{}, err
	}
	audience := issuer.GetAudience()
	if audience == "" {
		audience = resource
	}
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a)
	}
	verified, err := provider.VerifierContext(oidc.ClientContext(ctx, v.client), &oidc.Config{
		ClientID: audience, SupportedSigningAlgs: names, Now: v.now,
	}).Verify(oidc.ClientContext(ctx, v.client), token)
	if err != nil || audience == "" {
		return nil, time.Time{}, errors.New("the access token is expired, forged, or made for another audience")
	}
	var own struct {
		Nonce      string `json:"nonce"`
		AccessHash string `json:"at_hash"`
	}
	if err := verified.Claims(&own); err != nil || own.Nonce != "" || own.AccessHash != "" {
		return nil, time.Time{}, errors.New("the token is an ID token, which opens nothing: an access token is needed")
	}
	subject := verified.Subject
	if claim := issuer.GetUserClaim(); claim != "" && claim != "sub" {
		var claims map[string]json.RawMessage
		if err := verified.Claims(&claims); err != nil {
			return nil, time.Time{}, errors.New("the access token's claims cannot be read")
		}
		subject = ""
		_ = json.Unmarshal(claims[claim], &subject) // no string: no subject
	}
	user := s.UserBySubject(directory.GetId(), subject)
	if user == nil || !user.Active {
		return nil, time.Time{}, errors.New("the access token is of nobody who may act")
	}
	if user.ValidAfter != 0 && !verified.IssuedAt.After(user.ValidAfter.Time()) {
		return nil, time.Time{}, errors.New("the access token is from before the person's sessions were revoked")
	}
	return user, verified.Expiry, nil
}

// provider discovers an issuer once. Its keys are fetched, and fetched again when they change, by go-oidc.
func (v *Verifier) provider(ctx context.Context, issuer string) (*oidc.Provider, error) {
	v.mu.Lock()
	p := v.providers[issuer]
	v.mu.Unlock()
	if p != nil {
		return p, nil
	}
	// The key set outlives the request that was the first to need it.
	p, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), v.client), issuer)
	if err != nil {
		return nil, fmt.Errorf("the issuer of the access token cannot be discovered now: try again")
	}
	v.mu.Lock()
	v.providers[issuer] = p
	v.mu.Unlock()
	return p, nil
}
