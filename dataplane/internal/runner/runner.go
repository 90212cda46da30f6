package runner

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/dataplane/internal/mcp"
)

// Runner serves programs. It is safe for concurrent use.
type Runner struct {
	token   string
	log     *slog.Logger
	servers map[string]*Server
	mux     *http.ServeMux

	mu        sync.Mutex
	processes map[key]*process
	starting  map[key]chan struct{}
	sessions  map[string]*session
	crashes   map[key]crashes
	closed    bool
}

// key is whose process of which server it is; person is empty where it is shared.
type key struct{ server, person string }

// crashes are how often a program ended soon after it was started, and when it may be started again.
type crashes struct {
	count int
	until time.Time
}

// A program that ends within soon of its start is not started again at once: first crashFirst later, then later and later.
const (
	soon       = 10 * time.Second
	crashFirst = time.Second
	crashMost  = time.Minute
)

// session is one client's.
type session struct {
	id      string
	process *process

	mu      sync.Mutex
	notices chan []byte // nil: nobody listens
	gone    bool
}

// New returns a runner of the servers of a configuration, for whoever has the token.
func New(c Config, token string, log *slog.Logger) (*Runner, error) {
	if len(token) < 16 {
		return nil, errors.New("the token must have 16 characters at least")
	}
	r := &Runner{
		token: token, log: log, servers: map[string]*Server{}, mux: http.NewServeMux(), processes: map[key]*process{},
		starting: map[key]chan struct{}{}, sessions: map[string]*session{}, crashes: map[key]crashes{},
	}
	for i := range c.Servers {
		r.servers[c.Servers[i].Name] = &c.Servers[i]
	}
	r.mux.HandleFunc("/servers/{name}", r.serve)
	r.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	r.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return r, nil
}

// ServeHTTP answers a proxy.
func (r *Runner) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.mux.ServeHTTP(w, req) }

// Run ends programs that nobody uses, until ctx ends; then it ends all.
func (r *Runner) Run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			r.close()
			return
		case <-ticker.C:
			r.sweep(time.Now())
		}
	}
}

func (r *Runner) sweep(now time.Time) {
	r.mu.Lock()
	var idle []*process
	for k, p := range r.processes {
		if p.idle(now) {
			idle = append(idle, p)
			delete(r.processes, k)
		}
	}
	for k, c := range r.crashes {
		if now.Sub(c.until) > crashMost {
			delete(r.crashes, k)
		}
	}
	r.mu.Unlock()
	for _, p := range idle {
		go p.end()
	}
}

func (r *Runner) close() {
	r.mu.Lock()
	r.closed = true
	var all []*process
	for _, p := range r.processes {
		all = append(all, p)
	}
	clear(r.processes)
	r.mu.Unlock()
	var ending sync.WaitGroup
	for _, p := range all {
		ending.Go(p.end)
	}
	ending.Wait()
}

// serve answers one request for a server: person and token come as HTTP Basic credentials (RFC 7617).
func (r *Runner) serve(w http.ResponseWriter, req *http.Request) {
	person, token, _ := req.BasicAuth()
	if subtle.ConstantTimeCompare([]byte(token), []byte(r.token)) != 1 || person == "" {
		http.Error(w, "the token is not this runner's", http.StatusUnauthorized)
		return
	}
	server := r.servers[req.PathValue("name")]
	if server == nil {
		http.Error(w, "the runner's configuration names no such server", http.StatusNotFound)
		return
	}
	switch req.Method {
	case http.MethodPost:
		r.post(w, req, server, person)
	case http.MethodGet:
		r.listen(w, req, server, person)
	case http.MethodDelete:
		if s := r.session(w, req, server, person); s != nil {
			r.drop(s)
			w.WriteHeader(http.StatusNoContent)
		}
	default:
		http.Error(w, "MCP is spoken by POST", http.StatusMethodNotAllowed)
	}
}

