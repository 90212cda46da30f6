package upstream

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// session is a session of the session era that the upstream agreed to.
type session struct {
	id       string // empty: the upstream gave none and wants none
	revision mcp.Revision
	level    atomic.Pointer[string] // of the log, as it was last asked for
}

// setLevel asks for another log level. An upstream that has none says so, and is not asked again.
func (u *Upstream) setLevel(ctx context.Context, s *session, p *Party) {
	s.level.Store(&p.LogLevel)
	id := u.newID()
	message := append(append([]byte(`{"jsonrpc":"2.0","id":`), id...), `,"method":"`+mcp.MethodSetLevel+`","params":{"level":`...)
	message = append(strictjson.Quote(message, p.LogLevel), "}}"...)
	r := request{method: http.MethodPost, fields: u.sessionFields(baseFields(), s, p.Credential), body: message}
	response, err := u.exchange(ctx, &r, exchange{sent: id, answer: id, method: mcp.MethodSetLevel, session: s, credential: p.Credential})
	if err != nil {
		return // what matters is the call that comes next
	}
	defer func() { _ = response.Close() }()
	_, _ = response.whole() // whatever it says
}

// seat holds the session of one party.
type seat struct {
	turn    *turn
	current atomic.Pointer[session]
	used    atomic.Int64 // Unix seconds
	cred    atomic.Pointer[Credential]
	busy    int  // how many calls and streams are in the session, under seats' lock
	left    bool // it is none of the seats any more, under the same lock: its session ends with the last of them
}

// seats holds an upstream's sessions by party.
type seats struct {
	mu sync.Mutex
	by map[string]*seat
}

// seat returns the party's seat, for as long as until it is released, and makes room for a new one where there are too many.
func (u *Upstream) seat(p *Party) *seat {
	now, key := u.pool.config.Now(), p.key()
	u.seats.mu.Lock()
	s := u.seats.by[key]
	var leaver *seat
	if s == nil {
		if len(u.seats.by) >= u.target.MaxSessions {
			leaver = u.seats.takeOldest()
		}
		s = &seat{turn: newTurn()}
		u.seats.by[key] = s
	}
	s.busy++
	u.seats.mu.Unlock()
	s.used.Store(now.Unix())
	if leaver != nil {
		u.goodbye(leaver)
	}
	return s
}

