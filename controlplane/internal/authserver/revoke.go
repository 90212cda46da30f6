package authserver

import (
	"net/http"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/bearer"
)

// revoke ends the session of a token that a client gives back (RFC 7009), refresh or access. One that is not known is
// answered as if it had been revoked.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	f, err := form(r)
	if err != nil {
		s.fail(w, r, "", err)
		return
	}
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.fail(w, r, f.Get("client_id"), err)
		return
	}
	c, err := s.authenticate(r, state, f)
	if err != nil {
		s.fail(w, r, f.Get("client_id"), err)
		return
	}
	if f.Get("token") == "" {
		s.fail(w, r, c.id, refuse("invalid_request", "", "which token? it is missing"))
		return
	}
	person, id, ok := s.tokenSession(f.Get("token"))
	if ok {
		x, _, err := s.session(r.Context(), person, id)
		if err != nil {
			s.fail(w, r, c.id, err)
			return
		}
		// A text that was made up around a session's id ends nothing, and neither does a token of another client.
		switch {
		case x == nil || !s.holds(x, f.Get("token")):
		case x.Client != c.id:
			s.fail(w, r, c.id, &refusal{code: "invalid_grant", text: "the token was issued to another client", status: http.StatusBadRequest,
				action: "revocation_refused", person: person.String(), session: id.String()})
			return
		default:
			if _, err := s.End(r.Context(), person, id); err != nil {
				s.fail(w, r, c.id, err)
				return
			}
			s.Audit.Note(&auditv1.AuditRecord{
				Kind: auditv1.Kind_KIND_REVOCATION, Method: "revoke", Action: "session_ended", PersonId: person.String(), Session: id.String(),
				Client: &auditv1.Client{Id: c.id, Name: c.name, Address: address.Of(r)}, Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
			})
		}
	}
	w.WriteHeader(http.StatusOK)
}

// tokenSession returns the session that a token names.
func (s *Server) tokenSession(token string) (person, session uuid.UUID, ok bool) {
	if person, session, ok = readRefresh(token); ok {
		return person, session, true
	}
	claims, err := s.verify(s.Engine.State(), token)
	if err != nil {
		return uuid.Nil, uuid.Nil, false
	}
	person, err = uuid.Parse(claims.Subject)
	if err != nil {
		return uuid.Nil, uuid.Nil, false
	}
	session, err = uuid.Parse(claims.Session)
	return person, session, err == nil
}

// holds tells whether a token is the session's: its current or a superseded refresh token, or an access token that verified.
func (s *Server) holds(x *Session, token string) bool {
	if _, _, refresh := readRefresh(token); !refresh {
		return true
	}
	sum := digest(token)
	if sum == x.Current {
		return true
	}
	for _, old := range x.Superseded {
		if old.Token == sum {
			return true
		}
	}
	return false
}

// introspect tells an admin what a token is (RFC 7662). It is asked with an admin's token.
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	w.Header().Set("Cache-Control", "no-store")
	admin := bearer.Check(s.Engine.State(), eventv1.TokenKind_TOKEN_KIND_ADMIN, bearer.FromHeader(r.Header), s.Now())
	if admin == nil || admin.Role < policyv1.Role_ROLE_AUDITOR {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sallyport-admin"`)
		s.refused(r, "", &refusal{action: "introspection_refused", text: "no admin's token"})
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token", "error_description": "this needs the token of an admin with the role auditor or more"})
		return
	}
	f, err := form(r)
	if err != nil {
		s.fail(w, r, "", err)
		return
	}
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.fail(w, r, "", err)
		return
	}
	out := map[string]any{"active": false}
	if person, id, ok := s.tokenSession(f.Get("token")); ok {
		x, _, err := s.session(r.Context(), person, id)
		if err != nil {
			s.fail(w, r, "", err)
			return
		}
		if x != nil && s.live(state, x) == nil {
			out = s.introspection(x, f.Get("token"))
		}
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Server) introspection(x *Session, token string) map[string]any {
	out := map[string]any{
		"active": true, "iss": s.Issuer, "sub": x.Person.String(), "client_id": x.Client, "sid": x.ID.String(), "acr": x.ACR, "amr": x.AMR,
	}
	if claims, err := s.verify(s.Engine.State(), token); err == nil {
		out["aud"], out["iat"], out["exp"], out["jti"], out["scope"], out["token_type"] = claims.Audience, claims.IssuedAt, claims.Expires, claims.ID, claims.Scope, "Bearer"
		if claims.Confirmation != nil {
			out["token_type"], out["cnf"] = "DPoP", claims.Confirmation
		}
		return out
	}
	if digest(token) != x.Current { // superseded
		return map[string]any{"active": false}
	}
	out["aud"], out["iat"], out["exp"], out["token_type"] = x.Resource, x.Began.Unix(), x.Expires.Unix(), "refresh_token"
	return out
}
