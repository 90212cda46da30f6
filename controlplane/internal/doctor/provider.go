package doctor

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
)

const maxDocument = 1 << 20

// metadata is what is read of a provider's.
type metadata struct {
	Keys       string   `json:"jwks_uri"`
	Challenges []string `json:"code_challenge_methods_supported"`
	Methods    []string `json:"token_endpoint_auth_methods_supported"`
	Claims     []string `json:"claims_supported"`
}

// signIn asks the provider what anybody may ask it, as a sign-in would.
func (x *diagnosis) signIn(ctx context.Context) error {
	in := x.d.GetSignIn()
	if in == nil {
		x.add(problem, "sign-in: set up", "nobody of this directory can sign in with a browser", "sallyport directories sign-in "+x.d.GetId()+" --issuer URL --client-id ID")
		return nil
	}
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, x.Client), in.GetIssuer())
	if err != nil {
		next := "see that the control plane can reach it, and that --issuer equals the issuer that its metadata says, byte for byte"
		if strings.Contains(in.GetIssuer(), "okta") {
			next += "; a custom authorization server's issuer ends in /oauth2/ID, the org's does not"
		}
		x.add(problem, "sign-in: issuer", "the provider's metadata cannot be read: "+brief(err), next)
		return nil
	}
	var m metadata
	if p.Claims(&m) != nil {
		x.add(problem, "sign-in: issuer", "the provider's metadata cannot be understood", "see that --issuer is an OpenID provider's")
		return nil //nolint:nilerr // the finding says it
	}
	x.add(good, "sign-in: issuer", in.GetIssuer()+" is reached and says that it is this issuer", "")
	if len(m.Challenges) > 0 && !slices.Contains(m.Challenges, "S256") {
		x.add(warning, "sign-in: PKCE", "the provider does not say that it knows PKCE by S256, with which people are signed in", "allow PKCE for the client at the provider")
	}
	x.keys(ctx, m.Keys)
	x.client(ctx, p.Endpoint())
	return x.secret(ctx, p.Endpoint(), m.Methods)
}

// keys looks whether there is a key by which ID tokens verify.
func (x *diagnosis) keys(ctx context.Context, at string) {
	next := "the provider must sign ID tokens with RSA, ECDSA or EdDSA, and publish its keys"
	body, status, _, err := x.ask(ctx, http.MethodGet, at, nil, nil)
	if err != nil || status != http.StatusOK {
		x.add(problem, "sign-in: keys", fmt.Sprintf("the provider's keys cannot be read (status %d)", status), next)
		return
	}
	var set jose.JSONWebKeySet
	usable := 0
	if json.Unmarshal(body, &set) == nil {
		for _, k := range set.Keys {
			if k.IsPublic() && k.Valid() && k.Use != "enc" {
				usable++
			}
		}
	}
	if usable == 0 {
		x.add(problem, "sign-in: keys", "the provider publishes no key by which an ID token could be verified", next)
		return
	}
	x.add(good, "sign-in: keys", fmt.Sprintf("%d published", usable), "")
}

// client asks, as a browser would and without anybody in front of it, whether the provider knows the client and where it is
// answered. With prompt=none a provider says that nobody is signed in, at the redirect URI, if all is well.
func (x *diagnosis) client(ctx context.Context, at oauth2.Endpoint) {
	in, redirect := x.d.GetSignIn(), x.RedirectURI(x.d.GetId())
	q := url.Values{
		"response_type": {"code"}, "client_id": {in.GetClientId()}, "redirect_uri": {redirect}, "scope": {strings.Join(append([]string{"openid"}, in.GetScopes()...), " ")},
		"state": {rand.Text()}, "nonce": {rand.Text()}, "code_challenge": {oauth2.S256ChallengeFromVerifier(rand.Text() + rand.Text())}, "code_challenge_method": {"S256"}, "prompt": {"none"},
	}
	join := "?"
	if strings.Contains(at.AuthURL, "?") {
		join = "&"
	}
	next := "at the provider, the application with client id " + in.GetClientId() + " must have exactly this redirect URI: " + redirect
	_, status, to, err := x.ask(ctx, http.MethodGet, at.AuthURL+join+q.Encode(), nil, nil)
	switch answered, readable := url.Parse(to); {
	case err != nil:
		x.add(problem, "sign-in: client", "the provider's page cannot be reached: "+brief(err), "see that the control plane can reach "+in.GetIssuer())
	case status >= 400:
		x.add(problem, "sign-in: client", fmt.Sprintf("the provider refuses the client or its redirect URI (status %d)", status), next)
	case to == "" || readable != nil || !strings.HasPrefix(to, redirect+"?") && !strings.HasPrefix(to, redirect+"#"):
		x.add(unknown, "sign-in: client", "the provider shows a page of its own, so that it cannot be told whether it knows the client and the redirect URI", next)
	case slices.Contains([]string{"login_required", "interaction_required", "consent_required", "account_selection_required"}, answered.Query().Get("error")):
		x.add(good, "sign-in: client", "the provider knows the client and answers at "+redirect, "")
	case answered.Query().Get("error") == "access_denied":
		x.add(warning, "sign-in: client", "the provider knows the client and refuses: "+word(answered.Query().Get("error_description")), "see the sign-in policy of the application, and at a custom authorization server its access policy")
	case answered.Query().Get("error") != "":
		x.add(problem, "sign-in: client", "the provider refuses the client: "+word(answered.Query().Get("error")+" "+answered.Query().Get("error_description")), "see that the application's grant type is authorization code, and that its scopes are allowed: openid "+strings.Join(in.GetScopes(), " "))
	default:
		x.add(good, "sign-in: client", "the provider knows the client and answers at "+redirect, "")
	}
}

