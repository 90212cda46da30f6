package signin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Tokens is what an identity provider gives at a sign-in. Whoever keeps them seals them.
type Tokens struct {
	Access, Refresh, ID string
	// Expires is when the access token ends. Zero: unknown.
	Expires time.Time
}

func tokensOf(given *oauth2.Token) Tokens {
	id, _ := given.Extra("id_token").(string)
	return Tokens{Access: given.AccessToken, Refresh: given.RefreshToken, ID: id, Expires: given.Expiry}
}

// request sends a token request to a directory's provider as the client that signs its people in.
func (s *Server) request(ctx context.Context, directory string, form url.Values) (*oauth2.Token, *policyv1.Directory, *provider, error) {
	state, err := s.Engine.Fence(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	d := state.Directory(directory)
	if d.GetSignIn() == nil {
		return nil, nil, nil, fmt.Errorf("directory %q has no sign-in any more", directory)
	}
	p, err := s.providers.get(ctx, d.GetSignIn().GetIssuer(), discoveredFor)
	if p == nil {
		return nil, nil, nil, err
	}
	secret, err := s.secretOf(ctx, d)
	if err != nil {
		return nil, nil, nil, err
	}
	var options []oauth2.AuthCodeOption
	for name, values := range form {
		options = append(options, oauth2.SetAuthURLParam(name, values[0]))
	}
	config := s.client(p, d, secret)
	config.RedirectURL = ""
	given, err := config.Exchange(oidc.ClientContext(ctx, s.Client), "", options...)
	return given, d, p, err
}

func (s *Server) secretOf(ctx context.Context, d *policyv1.Directory) (string, error) {
	id := d.GetSignIn().GetSecretId()
	if id == "" {
		return "", nil
	}
	secret, err := s.Secrets.SignInSecret(ctx, id, d.GetId())
	if err != nil {
		return "", fmt.Errorf("reading the client's secret: %w", err)
	}
	return secret, nil
}

// Renew has a directory's provider renew tokens of a sign-in. An ID token that comes with them must be of the same person as before.
func (s *Server) Renew(ctx context.Context, directory string, t Tokens) (Tokens, error) {
	given, d, p, err := s.request(ctx, directory, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {t.Refresh}})
	if err != nil {
		return Tokens{}, err
	}
	fresh := tokensOf(given)
	if fresh.ID == "" {
		return fresh, nil
	}
	ctx = oidc.ClientContext(ctx, s.Client)
	verified, err := p.VerifierContext(ctx, &oidc.Config{ClientID: d.GetSignIn().GetClientId(), SupportedSigningAlgs: algorithms, Now: s.Now}).Verify(ctx, fresh.ID)
	if err != nil {
		return Tokens{}, errors.New("a renewed ID token is not good")
	}
	before, err := p.VerifierContext(ctx, &oidc.Config{ClientID: d.GetSignIn().GetClientId(), SupportedSigningAlgs: algorithms, SkipExpiryCheck: true}).Verify(ctx, t.ID)
	if err == nil && before.Subject != verified.Subject {
		return Tokens{}, errors.New("a renewed ID token is of somebody else")
	}
	return fresh, nil
}

// Exchange has a directory's provider exchange a token (RFC 8693).
func (s *Server) Exchange(ctx context.Context, directory string, form url.Values) (Tokens, error) {
	given, _, _, err := s.request(ctx, directory, form)
	if err != nil {
		return Tokens{}, err
	}
	return tokensOf(given), nil
}

// Revoke has a directory's provider revoke tokens (RFC 7009). False: it has no way to, or signs nobody in any more.
func (s *Server) Revoke(ctx context.Context, directory string, t Tokens) (bool, error) {
	state, err := s.Engine.Fence(ctx)
	if err != nil {
		return true, err
	}
	d := state.Directory(directory)
	if d.GetSignIn() == nil {
		return false, nil
	}
	p, err := s.providers.get(ctx, d.GetSignIn().GetIssuer(), discoveredFor)
	if p == nil {
		return true, err
	}
	if p.metadata.Revocation == "" {
		return false, nil
	}
	secret, err := s.secretOf(ctx, d)
	if err != nil {
		return true, err
	}
	for _, one := range []struct{ token, hint string }{{t.Refresh, "refresh_token"}, {t.Access, "access_token"}} {
		if one.token == "" {
			continue
		}
		if err := s.revokeOne(ctx, p, d, secret, one.token, one.hint); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (s *Server) revokeOne(ctx context.Context, p *provider, d *policyv1.Directory, secret, token, hint string) error {
	form := url.Values{"token": {token}, "token_type_hint": {hint}}
	inHeader := s.client(p, d, secret).Endpoint.AuthStyle == oauth2.AuthStyleInHeader
	if !inHeader {
		form.Set("client_id", d.GetSignIn().GetClientId())
		if secret != "" {
			form.Set("client_secret", secret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.metadata.Revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return errors.New("the provider's revocation endpoint is no URL")
	}
	if inHeader {
		req.SetBasicAuth(url.QueryEscape(d.GetSignIn().GetClientId()), url.QueryEscape(secret))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := s.Client.Do(req)
	if err != nil {
		return errors.New("the provider cannot be reached")
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the provider refused to revoke: HTTP status %d", res.StatusCode)
	}
	return nil
}
