package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// passEvents passes a stream on, event by event, until its response.
func (g *Gateway) passEvents(l *leg, to *answer, x *exchange, settings *policyv1.Connector, t target, response *upstream.Response) (ending, bool, *mcp.InputRequired) {
	asking, stop := context.WithCancel(l.ctx)
	defer to.background.Wait()
	defer stop()
	if err := to.stream(); err != nil {
		return reason(l.ctx, err), false, nil
	}
	for {
		event, err := response.Next()
		if err != nil {
			end := reason(l.ctx, err)
			to.last(http.StatusOK, mcp.AppendError(nil, x.message.ID, &mcp.Error{Code: mcp.CodeInternal, Message: end.say()}))
			return end, false, nil
		}
		if !event.Last {
			if err := x.measureEvent(event.Data); err != nil {
				x.withheld = true
				return g.failed(l.ctx, to, err), false, nil
			}
		}
		switch {
		case x.costless && event.Message.Kind == mcp.Request:
			response.Refuse(bytes.Clone(event.Message.ID), errNotAsked)
		case x.costless && !event.Last:
			continue
		case event.Message.Method == mcp.NotifyTask, event.Message.Method == mcp.NotifyTaskStatus:
			continue // it names the task as the agent does not know it; the agent asks
		case event.Message.Method == mcp.NotifyToolsChanged, event.Message.Method == mcp.NotifyPromptsChanged, event.Message.Method == mcp.NotifyResourcesChanged:
			continue // agents are shown what is pinned, and told by the gateway when that changes
		case x.forAgent() != nil && event.Message.Kind == mcp.Request:
			response.Refuse(bytes.Clone(event.Message.ID), errNoQuestions)
		case x.forAgent() != nil && !event.Last:
			data := x.progress(event.Message)
			if data == nil {
				continue
			}
			if err := to.event(data); err != nil {
				return reason(l.ctx, context.Canceled), false, nil
			}
		case event.Message.Kind == mcp.Request && x.revision.Stateless():
			if g.ask(l, to, x, settings, t, response, event.Message) {
				return ending{outcome: auditv1.Outcome_OUTCOME_OK, text: "the upstream asks for input"}, true, nil
			}
		case event.Message.Kind == mcp.Request:
			m := *event.Message
			if mcp.OfTask(x.message.Method) {
				m.Params = mcp.RenameTask(m.Params, t.name, x.message.Name)
			}
			if err := g.relay(asking, to, x, settings, response, &m); err != nil {
				return reason(l.ctx, context.Canceled), false, nil
			}
		case event.Last:
			return g.passLast(l, to, x, settings, t, response, event)
		default:
			data := event.Data
			if mcp.OfTask(x.message.Method) && event.Message.Params != nil {
				data = mcp.AppendNotification(nil, event.Message.Method, mcp.RenameTask(event.Message.Params, t.name, x.message.Name))
			}
			if err := to.event(data); err != nil {
				return reason(l.ctx, context.Canceled), false, nil
			}
		}
	}
}

// ask parks a call and asks the agent by a result what the upstream asks. False: it is not asked, and the upstream was told.
func (g *Gateway) ask(l *leg, to *answer, x *exchange, settings *policyv1.Connector, t target, response *upstream.Response, m *mcp.Message) bool {
	id := bytes.Clone(m.ID)
	may, _ := mcp.ReadCapabilities(x.offers(), consented(settings), g.JSON)
	asked, e := question(settings, may, mcp.Asked{Key: parkedKey, Method: m.Method, Params: m.Params})
	if e != nil {
		response.Refuse(id, e)
		return false
	}
	asked.Params = bytes.Clone(asked.Params)
	state := g.park(l, x, t, response, id, asked.Method)
	if state == "" {
		response.Refuse(id, &mcp.Error{Code: mcp.CodeInternal, Message: errBusy.Error()})
		return false
	}
	to.last(http.StatusOK, g.inputRequiredOf(x, t, &mcp.InputRequired{Asked: []mcp.Asked{asked}, State: state}))
	return true
}

// passLast passes a stream's response on.
func (g *Gateway) passLast(l *leg, to *answer, x *exchange, settings *policyv1.Connector, t target, response *upstream.Response, event upstream.Event) (ending, bool, *mcp.InputRequired) {
	said, required, e := g.said(l, x, settings, t, response, event.Message)
	switch {
	case e != nil:
		return g.failed(l.ctx, to, e), false, nil
	case required != nil:
		return ending{}, false, required
	case said != nil:
		to.last(http.StatusOK, said)
	default:
		to.last(http.StatusOK, event.Data)
	}
	end := x.ended(event.Message)
	if _, err := response.Next(); err != nil && !errors.Is(err, io.EOF) {
		g.Log.DebugContext(l.ctx, "an upstream's stream did not end well after its response", "error", err)
	}
	return end, false, nil
}