// takeOldest removes, of a few seats, the one unused for longest. Which few is chance; it costs the same however many there are.
func (s *seats) takeOldest() *seat {
	var oldest *seat
	var whose string
	looked := 0
	for key, seat := range s.by {
		if oldest == nil || seat.used.Load() < oldest.used.Load() {
			oldest, whose = seat, key
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(s.by, whose)
	return oldest
}

// release is the end of a use of a seat.
func (u *Upstream) release(s *seat) {
	s.used.Store(u.pool.config.Now().Unix())
	u.seats.mu.Lock()
	s.busy--
	last := s.left && s.busy == 0
	u.seats.mu.Unlock()
	if last {
		u.goodbye(s)
	}
}

func (u *Upstream) sweep(now time.Time) {
	before := now.Add(-u.target.SessionIdle).Unix()
	var idle []*seat
	u.seats.mu.Lock()
	for key, s := range u.seats.by {
		if s.busy == 0 && s.used.Load() < before {
			idle = append(idle, s)
			delete(u.seats.by, key)
		}
	}
	u.seats.mu.Unlock()
	for _, s := range idle {
		u.goodbye(s)
	}
}

// End ends a party's session, if it has one.
func (u *Upstream) End(p Party) {
	key := p.key()
	u.seats.mu.Lock()
	s := u.seats.by[key]
	delete(u.seats.by, key)
	u.seats.mu.Unlock()
	if s != nil {
		u.goodbye(s)
	}
}

// goodbye tells the upstream that a session is not needed any more, once nothing is in it.
func (u *Upstream) goodbye(s *seat) {
	u.seats.mu.Lock()
	s.left = true
	busy := s.busy > 0
	u.seats.mu.Unlock()
	if busy {
		return
	}
	gone, c := s.current.Swap(nil), s.cred.Load()
	if gone == nil || gone.id == "" || c == nil {
		return
	}
	u.pool.later(func(ctx context.Context) {
		r := request{method: http.MethodDelete, fields: u.sessionFields(nil, gone, *c)}
		if rep, err := u.wire.send(ctx, &r); err == nil {
			_ = rep.body.Close() // whatever it says: a session that stays ends by itself
		}
	})
}

// opened returns the party's session, opened if need be. Without an error, the caller releases the seat.
func (u *Upstream) opened(ctx context.Context, p *Party) (_ *seat, _ *session, err error) {
	s := u.seat(p)
	defer func() {
		if err != nil {
			u.release(s)
		}
	}()
	if current := s.current.Load(); current != nil {
		return s, current, nil
	}
	err = s.turn.do(ctx, func() bool { return s.current.Load() != nil }, func(ctx context.Context) error {
		fresh, err := u.initialize(ctx, p)
		if err == nil {
			s.cred.Store(&p.Credential)
			s.current.Store(fresh)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if current := s.current.Load(); current != nil {
		return s, current, nil
	}
	return nil, nil, u.fail(SessionLost, "")
}

// initialize opens a session (2025-11-25, lifecycle).
func (u *Upstream) initialize(ctx context.Context, p *Party) (*session, error) {
	wanted := mcp.LatestSession
	if u.target.Revision != "" && !u.target.Revision.Stateless() {
		wanted = u.target.Revision
	}
	id := u.newID()
	message := append(append([]byte(`{"jsonrpc":"2.0","id":`), id...), `,"method":"initialize","params":{"protocolVersion":"`...)
	capabilities := p.Capabilities
	if len(capabilities) == 0 {
		capabilities = []byte("{}")
	}
	message = append(append(append(append(message, wanted...), `","capabilities":`...), capabilities...), `,"clientInfo":`...)
	message = append(append(message, u.pool.info...), "}}"...)
	r := request{method: http.MethodPost, fields: u.credential(baseFields(), p.Credential), body: message}
	response, err := u.exchange(ctx, &r, exchange{sent: id, answer: id, method: mcp.MethodInitialize, session: &session{}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Close() }()
	answer, err := response.whole()
	if err != nil {
		return nil, err
	}
	fresh := &session{id: response.sessionID}
	if fresh.revision, err = u.agreed(answer); err != nil {
		return nil, err
	}
	if !visible(fresh.id) {
		return nil, u.fail(BadResponse, "its session id holds characters that it must not")
	}
	return fresh, u.initialized(ctx, fresh, p.Credential)
}

// agreed reads the revision from initialize's answer.
func (u *Upstream) agreed(m *mcp.Message) (mcp.Revision, error) {
	if m.Result == nil {
		e := u.fail(BadResponse, "it refuses to be initialized")
		e.refused = true
		return "", e
	}
	v, err := strictjson.Decode(m.Result, u.limits())
	result, _ := v.(map[string]any)
	named, _ := result["protocolVersion"].(string)
	revision, ok := mcp.ParseRevision(named)
	if u.target.Legacy && named == string(mcp.Revision20241105) {
		revision, ok = mcp.Revision20241105, true
	}
	if err != nil || !ok || revision.Stateless() {
		return "", u.fail(BadResponse, "it speaks no protocol version that is supported")
	}
	return revision, nil
}

func (u *Upstream) initialized(ctx context.Context, fresh *session, c Credential) error {
	r := request{
		method: http.MethodPost, fields: u.sessionFields(baseFields(), fresh, c),
		body: []byte(`{"jsonrpc":"2.0","method":"` + mcp.NotifyInitialized + `"}`),
	}
	response, err := u.exchange(ctx, &r, exchange{method: mcp.NotifyInitialized, session: fresh})
	if err != nil {
		return err
	}
	return response.Close()
}

// visible tells whether a session id is of visible ASCII, and not absurdly long.
func visible(id string) bool {
	for i := 0; i < len(id); i++ {
		if id[i] < 0x21 || id[i] > 0x7e {
			return false
		}
	}
	return len(id) <= 4096
}

// lose forgets a session that the upstream does not know any more, unless another took its place already.
func (s *seat) lose(lost *session) { s.current.CompareAndSwap(lost, nil) }
