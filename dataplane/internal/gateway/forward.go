package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/upstream"
	"sallyport.dev/dataplane/policy"
)

// maxRounds bounds how often an upstream of the stateless era may ask for input within one call of an agent of the session era.
const maxRounds = 10

// forward makes the call at the upstream and passes the answer on as it comes. It says how the call ended, and whether it is parked.
func (g *Gateway) forward(l *leg, to *answer, x *exchange, t target, params []mcp.ParamHeader) (ending, bool) {
	settings, offered := x.table.Connector(t.connector)
	if !offered {
		return g.failed(l.ctx, to, errors.New("the connector is not offered any more")), false
	}
	if x.unparks() {
		return g.goOn(l, to, x, settings, t)
	}
	message, declined, e := g.withoutConnect(x)
	if e != nil {
		to.last(e.HTTPStatus(x.revision), mcp.AppendError(nil, x.message.ID, e))
		return ending{outcome: auditv1.Outcome_OUTCOME_UPSTREAM_ERROR, text: e.Message}, false
	}
	asked := time.Now()
	credential, err := g.credential(l.ctx, x, settings, refusal{})
	x.spent.credential = time.Since(asked)
	if err != nil {
		return g.withoutCredential(l.ctx, to, x, t, settings, err, declined), false
	}
	// Once more, now that the credential is in hand and nothing was sent: what changed meanwhile counts.
	if table, err := g.Replica.Usable(g.Now()); err != nil || !l.stands(table, g.Now()) {
		l.cancel(errRevoked)
		return g.failed(l.ctx, to, errRevoked), false
	}
	up, err := g.upstream(settings)
	if err != nil {
		return g.failed(l.ctx, to, err), false
	}
	asTask, e := x.asTask(t)
	if e != nil {
		to.last(e.HTTPStatus(x.revision), mcp.AppendError(nil, x.message.ID, e))
		return ending{outcome: auditv1.Outcome_OUTCOME_UPSTREAM_ERROR, text: e.Message}, false
	}
	call := upstream.Call{
		Message: message, Revision: x.revision, Name: t.name, Party: g.party(x, settings, credential), Params: params, Header: x.header,
		Capabilities: g.capabilities(x, settings), Safe: safe(x, t), Asked: len(x.offers()) > len("{}"), Task: asTask,
	}
	call.TraceParent, call.TraceState = x.traceContext()
	if l.span != nil {
		var end func(bool)
		call.TraceParent, call.TraceState, end = l.span.Upstream(t.connector)
		defer func() { end(l.ctx.Err() != nil) }()
	}
	sent := time.Now()
	if x.message.Method == mcp.MethodSubscribe || x.message.Method == mcp.MethodUnsubscribe {
		return g.forwardSubscription(l, to, x, t, up, call), false
	}
	if mcp.OfTask(x.message.Method) && x.revision.Stateless() {
		stateless, err := up.Stateless(l.ctx, call.Party)
		if err != nil {
			return g.failed(l.ctx, to, err), false
		}
		if !stateless {
			return g.forwardTask(l, to, x, t, up, call), false
		}
	}
	renewed := false
	for range maxRounds {
		response, err := up.Call(l.ctx, call)
		if refused := refusedBy(err); refused != nil && !renewed {
			renewed = true
			asked := time.Now()
			another, err := g.another(l.ctx, x, settings, call.Party.Credential, refused)
			x.spent.credential += time.Since(asked)
			var first *replica.ConnectError
			switch {
			case errors.As(err, &first):
				return g.withoutCredential(l.ctx, to, x, t, settings, err, declined), false
			case err == nil && another != call.Party.Credential:
				call.Party.Credential = another
				continue
			}
		}
		if err != nil {
			g.rejected(x, t.connector, err)
			return g.failed(l.ctx, to, err), false
		}
		end, held, required := g.pass(l, to, x, settings, t, response)
		if required == nil {
			end.upstream = time.Since(sent)
			return end, held
		}
		answers, err := g.inquire(l.ctx, to, x, required)
		if err != nil {
			return g.failed(l.ctx, to, err), false
		}
		for _, a := range required.Asked {
			if !g.mayStillAsk(t.connector, a.Method) {
				return g.failed(l.ctx, to, errNotAsked), false
			}
		}
		again, e := mcp.Again(call.Message, answers, required.State, g.JSON)
		if e != nil {
			return g.failed(l.ctx, to, e), false
		}
		call.Message = again
	}
	return g.failed(l.ctx, to, errors.New("the upstream asks for input over and over")), false
}

