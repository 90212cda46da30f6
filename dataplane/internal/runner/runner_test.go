package runner

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// TestMain lets the test's own binary be the program that is run.
func TestMain(m *testing.M) {
	if os.Getenv("RUNNER_TEST_PROGRAM") != "" {
		program()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is an MCP server over standard input and output that can misbehave.
func program() {
	if os.Getenv("RUNNER_TEST_PROGRAM") == "silent" {
		select {}
	}
	fmt.Println("this is no message") // which servers print, though they must not
	fmt.Fprintln(os.Stderr, "starting")
	s := sdk.NewServer(&sdk.Implementation{Name: "program", Version: "1"}, nil)
	type in struct{}
	text := func(said string) *sdk.CallToolResult {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: said}}}
	}
	sdk.AddTool(s, &sdk.Tool{Name: "pid"}, func(ctx context.Context, r *sdk.CallToolRequest, _ in) (*sdk.CallToolResult, any, error) {
		_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: "here"})
		return text(strconv.Itoa(os.Getpid())), nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "environment"}, func(context.Context, *sdk.CallToolRequest, in) (*sdk.CallToolResult, any, error) {
		return text(strings.Join(os.Environ(), "\n")), nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "crash"}, func(context.Context, *sdk.CallToolRequest, in) (*sdk.CallToolResult, any, error) {
		os.Exit(3)
		return nil, nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "wait"}, func(ctx context.Context, r *sdk.CallToolRequest, _ in) (*sdk.CallToolResult, any, error) {
		_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: "waiting"})
		<-ctx.Done()
		return nil, nil, ctx.Err()
	})
	sdk.AddTool(s, &sdk.Tool{Name: "elicit"}, func(ctx context.Context, r *sdk.CallToolRequest, _ in) (*sdk.CallToolResult, any, error) {
		got, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Message: "which?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{}}})
		if err != nil {
			return nil, nil, err
		}
		return text(got.Action), nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "limits"}, func(context.Context, *sdk.CallToolRequest, in) (*sdk.CallToolResult, any, error) {
		var l syscall.Rlimit
		_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
		return text(strconv.FormatUint(l.Max, 10)), nil, nil
	})
	_ = s.Run(context.Background(), &sdk.StdioTransport{}) // it ends with its input
}

const token = "a token of the runner's"

type fixture struct {
	t      *testing.T
	runner *Runner
	url    string
	stop   func()
}

func newFixture(t *testing.T, change func(*Server)) *fixture {
	t.Helper()
	t.Setenv("PLANTED", "secret of the runner's own")
	s := Server{Name: "demo", Command: []string{os.Args[0]}, Env: map[string]string{"RUNNER_TEST_PROGRAM": "1"}}
	if change != nil {
		change(&s)
	}
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Servers: []Server{s}}, token, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(r)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	f := &fixture{t: t, runner: r, url: web.URL + "/servers/demo"}
	f.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		web.CloseClientConnections()
		web.Close()
	})
	t.Cleanup(f.stop)
	return f
}

type basic struct{ person, token string }

func (b basic) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(b.person+":"+b.token)))
	return http.DefaultTransport.RoundTrip(r)
}

