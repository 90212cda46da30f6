package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// process is a program that runs, for one person or for all.
type process struct {
	server  *Server
	person  string
	log     *slog.Logger
	cmd     *exec.Cmd
	stdin   inputPipe
	stdout  *os.File
	stderr  *os.File
	folder  string        // its own, removed at its end; empty: none
	done    chan struct{} // closed when it ended
	over    chan struct{} // closed when the runner has forgotten it after that
	started time.Time

	writing sync.Mutex // held while a message is written

	mu       sync.Mutex
	nextID   int
	calls    map[string]*call // by the id that the program knows, raw
	progress map[string]*call // by the progress token that the program knows, raw
	sessions map[string]*session
	used     time.Time
	ended    error
	garbage  int

	initiated chan struct{} // closed when initialize was answered, or failed; then one of these is there:
	hello     []byte        // its result, raw
	refused   error
}

// inputPipe is what a program reads.
type inputPipe interface {
	io.WriteCloser
	SetWriteDeadline(at time.Time) error
}

// call is a request of a session that the program did not answer yet.
type call struct {
	session *session
	id      []byte        // as the session knows it, raw
	known   string        // as the program does
	token   []byte        // the session's progress token, raw; nil: none
	events  chan []byte   // what the program says meanwhile
	slow    bool          // nobody took the last of it in time
	last    chan struct{} // closed when the answer is there, or the program is gone
	answer  []byte
}

var (
	errEnded   = errors.New("the program ended")
	errTooMany = errors.New("as many processes of this server run as may")
)

// start runs a program.
func start(s *Server, person string, log *slog.Logger) (*process, error) {
	p := &process{
		server: s, person: person, log: log, done: make(chan struct{}), over: make(chan struct{}), started: time.Now(), used: time.Now(), calls: map[string]*call{},
		progress: map[string]*call{}, sessions: map[string]*session{}, initiated: make(chan struct{}),
	}
	p.cmd = exec.Command(s.Command[0], s.Command[1:]...) //nolint:gosec,noctx // the command is the runner's own configuration; its end is end()'s to bring about
	p.cmd.Env, p.cmd.Dir = s.environment(), s.Dir
	if s.Dir == "" {
		folder, err := os.MkdirTemp("", "sallyport-"+s.Name+"-")
		if err != nil {
			return nil, fmt.Errorf("making a folder for %s: %w", s.Name, err)
		}
		p.folder, p.cmd.Dir = folder, folder
	}
	separate(p.cmd)
	if err := p.open(); err != nil {
		p.cleanUp()
		return nil, err
	}
	limit(p.cmd.Process.Pid, s.Limits)
	log.Info("a program was started", "server", s.Name, "pid", p.cmd.Process.Pid)
	go p.read()
	return p, nil
}

// open starts the program with pipes of the runner's own: its end is seen whoever else holds them by then.
func (p *process) open() (err error) {
	var ends []*os.File // this side's and the program's, by turns
	defer func() {
		for i, end := range ends {
			if err != nil || i%2 == 1 {
				_ = end.Close() // nothing was written
			}
		}
		if err != nil {
			err = fmt.Errorf("starting %s: %w", p.server.Name, err)
		}
	}()
	for range 3 {
		from, to, err := os.Pipe()
		if err != nil {
			return err
		}
		ends = append(ends, from, to)
	}
	ends[0], ends[1] = ends[1], ends[0] // the program reads the first
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = ends[1], ends[3], ends[5]
	p.stdin, p.stdout, p.stderr = ends[0], ends[2], ends[4]
	return p.cmd.Start()
}

// leftBehind is how long what a program wrote is still read after its end, where somebody outside of its group holds the pipe.
const leftBehind = time.Second

// wait sees the program's end, and ends with it what it started.
func (p *process) wait() error {
	err := p.cmd.Wait()
	killGroup(p.cmd)
	at := time.Now().Add(leftBehind)
	_ = p.stdout.SetReadDeadline(at) // a pipe has deadlines
	_ = p.stderr.SetReadDeadline(at)
	return err
}

func (p *process) cleanUp() {
	if p.folder != "" {
		_ = os.RemoveAll(p.folder) // a temporary folder: the machine clears it otherwise
	}
}

func (p *process) hasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended != nil
}

// read takes what the program says until it ends.
func (p *process) read() {
	waited := make(chan error, 1)
	go func() { waited <- p.wait() }()
	complained := make(chan struct{})
	go func() {
		_, _ = io.Copy(&complaints{log: p.log.With("server", p.server.Name)}, p.stderr) // until the end, however that comes
		close(complained)
	}()
	lines := bufio.NewReaderSize(p.stdout, 64<<10)
	for {
		line, err := readLine(lines, p.server.Limits.Message)
		if errors.Is(err, errLong) {
			p.strange("a line is longer than a message may be")
			continue
		}
		if err != nil {
			break
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			p.take(line)
		}
	}
	killGroup(p.cmd) // one that says nothing more is of no use
	err := <-waited
	<-complained
	for _, end := range []io.Closer{p.stdin, p.stdout, p.stderr} {
		_ = end.Close() // nobody is at its other end
	}
	p.mu.Lock()
	p.ended = errEnded
	calls := p.calls
	p.calls, p.progress = map[string]*call{}, map[string]*call{}
	for _, s := range p.sessions {
		s.close()
	}
	p.mu.Unlock()
	for _, c := range calls {
		c.fail("the server's program ended during the call")
	}
	p.cleanUp()
	p.log.Info("a program ended", "server", p.server.Name, "pid", p.cmd.Process.Pid, "state", fmt.Sprint(p.cmd.ProcessState), "error", err)
	close(p.done)
}