// forwardSubscription changes what an agent of the session era is subscribed to. An upstream of the stateless era is only listened to.
func (g *Gateway) forwardSubscription(l *leg, to *answer, x *exchange, t target, up *upstream.Upstream, call upstream.Call) ending {
	stateless, err := up.Stateless(l.ctx, call.Party)
	if err != nil {
		return g.failed(l.ctx, to, err)
	}
	end := ending{outcome: auditv1.Outcome_OUTCOME_OK}
	if x.message.Method == mcp.MethodUnsubscribe {
		g.unsubscribed(x, t)
	} else if err := g.subscribed(x, t, up, call.Party); err != nil {
		return g.failed(l.ctx, to, err)
	}
	if !stateless {
		response, err := up.Call(l.ctx, call)
		if err != nil {
			g.rejected(x, t.connector, err)
			return g.failed(l.ctx, to, err)
		}
		settings, _ := x.table.Connector(t.connector)
		end, _, _ = g.pass(l, to, x, settings, t, response)
		if end.outcome != auditv1.Outcome_OUTCOME_OK {
			g.unsubscribed(x, t)
		}
		return end
	}
	to.last(http.StatusOK, mcp.AppendPong(nil, x.message.ID))
	return end
}

// goOn goes on with a parked call.
func (g *Gateway) goOn(l *leg, to *answer, x *exchange, settings *policyv1.Connector, t target) (ending, bool) {
	p, e := g.unpark(x, t)
	if e != nil {
		to.last(e.HTTPStatus(x.revision), mcp.AppendError(nil, x.message.ID, e))
		return ending{outcome: auditv1.Outcome_OUTCOME_UPSTREAM_ERROR, text: e.Message}, false
	}
	// What ends the one ends the other, for as long as the agent waits.
	apart := context.AfterFunc(l.ctx, func() { p.leg.cancel(context.Cause(l.ctx)) })
	defer apart()
	sent := time.Now()
	end, held := g.resume(to, x, settings, p)
	end.upstream = time.Since(sent)
	if !held {
		p.leg.end()
	}
	return end, false
}

// stdio begins the URL of a connector whose upstream is a program beside the proxy.
const stdio = "stdio:"

var errNoRunner = errors.New("this proxy has no runner")

// upstream is where a connector's calls go.
func (g *Gateway) upstream(settings *policyv1.Connector) (*upstream.Upstream, error) {
	to := settings.GetUrl()
	name, local := strings.CutPrefix(to, stdio)
	if local {
		if g.Runner == "" {
			return nil, errNoRunner
		}
		to = strings.TrimSuffix(g.Runner, "/") + "/servers/" + name
	}
	return g.Upstream.Upstream(upstream.Target{
		Connector: settings.GetId(), URL: to, Local: local, Allowed: strings.Join(settings.GetAllowedRanges(), ","), Timeout: settings.GetTimeout().AsDuration(), Silence: settings.GetIdleTimeout().AsDuration(),
		MaxResponse: int64(g.MaxResult), MaxEvent: g.MaxResult, Legacy: settings.GetTransport() == policyv1.Transport_TRANSPORT_SSE, Retries: retries(settings),
		Failures: int(settings.GetBreaker().GetFailures()), OpenFor: settings.GetBreaker().GetOpenFor().AsDuration(),
	})
}

// retries is how often what may be repeated is, where an admin did not say otherwise: once.
func retries(c *policyv1.Connector) int {
	if c.Retries == nil {
		return 1
	}
	return int(c.GetRetries())
}

// safe tells whether what a message asks for changes nothing: a tool by the hints of its pinned definition.
func safe(x *exchange, t target) bool {
	switch x.message.Method {
	case mcp.MethodCallTool:
		return x.table.Repeatable(t.connector, t.label)
	case mcp.MethodGetPrompt, mcp.MethodReadResource, mcp.MethodComplete, mcp.MethodGetTask, mcp.MethodTaskResult:
		return true
	}
	return false
}

// party is on whose behalf an upstream is called.
func (g *Gateway) party(x *exchange, settings *policyv1.Connector, credential upstream.Credential) upstream.Party {
	p := upstream.Party{Credential: credential, Session: x.session.ID, Person: x.personID(), Client: x.ClientID, LogLevel: x.message.Meta.LogLevel}
	if may := consented(settings); may != (mcp.Asks{}) {
		_, p.Capabilities = mcp.ReadCapabilities(x.offers(), may, g.JSON)
	}
	if p.Session != "" {
		p.LogLevel = g.levels.get(p.Session)
	}
	return p
}

// capabilities are declared to an upstream of the stateless era.
func (g *Gateway) capabilities(x *exchange, settings *policyv1.Connector) []byte {
	may := consented(settings)
	if x.revision.Stateless() {
		return mcp.WithoutCapabilities(x.offers(), may, g.JSON)
	}
	if may == (mcp.Asks{}) {
		return nil
	}
	_, kept := mcp.ReadCapabilities(x.offers(), may, g.JSON)
	return kept
}