// secret shows the client's secret with a code that nobody was given: the provider says whether it is the code or the client
// that it does not take.
func (x *diagnosis) secret(ctx context.Context, at oauth2.Endpoint, methods []string) error {
	in := x.d.GetSignIn()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {rand.Text()}, "redirect_uri": {x.RedirectURI(x.d.GetId())}, "code_verifier": {rand.Text() + rand.Text()}}
	var basic *url.Userinfo
	if in.GetSecretId() == "" {
		form.Set("client_id", in.GetClientId())
	} else {
		secret, err := x.Secrets.SignInSecret(ctx, in.GetSecretId(), x.d.GetId())
		if err != nil {
			return fmt.Errorf("reading the client's secret: %w", err)
		}
		if slices.Contains(methods, "client_secret_post") && !slices.Contains(methods, "client_secret_basic") {
			form.Set("client_id", in.GetClientId())
			form.Set("client_secret", secret)
		} else {
			basic = url.UserPassword(url.QueryEscape(in.GetClientId()), url.QueryEscape(secret))
		}
	}
	body, status, _, err := x.ask(ctx, http.MethodPost, at.TokenURL, form, basic)
	if err != nil {
		x.add(problem, "sign-in: secret", "the provider's token endpoint cannot be reached: "+brief(err), "see that the control plane can reach "+in.GetIssuer())
		return nil
	}
	var said struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &said) // what is not JSON says nothing
	switch {
	case said.Error == "invalid_grant":
		x.add(good, "sign-in: secret", "the provider takes the secret of the client, or that it has none", "")
	case said.Error == "invalid_client" || said.Error == "unauthorized_client" || status == http.StatusUnauthorized:
		x.add(problem, "sign-in: secret", "the provider does not take the secret of the client", "set it again: sallyport directories sign-in "+x.d.GetId()+" --client-secret-file FILE; an application of the provider's that is public has none")
	default:
		x.add(unknown, "sign-in: secret", fmt.Sprintf("the provider does not say whether it takes the secret of the client (status %d, %s)", status, word(said.Error)), "sign in as a test")
	}
	return nil
}

// ask makes a request and reads an answer that is not too long.
func (x *diagnosis) ask(ctx context.Context, method, at string, form url.Values, basic *url.Userinfo) (body []byte, status int, location string, err error) {
	if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, 0, "", errors.New("the provider names no URL for it")
	}
	req, err := http.NewRequestWithContext(ctx, method, at, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, "", errors.New("the provider names no URL for it")
	}
	req.Header.Set("Accept", "application/json")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if basic != nil {
		password, _ := basic.Password()
		req.SetBasicAuth(basic.Username(), password)
	}
	res, err := x.Client.Do(req)
	if err != nil {
		return nil, 0, "", err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxDocument))
	return body, res.StatusCode, res.Header.Get("Location"), err
}

// brief is an error of another's making, short enough and fit to be shown.
func brief(err error) string {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // without the URL, which holds what was asked
	}
	return word(err.Error())
}

func word(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	if text = strings.TrimSpace(text); text == "" {
		return "it does not say why"
	}
	return text
}
