package gateway

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// approval is what people said yes to, of the very call that is made.
type approval struct {
	// Confirmed is how sure it is that the person did, Reviewed what approvers did, ID the newest of what was asked.
	Confirmed policyv1.ConfirmationAssurance `json:"confirmed,omitempty"`
	Reviewed  string                         `json:"reviewed,omitempty"`
	ID        string                         `json:"asked,omitempty"`
}

// roundTrip is what an agent of the stateless era was asked to bring back: sealed, and of use once. Of a call that goes on in several
// rounds, with what its upstream asked, it holds the approval that the call was made by.
type roundTrip struct {
	ID         string            `json:"id"`
	Person     string            `json:"person"`
	Generation uint64            `json:"generation"`
	Client     string            `json:"client"`
	Connector  string            `json:"connector"`
	Label      string            `json:"label"`
	Method     string            `json:"method"`
	Digest     [sha256.Size]byte `json:"digest"`
	Expires    time.Time         `json:"expires"`
	// Browser: they were sent to a page, and the control plane knows what they said there.
	Browser bool `json:"browser,omitempty"`
	approval
	// State is the upstream's own.
	State string `json:"state,omitempty"`

	answer json.RawMessage // what the agent answers
}

// What a question's requestState begins with and is sealed for, and the key of what it asks.
const (
	roundTripState = "sallyport-asked."
	roundTripLabel = "sallyport round trip "
	roundTripKey   = "sallyport-confirm"
)

// call is what an approval is bound to.
type call struct {
	arguments []byte // in their canonical form; nil: none
	digest    [sha256.Size]byte
}

func (g *Gateway) callOf(m *mcp.Message) (call, error) {
	var c call
	var err error
	if m.Arguments != nil {
		if c.arguments, err = strictjson.Canonical(nil, m.Arguments, g.JSON); err != nil {
			return c, err
		}
	}
	c.digest = sha256.Sum256(c.arguments)
	return c, nil
}

// newRoundTrip returns a question about a call, for its caller.
func (g *Gateway) newRoundTrip(x *exchange, t target, c call) roundTrip {
	return roundTrip{
		ID: uuid.NewString(), Person: x.personID(), Generation: x.generation(), Client: x.ClientID, Connector: t.connector, Label: t.label,
		Method: x.message.Method, Digest: c.digest, Expires: g.Now().Add(g.AskFor),
	}
}

// about tells whether a question is about a call of a caller's.
func (q *roundTrip) about(x *exchange, t target, c call) bool {
	return q.Person == x.personID() && q.Generation == x.generation() && q.Client == x.ClientID && q.Connector == t.connector &&
		q.Label == t.label && q.Method == x.message.Method && q.Digest == c.digest
}

// generation is the person's as of now: what was asked before it was raised is void.
func (x *exchange) generation() uint64 {
	p, _ := x.table.PersonByID(x.ID)
	return p.Generation
}

// seal returns the requestState of a question; empty: it cannot be sealed now.
func (g *Gateway) seal(q roundTrip) string {
	sealer := g.sealer.Load()
	plain, err := json.Marshal(q)
	if sealer == nil || err != nil {
		return ""
	}
	return roundTripState + sealer.SealAs(roundTripLabel, plain)
}

// broughtBack takes a question's answer out of a message: what is left is the message as its upstream knows it. The question is nil
// where the state is none of this region's.
func (g *Gateway) broughtBack(m *mcp.Message) (*roundTrip, *mcp.Message, *mcp.Error) {
	q := g.open(m.RequestState)
	answers, e := mcp.ReadInputResponses(m)
	if e != nil {
		return nil, nil, e
	}
	state := ""
	if q != nil {
		q.answer, state = answers[roundTripKey], q.State
	}
	delete(answers, roundTripKey)
	m, e = mcp.Again(m, answers, state, g.JSON)
	return q, m, e
}

func (g *Gateway) open(state string) *roundTrip {
	sealed, _ := strings.CutPrefix(state, roundTripState)
	sealer := g.sealer.Load()
	if sealer == nil {
		return nil
	}
	plain, err := sealer.OpenAs(roundTripLabel, sealed)
	q := &roundTrip{}
	if err != nil || json.Unmarshal(plain, q) != nil {
		return nil
	}
	return q
}

// inputRequiredOf answers with what an upstream asks. Where the call was made by an approval, the agent brings that back with its answers.
func (g *Gateway) inputRequiredOf(x *exchange, t target, required *mcp.InputRequired) []byte {
	if x.approved != (approval{}) {
		c, err := g.callOf(x.message)
		if err == nil {
			q := g.newRoundTrip(x, t, c)
			q.approval, q.State = x.approved, required.State
			required.State = g.seal(q)
		}
	}
	return mcp.AppendInputRequired(nil, x.message.ID, required)
}
