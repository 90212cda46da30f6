package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/upstream"
)

// refusal is what an upstream refused.
type refusal struct {
	// rejected: the credential itself.
	rejected bool
	// scopes that it lacks.
	scopes []string
}

// refusedBy reads whether an upstream refused a credential in a way for which there may be another. The upstream has done nothing then.
func refusedBy(err error) *refusal {
	var failed *upstream.Error
	if !errors.As(err, &failed) || failed.Kind != upstream.AuthRejected {
		return nil
	}
	switch {
	case failed.Status == http.StatusUnauthorized:
		return &refusal{rejected: true}
	case len(failed.Scopes) > 0:
		return &refusal{scopes: failed.Scopes}
	}
	return nil
}

// credential is what the upstream wants to see. The agent's own token is never it: it only shows the control
// plane for whom the credential is asked.
func (g *Gateway) credential(ctx context.Context, x *exchange, settings *policyv1.Connector, after refusal) (upstream.Credential, error) {
	return g.another(ctx, x, settings, upstream.Credential{}, &after)
}

// another is a credential in place of one that the upstream refused.
func (g *Gateway) another(ctx context.Context, x *exchange, settings *policyv1.Connector, was upstream.Credential, after *refusal) (upstream.Credential, error) {
	if strings.HasPrefix(settings.GetUrl(), stdio) {
		// For whom it is, and that a proxy asks (RFC 7617).
		person := x.personID()
		value := "Basic " + base64.StdEncoding.EncodeToString([]byte(person+":"+g.RunnerToken))
		return upstream.Credential{Header: "Authorization", Value: value, Identity: person}, nil
	}
	if settings.GetAuth().GetKind() == nil {
		return upstream.Credential{}, nil
	}
	ask := replica.Ask{Connector: settings.GetId(), Resource: x.Audience, Token: x.token, Person: x.ID, Scopes: after.scopes}
	if after.rejected {
		ask.Rejected = replica.Digest(was.Value + was.Query)
	}
	header, err := g.Credentials.Get(ctx, ask)
	if err != nil {
		return upstream.Credential{}, err
	}
	return upstream.Credential{Header: header.Name, Value: header.Value(), Query: header.Query(), Identity: header.Identity}, nil
}

// rejected forgets a credential that an upstream refused: it may have been replaced.
func (g *Gateway) rejected(x *exchange, connector string, err error) {
	var failed *upstream.Error
	if errors.As(err, &failed) && failed.Kind == upstream.AuthRejected {
		g.Credentials.Forget(connector, x.ID)
	}
}

// connectKey is the question, of this gateway and of no upstream, whether the person opened the page.
const connectKey = "sallyport-connect"

// withoutConnect takes the answer to that question out of a message: it is not the upstream's. Declined: the person did not.
func (g *Gateway) withoutConnect(x *exchange) (m *mcp.Message, declined bool, e *mcp.Error) {
	if x.message.InputResponses == nil {
		return x.message, false, nil
	}
	m, answer, e := mcp.WithoutResponse(x.message, connectKey, g.JSON)
	if e != nil || answer == nil {
		return m, false, e
	}
	var said struct {
		Action string `json:"action"`
	}
	_ = json.Unmarshal(answer, &said) // what cannot be read is no yes
	return m, said.Action != "accept", nil
}

// withoutCredential answers a call that there is no credential for: where the person must open a page first, by leading them there, in whichever
// form the agent has (URL elicitation of 2026-07-28 and of 2025-11-25), or in words.
func (g *Gateway) withoutCredential(ctx context.Context, to *answer, x *exchange, t target, settings *policyv1.Connector, err error, declined bool) ending {
	var first *replica.ConnectError
	if !errors.As(err, &first) {
		return g.failed(ctx, to, err)
	}
	end := ending{outcome: auditv1.Outcome_OUTCOME_UPSTREAM_ERROR, text: "the person must connect the connector first: " + first.Reason}
	message := first.Reason + ". Open the page, say yes there, and go on."
	params, err := json.Marshal(map[string]string{"mode": "url", "message": "[" + title(settings) + "] " + message, "url": first.URL, "elicitationId": first.ID})
	if err != nil {
		return g.failed(ctx, to, err)
	}
	ways, _ := mcp.ReadCapabilities(x.offers(), mcp.Asks{Elicitation: true}, g.JSON)
	switch {
	case declined || !ways.URL || to.events != nil || x.revision.Stateless() && x.message.RequestState != "":
		to.fail("Sallyport could not complete this call: " + first.Reason + ". Tell the person to open " + first.URL + " in their browser, signed in as themselves, and try again after that.")
	case x.revision.Stateless():
		to.last(http.StatusOK, g.inputRequiredOf(x, t, &mcp.InputRequired{Asked: []mcp.Asked{{Key: connectKey, Method: mcp.MethodElicit, Params: params}}}))
	default:
		to.last(http.StatusOK, mcp.AppendError(nil, x.message.ID, &mcp.Error{
			Code: mcp.CodeURLElicitation, Message: first.Reason, Data: json.RawMessage(`{"elicitations":[` + string(params) + `]}`),
		}))
	}
	return end
}
