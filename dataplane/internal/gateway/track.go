package gateway

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// track is what was sent on the stream that answers a request of the session era. It is kept for a while, so that an agent whose
// connection broke hears the rest (2025-11-25, transports, resumability): the call goes on meanwhile.
type track struct {
	id      string
	proxy   string
	person  uuid.UUID
	client  string
	session string
	request string // the raw id of the request that it answers; empty: it is too long for events' ids

	mu     sync.Mutex
	events [][]byte
	first  int // the number of events[0]
	bytes  int
	more   chan struct{} // closed when there is more
	done   bool
	// listening is how many connections hear it; unheard ends the call by end when none did for too long.
	listening int
	unheard   *time.Timer
	end       func() // nil: the connection that the call came on is still there
}

const (
	// trackBytes bounds what is kept of one stream, tracksBytes what is kept of all.
	trackBytes  = 1 << 20
	tracksBytes = 64 << 20
	// maxPlaced bounds a request's id within events' ids.
	maxPlaced = 256
	// retryAfter is how long an agent is asked to wait before it connects again, in milliseconds.
	retryAfter = 1000
)

// tracks are the streams of a proxy that can be continued.
type tracks struct {
	mu    sync.Mutex
	all   map[string]*track
	order []*track // oldest first
	bytes int
}

func newTracks() *tracks { return &tracks{all: map[string]*track{}} }

func (ts *tracks) open(proxy string, x *exchange) *track {
	t := &track{id: uuid.NewString(), proxy: proxy, person: x.ID, client: x.ClientID, session: x.session.ID, more: make(chan struct{}), listening: 1}
	if len(x.message.ID) <= maxPlaced {
		t.request = string(x.message.ID)
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.all[t.id] = t
	ts.order = append(ts.order, t)
	return t
}

func (ts *tracks) close(t *track) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.all[t.id] == nil {
		return
	}
	delete(ts.all, t.id)
	for i := range ts.order {
		if ts.order[i] == t {
			ts.order = append(ts.order[:i:i], ts.order[i+1:]...)
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ts.bytes -= t.bytes
	t.events, t.bytes = nil, 0
}

// append keeps an event, and returns its id.
func (ts *tracks) append(t *track, data []byte) string {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, append([]byte(nil), data...))
	t.bytes += len(data)
	ts.bytes += len(data)
	for len(t.events) > 1 && t.bytes > trackBytes {
		ts.bytes -= len(t.events[0])
		t.bytes -= len(t.events[0])
		t.events = t.events[1:]
		t.first++
	}
	close(t.more)
	t.more = make(chan struct{})
	for ts.bytes > tracksBytes && ts.order[0] != t {
		oldest := ts.order[0]
		ts.order = ts.order[1:]
		delete(ts.all, oldest.id)
		oldest.mu.Lock()
		ts.bytes -= oldest.bytes
		oldest.events, oldest.bytes = nil, 0
		oldest.mu.Unlock()
	}
	return t.place(t.first + len(t.events) - 1)
}

// place is the id of an event. It names the proxy where the stream is, and what the stream answers, should that be gone.
func (t *track) place(number int) string {
	return t.proxy + "." + t.id + "." + base64.RawURLEncoding.EncodeToString([]byte(t.request)) + "." + strconv.Itoa(number)
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// placed is an event's id, taken apart.
type placed struct {
	proxy, stream string
	request       []byte // the raw id of a request; nil: none can be read
	number        int
}

// readPlace reads an event's id. Not ok: it is none.
func readPlace(id string) (p placed, ok bool) {
	parts := strings.Split(id, ".")
	n := len(parts)
	if n < 4 {
		return placed{}, false
	}
	number, err := strconv.Atoi(parts[n-1])
	if err != nil {
		return placed{}, false
	}
	p = placed{proxy: strings.Join(parts[:n-3], "."), stream: parts[n-3], number: number}
	var m mcp.Message
	raw, err := base64.RawURLEncoding.DecodeString(parts[n-2])
	if err == nil && mcp.ReadMessage([]byte(`{"jsonrpc":"2.0","method":"ping","id":`+string(raw)+`}`), strictjson.Limits{}, &m) == nil {
		p.request = m.ID
	}
	return p, true
}

// find returns the stream of an event, if it is the caller's own. Gone: there is none of that name any more.
func (ts *tracks) find(p placed, s mcp.Session, c *caller) (t *track, gone bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t = ts.all[p.stream]
	if t == nil || t.person != c.ID || t.client != c.ClientID || t.session != s.ID {
		return nil, t == nil
	}
	return t, false
}

// heard counts a connection that hears the stream; the returned function takes it back, and lets the call end if there is no
// other for too long.
func (t *track) heard(most time.Duration) (left func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.listening++
	if t.unheard != nil {
		t.unheard.Stop()
	}
	return func() { t.left(most, nil) }
}

// left takes a connection back. The one that the call came on says how the call is ended.
func (t *track) left(most time.Duration, end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if end != nil {
		t.end = end
	}
	if t.listening--; t.listening > 0 || t.done {
		return
	}
	end = t.end
	t.unheard = time.AfterFunc(most, func() {
		t.mu.Lock()
		alone := t.listening == 0
		t.mu.Unlock()
		if alone && end != nil {
			end()
		}
	})
}

// finish says that nothing more comes.
func (t *track) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done {
		t.done = true
		close(t.more)
		t.more = make(chan struct{})
	}
}

// after returns what comes after an event, the number of the last of it, and when to look again; a nil channel: never.
func (t *track) after(number int) (events [][]byte, last int, more chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := min(max(number+1-t.first, 0), len(t.events))
	events, last = t.events[from:], t.first+len(t.events)-1
	if !t.done {
		more = t.more
	}
	return events, last, more
}

// resumed goes on with a stream from an event on.
func (g *Gateway) resumed(w http.ResponseWriter, r *http.Request, t *track, number int) {
	left := t.heard(g.ResumeFor)
	defer left()
	events, err := mcp.NewEventWriter(w)
	if err != nil {
		return
	}
	alive := time.NewTicker(g.KeepAlive)
	defer alive.Stop()
	for {
		missed, last, more := t.after(number)
		for i, data := range missed {
			if err := events.Write(mcp.Event{ID: t.place(last - len(missed) + 1 + i), Data: data}); err != nil {
				return
			}
		}
		if number = last; more == nil {
			return
		}
		select {
		case <-more:
		case <-alive.C:
			if events.KeepAlive() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
