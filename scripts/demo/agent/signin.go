package agent

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"crypto/rand"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	signInTimeout = 30 * time.Second
	maxPage       = 1 << 20
)

// ErrRefused says that the identity provider did not let the person sign in.
var ErrRefused = errors.New("the identity provider refused the sign-in")

// Login is how a person signs in at a provider.
type Login struct {
	// Issuer is the provider's issuer URL.
	Issuer string
	// ClientID is the provider's public native app.
	ClientID string
	// RedirectPath of the app's loopback redirect.
	RedirectPath string
	Email        string
	Password     string
}

// Tokens are what a sign-in gave.
type Tokens struct {
	Access  string
	Refresh string
	// IDToken was verified; Subject is its `sub`.
	IDToken string
	Subject string
	Expires time.Time
}

// SignIn goes through authorization code with PKCE: the authorize request, the login page's form, the redirect to a
// listener on loopback, and the token request. It is what a desktop agent does, with a script in the browser's place.
func SignIn(ctx context.Context, l Login) (Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, signInTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, l.Issuer)
	if err != nil {
		return Tokens{}, fmt.Errorf("read the metadata of %s: %w", l.Issuer, err)
	}
	redirect, err := listenForRedirect(ctx, l.RedirectPath)
	if err != nil {
		return Tokens{}, err
	}
	defer redirect.close()
	app := oauth2.Config{
		ClientID:    l.ClientID,
		Endpoint:    provider.Endpoint(),
		RedirectURL: redirect.url,
		Scopes:      []string{oidc.ScopeOpenID, "profile", "email", oidc.ScopeOfflineAccess},
	}
	app.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	start := app.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	if err := browse(ctx, start, l.Email, l.Password); err != nil {
		return Tokens{}, err
	}
	code, err := redirect.code(ctx, state)
	if err != nil {
		return Tokens{}, err
	}
	token, err := app.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Tokens{}, fmt.Errorf("redeem the code: %w", err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := provider.Verifier(&oidc.Config{ClientID: l.ClientID}).Verify(ctx, raw)
	if err != nil {
		return Tokens{}, fmt.Errorf("verify the ID token: %w", err)
	}
	if id.Nonce != nonce {
		return Tokens{}, errors.New("the ID token's nonce is another")
	}
	return Tokens{Access: token.AccessToken, Refresh: token.RefreshToken, IDToken: raw, Subject: id.Subject, Expires: token.Expiry}, nil
}

// Refresh redeems a refresh token.
func Refresh(ctx context.Context, l Login, refreshToken string) (Tokens, error) {
	provider, err := oidc.NewProvider(ctx, l.Issuer)
	if err != nil {
		return Tokens{}, fmt.Errorf("read the metadata of %s: %w", l.Issuer, err)
	}
	app := oauth2.Config{ClientID: l.ClientID, Endpoint: provider.Endpoint()}
	app.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	token, err := app.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
	if err != nil {
		return Tokens{}, fmt.Errorf("refresh: %w", err)
	}
	return Tokens{Access: token.AccessToken, Refresh: token.RefreshToken, Expires: token.Expiry}, nil
}

// browse is the person at the browser: it follows redirects to the login page, fills in the form, and follows on until
// the loopback listener has answered.
func browse(ctx context.Context, start, email, password string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return fmt.Errorf("make a cookie jar: %w", err)
	}
	browser := &http.Client{Jar: jar}
	defer browser.CloseIdleConnections()
	page, at, status, err := fetch(ctx, browser, http.MethodGet, start, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%w: the login page answered %d: %s", ErrRefused, status, firstLine(page))
	}
	form, err := readForm(page)
	if err != nil {
		return fmt.Errorf("read the login page: %w", err)
	}
	form.fields.Set("email", email)
	form.fields.Set("password", password)
	target, err := at.Parse(form.action)
	if err != nil {
		return fmt.Errorf("read the form's action: %w", err)
	}
	page, _, status, err = fetch(ctx, browser, http.MethodPost, target.String(), form.fields)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%w: status %d for %s", ErrRefused, status, email)
	}
	if !strings.Contains(page, signedIn) {
		return fmt.Errorf("%w: the browser did not come back to the agent", ErrRefused)
	}
	return nil
}

func fetch(ctx context.Context, c *http.Client, method, target string, form url.Values) (page string, at *url.URL, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return "", nil, 0, fmt.Errorf("make the request for the login page: %w", err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", nil, 0, fmt.Errorf("browse: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return "", nil, 0, fmt.Errorf("browse: %w", err)
	}
	return string(data), resp.Request.URL, resp.StatusCode, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line[:min(len(line), 200)]
}

type form struct {
	action string
	fields url.Values
}

// readForm takes the first form of a page with its named inputs.
func readForm(page string) (form, error) {
	dec := xml.NewDecoder(strings.NewReader(page))
	dec.Strict, dec.AutoClose, dec.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	f := form{fields: url.Values{}}
	inside := false
	for {
		token, err := dec.Token()
		if err != nil {
			return form{}, fmt.Errorf("no form in it: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			switch {
			case t.Name.Local == "form":
				inside, f.action = true, attribute(t, "action")
			case inside && t.Name.Local == "input" && attribute(t, "name") != "":
				f.fields.Set(attribute(t, "name"), attribute(t, "value"))
			}
		case xml.EndElement:
			if t.Name.Local == "form" {
				return f, nil
			}
		}
	}
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// signedIn is what the loopback page says at the end.
const signedIn = "You are signed in."

// redirect is the agent's listener for the authorization response.
type redirect struct {
	url    string
	server *http.Server
	got    chan url.Values
	done   chan struct{}
}

func listenForRedirect(ctx context.Context, path string) (*redirect, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the redirect: %w", err)
	}
	r := &redirect{url: "http://" + listener.Addr().String() + path, got: make(chan url.Values, 1), done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) {
		select {
		case r.got <- req.URL.Query():
		default: // only the first answer counts
		}
		_, _ = io.WriteString(w, signedIn+" You may close this window.\n")
	})
	r.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(listener) // ends by close
	}()
	return r, nil
}

func (r *redirect) close() {
	_ = r.server.Close()
	<-r.done
}

func (r *redirect) code(ctx context.Context, state string) (string, error) {
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("wait for the redirect: %w", ctx.Err())
	case q := <-r.got:
		if q.Get("error") != "" {
			return "", fmt.Errorf("%w: %s: %s", ErrRefused, q.Get("error"), q.Get("error_description"))
		}
		if q.Get("state") != state {
			return "", errors.New("the redirect's state is another")
		}
		return q.Get("code"), nil
	}
}