// pass passes an answer on as it comes, and closes it unless the call is parked. required: the agent, which is of the session era,
// is to be asked for input first.
func (g *Gateway) pass(l *leg, to *answer, x *exchange, settings *policyv1.Connector, t target, response *upstream.Response) (end ending, held bool, required *mcp.InputRequired) {
	defer func() {
		if !held {
			_ = response.Close() // what mattered was read
		}
	}()
	if response.Stream {
		return g.passEvents(l, to, x, settings, t, response)
	}
	if !response.Whole() && (mcp.OfTask(x.message.Method) || x.message.Method == mcp.MethodReadResource || x.readsResults() || response.Special() || g.mayLead(x, t)) {
		if _, err := response.All(g.MaxResult); err != nil {
			return g.failed(l.ctx, to, err), false, nil
		}
	}
	if response.Whole() {
		said, required, e := g.said(l, x, settings, t, response, &response.Message)
		switch {
		case e != nil:
			return g.failed(l.ctx, to, e), false, nil
		case required != nil:
			return ending{}, false, required
		case said != nil:
			to.last(http.StatusOK, said)
			return x.ended(&response.Message), false, nil
		}
	}
	return g.passMessage(l.ctx, to, x, response), false, nil
}

// said is what the agent is told in place of an upstream's last message; nil: that message, under the agent's id. required: the agent,
// which is of the session era, is to be asked for input first.
func (g *Gateway) said(l *leg, x *exchange, settings *policyv1.Connector, t target, response *upstream.Response, m *mcp.Message) (said []byte, required *mcp.InputRequired, e *mcp.Error) {
	changed, err := x.redact(m)
	if err == nil && x.costless {
		changed, err = true, bare(m, t.name)
	}
	if err == nil && m.Failure != nil {
		err = x.measure(m.Failure)
	} else if err == nil {
		err = x.measure(m.Result)
	}
	if err != nil {
		x.withheld = true
		return nil, nil, &mcp.Error{Code: mcp.CodeInternal, Message: err.Error()}
	}
	switch {
	case m.Failure != nil && changed:
		return mcp.AppendFailure(nil, x.message.ID, m.Failure), nil, nil
	case m.Failure != nil:
		return g.refusal(x, t, settings, response, m)
	}
	if changed {
		defer func() { // whatever is not written anew is not passed on
			if said == nil && required == nil && e == nil {
				said = mcp.AppendResult(nil, x.message.ID, m.Result)
			}
		}()
	}
	required, e = g.inputRequired(x, settings, m)
	if required != nil && changed {
		x.withheld = true
		return nil, nil, &mcp.Error{Code: mcp.CodeInternal, Message: "Sallyport withheld the answer: the server asks something, and nothing may be asked while the policy takes something out of its results; ask an administrator"}
	}
	if e != nil || required != nil && !x.revision.Stateless() {
		return nil, required, e
	}
	if required != nil {
		return g.inputRequiredOf(x, t, required), nil, nil
	}
	result, e := g.taskResult(l, x, t, response, m.Result)
	if e != nil {
		return nil, nil, e
	}
	if x.connector == "" && holdsResources(x.message.Method) {
		was := m.Result
		if result != nil {
			was = result
		}
		if now := mcp.PrefixURIs(was, t.connector+policy.URISeparator); len(now) != len(was) {
			result = now
		}
	}
	if x.message.Method == mcp.MethodReadResource {
		was := m.Result
		if result != nil {
			was = result
		}
		if now := mcp.PrivateResult(was); now != nil {
			result = now
		}
	}
	if result == nil {
		return nil, nil, nil
	}
	if x.revision.Stateless() {
		result = mcp.CompleteResult(result)
	}
	return mcp.AppendResult(nil, x.message.ID, result), nil, nil
}

// holdsResources tells whether a result may hold resources or lead to them: at the endpoint of all connectors they are known by other URIs.
func holdsResources(method string) bool {
	return method == mcp.MethodCallTool || method == mcp.MethodGetPrompt || method == mcp.MethodReadResource || method == mcp.MethodTaskResult
}

// mayLead tells whether a result, of whatever length, may lead to resources that the agent knows by other URIs: its connector has some.
func (g *Gateway) mayLead(x *exchange, t target) bool {
	if x.connector != "" || !holdsResources(x.message.Method) {
		return false
	}
	ask := x.asks(g.Region, t.connector, "", g.Now())
	return len(x.table.Offers(policyv1.Kind_KIND_RESOURCE, ask)) > 0 || len(x.table.Offers(policyv1.Kind_KIND_RESOURCE_TEMPLATE, ask)) > 0
}

