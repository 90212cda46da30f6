package signin

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/kv"
)

// skew is how far a provider's clock may be off.
const skew = time.Minute

// idToken is what an ID token says, once verified.
type idToken struct {
	subject  string
	acr      string
	amr      []string
	authTime time.Time
	given    Tokens // with it
}

// callback takes a provider's answer: it must be the one that this browser waits for, once.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) {
	ctx, q := r.Context(), r.URL.Query()
	held, browser, err := s.redeem(r)
	switch {
	case errors.Is(err, errForged):
		s.record(r, Event{Directory: r.PathValue("directory"), Outcome: Forged})
		s.forgedPage(w)
		return
	case err != nil:
		s.unavailable(w, r, err)
		return
	}
	state, err := s.Engine.Fence(ctx)
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	d := state.Directory(held.Directory)
	if d.GetSignIn().GetIssuer() != held.Issuer {
		s.record(r, Event{Directory: held.Directory, Outcome: Forged})
		s.forgedPage(w)
		return
	}
	p, err := s.providers.get(ctx, held.Issuer, discoveredFor)
	if p == nil {
		s.unreachable(w, r, d, err)
		return
	}
	// An answer of another provider must not be taken for this one's (RFC 9207).
	if iss := q["iss"]; len(iss) > 1 || len(iss) == 1 && iss[0] != held.Issuer || len(iss) == 0 && p.metadata.SendsIssuer {
		s.record(r, Event{Directory: held.Directory, Outcome: Forged})
		s.forgedPage(w)
		return
	}
	if code := q.Get("error"); code != "" {
		s.Log.InfoContext(ctx, "an identity provider did not sign somebody in", "directory", held.Directory, "error", fmt.Sprintf("%.100q", code), "description", fmt.Sprintf("%.300q", q.Get("error_description")))
		s.record(r, Event{Directory: held.Directory, Outcome: Refused})
		s.refusedPage(w, d, code, s.beginURL(held.To, held.Need))
		return
	}
	token, err := s.exchange(ctx, p, d, q.Get("code"), held, browser, q.Get("state"))
	var answered *oauth2.RetrieveError
	switch {
	case errors.As(err, &answered) && answered.Response.StatusCode < 500:
		s.Log.WarnContext(ctx, "an identity provider did not redeem a code: are client id, secret and redirect URI right?", "directory", held.Directory, "error", fmt.Sprintf("%.100q", answered.ErrorCode), "description", fmt.Sprintf("%.300q", answered.ErrorDescription))
		s.record(r, Event{Directory: held.Directory, Outcome: Refused})
		s.refusedPage(w, d, answered.ErrorCode, s.beginURL(held.To, held.Need))
		return
	case errors.Is(err, errToken):
		s.Log.WarnContext(ctx, "an ID token was refused", "directory", held.Directory, "error", err)
		s.record(r, Event{Directory: held.Directory, Outcome: Forged})
		s.forgedPage(w)
		return
	case err != nil:
		s.unreachable(w, r, d, err)
		return
	}
	s.enter(w, r, d, held, token)
}

// enter opens a session for the person whom a verified ID token names.
func (s *Server) enter(w http.ResponseWriter, r *http.Request, d *policyv1.Directory, held pending, token idToken) {
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	event := Event{Directory: d.GetId(), ACR: token.acr, AMR: token.amr, Outcome: SignedIn}
	event.Person = state.UserBySubject(d.GetId(), token.subject)
	switch {
	case event.Person == nil:
		event.Outcome, event.Subject = NotProvisioned, token.subject
	case !event.Person.Active:
		event.Outcome = Deactivated
	case !strong(held.Need, token.acr, token.amr, token.authTime, s.Now()):
		event.Outcome = TooWeak
	}
	if event.Outcome != SignedIn {
		s.record(r, event)
		s.strangerPage(w, d, event, token)
		return
	}
	if err := s.Keep(r.Context(), event.Person, d.GetId(), token.given); err != nil { // the sign-in is good all the same
		s.Log.WarnContext(r.Context(), "what an identity provider gave at a sign-in could not be kept: connectors that need it ask for another", "directory", d.GetId(), "error", err)
	}
	opened := session{Issuer: held.Issuer, ACR: token.acr, AMR: token.amr, AuthTime: token.authTime}
	if err := s.openSession(r.Context(), w, r, event.Person, opened, d.GetSignIn().GetSession().AsDuration()); err != nil {
		s.unavailable(w, r, err)
		return
	}
	s.record(r, event)
	s.redirect(w, held.To)
}

