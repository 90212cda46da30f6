package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// refresh exchanges a refresh token. Agents of one person run side by side and share one: who comes late with a token that
// another exchanged within the window is answered with the one that counts now. See docs/decisions.
func (s *Server) refresh(r *http.Request, state *core.State, c *client, f url.Values, key string) (map[string]any, error) {
	ctx, token := r.Context(), f.Get("refresh_token")
	unknown := refuse("invalid_grant", "refresh_refused", "the refresh token is not known, or its session is over: sign in again")
	person, id, ok := readRefresh(token)
	if !ok {
		return nil, unknown
	}
	for {
		x, revision, err := s.session(ctx, person, id)
		if err != nil {
			return nil, err
		}
		if x == nil {
			return nil, unknown
		}
		if !s.holds(x, token) { // a text that was made up around a session's id ends nothing
			unknown.person, unknown.session = person.String(), id.String()
			return nil, unknown
		}
		if x.Client != c.id {
			return nil, s.stolen(ctx, x, "the refresh token was issued to another client: its session is ended; sign in again")
		}
		if err := s.live(state, x); err != nil {
			return nil, err
		}
		audience, err := s.audience(state, f, x.Resource)
		if err != nil {
			return nil, err
		}
		next, fresh, err := s.successor(state, x, token)
		if err != nil {
			return nil, s.late(ctx, x, r, key, err)
		}
		if err := x.boundTo(key); err != nil {
			return nil, err
		}
		known := x.seen(address.Of(r))
		x.Used = s.Now()
		x.Expires = limitsOf(state, x.Began, x.Used)
		value, err := json.Marshal(x)
		if err != nil {
			return nil, err
		}
		_, err = s.Store.Update(ctx, sessionKey(person, id), value, revision, max(x.Expires.Sub(x.Used), time.Second))
		if errors.Is(err, kv.ErrConflict) {
			continue // another agent of the person was faster: its successor is ours
		}
		if err != nil {
			return nil, err
		}
		s.noteRefresh(r, x, fresh, known)
		s.used(ctx, c)
		return s.issue(ctx, x, audience, next, key)
	}
}

var errLate = errors.New("the token was superseded")

// successor returns the refresh token to answer with: a new one for the one that counts, and, within the window, the one that
// counts now for those before it.
func (s *Server) successor(state *core.State, x *Session, token string) (next string, fresh bool, err error) {
	sum := digest(token)
	if x.Current == "" {
		return "", false, errLate
	}
	if sum == x.Current {
		next = newRefresh(x.Person, x.ID)
		sealed, err := sealSuccessor(token, next)
		if err != nil {
			return "", false, err
		}
		x.Superseded = slices.Insert(x.Superseded, 0, superseded{Token: sum, Successor: sealed, At: s.Now()})
		x.Superseded = x.Superseded[:min(len(x.Superseded), maxSuperseded)]
		x.Current = digest(next)
		return next, true, nil
	}
	i := slices.IndexFunc(x.Superseded, func(p superseded) bool { return p.Token == sum })
	if i < 0 || s.Now().Sub(x.Superseded[i].At) > s.window(state) {
		return "", false, errLate
	}
	// Each opens the next, up to the one that counts.
	for next = token; i >= 0; i-- {
		if next, err = openSuccessor(next, x.Superseded[i].Successor); err != nil {
			return "", false, err
		}
	}
	return next, false, nil
}

// late answers a token that was superseded longer ago than the window. That request fails alone; where it also comes from
// a network where the session never was, or without the session's key, somebody else has it, and the session ends.
func (s *Server) late(ctx context.Context, x *Session, r *http.Request, key string, err error) error {
	if !errors.Is(err, errLate) {
		return err
	}
	e := &refusal{code: "invalid_grant", text: "the refresh token was superseded: use the newer one, or sign in again", status: http.StatusBadRequest,
		action: "refresh_reused", person: x.Person.String(), session: x.ID.String()}
	if x.near(address.Of(r)) && x.boundTo(key) == nil {
		return e
	}
	return s.stolen(ctx, x, "the refresh token was superseded, and came from elsewhere: its session is ended; sign in again")
}

// stolen ends a session whose refresh token somebody else has.
func (s *Server) stolen(ctx context.Context, x *Session, text string) error {
	if _, err := s.End(ctx, x.Person, x.ID); err != nil {
		return err
	}
	return &refusal{code: "invalid_grant", text: text, status: http.StatusBadRequest, action: "refresh_stolen", person: x.Person.String(), session: x.ID.String()}
}

// noteRefresh has audit know who used a refresh token, and from where it was not used before.
func (s *Server) noteRefresh(r *http.Request, x *Session, fresh, known bool) {
	action := "token_refreshed"
	if !fresh {
		action = "token_refreshed_again"
	}
	rec := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN, Method: "token", Action: action, PersonId: x.Person.String(), Session: x.ID.String(), Target: "resource/" + x.Resource,
		Client:   &auditv1.Client{Id: x.Client, Name: x.ClientName, Address: address.Of(r)},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	}
	if !known {
		rec.Details = []*auditv1.Detail{{Key: "address", Value: "new"}}
	}
	s.Audit.Note(rec)
}