var errLong = errors.New("the line is too long")

// readLine reads a line of so many bytes at most, and passes over the rest of a longer one.
func readLine(from *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := from.ReadSlice('\n')
		if len(line)+len(part) > most {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = from.ReadSlice('\n')
			}
			if err != nil {
				return nil, err
			}
			return nil, errLong
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// strange notes what a program says that is no message; the first and each hundredth are told.
func (p *process) strange(why string) {
	p.mu.Lock()
	p.garbage++
	n := p.garbage
	p.mu.Unlock()
	if n%100 == 1 {
		p.log.Warn("a program says what is no MCP message on its standard output", "server", p.server.Name, "why", why, "so_far", n)
	}
}

// take leads one of the program's messages to whom it is for.
func (p *process) take(line []byte) {
	var m mcp.Message
	if e := mcp.ReadMessage(line, p.limits(), &m); e != nil {
		p.strange(e.Message)
		return
	}
	switch m.Kind {
	case mcp.Response:
		p.answered(&m)
	case mcp.Notification:
		p.notified(&m)
	case mcp.Request:
		p.asked(&m)
	}
}

func (p *process) limits() strictjson.Limits {
	return strictjson.Limits{MaxBytes: p.server.Limits.Message, MaxDepth: 256, MaxKeys: 1 << 20}
}

func (p *process) answered(m *mcp.Message) {
	p.mu.Lock()
	c := p.calls[string(m.ID)]
	delete(p.calls, string(m.ID))
	if c != nil {
		delete(p.progress, c.known)
	}
	p.mu.Unlock()
	if c == nil {
		p.strange("it answers what was not asked")
		return
	}
	edit := mcp.Edit{ID: c.id}
	c.end(edit.Append(nil, m))
}

// notified passes a notification on: of progress to its call, of a log to a call of the person's, of anything else to all sessions.
// What a shared program logs may be of anybody, and is told nobody.
func (p *process) notified(m *mcp.Message) {
	switch m.Method {
	case mcp.NotifyProgress:
		p.mu.Lock()
		c := p.progress[string(m.ProgressToken)]
		p.mu.Unlock()
		if c != nil {
			edit := mcp.Edit{ProgressToken: c.token}
			c.send(edit.Append(nil, m))
		}
	case mcp.NotifyMessage:
		if c := p.any(); c != nil {
			c.send(bytes.Clone(m.Raw))
		}
	default:
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.sessions {
			s.tell(bytes.Clone(m.Raw))
		}
	}
}

// any returns a call of the person's whose program it is; nil: there is none, or the program is shared.
func (p *process) any() *call {
	if p.server.Per == "shared" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c.session != nil {
			return c
		}
	}
	return nil
}

// asked passes on what the program asks of its client, if it is one person's: which of several calls it is about nobody can tell.
func (p *process) asked(m *mcp.Message) {
	if m.Method == mcp.MethodPing {
		_ = p.write(mcp.AppendPong(nil, m.ID)) // if it is gone, that shows
		return
	}
	to := p.any()
	if to == nil {
		_ = p.write(mcp.AppendError(nil, m.ID, mcp.MethodNotFound())) // as above
		return
	}
	to.send(bytes.Clone(m.Raw))
}

// write sends the program a message.
func (p *process) write(message []byte) error {
	line := make([]byte, 0, len(message)+1)
	for _, c := range message {
		if c != '\n' && c != '\r' { // white space, outside of strings
			line = append(line, c)
		}
	}
	line = append(line, '\n')
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.stdin.SetWriteDeadline(time.Now().Add(time.Duration(p.server.Limits.Start))) // a pipe has deadlines
	_, err := p.stdin.Write(line)
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) { // it has a part of a message, and reads no more
		p.log.Warn("a program does not read its standard input, and is ended", "server", p.server.Name)
		p.refuse()
		killGroup(p.cmd)
	}
	return errEnded
}