func (r *Runner) post(w http.ResponseWriter, req *http.Request, server *Server, person string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, int64(server.Limits.Message)))
	if err != nil {
		http.Error(w, "the message is larger than this server takes", http.StatusRequestEntityTooLarge)
		return
	}
	var m mcp.Message
	if e := mcp.ReadMessage(body, (&process{server: server}).limits(), &m); e != nil {
		mcp.WriteError(w, "", m.ID, e)
		return
	}
	if m.Method == mcp.MethodInitialize && m.Kind == mcp.Request {
		r.initialize(w, req, server, person, &m)
		return
	}
	s := r.session(w, req, server, person)
	if s == nil {
		return
	}
	switch {
	case m.Kind == mcp.Request:
		r.call(w, req, s, &m)
		return
	case m.Method == mcp.NotifyCancelled:
		s.process.cancel(s, m.RequestID)
	case m.Method == mcp.NotifyInitialized: // the program was told once
	default:
		if err := s.process.write(m.Raw); err != nil {
			r.lost(w, s)
			return
		}
	}
	w.WriteHeader(http.StatusAccepted)
}

// initialize opens a session at the process of the person, or of all, which is started if need be.
func (r *Runner) initialize(w http.ResponseWriter, req *http.Request, server *Server, person string, m *mcp.Message) {
	p, first, err := r.process(req.Context(), server, person)
	var hello []byte
	if err == nil {
		hello, err = p.initialize(req.Context(), m, first)
	}
	if err != nil {
		r.log.Warn("a program cannot be used", "server", server.Name, "error", err)
		mcp.WriteError(w, "", m.ID, &mcp.Error{Code: mcp.CodeInternal, Message: "the server's program cannot be used: " + err.Error(), Status: http.StatusServiceUnavailable})
		return
	}
	s := &session{id: uuid.NewString(), process: p}
	r.mu.Lock()
	r.sessions[s.id] = s
	r.mu.Unlock()
	p.mu.Lock()
	p.sessions[s.id] = s
	ended := p.ended != nil
	p.mu.Unlock()
	if ended { // meanwhile: nobody else forgets the session
		r.mu.Lock()
		delete(r.sessions, s.id)
		r.mu.Unlock()
	}
	w.Header().Set(mcp.HeaderSession, s.id)
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendResult(nil, m.ID, hello))
}

// process returns the process for a person, and whether it was started just now.
func (r *Runner) process(ctx context.Context, server *Server, person string) (p *process, first bool, err error) {
	k := key{server.Name, person}
	if server.Per == "shared" {
		k.person = ""
	}
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return nil, false, errors.New("the runner stops")
		}
		if p := r.processes[k]; p != nil {
			r.mu.Unlock()
			if !p.hasEnded() {
				return p, false, nil
			}
			select {
			case <-p.over: // it is forgotten, and its crash counted
				continue
			case <-ctx.Done():
				return nil, false, context.Cause(ctx)
			}
		}
		if wait := r.starting[k]; wait != nil {
			r.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, false, context.Cause(ctx)
			}
		}
		if err := r.mayStart(k, server); err != nil {
			r.mu.Unlock()
			return nil, false, err
		}
		done := make(chan struct{})
		r.starting[k] = done
		r.mu.Unlock()
		p, err := start(server, k.person, r.log)
		r.mu.Lock()
		delete(r.starting, k)
		close(done)
		if err == nil {
			r.processes[k] = p
		}
		r.mu.Unlock()
		if err != nil {
			return nil, false, err
		}
		go r.watch(k, p)
		return p, true, nil
	}
}

// mayStart says why a process may not be started now. The caller holds mu.
func (r *Runner) mayStart(k key, server *Server) error {
	if rest := time.Until(r.crashes[k].until); rest > 0 {
		return fmt.Errorf("it ended %d times soon after it was started; try again in %s", r.crashes[k].count, rest.Round(time.Second))
	}
	count := 0
	for other := range r.processes {
		if other.server == server.Name {
			count++
		}
	}
	for other := range r.starting {
		if other.server == server.Name {
			count++
		}
	}
	if count >= server.Limits.Processes {
		return errTooMany
	}
	return nil
}

