package gateway_test

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"context"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/runner"
)

// TestMain lets the test's own binary be a program that a runner runs.
func TestMain(m *testing.M) {
	if os.Getenv("GATEWAY_TEST_PROGRAM") != "" {
		s := sdk.NewServer(&sdk.Implementation{Name: "program", Version: "1"}, nil)
		sdk.AddTool(s, &sdk.Tool{Name: "echo"}, func(_ context.Context, _ *sdk.CallToolRequest, in struct {
			Text string `json:"text"`
		}) (*sdk.CallToolResult, any, error) {
			return text("program said " + in.Text), nil, nil
		})
		_ = s.Run(context.Background(), &sdk.StdioTransport{}) // it ends with its input
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestAProgramBesideTheProxyIsCalledAsAnyUpstream(t *testing.T) {
	const token = "a token of the runner's"
	file := filepath.Join(t.TempDir(), "runner.yaml")
	if err := os.WriteFile(file, []byte("servers: [{name: echoes, command: ["+os.Args[0]+"], env: {GATEWAY_TEST_PROGRAM: yes}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := runner.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	programs, err := runner.New(settings, token, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(programs)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { programs.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		web.CloseClientConnections()
		web.Close()
	})
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Runner, c.RunnerToken = web.URL, token }})
	w.set(connectorEntry("echoes", "stdio:echoes", ""), catalogueEntry("echoes", "echo"), grantEntry(1, "echoes", allow("*")))
	for _, a := range []*agent{w.stateless(ada, "/mcp/echoes"), w.opened(ada, "/mcp/echoes", mcp.LatestSession)} {
		if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "program said x") {
			t.Errorf("%s: %+v", a.revision, got)
		}
	}
	without := newWorld(t, &options{})
	without.set(connectorEntry("echoes", "stdio:echoes", ""), catalogueEntry("echoes", "echo"), grantEntry(1, "echoes", allow("*")))
	if got := without.stateless(ada, "/mcp/echoes").call("echo", `{"text":"x"}`); !strings.Contains(got.body, "this proxy has none") {
		t.Errorf("without a runner: %+v", got)
	}
}
