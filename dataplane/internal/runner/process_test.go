package runner

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
)

// started is a program that is no MCP server.
func started(t *testing.T, s Server) *process {
	t.Helper()
	s.Name = "demo"
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	p, err := start(&s, "ann", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

func (p *process) wantsEnd(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Fatal("its end was not seen")
	}
}

func TestTheEndOfAProgramIsSeenThoughWhatItStartedHoldsItsOutput(t *testing.T) {
	dir := t.TempDir()
	p := started(t, Server{Command: []string{"sh", "-c", "setsid sleep 1000 & echo $! > child"}, Dir: dir})
	t.Cleanup(func() {
		text, err := os.ReadFile(filepath.Join(dir, "child"))
		if err != nil {
			t.Fatal(err)
		}
		child, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(child, syscall.SIGKILL) // which no group reaches
	})
	p.wantsEnd(t)
	if _, err := p.askOnce(t.Context(), `{"jsonrpc":"2.0","id":1,"method":"ping"}`); !errors.Is(err, errEnded) {
		t.Errorf("asked: %v", err)
	}
}

func TestAProgramThatDoesNotReadIsEnded(t *testing.T) {
	p := started(t, Server{Command: []string{"sleep", "1000"}, Limits: Limits{Start: Duration(50 * time.Millisecond)}})
	if err := p.write(make([]byte, 1<<20)); !errors.Is(err, errEnded) {
		t.Errorf("written: %v", err)
	}
	if !p.hasEnded() {
		t.Error("it is taken for one that can be used")
	}
	p.wantsEnd(t)
}

func TestAProgramThatSomebodyListensToIsNotIdle(t *testing.T) {
	p := started(t, Server{Command: []string{"sleep", "1000"}})
	s := &session{id: "s", process: p}
	p.sessions[s.id] = s
	s.hear()
	later := time.Now().Add(time.Hour)
	if p.idle(later) {
		t.Error("it is idle while somebody listens")
	}
	s.unhear()
	if !p.idle(later) {
		t.Error("it is not idle")
	}
	// Nothing is asked of it any more, or it would end during the call.
	if _, err := p.askOnce(t.Context(), `{"jsonrpc":"2.0","id":1,"method":"ping"}`); !errors.Is(err, errEnded) {
		t.Errorf("asked: %v", err)
	}
}

func TestASharedProgramStartsThoughWhoAskedFirstGoesAway(t *testing.T) {
	dir := t.TempDir()
	f := newFixture(t, func(s *Server) {
		s.Per, s.Dir = "shared", dir
		s.Command = []string{"sh", "-c", `while [ ! -e go ]; do sleep 0.05; done; exec "$0"`, os.Args[0]}
	})
	ctx, goAway := context.WithCancel(t.Context())
	hello := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, strings.NewReader(hello))
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := (basic{"ann", token}).RoundTrip(r); err == nil {
			_ = resp.Body.Close()
		}
	}()
	for f.runner.String() != "1 programs" {
		time.Sleep(time.Millisecond)
	}
	goAway()
	<-gone
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.ask(f.session("bob"), "pid")
	f.runner.mu.Lock()
	defer f.runner.mu.Unlock()
	if len(f.runner.crashes) != 0 {
		t.Error("it counts as a crash")
	}
}

func TestASlowClientHoldsUpNobodyElseAndGetsItsAnswer(t *testing.T) {
	p := started(t, Server{Command: []string{"sleep", "1000"}, Per: "shared"})
	var m mcp.Message
	if e := mcp.ReadMessage([]byte(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":"p"}}}`), p.limits(), &m); e != nil {
		t.Fatal(e)
	}
	c, err := p.ask(&session{}, &m)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 200 { // of which nobody takes one
		p.take([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + c.known + `,"progress":1}}`))
	}
	p.take([]byte(`{"jsonrpc":"2.0","id":` + c.known + `,"result":{}}`))
	if took := time.Since(began); took > time.Minute {
		t.Errorf("others waited for %s", took)
	}
	<-c.last
	if string(c.answer) != `{"jsonrpc":"2.0","id":7,"result":{}}` {
		t.Errorf("the answer is %s", c.answer)
	}
}