// redeem takes the sign-in that an answer belongs to, if this browser began it, and lets nobody take it again.
func (s *Server) redeem(r *http.Request) (held pending, browser []byte, err error) {
	states := r.URL.Query()["state"]
	browser = s.cookie(r, browserCookie)
	if len(states) != 1 || len(states[0]) > 100 || browser == nil {
		return held, nil, errForged
	}
	key := pendingKey(states[0])
	entry, err := s.Store.Get(r.Context(), key)
	if errors.Is(err, kv.ErrNotFound) {
		return held, nil, errForged
	}
	if err != nil {
		return held, nil, err
	}
	if err := json.Unmarshal(entry.Value, &held); err != nil {
		return held, nil, fmt.Errorf("reading a sign-in: %w", err)
	}
	if held.Done || held.Directory != r.PathValue("directory") || s.Now().Sub(held.Begun) > pendingFor ||
		subtle.ConstantTimeCompare([]byte(held.Browser), []byte(digest(browser))) != 1 {
		return held, nil, errForged
	}
	done := held
	done.Done = true
	value, err := json.Marshal(done)
	if err != nil {
		return held, nil, err
	}
	if _, err := s.Store.Update(r.Context(), key, value, entry.Revision, pendingFor); errors.Is(err, kv.ErrConflict) {
		return held, nil, errForged
	} else if err != nil {
		return held, nil, err
	}
	return held, browser, nil
}

// errToken: the provider's ID token is not good.
var errToken = errors.New("the ID token is not good")

// exchange redeems a code and verifies the ID token that comes for it.
func (s *Server) exchange(ctx context.Context, p *provider, d *policyv1.Directory, code string, held pending, browser []byte, state string) (idToken, error) {
	secret, err := s.secretOf(ctx, d)
	if err != nil {
		return idToken{}, err
	}
	ctx = oidc.ClientContext(ctx, s.Client)
	tokens, err := s.client(p, d, secret).Exchange(ctx, code, oauth2.VerifierOption(derive(browser, "pkce", state)))
	if err != nil {
		return idToken{}, err
	}
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return idToken{}, fmt.Errorf("%w: there is none", errToken)
	}
	verified, err := p.VerifierContext(ctx, &oidc.Config{ClientID: d.GetSignIn().GetClientId(), SupportedSigningAlgs: algorithms, Now: s.Now}).Verify(ctx, raw)
	if err != nil {
		return idToken{}, fmt.Errorf("%w: %.300w", errToken, err)
	}
	if subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(derive(browser, "nonce", state))) != 1 {
		return idToken{}, fmt.Errorf("%w: its nonce is not the one that was sent", errToken)
	}
	if verified.AccessTokenHash != "" && verified.VerifyAccessToken(tokens.AccessToken) != nil {
		return idToken{}, fmt.Errorf("%w: it is of another access token", errToken)
	}
	token, err := readClaims(verified, d.GetSignIn(), s.Now())
	token.given = tokensOf(tokens)
	return token, err
}

// readClaims reads what a verified ID token says of the person and the sign-in.
func readClaims(verified *oidc.IDToken, in *policyv1.SignIn, now time.Time) (idToken, error) {
	var all map[string]json.RawMessage
	var known struct {
		ACR      string   `json:"acr"`
		AMR      []string `json:"amr"`
		AuthTime float64  `json:"auth_time"`
		Azp      string   `json:"azp"`
	}
	if err := verified.Claims(&all); err != nil {
		return idToken{}, fmt.Errorf("%w: its claims cannot be read", errToken)
	}
	if err := verified.Claims(&known); err != nil {
		return idToken{}, fmt.Errorf("%w: acr, amr, auth_time or azp is of another type", errToken)
	}
	if known.Azp != "" && known.Azp != in.GetClientId() || known.Azp == "" && len(verified.Audience) > 1 {
		return idToken{}, fmt.Errorf("%w: it was issued to another client", errToken)
	}
	if verified.IssuedAt.After(now.Add(skew)) || now.Sub(verified.IssuedAt) > pendingFor {
		return idToken{}, fmt.Errorf("%w: it was not issued just now", errToken)
	}
	token := idToken{acr: known.ACR, amr: known.AMR}
	if known.AuthTime > 0 && known.AuthTime < 1<<40 {
		token.authTime = time.Unix(int64(known.AuthTime), 0)
	}
	if token.authTime.After(now.Add(skew)) {
		return idToken{}, fmt.Errorf("%w: its auth_time is in the future", errToken)
	}
	claim := in.GetUserClaim()
	if claim == "" {
		claim = "sub"
	}
	if err := json.Unmarshal(all[claim], &token.subject); err != nil || token.subject == "" {
		return idToken{}, fmt.Errorf("%w: claim %q is not a string with something in it", errToken, claim)
	}
	return token, nil
}
