package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// Call is the call path: read the arguments, decide, record, forward, answer, record. The caller was
// identified and the message read before.
func (g *Gateway) Call(w http.ResponseWriter, r *http.Request, x *exchange) {
	connector, tool := named(x.caller, x.message.Name)
	ask := policy.Request{Person: x.ID, Client: x.ClientID, Connector: connector, Tool: tool, Region: g.Region, Now: g.Now()}

	// In flight before it is decided: a change from now on cuts it.
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f := &flight{
		person: x.ID, client: x.ClientID, region: g.Region, session: x.session.ID, request: string(x.message.ID),
		issuedAt: x.IssuedAt, cancel: cancel, call: &ask,
	}
	params := paramHeaders(x.table.Definition(connector, tool))
	if x.revision.Stateless() {
		if e := mcp.CheckParams(r.Header, params, x.message.Arguments); e != nil {
			g.refused(x.caller, x.message.Method, auditv1.Reason_REASON_ARGUMENTS_INVALID)
			mcp.WriteError(w, x.revision, x.message.ID, e)
			return
		}
	}
	arguments, err := x.table.Arguments(connector, tool, x.message.Arguments)
	ask.Arguments = arguments
	g.flights.enter(f)
	defer g.flights.leave(f)

	table, stale := g.Replica.Usable(ask.Now)
	if stale != nil {
		g.refuse(w, x, connector, tool, policy.Decision{Reason: auditv1.Reason_REASON_STALE}, "this proxy's policy is not current")
		return
	}
	d := table.Decide(ask)
	rules := d.Allowed || d.Reason == auditv1.Reason_REASON_RULE_DENIED || d.Reason == auditv1.Reason_REASON_NOTHING_ALLOWS
	if err != nil && rules && shown(table, ask) { // what is wrong with them tells of the schema
		d.Allowed, d.Reason, d.Group, d.Rule = false, auditv1.Reason_REASON_ARGUMENTS_INVALID, "", 0
		g.refuse(w, x, connector, tool, d, err.Error())
		return
	}
	if !d.Allowed {
		g.refuse(w, x, connector, tool, d, d.Text())
		return
	}
	first := g.record(x, connector, tool, d)
	if err := g.Spool.Append(first); err != nil {
		// No effect without a record: the call is not made.
		g.Log.Error("a call was refused because its record could not be kept", "connector", connector, "error", err)
		g.toolError(w, x, "Sallyport cannot record calls at the moment, so that it makes none. Try again later.")
		return
	}
	end := g.forward(ctx, w, x, f, connector, tool, params)
	g.keep(g.completed(first, x.began, &end))
}

// shown tells whether the caller sees the tool in the list.
func shown(table *policy.Table, ask policy.Request) bool {
	tools := table.List(ask.Person, ask.Client, ask.Connector, ask.Region, ask.Now)
	return slices.ContainsFunc(tools, func(t policy.Tool) bool { return t.Name == ask.Tool })
}

// paramHeaders are a definition's bindings of arguments to headers (x-mcp-header). A definition that breaks
// their rules has none: clients do not offer such a tool.
func paramHeaders(definition []byte) []mcp.ParamHeader {
	if !bytes.Contains(definition, []byte("x-mcp-header")) {
		return nil
	}
	params, err := mcp.ParamHeaders(definition, strictjson.Limits{})
	if err != nil {
		return nil
	}
	return params
}

// refuse records a call that is not made and says why, where the model reads it. A tool that is not there
// is an error of the protocol (MCP, tools, error handling).
func (g *Gateway) refuse(w http.ResponseWriter, x *exchange, connector, tool string, d policy.Decision, why string) {
	r := g.record(x, connector, tool, d)
	r.Decision.Text = clip(why)
	g.keep(r)
	if d.Reason == auditv1.Reason_REASON_TOOL_UNKNOWN {
		mcp.WriteError(w, x.revision, x.message.ID, mcp.InvalidParams("unknown tool: list the tools again"))
		return
	}
	g.toolError(w, x, "Sallyport refused this call: "+why+". Do not try to get around it; ask an administrator if it should be allowed.")
}

func (g *Gateway) toolError(w http.ResponseWriter, x *exchange, text string) {
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendToolError(nil, x.message.ID, x.revision, text))
}

// cutOff says how a call ended whose context is over, or false where it is not.
func cutOff(ctx context.Context) (ending, bool) {
	if ctx.Err() == nil {
		return ending{}, false
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errRevoked):
		return ending{outcome: auditv1.Outcome_OUTCOME_REVOKED, text: "access was taken away during the call"}, true
	case errors.Is(cause, errCancelled), errors.Is(cause, errSession):
		return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the agent cancelled the call"}, true
	}
	return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the agent went away"}, true
}
