package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/spool"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/telemetry"
	"sallyport.dev/dataplane/policy"
)

// Call is the call path, of whatever an upstream answers: read the arguments, decide, record, forward, answer, record. The caller
// was identified and the message read before.
func (g *Gateway) Call(w http.ResponseWriter, r *http.Request, x *exchange) {
	t, basis, e := g.target(x)
	ask := x.asks(g.Region, t.connector, t.label, g.Now())
	ask.Basis = basis
	var params []mcp.ParamHeader
	if e == nil {
		params, e = g.params(r, x, t)
	}
	if e != nil {
		g.refused(x.caller, x.message.Method, auditv1.Reason_REASON_ARGUMENTS_INVALID)
		mcp.WriteError(w, x.revision, x.message.ID, e)
		return
	}
	var err error
	if x.message.Method == mcp.MethodCallTool {
		ask.Arguments, err = x.table.Arguments(t.connector, t.label, x.message.Arguments)
		x.ask = &ask
	}
	// In flight before it is decided: a change from now on cuts it.
	l, admitted := g.newLeg(r.Context(), &flight{
		person: x.ID, client: x.ClientID, from: &x.from, region: g.Region, session: x.session.ID, request: string(x.message.ID), caller: x.Caller, call: &ask,
	})
	held := false
	defer func() {
		if !held {
			l.end()
		}
	}()

	to := &answer{g: g, w: w, x: x, leg: l}
	defer to.end()
	if !admitted {
		g.refuse(to, x, t, policy.Decision{Reason: auditv1.Reason_REASON_LIMIT_REACHED, Version: x.table.Version(), Redaction: x.table.Redaction(ask)}, policy.Decision{Reason: auditv1.Reason_REASON_LIMIT_REACHED}.Text())
		return
	}
	table, stale := g.Replica.Usable(ask.Now)
	if stale != nil {
		g.refuse(to, x, t, policy.Decision{Reason: auditv1.Reason_REASON_STALE, Redaction: x.table.Redaction(ask)}, "this proxy's policy is not current")
		return
	}
	l.edition = table.Edition()
	d := table.Decide(ask)
	rules := d.Allowed || wanted(d) || d.Reason == auditv1.Reason_REASON_RULE_DENIED || d.Reason == auditv1.Reason_REASON_NOTHING_ALLOWS
	if err != nil && rules && shown(table, ask) { // what is wrong with them tells of the schema
		d.Allowed, d.Reason, d.Group, d.Rule = false, auditv1.Reason_REASON_ARGUMENTS_INVALID, "", 0
		g.refuse(to, x, t, d, err.Error())
		return
	}
	if len(d.Limits) > 0 && (wanted(d) || d.Allowed) {
		if !g.reserve(to, x, t, l, d) {
			return
		}
		defer func() { x.reserved.Settle(x.used) }()
	}
	if wanted(d) || d.Allowed && (x.roundTrip != nil || x.foreignState) {
		asked := time.Now()
		var goOn bool
		d, goOn = g.approve(l, to, x, t, ask, d)
		if x.spent.approval = time.Since(asked); !goOn {
			x.used.Calls = 0
			return
		}
	}
	if !d.Allowed {
		g.refuse(to, x, t, d, d.Text())
		return
	}
	x.redaction = d.Redaction
	first := g.record(x, t, d)
	decided := g.Now()
	x.spent.decision = max(0, decided.Sub(x.began)-x.spent.approval)
	if l.span = g.span(r, x, t, first.GetCallId()); l.span != nil {
		first.TraceId = l.span.TraceID()
	}
	if err := g.Spool.Append(first); err != nil {
		// No effect without a record: the call is not made.
		if errors.Is(err, spool.ErrUnconfirmed) { // the record is there, and says that the call goes on
			g.keepCompleted(g.completed(first, x, to, &ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the call was not made: " + err.Error()}))
		}
		g.Log.Error("a call was refused because its record could not be kept", "connector", t.connector, "error", err)
		to.fail("Sallyport cannot record calls at the moment, so that it makes none. Try again later.")
		return
	}
	x.spent.record = g.Now().Sub(decided)
	end, parked := g.forward(l, to, x, t, params)
	held = parked
	last := g.completed(first, x, to, &end)
	g.keepCompleted(last)
	g.Metrics.Called(t.connector, end.outcome, last.GetDuration().AsDuration(), end.upstream)
	if l.span != nil {
		l.span.End(strings.ToLower(strings.TrimPrefix(end.outcome.String(), "OUTCOME_")), end.outcome != auditv1.Outcome_OUTCOME_OK)
	}
	level := slog.LevelDebug
	if end.outcome == auditv1.Outcome_OUTCOME_UPSTREAM_ERROR {
		level = slog.LevelInfo
	}
	if g.Log.Enabled(l.ctx, level) { // or else its words are made for nobody
		g.Log.Log(l.ctx, level, "a call ended", "call_id", first.GetCallId(), "method", first.GetMethod(), "connector", t.connector, "outcome", end.outcome, "error", end.text, "duration", last.GetDuration().AsDuration())
	}
}

// target is what a message acts on, and for a task on what the call that became it rested.
func (g *Gateway) target(x *exchange) (target, policy.Basis, *mcp.Error) {
	if mcp.OfTask(x.message.Method) {
		return g.taskOf(x)
	}
	return targetOf(x.caller, x.message), policy.Basis{}, nil
}

// span begins the span of a call, if spans are made: under the context that the message carries, or else the headers.
func (g *Gateway) span(r *http.Request, x *exchange, t target, callID string) *telemetry.Call {
	if g.Tracer == nil {
		return nil
	}
	parent, state := x.traceContext()
	return g.Tracer.Begin(context.WithoutCancel(r.Context()), x.message.Method, t.connector, callID, parent, state)
}

// params are the bindings of a tool's arguments to headers, to which a request of the stateless era is held.
func (g *Gateway) params(r *http.Request, x *exchange, t target) ([]mcp.ParamHeader, *mcp.Error) {
	if x.message.Method != mcp.MethodCallTool {
		return nil, nil
	}
	params := paramHeaders(x.table.Definition(t.connector, t.label))
	if !x.revision.Stateless() || x.found {
		return params, nil
	}
	return params, mcp.CheckParams(r.Header, params, x.message.Arguments)
}

// shown tells whether the caller sees the tool in the list.
func shown(table *policy.Table, ask policy.Request) bool {
	tools := table.List(ask)
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

// refuse records a call that is not made and says why, where the model reads it. What is not there is an error of the protocol
// (MCP, tools, error handling), and so is whatever is no call of a tool.
func (g *Gateway) refuse(to *answer, x *exchange, t target, d policy.Decision, why string) {
	r := g.record(x, t, d)
	r.Decision.Text = clip(why)
	g.keep(r)
	g.Metrics.Refused(d.Reason)
	said := "Sallyport refused this call: " + why + ". Do not try to get around it; ask an administrator if it should be allowed."
	switch {
	case d.Reason == auditv1.Reason_REASON_SIGN_IN_REQUIRED && to.events == nil: // or else the status was sent
		g.stepUp(to.w, x, d.SignIn, said)
	case d.Reason == auditv1.Reason_REASON_TOOL_UNKNOWN && x.message.Method == mcp.MethodReadResource && !x.revision.Stateless():
		to.refuse(&mcp.Error{Code: mcp.CodeResourceNotFound, Message: "there is no such resource here: list the resources again"})
	case d.Reason == auditv1.Reason_REASON_TOOL_UNKNOWN:
		to.refuse(mcp.InvalidParams("there is nothing of this name here: list again what there is"))
	default:
		to.say(said)
	}
}
