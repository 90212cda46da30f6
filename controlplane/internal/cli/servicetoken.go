package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

func serviceTokenCommand(o *options) *cobra.Command {
	var key, issuer, resource string
	c := &cobra.Command{
		Use: "token ID", Short: "Get an access token as an agent does, with the private key of an account", Args: cobra.ExactArgs(1),
		Long: "Get an access token for an account from the authorization server, as its agent does: by client credentials, with a\n" +
			"client assertion that the private key signs (RFC 7523). It asks for no admin's token. Each token lives as long as a\nproxy's lease; for the next one, run it again.",
		Example: "  export TOKEN=$(sallyport service-accounts token 0198f3c2-… --key key.json --issuer https://sallyport.example.com)\n" +
			"  sallyport service-accounts token 0198f3c2-… --key key.json --issuer https://sallyport.example.com --resource https://mcp.example.com/mcp/jira -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(key)
			if err != nil {
				return fmt.Errorf("reading the key: %w", err)
			}
			var private jose.JSONWebKey
			if err := private.UnmarshalJSON(data); err != nil || private.IsPublic() {
				return usage("%s is no private JSON Web Key: sallyport service-accounts keys generate makes one", key)
			}
			issuer := strings.TrimRight(issuer, "/")
			assertion, err := assert(private, args[0], issuer, time.Now())
			if err != nil {
				return err
			}
			form := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion}}
			if resource != "" {
				form.Set("resource", resource)
			}
			out, err := askToken(cmd.Context(), issuer+"/oauth/token", form)
			if err != nil {
				return err
			}
			return o.print(out, func() table { return line("%s", out.AccessToken) })
		},
	}
	c.Flags().StringVar(&key, "key", "", "`file` with the private JSON Web Key")
	c.Flags().StringVar(&issuer, "issuer", "", "`URL` of the authorization server: the control plane's --signin-url")
	c.Flags().StringVar(&resource, "resource", "", "`URL` that the token is for (default: the one that people are given)")
	_ = c.MarkFlagRequired("key")
	_ = c.MarkFlagRequired("issuer")
	return c
}

// assert signs that a client is who it says.
func assert(private jose.JSONWebKey, client, audience string, now time.Time) (string, error) {
	alg := jose.SignatureAlgorithm(private.Algorithm)
	switch k := private.Key.(type) {
	case *ecdsa.PrivateKey:
		alg = map[int]jose.SignatureAlgorithm{256: jose.ES256, 384: jose.ES384, 521: jose.ES512}[k.Params().BitSize]
	case ed25519.PrivateKey:
		alg = jose.EdDSA
	case *rsa.PrivateKey:
		if alg != jose.RS256 {
			alg = jose.PS256
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: private}, nil)
	if err != nil {
		return "", errors.New("the key cannot sign: it is none of EC, Ed25519 and RSA")
	}
	payload, err := json.Marshal(map[string]any{
		"iss": client, "sub": client, "aud": audience, "jti": uuid.NewString(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return jws.CompactSerialize()
}

// tokenAnswer is that of a token endpoint, or its error.
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope,omitempty"`
}

func askToken(ctx context.Context, at string, form url.Values) (*tokenAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, usage("--issuer is a URL, such as https://sallyport.example.com: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking %s for a token: %w", at, err)
	}
	defer func() { _ = res.Body.Close() }()
	var out struct {
		tokenAnswer
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&out); err != nil || res.StatusCode != http.StatusOK && out.Error == "" {
		return nil, fmt.Errorf("%s answers with status %d, not as a token endpoint does: is --issuer the control plane's --signin-url?", at, res.StatusCode)
	}
	if out.Error != "" {
		return nil, fmt.Errorf("no token is given (%s): %s", out.Error, out.Description)
	}
	return &out.tokenAnswer, nil
}