// watch forgets a process that ended, with its sessions.
func (r *Runner) watch(k key, p *process) {
	<-p.done
	defer close(p.over)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.processes[k] == p { // nobody ended it
		delete(r.processes, k)
		if time.Since(p.started) < soon {
			c := r.crashes[k]
			c.count++
			c.until = time.Now().Add(min(crashFirst<<min(c.count-1, 10), crashMost))
			r.crashes[k] = c
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.sessions {
		delete(r.sessions, id)
	}
}

// session finds the session of a request, or answers that there is none.
func (r *Runner) session(w http.ResponseWriter, req *http.Request, server *Server, person string) *session {
	r.mu.Lock()
	s := r.sessions[req.Header.Get(mcp.HeaderSession)]
	r.mu.Unlock()
	if s == nil || s.process.server != server || s.process.person != "" && s.process.person != person {
		mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "there is no such session: initialize again", Status: http.StatusNotFound})
		return nil
	}
	return s
}

func (r *Runner) drop(s *session) {
	r.mu.Lock()
	delete(r.sessions, s.id)
	r.mu.Unlock()
	s.process.mu.Lock()
	delete(s.process.sessions, s.id)
	s.process.mu.Unlock()
	s.close()
}

// lost answers that the session's program is gone: the client opens another session.
func (r *Runner) lost(w http.ResponseWriter, s *session) {
	r.drop(s)
	mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "the session's program ended: initialize again", Status: http.StatusNotFound})
}

// call has the program answer a request. What it says meanwhile comes on the same stream.
func (r *Runner) call(w http.ResponseWriter, req *http.Request, s *session, m *mcp.Message) {
	c, err := s.process.ask(s, m)
	if err != nil {
		r.lost(w, s)
		return
	}
	defer s.process.forget(c)
	events, err := mcp.NewEventWriter(w)
	if err != nil {
		return
	}
	for {
		select {
		case message := <-c.events:
			if events.Write(mcp.Event{Data: message}) != nil {
				return
			}
			continue
		default:
		}
		select {
		case message := <-c.events:
			if events.Write(mcp.Event{Data: message}) != nil {
				return
			}
		case <-c.last:
			for len(c.events) > 0 {
				if events.Write(mcp.Event{Data: <-c.events}) != nil {
					return
				}
			}
			_ = events.Write(mcp.Event{Data: c.answer}) // the client may be gone
			return
		case <-req.Context().Done():
			return
		}
	}
}

// listen is a session's stream of notifications.
func (r *Runner) listen(w http.ResponseWriter, req *http.Request, server *Server, person string) {
	s := r.session(w, req, server, person)
	if s == nil {
		return
	}
	notices := s.hear()
	if notices == nil {
		http.Error(w, "the session has a stream already, or has ended", http.StatusConflict)
		return
	}
	defer s.unhear()
	events, err := mcp.NewEventWriter(w)
	if err != nil {
		return
	}
	for {
		select {
		case message, open := <-notices:
			if !open || events.Write(mcp.Event{Data: message}) != nil {
				return
			}
		case <-req.Context().Done():
			return
		}
	}
}

func (s *session) hear() chan []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notices != nil || s.gone {
		return nil
	}
	s.notices = make(chan []byte, 64)
	return s.notices
}

func (s *session) unhear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices = nil
}

// heard tells whether somebody listens.
func (s *session) heard() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notices != nil
}

// tell passes a notification on, if somebody listens and keeps up.
func (s *session) tell(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notices != nil && !s.gone {
		select {
		case s.notices <- message:
		default:
		}
	}
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notices != nil && !s.gone {
		close(s.notices)
	}
	s.gone = true
}

// String says how many programs run.
func (r *Runner) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strconv.Itoa(len(r.processes)) + " programs"
}
