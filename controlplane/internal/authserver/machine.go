package authserver

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/core"
)

// accountClient is a service account as a client: its id is the account's.
func accountClient(state *core.State, id string) *client {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.String() != id {
		return nil
	}
	account := state.User(parsed)
	if account == nil || !account.Service() {
		return nil
	}
	return &client{id: id, name: account.UserName, account: account, keys: keysOfAccount(state.ServiceKeys(account.ID)), approved: true}
}

// machine gives a service account a token (RFC 6749, section 4.4). There is no refresh token: its key is what it comes back with.
// Each token is a session of its own, so that it is shown and ended as people's are.
func (s *Server) machine(r *http.Request, state *core.State, c *client, f url.Values, key string) (map[string]any, error) {
	ctx, now := r.Context(), s.Now()
	if c.account == nil {
		return nil, &refusal{code: "unauthorized_client", text: "client_credentials is for service accounts: an administrator makes one with sallyport service-accounts create",
			status: http.StatusBadRequest, action: "client_refused"}
	}
	if len(f["resource"]) > 1 {
		return nil, refuse("invalid_target", "", "a token is for one resource")
	}
	resource, err := s.resource(state, f.Get("resource"))
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	x := &Session{
		ID: id, Person: c.account.ID, Generation: c.account.Generation, Client: c.id, ClientName: c.name, Resource: resource, Scopes: []string{scope},
		Began: now, Used: now, Expires: now.Add(s.Lease), Addresses: []string{address.Of(r)}, Key: key,
	}
	if err := s.live(state, x); err != nil {
		return nil, err
	}
	value, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	if err := s.Audit.Record(ctx, &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN, Method: "token", Action: "token_issued", PersonId: x.Person.String(), Session: x.ID.String(), Target: "resource/" + resource,
		Actor:    &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT, Id: x.Person.String()},
		Client:   &auditv1.Client{Id: c.id, Name: c.name, Address: address.Of(r)},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	}); err != nil {
		return nil, err
	}
	if _, err := s.Store.Create(ctx, sessionKey(x.Person, x.ID), value, s.Lease); err != nil {
		return nil, err
	}
	return s.issue(ctx, x, resource, "", key)
}