// inputRequired reads a result that asks for input, as the agent may be asked; nil: it asks for none.
func (g *Gateway) inputRequired(x *exchange, settings *policyv1.Connector, m *mcp.Message) (*mcp.InputRequired, *mcp.Error) {
	if m.Result == nil {
		return nil, nil
	}
	required, e := mcp.ReadInputRequired(m.Result, strictjson.Limits{MaxBytes: len(m.Result), MaxDepth: maxResultDepth, MaxKeys: len(m.Result)})
	if e != nil || required == nil {
		return nil, e
	}
	may, _ := mcp.ReadCapabilities(x.offers(), consented(settings), g.JSON)
	for i, a := range required.Asked {
		if required.Asked[i], e = question(settings, may, a); e != nil {
			return nil, e
		}
	}
	return required, nil
}

// passMessage passes one JSON message on: a small one whole, a large one as it comes.
func (g *Gateway) passMessage(ctx context.Context, to *answer, x *exchange, response *upstream.Response) ending {
	if to.events != nil { // a stream was opened for questions
		var whole bytes.Buffer
		if _, err := response.WriteTo(&whole); err != nil {
			end := reason(ctx, err)
			to.fail(end.say())
			return end
		}
		to.last(http.StatusOK, whole.Bytes())
		if response.Whole() {
			return x.ended(&response.Message)
		}
		return ending{outcome: auditv1.Outcome_OUTCOME_OK, result: x.payload(whole.Bytes())}
	}
	h := to.w.Header()
	h["Content-Type"], h["Cache-Control"] = typeJSON, noStore
	if n := response.Len(); n >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(n, 10)}
	}
	status := http.StatusOK
	if x.revision.Stateless() && response.Status >= http.StatusBadRequest {
		status = response.Status
	}
	to.w.WriteHeader(status)
	if response.Whole() {
		n, _ := response.WriteTo(to.w) // the agent may be gone; what the upstream did is done
		to.sent.Add(uint64(max(n, 0)))
		return x.ended(&response.Message)
	}
	recorder := x.recorder()
	n, err := response.WriteTo(io.MultiWriter(recorder, to.w))
	to.sent.Add(uint64(max(n, 0)))
	end := ending{outcome: auditv1.Outcome_OUTCOME_OK, result: recorder.Payload()}
	if err != nil {
		end = reason(ctx, err)
		end.result = recorder.Payload()
	}
	return end
}

// Values of headers, which nobody changes.
var typeJSON, noStore = []string{"application/json"}, []string{"no-store"}

// failed answers a call that got no answer of the upstream's.
func (g *Gateway) failed(ctx context.Context, to *answer, err error) ending {
	end := reason(ctx, err)
	if to.x.withheld || errors.Is(err, errWithheld) {
		end.outcome, end.text = auditv1.Outcome_OUTCOME_WITHHELD, err.Error()
	}
	if said := end.say(); said != "" {
		to.fail(said)
	}
	return end
}

// reason says how a call ended that got no answer.
func reason(ctx context.Context, err error) ending {
	if end, cut := cutOff(ctx); cut {
		return end
	}
	var failed *upstream.Error
	var refused *mcp.Error
	text := "the upstream could not be called"
	switch {
	case errors.Is(err, errRevoked):
		return ending{outcome: auditv1.Outcome_OUTCOME_REVOKED, text: "access was taken away before the call was sent"}
	case errors.As(err, &failed):
		text = failed.Error()
	case errors.As(err, &refused):
		text = refused.Message
	case errors.Is(err, errNoRunner):
		text = "the connector is a program that a runner runs, and this proxy has none: an administrator must start it with --runner"
	case errors.Is(err, errUnanswered):
		text = "nobody answered what the upstream asked"
	case errors.Is(err, replica.ErrCredentialDenied):
		text = "the control plane issues no credential for this call"
		var why *replica.SetUpError
		if errors.As(err, &why) {
			text += ": " + why.Message
		}
	case errors.Is(err, replica.ErrCredentialUnavailable):
		text = "the upstream credential cannot be had now; try again shortly"
	}
	return ending{outcome: auditv1.Outcome_OUTCOME_UPSTREAM_ERROR, text: text}
}

// say is what an agent is told of such an end; empty where nobody listens.
func (e ending) say() string {
	switch e.outcome {
	case auditv1.Outcome_OUTCOME_REVOKED:
		return "Sallyport ended this call: access was taken away."
	case auditv1.Outcome_OUTCOME_CANCELLED:
		return "The call was cancelled."
	case auditv1.Outcome_OUTCOME_WITHHELD:
		return e.text + "."
	}
	return "Sallyport could not complete this call: " + e.text + "."
}
