package gateway

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/dataplane/internal/mcp"
)

// initialize opens a session of the session era: its id is the session, sealed.
func (g *Gateway) initialize(w http.ResponseWriter, x *exchange) {
	sealer := g.sealer.Load()
	if sealer == nil {
		mcp.WriteError(w, x.revision, x.message.ID, &mcp.Error{Code: mcp.CodeInternal, Message: "this proxy is not ready: try again shortly", Status: http.StatusServiceUnavailable})
		return
	}
	now := g.Now()
	s := mcp.Session{
		ID: uuid.NewString(), Person: x.ID.String(), Client: x.ClientID, Connector: x.connector, Generation: x.Generation,
		Revision: mcp.Negotiate(x.message.Requested), Issued: now, Expires: now.Add(g.SessionFor), Home: g.Proxy,
	}
	_, offers := mcp.ReadCapabilities(x.message.Capabilities, mcp.Asks{Sampling: true, Elicitation: true, Roots: true}, g.JSON)
	s.Capabilities = string(offers)
	w.Header().Set(mcp.HeaderSession, sealer.Seal(s))
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendInitialize(nil, x.message.ID, s.Revision, g.server))
}

var (
	errNoSession      = &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "the Mcp-Session-Id header is missing: initialize first", Status: http.StatusBadRequest}
	errUnknownSession = &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "there is no such session: initialize again", Status: http.StatusNotFound}
)

// session opens the id that a request carries. It authenticates nobody: it must be the caller's own.
func (g *Gateway) session(r *http.Request, c *caller) (mcp.Session, *mcp.Error) {
	ids := r.Header[mcp.HeaderSession]
	sealer := g.sealer.Load()
	if len(ids) != 1 || sealer == nil {
		return mcp.Session{}, errNoSession
	}
	s, err := sealer.Open(ids[0], g.Now())
	if err == nil {
		err = s.Belongs(c.ID.String(), c.ClientID, c.connector, c.Generation)
	}
	if err == nil && g.ended.has(s.ID) {
		err = errors.New("ended")
	}
	if err != nil {
		return mcp.Session{}, errUnknownSession
	}
	return s, nil
}

// end ends a session of the session era.
func (g *Gateway) end(w http.ResponseWriter, r *http.Request, c *caller) {
	if onlyPosts(w, r, "this protocol version has no sessions that could be ended") {
		return
	}
	s, e := g.session(r, c)
	if e != nil {
		mcp.WriteError(w, "", nil, e)
		return
	}
	if g.elsewhere(w, r, onward{home: s.Home, bound: true}) {
		return
	}
	g.ended.add(s.ID, s.Expires, g.Now())
	g.levels.forget(s.ID)
	g.watches.end(s.ID)
	g.flights.endSession(s.ID)
	w.WriteHeader(http.StatusNoContent)
}

// endedSessions remembers the sessions that clients ended here, until they would have expired. Ending is a
// courtesy of the client's, not a revocation: another proxy of the region does not know of it.
type endedSessions struct {
	mu  sync.Mutex
	all map[string]time.Time
}

// maxEnded bounds what is remembered.
const maxEnded = 100_000

func newEndedSessions() *endedSessions { return &endedSessions{all: map[string]time.Time{}} }

func (e *endedSessions) has(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.all[id]
	return ok
}

func (e *endedSessions) add(id string, until, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.all) >= maxEnded {
		for old, expires := range e.all {
			if now.After(expires) || len(e.all) >= maxEnded {
				delete(e.all, old)
			}
			if len(e.all) < maxEnded/2 {
				break
			}
		}
	}
	e.all[id] = until
}

// levels are the log levels that agents of the session era asked for, by session.
type levels struct {
	mu  sync.Mutex
	all map[string]string
}

func newLevels() *levels { return &levels{all: map[string]string{}} }

// logLevels are those of the protocol (2025-11-25, logging).
var logLevels = map[string]bool{
	"debug": true, "info": true, "notice": true, "warning": true, "error": true, "critical": true, "alert": true, "emergency": true,
}

func (l *levels) get(session string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[session]
}

func (l *levels) set(session, level string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) >= maxEnded { // sessions that nobody ended: they ask again
		clear(l.all)
	}
	l.all[session] = level
}

func (l *levels) forget(session string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, session)
}

// setLevel remembers what the agent wants to be told of: each upstream of its session is told when it is called next.
func (g *Gateway) setLevel(w http.ResponseWriter, x *exchange) {
	if !logLevels[x.message.Level] {
		mcp.WriteError(w, x.revision, x.message.ID, mcp.InvalidParams("the level is none of debug, info, notice, warning, error, critical, alert and emergency"))
		return
	}
	g.levels.set(x.session.ID, x.message.Level)
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendPong(nil, x.message.ID))
}