// ask sends a request of a session's, under an id of the program's own, and returns where its answer comes.
func (p *process) ask(s *session, m *mcp.Message) (*call, error) {
	p.mu.Lock()
	if p.ended != nil {
		p.mu.Unlock()
		return nil, p.ended
	}
	p.nextID++
	c := &call{session: s, id: bytes.Clone(m.ID), known: strconv.Itoa(p.nextID), events: make(chan []byte, 64), last: make(chan struct{})}
	p.calls[c.known] = c
	p.used = time.Now()
	edit := mcp.Edit{ID: []byte(c.known)}
	if m.Meta.ProgressToken != nil {
		c.token = bytes.Clone(m.Meta.ProgressToken)
		edit.ProgressToken = []byte(c.known)
		p.progress[c.known] = c
	}
	p.mu.Unlock()
	if err := p.write(edit.Append(nil, m)); err != nil {
		p.forget(c)
		return nil, err
	}
	return c, nil
}

// forget is done with a call, and tells the program if it was not answered.
func (p *process) forget(c *call) {
	p.mu.Lock()
	_, open := p.calls[c.known]
	delete(p.calls, c.known)
	delete(p.progress, c.known)
	p.used = time.Now()
	p.mu.Unlock()
	if open {
		_ = p.write(mcp.AppendCancelled(nil, []byte(c.known), "the caller is gone")) // if it is gone, that shows
	}
}

// cancel cancels a session's request, by the session's id for it.
func (p *process) cancel(s *session, id []byte) {
	p.mu.Lock()
	var found *call
	for _, c := range p.calls {
		if c.session == s && string(c.id) == string(id) {
			found = c
		}
	}
	p.mu.Unlock()
	if found != nil {
		_ = p.write(mcp.AppendCancelled(nil, []byte(found.known), "the client cancelled")) // as above
	}
}

// send passes a message on. One that nobody takes in time is dropped, and so are those after it for which there is no room: the program
// is not held up by a slow client, nor are the others whose program it is.
func (c *call) send(message []byte) {
	select {
	case c.events <- message:
		c.slow = false
		return
	default:
	}
	if c.slow {
		return
	}
	select {
	case c.events <- message:
	case <-time.After(time.Second):
		c.slow = true
	}
}

// end gives the answer, which waits for however slow a client.
func (c *call) end(answer []byte) {
	c.answer = answer
	close(c.last)
}

func (c *call) fail(why string) {
	c.end(mcp.AppendError(nil, c.id, &mcp.Error{Code: mcp.CodeInternal, Message: why}))
}

// initialize opens the program's one session, as the first client asks for it, or waits for it. Should the first go away meanwhile, the
// program is as good for the next.
func (p *process) initialize(ctx context.Context, m *mcp.Message, first bool) ([]byte, error) {
	if first {
		go func() {
			defer close(p.initiated)
			if p.refused = p.greet(m); p.refused != nil {
				p.end()
			}
		}()
	}
	select {
	case <-p.initiated:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return p.hello, p.refused
}

// greet asks the program to be initialized, within its time to start.
func (p *process) greet(m *mcp.Message) error {
	c, err := p.ask(nil, m)
	if err != nil {
		return err
	}
	defer p.forget(c)
	timer := time.NewTimer(time.Duration(p.server.Limits.Start))
	defer timer.Stop()
	select {
	case <-c.last:
		var answer mcp.Message
		if e := mcp.ReadMessage(c.answer, p.limits(), &answer); e != nil || answer.Result == nil {
			return errors.New("the program refuses to be initialized")
		}
		p.hello = bytes.Clone(answer.Result)
	case <-timer.C:
		return errors.New("the program did not answer initialize in time")
	}
	return p.write([]byte(`{"jsonrpc":"2.0","method":"` + mcp.NotifyInitialized + `"}`))
}

// refuse takes no more calls.
func (p *process) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = errEnded
}

// end asks the program to end, and ends it with all that it started if it does not.
func (p *process) end() {
	p.refuse()
	_ = p.stdin.Close() // which is how it is asked (2025-11-25, lifecycle, shutdown)
	grace := time.NewTimer(time.Duration(p.server.Limits.Grace))
	defer grace.Stop()
	terminateGroup(p.cmd)
	select {
	case <-p.done:
	case <-grace.C:
		killGroup(p.cmd)
		<-p.done
	}
}

// idle tells whether nobody used the program for too long, or listens to it. From then on it takes no more calls.
func (p *process) idle(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.calls) > 0 || now.Sub(p.used) <= time.Duration(p.server.Limits.Idle) {
		return false
	}
	for _, s := range p.sessions {
		if s.heard() {
			return false
		}
	}
	p.ended = errEnded
	return true
}

// complaints takes what a program writes to its standard error: a line at a time, a few a second, and no longer than they need be.
type complaints struct {
	log *slog.Logger

	mu      sync.Mutex
	second  int64
	said    int
	leftOut int
}

const (
	complaintBytes = 500
	complaintsMost = 5
)

// Write logs lines.
func (c *complaints) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if now := time.Now().Unix(); now != c.second {
			c.second, c.said = now, 0
		}
		if c.said++; c.said > complaintsMost {
			c.leftOut++
			continue
		}
		c.log.Debug("a program says", "line", string(bytes.ToValidUTF8(line[:min(len(line), complaintBytes)], []byte("?"))), "left_out", c.leftOut)
		c.leftOut = 0
	}
	return len(b), nil
}
