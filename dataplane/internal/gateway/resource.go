package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/dpop"
	"sallyport.dev/dataplane/internal/identity"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// caller is who calls, at which endpoint, under which policy.
type caller struct {
	identity.Caller
	table *policy.Table
	token string
	// connector is the endpoint's; empty at the endpoint of all of them.
	connector string
	resource  string
	address   string
	person    string // the id of whoever was let in
	from      policy.Origin
}

// asks is what the caller asks of a connector, as the policy decides it.
func (c *caller) asks(region, connector, label string, now time.Time) policy.Request {
	return policy.Request{Person: c.ID, Client: c.ClientID, Region: region, Connector: connector, Tool: label, From: &c.from, Now: now}
}

// identify says who calls, or answers why nobody is let in and returns false.
func (g *Gateway) identify(w http.ResponseWriter, r *http.Request, connector string) (*caller, bool) {
	c := &caller{connector: connector, resource: g.base, address: g.addressOf(r)}
	if c.connector != "" {
		c.resource += "/" + c.connector
	}
	now := g.Now()
	table, err := g.Replica.Usable(now)
	if err != nil {
		g.refused(c, "authenticate", auditv1.Reason_REASON_STALE)
		w.Header().Set("Retry-After", "5")
		mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInternal, Message: "this proxy's policy is not current, so that it lets nobody through: try again shortly", Status: http.StatusServiceUnavailable})
		return nil, false
	}
	c.table = table
	var bound bool
	if c.token, bound, err = identity.Credential(r.Header); err == nil {
		audiences := g.audiences(c)
		c.Caller, err = g.Verifier.Verify(r.Context(), table, audiences[:], c.token)
	}
	if err == nil && (bound || c.Bound()) {
		err = g.Verifier.Possession(&c.Caller, r, c.token, bound, g.addresses(c))
	}
	if err == nil {
		c.person = c.ID.String()
		c.from = policy.Origin{Address: c.address, ACR: c.ACR, AMR: c.AMR, AuthTime: c.AuthTime, At: now}
		return c, true
	}
	var failed *identity.Error
	if !errors.As(err, &failed) {
		failed = &identity.Error{Kind: identity.Malformed}
	}
	if failed.Kind != identity.Missing { // without a token an agent only asks where to get one
		c.Caller = failed.Caller
		g.refused(c, "authenticate", failed.Reason())
	}
	w.Header().Set("WWW-Authenticate", g.challenge(c, bound || failed.Kind == identity.ProofMissing, failed.Code(), failed.Error()))
	mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: failed.Error(), Status: failed.Status()})
	return nil, false
}

// audiences are those that a token may have at an endpoint: the one of all connectors and the connector's own, by the URL
// that people are given and by this proxy's.
func (g *Gateway) audiences(c *caller) [4]string {
	all := [4]string{c.resource, g.base, g.Resource}
	if c.connector != "" && g.Resource != g.base {
		all[3] = g.Resource + "/" + c.connector
	}
	return all
}

func (g *Gateway) metadataURL(connector string) string {
	at := g.PublicURL + "/.well-known/oauth-protected-resource/mcp"
	if connector != "" {
		at += "/" + connector
	}
	return at
}

// metadata is the protected resource's (RFC 9728).
func (g *Gateway) metadata(w http.ResponseWriter, r *http.Request) {
	table, err := g.Replica.Usable(g.Now())
	if err != nil {
		http.Error(w, "this proxy has no current policy yet: try again shortly", http.StatusServiceUnavailable)
		return
	}
	resource := g.PublicURL + "/mcp"
	if connector := r.PathValue("connector"); connector != "" {
		if _, known := table.Connector(connector); !known {
			http.NotFound(w, r)
			return
		}
		resource += "/" + connector
	}
	said := map[string]any{
		"resource": resource, "resource_name": "Sallyport", "authorization_servers": table.AuthorizationServers(), "bearer_methods_supported": []string{"header"},
		"dpop_signing_alg_values_supported": dpop.Algorithms,
	}
	if table.OffersOwn() {
		said["scopes_supported"] = []string{scope}
	}
	data, err := json.Marshal(said)
	if err != nil {
		http.Error(w, "the metadata cannot be made", http.StatusInternalServerError)
		return
	}
	mcp.WriteJSON(w, http.StatusOK, data)
}
