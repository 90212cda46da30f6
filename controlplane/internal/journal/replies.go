package journal

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// JetStream's error codes that Append decides by.
const (
	wrongLastSequence         = 10071
	wrongLastSequenceConstant = 10164
	duplicateMessageID        = 10201
)

// notWritten are the answers after which a try certainly left nothing behind.
var notWritten = map[int]bool{
	10002: true, // account resources exceeded
	10023: true, // insufficient resources
	10039: true, // JetStream not enabled for the account
	10047: true, // insufficient storage resources
	10052: true, // organization limits
	10053: true, // stream not matched
	10054: true, // message exceeds maximum
	10076: true, // JetStream not enabled
	10109: true, // stream sealed
	10118: true, // stream offline
	10174: true, // atomic publish disabled
	10175: true, // batch sequence missing
	10176: true, // batch incomplete
	10179: true, // batch id invalid
	10199: true, // batch too large
	10200: true, // batch commit invalid
	10210: true, // too many batches in flight
}

// passing are those of notWritten that go away when the batch is sent again.
var passing = map[int]bool{10118: true, 10176: true, 10210: true}

// reply is what came back for one try.
type reply struct {
	try  string
	seq  uint64
	code int    // of JetStream's error; 0: acknowledged
	text string // of JetStream's error
	lost bool   // nobody listens where the batch was committed
}

func (r reply) err() error { return fmt.Errorf("JetStream says: %s (%d)", r.text, r.code) }

// replies hands what comes back to the Append that waits for it. An answer to an earlier try of the same
// round counts as much as one to the latest.
type replies struct {
	inbox string
	// drop is set in tests that lose answers.
	drop func(*nats.Msg) bool

	mu    sync.Mutex
	round string
	to    chan reply
}

func listen(nc *nats.Conn) (*replies, error) {
	r := &replies{inbox: nc.NewRespInbox()}
	if _, err := nc.Subscribe(r.inbox+".>", r.take); err != nil {
		return nil, fmt.Errorf("listening to acknowledgements: %w", err)
	}
	return r, nil
}

// begin opens a round and returns its name and its answers.
func (r *replies) begin() (string, <-chan reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round, r.to = nuid.Next(), make(chan reply, 64)
	return r.round, r.to
}

// address is where a try's answer goes.
func (r *replies) address(round, try string) string { return r.inbox + "." + round + "." + try }

func (r *replies) take(m *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drop != nil && r.drop(m) {
		return
	}
	round, try, ok := strings.Cut(strings.TrimPrefix(m.Subject, r.inbox+"."), ".")
	if !ok || round != r.round {
		return // of a round that has its answer
	}
	select {
	case r.to <- read(m, try):
	default: // more answers than tries: a flood of repeats, of which the first are enough
	}
}

func read(m *nats.Msg, try string) reply {
	out := reply{try: try}
	if m.Header.Get("Status") == "503" {
		out.lost = true
		return out
	}
	if len(m.Data) == 0 {
		return out // a part was staged
	}
	var answer struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Sequence uint64 `json:"seq"`
	}
	switch err := json.Unmarshal(m.Data, &answer); {
	case err != nil:
		out.code, out.text = -1, "an answer that cannot be read"
	case answer.Error != nil:
		out.code, out.text = answer.Error.Code, answer.Error.Description
		if out.code == 0 {
			out.code = -1
		}
	}
	out.seq = answer.Sequence
	return out
}