// connect opens a session, as a real client of the session era does.
func (f *fixture) connect(person, token string) (*sdk.ClientSession, error) {
	f.t.Helper()
	c := sdk.NewClient(&sdk.Implementation{Name: "client", Version: "1"}, &sdk.ClientOptions{
		ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			return &sdk.ElicitResult{Action: "accept"}, nil
		},
	})
	s, err := c.Connect(f.t.Context(), &sdk.StreamableClientTransport{Endpoint: f.url, HTTPClient: &http.Client{Transport: basic{person, token}}, MaxRetries: -1, DisableStandaloneSSE: true},
		&sdk.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
	if err == nil {
		f.t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func (f *fixture) session(person string) *sdk.ClientSession {
	f.t.Helper()
	s, err := f.connect(person, token)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fixture) ask(s *sdk.ClientSession, tool string) string {
	f.t.Helper()
	r, err := s.CallTool(f.t.Context(), &sdk.CallToolParams{Name: tool, Meta: sdk.Meta{"progressToken": "p"}})
	if err != nil {
		f.t.Fatal(err)
	}
	return r.Content[0].(*sdk.TextContent).Text
}

// gone waits until a process is no more.
func (f *fixture) gone(pid string) {
	f.t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		f.t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for syscall.Kill(n, 0) == nil {
		if time.Now().After(deadline) {
			f.t.Fatalf("process %s still runs", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestEachPersonHasAProcessOfTheirOwnUnlessItIsShared(t *testing.T) {
	for _, per := range []string{"person", "shared"} {
		t.Run(per, func(t *testing.T) {
			f := newFixture(t, func(s *Server) { s.Per = per })
			ann, again, bob := f.session("ann"), f.session("ann"), f.session("bob")
			tools, err := ann.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 6 {
				t.Fatalf("%v, %v", tools, err)
			}
			first := f.ask(ann, "pid")
			if other := f.ask(again, "pid"); other != first {
				t.Errorf("ann has the processes %s and %s", first, other)
			}
			if other := f.ask(bob, "pid"); (other == first) != (per == "shared") {
				t.Errorf("ann has the process %s, bob %s", first, other)
			}
			action, err := ann.CallTool(t.Context(), &sdk.CallToolParams{Name: "elicit"})
			if per == "person" && (err != nil || action.Content[0].(*sdk.TextContent).Text != "accept") {
				t.Errorf("asked: %v, %v", action, err)
			}
			if per == "shared" && err == nil && !action.IsError {
				t.Error("a shared program could ask somebody")
			}
			// Many at a time are not confused.
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 20 {
						if got := f.ask(ann, "pid"); got != first {
							t.Errorf("%s answered", got)
						}
					}
				})
			}
			all.Wait()
			f.stop()
			f.gone(first)
		})
	}
}

func TestAProgramGetsTheEnvironmentThatIsNamedAndNothingElse(t *testing.T) {
	f := newFixture(t, func(s *Server) { s.Limits.Files = 77 })
	s := f.session("ann")
	env := f.ask(s, "environment")
	if strings.Contains(env, "PLANTED") || !strings.Contains(env, "RUNNER_TEST_PROGRAM=1") || !strings.Contains(env, "PATH=") {
		t.Errorf("it got %q", env)
	}
	if files := f.ask(s, "limits"); files != "77" {
		t.Errorf("it may open %s files", files)
	}
}

func TestAProgramThatIsGivenNoEnvironmentHasNone(t *testing.T) {
	t.Setenv("PLANTED", "secret of the runner's own")
	file := filepath.Join(t.TempDir(), "runner.yaml")
	if err := os.WriteFile(file, []byte("servers: [{name: bare, command: [cat], inherit: []}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := start(&c.Servers[0], "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	if env := p.cmd.Environ(); slices.ContainsFunc(env, func(one string) bool { return strings.HasPrefix(one, "PLANTED=") }) {
		t.Error("it got the runner's")
	}
}

func TestAProgramThatCrashesIsStartedAgainForANewSession(t *testing.T) {
	f := newFixture(t, nil)
	s := f.session("ann")
	before := f.ask(s, "pid")
	if _, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "crash"}); err == nil || !strings.Contains(err.Error(), "ended during the call") {
		t.Fatalf("the crash was told as %v", err)
	}
	f.gone(before)
	if _, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "pid"}); err == nil {
		t.Error("the session goes on without its program")
	}
	// Soon after a crash it is not started at once, and then it is.
	if _, err := f.connect("ann", token); err == nil || !strings.Contains(err.Error(), "Service Unavailable") {
		t.Errorf("right after the crash: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		again, err := f.connect("ann", token)
		if err == nil {
			if now := f.ask(again, "pid"); now == before {
				t.Error("it is the same process")
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestWhatIsTooMuchOrNobodysIsRefused(t *testing.T) {
	f := newFixture(t, func(s *Server) { s.Limits.Processes = 1 })
	if _, err := f.connect("ann", "another token of some length"); err == nil {
		t.Error("another token was taken")
	}
	if _, err := f.connect("", token); err == nil {
		t.Error("nobody was taken for a person")
	}
	s := f.session("ann")
	if _, err := f.connect("bob", token); err == nil {
		t.Error("a second process was started")
	}
	// Another person's session is none.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Mcp-Session-Id", s.ID())
	resp, err := basic{"bob", token}.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("another's session: %d", resp.StatusCode)
	}
}

func TestAProgramThatNeverAnswersIsEnded(t *testing.T) {
	f := newFixture(t, func(s *Server) {
		s.Env["RUNNER_TEST_PROGRAM"] = "silent"
		s.Limits.Start, s.Limits.Grace = Duration(50*time.Millisecond), Duration(50*time.Millisecond)
	})
	if _, err := f.connect("ann", token); err == nil {
		t.Fatal("it was initialized")
	}
	f.runner.mu.Lock()
	defer f.runner.mu.Unlock()
	for _, p := range f.runner.processes {
		select {
		case <-p.done:
		default:
			t.Error("it still runs")
		}
	}
}

func TestConfigurationsThatAreWrongAreRefused(t *testing.T) {
	dir := t.TempDir()
	for text, fine := range map[string]bool{
		"servers: [{name: a, command: [cat]}]":                     true,
		"servers: [{name: a, command: [cat], limits: {idle: 5m}}]": true,
		"servers: []":                          false,
		"servers: [{name: A, command: [cat]}]": false,
		"servers: [{name: a}]":                 false,
		"servers: [{name: a, command: [no-such-program-anywhere]}]":                 false,
		"servers: [{name: a, command: [cat], per: team}]":                           false,
		"servers: [{name: a, command: [cat], shell: true}]":                         false,
		"servers: [{name: a, command: [cat], limits: {idle: never}}]":               false,
		"servers: [{name: a, command: [cat]}, {name: a, command: [cat]}]":           false,
		"servers:\n- name: a\n  command: [cat]\n  env: {A: b}\n  inherit: [PATH]\n": true,
	} {
		file := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); (err == nil) != fine {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWhatAProgramOffersIsWrittenDown(t *testing.T) {
	s := Server{Name: "demo", Command: []string{os.Args[0]}, Env: map[string]string{"RUNNER_TEST_PROGRAM": "1"}}
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	got, err := List(t.Context(), Config{Servers: []Server{s}}, "demo", slog.New(slog.DiscardHandler))
	if err != nil || strings.Count(string(got), `"inputSchema"`) != 6 || !strings.Contains(string(got), `"tools"`) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := List(t.Context(), Config{Servers: []Server{s}}, "other", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a server that is not there was listed")
	}
}
