package authserver

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/address"
)

// maxRedirects bounds the redirect URIs of a registration, in bytes.
const maxRedirects = 8 << 10

// register lets a client register itself (RFC 7591). What it says of itself is believed for what it is: a name to show, and
// where it may be sent. It expires when it is not used.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	if s.Engine.State().AuthorizationPolicy().GetDynamicRegistration() == policyv1.Admission_ADMISSION_OFF {
		s.fail(w, r, "", &refusal{code: "access_denied", text: "clients do not register themselves here: use a client id metadata document, or ask an administrator", status: http.StatusForbidden, action: "registration_refused"})
		return
	}
	if !s.limits.Allow(address.Of(r), s.Now()) {
		w.Header().Set("Retry-After", "60")
		s.fail(w, r, "", &refusal{code: "temporarily_unavailable", text: "too many clients register: try again in a minute", status: http.StatusTooManyRequests, action: "registration_refused"})
		return
	}
	var asked struct {
		Name          string   `json:"client_name"`
		Redirects     []string `json:"redirect_uris"`
		GrantTypes    []string `json:"grant_types"`
		ResponseTypes []string `json:"response_types"`
		Scope         string   `json:"scope"`
		Bound         bool     `json:"dpop_bound_access_tokens"`
	}
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		s.fail(w, r, "", refuse("invalid_client_metadata", "", "send application/json"))
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		s.fail(w, r, "", refuse("invalid_client_metadata", "", "the metadata is no JSON object of the types that RFC 7591 has"))
		return
	}
	if err := checkRedirects(asked.Redirects); err != nil {
		s.fail(w, r, "", refuse("invalid_redirect_uri", "registration_refused", err.Error()))
		return
	}
	if len(asked.ResponseTypes) > 0 && !slices.Contains(asked.ResponseTypes, "code") || len(asked.GrantTypes) > 0 && !slices.Contains(asked.GrantTypes, "authorization_code") {
		s.fail(w, r, "", refuse("invalid_client_metadata", "registration_refused", "clients here use the authorization_code grant and the response type code"))
		return
	}
	if len(strings.Join(asked.Redirects, "")) > maxRedirects {
		s.fail(w, r, "", refuse("invalid_redirect_uri", "registration_refused", "the redirect URIs are too long"))
		return
	}
	now, id := s.Now(), "dcr_"+rand.Text()
	grants := []string{"authorization_code", "refresh_token"}
	held := registration{
		ID: id, Name: cleanName(asked.Name), Redirects: asked.Redirects, At: now, Expires: now.Add(unusedFor),
		Bound: asked.Bound, Refresh: len(asked.GrantTypes) == 0 || slices.Contains(asked.GrantTypes, "refresh_token"),
	}
	if !held.Refresh {
		grants = grants[:1]
	}
	value, err := json.Marshal(held)
	if err == nil {
		_, err = s.Store.Create(r.Context(), clientKey(id), value, unusedFor)
	}
	if err != nil {
		s.fail(w, r, "", err)
		return
	}
	s.Audit.Note(&auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN, Method: "register", Action: "client_registered", Target: "client/" + id,
		Client:   &auditv1.Client{Id: id, Name: held.Name, Address: address.Of(r)},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	})
	writeJSON(w, http.StatusCreated, map[string]any{
		"client_id": id, "client_id_issued_at": now.Unix(), "client_name": held.Name, "redirect_uris": held.Redirects, "grant_types": grants,
		"response_types": []string{"code"}, "token_endpoint_auth_method": "none", "scope": scope, "dpop_bound_access_tokens": held.Bound,
	})
}
