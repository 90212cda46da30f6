package gateway

import (
	"context"
	"net/http"
	"sync"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

// leg is a call's way through the gateway: it lasts as long as the agent waits for it, or longer where it is parked.
type leg struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	flight  *flight
	flights *flights
	release func() bool // of the agent's connection
}

// newLeg begins a call: from here on a change of the policy cuts it.
func (g *Gateway) newLeg(agent context.Context, f *flight) *leg {
	l := &leg{flight: f, flights: g.flights}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(agent))
	f.cancel = l.cancel
	l.attach(agent)
	g.flights.enter(f)
	return l
}

// attach ends the call with the agent's connection.
func (l *leg) attach(agent context.Context) {
	l.release = context.AfterFunc(agent, func() { l.cancel(context.Cause(agent)) })
}

// park lets the call outlive the agent's connection.
func (l *leg) park() { l.release() }

// end is the end of the call.
func (l *leg) end() {
	l.release()
	l.cancel(nil)
	l.flights.leave(l.flight)
}

// answer is what an agent gets for a request: one message, or a stream of events that ends with one.
type answer struct {
	w      http.ResponseWriter
	x      *exchange
	events *mcp.EventWriter // nil: nothing was sent yet
	// background waits for answers of the agent to questions on the stream.
	background sync.WaitGroup
}

// event sends an event, and opens the stream for it where need be.
func (a *answer) event(data []byte) error {
	if err := a.stream(); err != nil {
		return err
	}
	return a.events.Write(mcp.Event{Data: data})
}

// stream opens the stream.
func (a *answer) stream() (err error) {
	if a.events == nil {
		a.events, err = mcp.NewEventWriter(a.w)
	}
	return err
}

// last sends the message that answers the request.
func (a *answer) last(status int, message []byte) {
	if a.events == nil {
		mcp.WriteJSON(a.w, status, message)
		return
	}
	_ = a.events.Write(mcp.Event{Data: message}) // the agent may be gone; there is nothing to tell it
}

// fail answers that a call did not come about: of a tool where the model reads it, of all else by an error.
func (a *answer) fail(text string) {
	if a.x.message.Method == mcp.MethodCallTool {
		a.last(http.StatusOK, mcp.AppendToolError(nil, a.x.message.ID, a.x.revision, text))
		return
	}
	a.last(http.StatusOK, mcp.AppendError(nil, a.x.message.ID, &mcp.Error{Code: mcp.CodeInternal, Message: text}))
}

// cutOff says how a call ended whose context is over, or false where it is not.
func cutOff(ctx context.Context) (ending, bool) {
	if ctx.Err() == nil {
		return ending{}, false
	}
	switch context.Cause(ctx) {
	case errRevoked:
		return ending{outcome: auditv1.Outcome_OUTCOME_REVOKED, text: "access was taken away during the call"}, true
	case errCancelled, errSession:
		return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the agent cancelled the call"}, true
	case errUnanswered:
		return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "nobody answered what the upstream asked"}, true
	}
	return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the agent went away"}, true
}
