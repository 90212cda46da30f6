package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets this program play the servers of a measurement, as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && slices.Contains(Roles, os.Args[1]) {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := Serve(ctx, os.Args[1], os.Args[2], os.Args[3:])
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEachMeasurementPrintsItsFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and starts the whole system")
	}
	bin := t.TempDir()
	for _, pkg := range []string{"./controlplane/cmd/sallyport", "./dataplane/cmd/sallyport-proxy"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, pkg)
		build.Dir = "../../.."
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"proxy": {
			"proxy_throughput_c1 calls/s", "proxy_added_p50_c1 µs", "proxy_added_p99_c1 µs", "proxy_throughput_c4 calls/s", "proxy_added_p50_c4 µs", "proxy_added_p99_c4 µs",
			"proxy_allocs allocations/call", "proxy_large MiB/s", "proxy_list lists/s", "proxy_list_plain lists/s", "proxy_dead_upstreams µs", "proxy_idle_stream KiB",
		},
		"policy": {"policy_enforce_p99 ms"},
		"revoke": {"revoke_p50_2 ms", "revoke_p99_2 ms", "revoke_p50_5 ms", "revoke_p99_5 ms"},
		"scim": {
			"scim_load users/s", "scim_username_p99_1m ms", "scim_patch_p99_50k ms", "scim_group_read_50k ms", "scim_rss_1m MiB", "scim_start_1m s", "scim_start_rss_1m MiB",
			"scim_snapshot_1m s", "scim_snapshot_rss_1m MiB",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			var out, progress bytes.Buffer
			err := Run(t.Context(), name, Config{
				ControlPlane: filepath.Join(bin, "sallyport"), Proxy: filepath.Join(bin, "sallyport-proxy"), Self: self, Out: &out, Progress: &progress,
				Rounds: 1, RoundFor: 50 * time.Millisecond, Connections: []int{1, 4}, Deactivations: 2, Replicas: 5, Changes: 2, Scale: 0.001,
			})
			if err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			var got []string
			for line := range strings.Lines(out.String()) {
				var f Figure
				if err := json.Unmarshal([]byte(line), &f); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				got = append(got, f.Name+" "+f.Unit)
				// What is added to a call by a proxy, or by the reference, can come out below nothing on a busy machine.
				if f.Reference == 0 || f.Load == "" || f.Ratio != f.Value/f.Reference {
					t.Errorf("%+v", f)
				}
			}
			if strings.Join(got, ", ") != strings.Join(want, ", ") {
				t.Errorf("figures: %v, want %v", got, want)
			}
			if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestAWrongAnswerFailsTheLoad(t *testing.T) {
	for name, c := range map[string]struct {
		answer  http.HandlerFunc
		refused bool
	}{
		"an error":       {answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }},
		"another's":      {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(appendResult([]byte("7"))) }},
		"a cut one":      {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(appendResult([]byte("1"))[:40]) }},
		"a bad token":    {refused: true, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }},
		"a tool refusal": {refused: true, answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`Sallyport refused this call: x`)) }},
		"a cut call": {refused: true, answer: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`Sallyport ended this call: access was taken away.`))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			one, err := newCaller(server.URL, "token", 0)
			if err != nil {
				t.Fatal(err)
			}
			defer one.close()
			_, err = load(t.Context(), []*caller{one}, time.Minute)
			if err == nil {
				t.Fatal("the load counted it")
			}
			if got := strings.Contains(err.Error(), errRefused.Error()); got != c.refused {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestTheReverseProxyChangesNoAnswer(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(upstream))
	defer up.Close()
	addr, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, "reverse-proxy", addr, []string{up.URL + endpoint}) }()
	one, err := newCaller("http://"+addr+endpoint, "token", 41)
	if err != nil {
		t.Fatal(err)
	}
	defer one.close()
	deadline := time.Now().Add(10 * time.Second)
	for err = one.call(t.Context()); err != nil && time.Now().Before(deadline); err = one.call(t.Context()) {
		time.Sleep(5 * time.Millisecond) // it may not listen yet
	}
	if err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestTheReverseProxyPassesLargeAnswersOnWhole(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(upstream))
	defer up.Close()
	to, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	between := httptest.NewServer(reverseProxy(to))
	defer between.Close()
	callers, done, err := crew(4, func(n int) (*caller, error) {
		return newCallerOf(between.URL, "token", n, []string{largeTool}, appendLarge)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	for range 50 {
		for _, c := range callers {
			if err := c.call(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := load(t.Context(), callers, 300*time.Millisecond); err != nil {
		t.Error(err)
	}
}

func TestQuantileIsOfNearestRank(t *testing.T) {
	var all []int64
	for i := range int64(200) {
		all = append(all, 200-i)
	}
	for q, want := range map[float64]int64{0: 1, 0.5: 100, 0.99: 198, 1: 200} {
		if got := quantile(all, q); got != want {
			t.Errorf("quantile %v = %d, want %d", q, got, want)
		}
	}
	if got := quantile([]float64{3}, 0.99); got != 3 {
		t.Errorf("of one = %v", got)
	}
}

func TestTheScriptNamesWhatItMeasures(t *testing.T) {
	script, err := filepath.Abs("../../bench")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), script).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"commit", "decide", "policy", "proxy", "revoke"} {
		if !strings.Contains(string(out), name+" ") {
			t.Errorf("%s is not named in:\n%s", name, out)
		}
	}
	wrong := exec.CommandContext(t.Context(), script, "speed")
	if err := wrong.Run(); err == nil || wrong.ProcessState.ExitCode() != 2 {
		t.Errorf("an unknown name: %v", err)
	}
}
