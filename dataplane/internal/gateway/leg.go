package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/telemetry"
	"sallyport.dev/dataplane/policy"
)

// leg is a call's way through the gateway: it lasts as long as the agent waits for it, or longer where it is parked.
type leg struct {
	ctx     context.Context //nolint:containedctx // the call's own: it outlives the request's, and whoever holds the leg ends it
	cancel  context.CancelCauseFunc
	flight  *flight
	flights *flights
	release func() bool     // of the agent's connection
	span    *telemetry.Call // nil: none is made
	track   atomic.Pointer[track]
	patient time.Duration  // with an agent whose connection broke
	edition policy.Edition // of the policy, not later than the call's verdict
}

// newLeg begins a call: from here on a change of the policy cuts it. False: too much is open already.
func (g *Gateway) newLeg(agent context.Context, f *flight) (*leg, bool) {
	l := &leg{flight: f, flights: g.flights, patient: g.ResumeFor}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(agent))
	f.cancel = l.cancel
	l.attach(agent)
	return l, g.flights.enter(f)
}

// sameMoment is how long a verdict is taken to be of now.
const sameMoment = 10 * time.Millisecond

// stands tells whether the call is still allowed: a verdict of this moment on this very policy need not be made again.
func (l *leg) stands(t *policy.Table, now time.Time) bool {
	if t.Edition() == l.edition && now.Sub(l.flight.call.Now) < sameMoment {
		return l.flight.caller.Counts(t)
	}
	return l.flight.allowed(t, now)
}

// attach ends the call with the agent's connection, or some time later where the agent can come back for the rest.
func (l *leg) attach(agent context.Context) {
	l.release = context.AfterFunc(agent, func() {
		end := func() { l.cancel(context.Cause(agent)) }
		if t := l.track.Load(); t != nil {
			t.left(l.patient, end)
			return
		}
		end()
	})
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
	g      *Gateway
	w      http.ResponseWriter
	x      *exchange
	leg    *leg
	events *mcp.EventWriter // nil: nothing was sent yet
	track  *track           // of a stream of the session era
	// sent counts what the agent was sent of it, without the framing.
	sent atomic.Uint64
	// background waits for answers of the agent to questions on the stream.
	background sync.WaitGroup
}

// event sends an event, and opens the stream for it where need be.
func (a *answer) event(data []byte) error {
	if err := a.stream(); err != nil {
		return err
	}
	a.sent.Add(uint64(len(data)))
	if a.track == nil {
		return a.events.Write(mcp.Event{Data: data})
	}
	id := a.g.tracks.append(a.track, data)
	_ = a.events.Write(mcp.Event{ID: id, Data: data}) // who does not hear it may come back for it
	return nil
}

// stream opens the stream. One of the session era can be continued from its very beginning.
func (a *answer) stream() (err error) {
	if a.events != nil {
		return nil
	}
	if a.events, err = mcp.NewEventWriter(a.w); err != nil || a.x.session.ID == "" {
		return err
	}
	a.track = a.g.tracks.open(a.g.Proxy, a.x)
	a.leg.track.Store(a.track)
	if a.x.revision >= mcp.Revision20251125 { // older clients take an event without data for a broken one
		_ = a.events.Prime(a.track.place(-1), retryAfter)
	}
	return nil
}

// end is the end of the answer. What was sent is kept for an agent that did not hear it.
func (a *answer) end() {
	if t := a.track; t != nil {
		t.finish()
		time.AfterFunc(a.leg.patient, func() { a.g.tracks.close(t) })
	}
}

// last sends the message that answers the request.
func (a *answer) last(status int, message []byte) {
	if a.events == nil {
		a.sent.Add(uint64(len(message)))
		mcp.WriteJSON(a.w, status, message)
		return
	}
	_ = a.event(message) // the agent may be gone; there is nothing to tell it
}

// refuse answers with an error.
func (a *answer) refuse(e *mcp.Error) {
	a.last(e.HTTPStatus(a.x.revision), mcp.AppendError(nil, a.x.message.ID, e))
}

// say answers that a call is not made: of a tool where the model reads it, of all else by an error.
func (a *answer) say(text string) {
	if a.x.message.Method == mcp.MethodCallTool {
		a.last(http.StatusOK, mcp.AppendToolError(nil, a.x.message.ID, a.x.revision, text))
		return
	}
	a.refuse(mcp.InvalidParams(text))
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
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errRevoked):
		return ending{outcome: auditv1.Outcome_OUTCOME_REVOKED, text: "access was taken away during the call"}, true
	case errors.Is(cause, errCancelled), errors.Is(cause, errSession):
		return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the agent cancelled the call"}, true
	case errors.Is(cause, errUnanswered):
		return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "nobody answered what the upstream asked"}, true
	}
	return ending{outcome: auditv1.Outcome_OUTCOME_CANCELLED, text: "the agent went away"}, true
}
