package gateway_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/telemetry"
)

func TestMetricsCountCallsAndHaveBoundedLabels(t *testing.T) {
	metrics := telemetry.NewMetrics("test")
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Metrics = metrics }})
	a := w.stateless(ada, "/mcp/demo")
	a.call("echo", `{}`)
	a.call("fail", `{}`)
	a.call("forbidden", `{}`)
	for i := range 20 {
		w.stateless(ada, "/mcp").call(fmt.Sprintf("evil%d__tool", i), `{}`)
		w.stateless(ada, fmt.Sprintf("/mcp/evil%d", i)).call("x", `{}`)
	}
	s := httptest.NewServer(metrics.Handler())
	defer s.Close()
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() // what mattered was read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sallyport_proxy_calls_total{connector="demo",outcome="ok"} 1`, `sallyport_proxy_calls_total{connector="demo",outcome="tool_error"} 1`,
		`sallyport_proxy_refusals_total{reason="rule_denied"} 1`, `sallyport_proxy_refusals_total{reason="tool_unknown"} 40`,
		`sallyport_proxy_call_duration_seconds_count{connector="demo"} 2`, `sallyport_proxy_requests_total{method="POST"}`, "go_goroutines",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("there is no %s", want)
		}
	}
	for _, leak := range []string{"evil", ada.String(), "echo", "127.0.0.1"} {
		if strings.Contains(string(body), leak) {
			t.Errorf("%q is in the metrics", leak)
		}
	}
}

// spans is a collector that keeps what it is sent.
type spans struct {
	mu  sync.Mutex
	all []*tracev1.Span
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var from io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		from = unzipped
	}
	data, err := io.ReadAll(from)
	var sent collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(data, &sent) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range sent.GetResourceSpans() {
		for _, scope := range r.GetScopeSpans() {
			s.all = append(s.all, scope.GetSpans()...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func TestATraceLeadsFromTheAgentThroughTheProxyToTheUpstream(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	got := &spans{}
	s := httptest.NewServer(got)
	defer s.Close()
	tracer, err := telemetry.NewTracer(t.Context(), s.URL, 0, "proxy", "test", "test")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Tracer = tracer }})
	a := w.stateless(ada, "/mcp/demo")
	body := strings.Replace(a.message("7", "tools/call", `{"name":"echo","arguments":{"text":"planted"}}`), `"progressToken"`, `"traceparent":"00-`+trace+`-`+parent+`-01","progressToken"`, 1)
	if got := w.request(http.MethodPost, a.path, a.header("tools/call", "echo"), body); !strings.Contains(got.body, "said planted") {
		t.Fatalf("got %+v", got)
	}
	if r := w.settled(2)[0]; r.GetTraceId() != trace {
		t.Errorf("recorded under %q", r.GetTraceId())
	}
	if err := tracer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	by := map[string]*tracev1.Span{}
	for _, one := range got.all {
		by[one.GetName()] = one
	}
	call, up := by["tools/call"], by["upstream demo"]
	if call == nil || up == nil || fmt.Sprintf("%x", call.GetParentSpanId()) != parent || string(up.GetParentSpanId()) != string(call.GetSpanId()) || fmt.Sprintf("%x", up.GetTraceId()) != trace {
		t.Fatalf("spans: %v", got.all)
	}
	if strings.Contains(fmt.Sprint(got.all), "planted") || strings.Contains(fmt.Sprint(got.all), ada.String()) {
		t.Error("a span tells of arguments or people")
	}
	sent := w.demo.got("tools/call")[0]
	want := fmt.Sprintf("00-%s-%x-01", trace, up.GetSpanId())
	if sent.header.Get("Traceparent") != want || !strings.Contains(sent.body, want) || strings.Contains(sent.body, parent) {
		t.Errorf("the upstream was told %q and %s", sent.header.Get("Traceparent"), sent.body)
	}
}

func TestTheAgentsTraceIsHandedOnWhereNoSpansAreMade(t *testing.T) {
	const (
		one   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"
		none  = "00-00000000000000000000000000000000-0000000000000000-00"
	)
	w := newWorld(t, &options{})
	a := w.stateless(ada, "/mcp/demo")
	for i, c := range []struct{ meta, header, want string }{
		{"", "", ""}, {one, "", one}, {"", one, one}, {one, other, one}, {"nonsense", other, other}, {one, "nonsense", one}, {"", later, later},
		{"", none, ""}, {"", "00" + other[2:] + "-more", ""}, {"", "ff" + other[2:], ""}, {"", strings.ToUpper(other), ""}, {"", later + strings.Repeat("x", 1<<10), ""},
	} {
		body := a.message("7", "tools/call", `{"name":"echo","arguments":{"text":"planted"}}`)
		if c.meta != "" {
			body = strings.Replace(body, `"progressToken"`, `"traceparent":"`+c.meta+`","progressToken"`, 1)
		}
		h := a.header("tools/call", "echo")
		if c.header != "" {
			h.Set("Traceparent", c.header)
			h.Set("Tracestate", "of=it")
		}
		if got := w.request(http.MethodPost, a.path, h, body); !strings.Contains(got.body, "said planted") {
			t.Fatalf("%+v: got %+v", c, got)
		}
		sent := w.demo.got("tools/call")[i]
		state := ""
		if c.want != "" && c.want == c.header {
			state = "of=it"
		}
		if got := sent.header.Get("Traceparent"); got != c.want || sent.header.Get("Tracestate") != state {
			t.Errorf("%+v: the upstream was told %q and %q", c, got, sent.header.Get("Tracestate"))
		}
		if c.meta != "" && !strings.Contains(sent.body, `"`+c.want+`"`) {
			t.Errorf("%+v: the upstream was told %s", c, sent.body)
		}
	}
}
