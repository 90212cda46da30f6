package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mask"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/upstream"
)

// forward makes the call at the upstream and passes the answer on as it comes. It says how the call ended.
func (g *Gateway) forward(ctx context.Context, w http.ResponseWriter, x *exchange, f *flight, connector, tool string, params []mcp.ParamHeader) ending {
	settings, offered := x.table.Connector(connector)
	if !offered {
		return g.failed(ctx, w, x, errors.New("the connector is not offered any more"))
	}
	credential, err := g.credential(ctx, x, settings)
	if err != nil {
		return g.failed(ctx, w, x, err)
	}
	// Once more, now that the credential is in hand and nothing was sent: what changed meanwhile counts.
	if table, err := g.Replica.Usable(g.Now()); err != nil || !f.allowed(table, g.Now()) {
		f.cancel(errRevoked)
		return g.failed(ctx, w, x, errRevoked)
	}
	to, err := g.Upstream.Upstream(upstream.Target{Connector: connector, URL: settings.GetUrl(), Timeout: settings.GetTimeout().AsDuration(), MaxResponse: int64(g.MaxResult), MaxEvent: g.MaxResult})
	if err != nil {
		return g.failed(ctx, w, x, err)
	}
	sent := time.Now()
	call := upstream.Call{
		Message: x.message, Revision: x.revision, Name: tool, Credential: credential, Params: params, Header: x.header,
		TraceParent: x.message.Meta.TraceParent, TraceState: x.message.Meta.TraceState,
	}
	response, err := to.Call(ctx, call)
	if err != nil {
		g.rejected(connector, err)
		return g.failed(ctx, w, x, err)
	}
	defer response.Close() //nolint:errcheck // what mattered was read
	var end ending
	if response.Stream {
		end = g.passEvents(ctx, w, x, response)
	} else {
		end = g.passMessage(ctx, w, x, response)
	}
	end.upstream = time.Since(sent)
	return end
}

// credential is what the upstream wants to see. The agent's own token is never it: it only shows the control
// plane for whom the credential is asked.
func (g *Gateway) credential(ctx context.Context, x *exchange, settings *policyv1.Connector) (upstream.Credential, error) {
	if settings.GetAuth().GetHeader() == nil {
		return upstream.Credential{}, nil
	}
	header, err := g.Credentials.Get(ctx, settings.GetId(), x.Audience, x.token)
	if err != nil {
		return upstream.Credential{}, err
	}
	return upstream.Credential{Header: header.Name, Value: header.Value()}, nil
}

// rejected forgets a credential that an upstream refused: it may have been replaced.
func (g *Gateway) rejected(connector string, err error) {
	var failed *upstream.Error
	if errors.As(err, &failed) && failed.Kind == upstream.AuthRejected {
		g.Credentials.Drop(connector)
	}
}

// passMessage passes one JSON message on: a small one whole, a large one as it comes.
func (g *Gateway) passMessage(ctx context.Context, w http.ResponseWriter, x *exchange, response *upstream.Response) ending {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Cache-Control"] = []string{"no-store"}
	if n := response.Len(); n >= 0 {
		h["Content-Length"] = []string{strconv.Itoa(n)}
	}
	status := http.StatusOK
	if x.revision.Stateless() && response.Status >= http.StatusBadRequest {
		status = response.Status
	}
	if response.Whole() {
		w.WriteHeader(status)
		_, _ = response.WriteTo(w) // the agent may be gone; what the upstream did is done
		return ended(&response.Message)
	}
	var recorder mask.Recorder
	w.WriteHeader(status)
	_, err := response.WriteTo(io.MultiWriter(&recorder, w))
	end := ending{outcome: auditv1.Outcome_OUTCOME_OK, result: recorder.Payload()}
	if err != nil {
		end = reason(ctx, err)
		end.result = recorder.Payload()
	}
	return end
}

// passEvents passes a stream on, event by event, until its response.
func (g *Gateway) passEvents(ctx context.Context, w http.ResponseWriter, x *exchange, response *upstream.Response) ending {
	events, err := mcp.NewEventWriter(w)
	if err != nil {
		return reason(ctx, err)
	}
	for {
		event, err := response.Next()
		if err != nil {
			end := reason(ctx, err)
			_ = events.Write(mcp.Event{Data: mcp.AppendError(nil, x.message.ID, &mcp.Error{Code: mcp.CodeInternal, Message: end.say()})}) // the agent may be gone
			return end
		}
		if err := events.Write(mcp.Event{Data: event.Data}); err != nil && !event.Last {
			return reason(ctx, context.Canceled)
		}
		if event.Last {
			end := ended(event.Message)
			if _, err := response.Next(); err != nil && !errors.Is(err, io.EOF) {
				g.Log.DebugContext(ctx, "an upstream's stream did not end well after its response", "error", err)
			}
			return end
		}
	}
}

// failed answers a call that got no answer of the upstream's.
func (g *Gateway) failed(ctx context.Context, w http.ResponseWriter, x *exchange, err error) ending {
	end := reason(ctx, err)
	if said := end.say(); said != "" {
		g.toolError(w, x, said)
	}
	return end
}

// reason says how a call ended that got no answer.
func reason(ctx context.Context, err error) ending {
	if end, cut := cutOff(ctx); cut {
		return end
	}
	var failed *upstream.Error
	text := "the upstream could not be called"
	switch {
	case errors.Is(err, errRevoked):
		return ending{outcome: auditv1.Outcome_OUTCOME_REVOKED, text: "access was taken away before the call was sent"}
	case errors.As(err, &failed):
		text = failed.Error()
	case errors.Is(err, replica.ErrCredentialDenied):
		text = "the control plane issues no credential for this call"
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
	}
	return "Sallyport could not complete this call: " + e.text + "."
}
