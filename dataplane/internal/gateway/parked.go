package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// A call of an agent of the stateless era, at an upstream of the session era that asks something meanwhile, is parked: the agent
// gets what is asked as a result, and the call goes on when the agent makes it again with the answers.

// parking holds parked calls.
type parking struct {
	mu  sync.Mutex
	all map[string]*parked
}

type parked struct {
	leg      *leg
	response *upstream.Response
	asked    []byte // the upstream's id of its question, raw
	asks     string // by which method
	person   uuid.UUID
	client   string
	target   target
	digest   [sha256.Size]byte // of the arguments
	expire   *time.Timer
}

// maxParked bounds the calls that are parked at a proxy.
const maxParked = 10_000

// The key of the one question that a parked call asks at a time, and what its state begins with and is sealed for.
const (
	parkedKey   = "input"
	parkedState = "sallyport."
	parkedLabel = "sallyport parked call "
)

// unparks tells whether a message goes on with a call that is parked.
func (x *exchange) unparks() bool {
	return x.revision.Stateless() && strings.HasPrefix(x.message.RequestState, parkedState)
}

func newParking() *parking { return &parking{all: map[string]*parked{}} }

// park keeps a call until it is made again, and returns the state that finds it; empty: there is no room.
func (g *Gateway) park(l *leg, x *exchange, to target, response *upstream.Response, asked []byte, method string) string {
	sealer := g.sealer.Load()
	if sealer == nil {
		return ""
	}
	p := &parked{leg: l, response: response, asked: bytes.Clone(asked), asks: method, person: x.ID, client: x.ClientID, target: to, digest: sha256.Sum256(x.message.Arguments)}
	id := uuid.NewString()
	g.parking.mu.Lock()
	defer g.parking.mu.Unlock()
	if len(g.parking.all) >= maxParked {
		return ""
	}
	response.Pause()
	l.park()
	g.parking.all[id] = p
	p.expire = time.AfterFunc(g.AskFor, func() {
		if p := g.parking.take(id); p != nil {
			p.end(errUnanswered)
		}
	})
	// Whatever ends the call ends its stay here.
	context.AfterFunc(l.ctx, func() {
		if p := g.parking.take(id); p != nil {
			p.end(context.Cause(l.ctx))
		}
	})
	return parkedState + sealer.SealAs(parkedLabel, []byte(g.Proxy+"\x00"+id))
}

func (p *parking) take(id string) *parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.all[id]
	delete(p.all, id)
	return one
}

func (p *parked) end(cause error) {
	p.expire.Stop()
	p.leg.cancel(cause)
	_ = p.response.Close() // nobody waits for it any more
	p.leg.end()
}

// stateOf reads a state of a parked call: where it is, and by which name. Not ok: it is none of ours.
func (g *Gateway) stateOf(m *mcp.Message) (proxy, id string, ok bool) {
	sealed, ours := strings.CutPrefix(m.RequestState, parkedState)
	sealer := g.sealer.Load()
	if !ours || sealer == nil {
		return "", "", false
	}
	plain, err := sealer.OpenAs(parkedLabel, sealed)
	if err != nil {
		return "", "", false
	}
	proxy, id, ok = strings.Cut(string(plain), "\x00")
	return proxy, id, ok
}

var errNotParked = &mcp.Error{Code: mcp.CodeInvalidParams, Message: "the call that asked is not waiting any more: make it again without requestState"}

// unpark finds the parked call that a message goes on with: its own caller's, the very same call.
func (g *Gateway) unpark(x *exchange, to target) (*parked, *mcp.Error) {
	_, id, ok := g.stateOf(x.message)
	if !ok {
		return nil, errNotParked
	}
	g.parking.mu.Lock()
	defer g.parking.mu.Unlock()
	p := g.parking.all[id]
	if p == nil || p.person != x.ID || p.client != x.ClientID || p.target != to || p.digest != sha256.Sum256(x.message.Arguments) {
		return nil, errNotParked
	}
	delete(g.parking.all, id)
	p.expire.Stop()
	return p, nil
}

// resume answers what a parked call's upstream asked, and passes on what comes then.
func (g *Gateway) resume(to *answer, x *exchange, settings *policyv1.Connector, p *parked) (ending, bool) {
	answers, e := mcp.ReadInputResponses(x.message)
	ctx := p.leg.ctx
	if e == nil && !consented(settings).Of(p.asks) {
		e = errNotAsked
	}
	if e == nil && answers[parkedKey] == nil {
		e = mcp.InvalidParams(`"inputResponses" lacks what was asked for`)
	}
	if e != nil {
		p.response.Refuse(p.asked, &mcp.Error{Code: mcp.CodeInternal, Message: "the client did not answer"})
	} else if err := p.response.Reply(ctx, mcp.AppendResult(nil, p.asked, answers[parkedKey])); err != nil {
		_ = p.response.Close() // so that the upstream is told, which waits
		return g.failed(ctx, to, err), false
	}
	p.response.AnswerTo(x.message.ID)
	end, held, _ := g.pass(p.leg, to, x, settings, p.target, p.response)
	return end, held
}
