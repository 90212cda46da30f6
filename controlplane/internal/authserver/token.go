package authserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// accessToken is the payload of an access token (RFC 9068).
type accessToken struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"` // Sallyport's user id
	Audience string   `json:"aud"`
	ClientID string   `json:"client_id"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	ID       string   `json:"jti"`
	Session  string   `json:"sid"`
	Scope    string   `json:"scope,omitempty"`
	AuthTime int64    `json:"auth_time,omitempty"`
	ACR      string   `json:"acr,omitempty"`
	AMR      []string `json:"amr,omitempty"`
	// Generation is the person's: the token counts as long as they have it.
	Generation uint64 `json:"sallyport_gen"`
	// Began is when the session did, in Unix milliseconds: all of a client's up to a moment can be ended.
	Began int64 `json:"sallyport_began"`
	// Confirmation is the key that the token is bound to; nil: none.
	Confirmation *confirmation `json:"cnf,omitempty"`
}

// token answers the token endpoint.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	f, err := form(r, "resource")
	if err != nil {
		s.fail(w, r, "", err)
		return
	}
	name := f.Get("client_id")
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.fail(w, r, name, err)
		return
	}
	c, err := s.authenticate(r, state, f)
	if err != nil {
		s.fail(w, r, name, err)
		return
	}
	key, err := s.possession(r, c)
	if err != nil {
		s.fail(w, r, c.id, err)
		return
	}
	var answer map[string]any
	switch f.Get("grant_type") {
	case "authorization_code":
		answer, err = s.redeem(r, state, c, f, key)
	case "refresh_token":
		answer, err = s.refresh(r, state, c, f, key)
	case "client_credentials":
		answer, err = s.machine(r, state, c, f, key)
	default:
		err = refuse("unsupported_grant_type", "", "the grant types are authorization_code, refresh_token and, for service accounts, client_credentials")
	}
	if err != nil {
		s.fail(w, r, c.id, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// audience returns what a token is for: what was granted, or a connector below it that is asked for now.
func (s *Server) audience(state *core.State, f url.Values, granted string) (string, error) {
	if len(f["resource"]) > 1 {
		return "", refuse("invalid_target", "", "a token is for one resource")
	}
	if f.Get("resource") == "" {
		return granted, nil
	}
	asked, err := s.resource(state, f.Get("resource"))
	if err != nil {
		return "", err
	}
	if !narrower(asked, granted) {
		return "", refuse("invalid_target", "resource_refused", "the resource is another than the person was asked for")
	}
	return asked, nil
}

// redeem exchanges a code, once.
func (s *Server) redeem(r *http.Request, state *core.State, c *client, f url.Values, key string) (map[string]any, error) {
	ctx := r.Context()
	bad := func(action, text string) *refusal { return refuse("invalid_grant", action, text) }
	text := f.Get("code")
	entry, err := s.Store.Get(ctx, "code."+digest(text))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, bad("code_refused", "the code is not known, or it is too old")
	}
	if err != nil {
		return nil, err
	}
	var held code
	if err := json.Unmarshal(entry.Value, &held); err != nil {
		return nil, err
	}
	about := func(e *refusal) *refusal {
		e.person, e.session = held.Person.String(), held.Session.String()
		return e
	}
	switch {
	case held.Client != c.id:
		return nil, about(bad("code_injected", "the code was issued to another client"))
	case f.Get("redirect_uri") != "" && f.Get("redirect_uri") != held.Redirect:
		return nil, about(bad("code_injected", "the code was issued for another redirect_uri"))
	}
	_, err = s.Store.Get(ctx, "redeemed."+digest(text))
	switch {
	case err == nil:
		return nil, s.reused(ctx, held, about)
	case !errors.Is(err, kv.ErrNotFound):
		return nil, err
	case f.Get("code_verifier") == "" || subtle.ConstantTimeCompare([]byte(challengeOf(f.Get("code_verifier"))), []byte(held.Challenge)) != 1:
		return nil, about(bad("code_injected", "the code_verifier is missing, or is not that of the code"))
	case held.Key != "" && held.Key != key:
		return nil, about(proofRefused("code_injected", "the code was asked for with another key (dpop_jkt), or there is no DPoP proof"))
	case !s.Now().Before(held.Expires):
		return nil, about(bad("code_refused", "the code is too old: begin again"))
	}
	now := s.Now()
	x := &Session{
		ID: held.Session, Person: held.Person, Generation: held.Generation, Client: c.id, ClientName: c.name, Resource: held.Resource, Scopes: held.Scopes,
		ACR: held.ACR, AMR: held.AMR, AuthTime: held.AuthTime, Began: now, Used: now, Expires: limitsOf(state, now, now), Addresses: []string{address.Of(r)}, Key: key,
	}
	if err := s.live(state, x); err != nil {
		return nil, err
	}
	audience, err := s.audience(state, f, x.Resource)
	if err != nil {
		return nil, err
	}
	// From here on the code is used up, whatever comes of it.
	if _, err := s.Store.Create(ctx, "redeemed."+digest(text), []byte(held.Session.String()), rememberedFor); errors.Is(err, kv.ErrExists) {
		return nil, s.reused(ctx, held, about)
	} else if err != nil {
		return nil, err
	}
	refresh := ""
	if c.refresh || slices.Contains(held.Scopes, offline) {
		refresh = newRefresh(x.Person, x.ID)
		x.Current = digest(refresh)
	}
	value, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	if err := s.Audit.Record(ctx, &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN, Method: "token", Action: "session_began", PersonId: x.Person.String(), Session: x.ID.String(), Target: "resource/" + x.Resource,
		Client:         &auditv1.Client{Id: c.id, Name: c.name, Address: address.Of(r)},
		Decision:       &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
		Authentication: authentication(x),
	}); err != nil {
		return nil, err
	}
	if _, err := s.Store.Create(ctx, sessionKey(x.Person, x.ID), value, x.Expires.Sub(now)); err != nil {
		return nil, err
	}
	return s.issue(ctx, x, audience, refresh, key)
}

func authentication(x *Session) *auditv1.Authentication {
	a := &auditv1.Authentication{Acr: x.ACR, Amr: x.AMR}
	if !x.AuthTime.IsZero() {
		a.At = timestamppb.New(x.AuthTime)
	}
	return a
}

// reused ends the session of a code that comes a second time: one of the two who have it must not.
func (s *Server) reused(ctx context.Context, held code, about func(*refusal) *refusal) error {
	if _, err := s.End(ctx, held.Person, held.Session); err != nil {
		return err
	}
	return about(refuse("invalid_grant", "code_reused", "the code was used before: its session is ended"))
}

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// issue makes an access token for a session, bound to a key where there is one, if it still counts: after what was stored, the state
// is fenced once more.
func (s *Server) issue(ctx context.Context, x *Session, audience, refresh, key string) (map[string]any, error) {
	state, err := s.Engine.Fence(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.live(state, x); err != nil {
		if purgeErr := s.Store.Purge(context.WithoutCancel(ctx), sessionKey(x.Person, x.ID)); purgeErr != nil {
			s.Log.WarnContext(ctx, "a session that lost its race could not be removed; it expires", "session", x.ID, "error", purgeErr)
		}
		return nil, err
	}
	now := s.Now()
	claims := accessToken{
		Issuer: s.Issuer, Subject: x.Person.String(), Audience: audience, ClientID: x.Client, IssuedAt: now.Unix(), Expires: now.Add(s.Lease).Unix(),
		ID: uuid.NewString(), Session: x.ID.String(), Scope: strings.Join(x.Scopes, " "), ACR: x.ACR, AMR: x.AMR, Generation: x.Generation, Began: x.Began.UnixMilli(), Confirmation: confirm(key),
	}
	if !x.AuthTime.IsZero() {
		claims.AuthTime = x.AuthTime.Unix()
	}
	signed, err := s.sign(ctx, state, claims)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"access_token": signed, "token_type": "Bearer", "expires_in": int64(s.Lease / time.Second)}
	if key != "" {
		answer["token_type"] = "DPoP"
	}
	if claims.Scope != "" {
		answer["scope"] = claims.Scope
	}
	if refresh != "" {
		answer["refresh_token"] = refresh
	}
	return answer, nil
}
