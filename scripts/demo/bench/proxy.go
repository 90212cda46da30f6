package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
	"sallyport.dev/scripts/demo/quickstart"
)

const person = "caller@bench.example"

// way is one way to the upstream.
type way struct {
	name    string
	url     string
	callers []*caller
	rounds  []round
	// programs are those that calls go through; their processor time a call is told on the way.
	programs []string
	metrics  string // URL
	allocs   []float64
	used     string // in the last round
	delivers bool   // audit, for which a round waits: otherwise the next, of another, would pay for it
}

// Parts are what `proxy` measures, in this order, and what `policy` does, of which enforce is measured here and the rest by other programs.
var Parts = map[string][]string{
	"proxy":  {"calls", "large", "list", "dead", "idle"},
	"policy": {"decide", "plan", "who_can", "backtest", "reporting", "enforce"},
}

// measureProxy prints the figures of calls, large results, lists, dead upstreams and idle streams, or of those parts alone that are asked for.
func measureProxy(ctx context.Context, l *lab) error {
	reverse, err := l.serve(ctx, "reverse-proxy", l.upstream)
	if err != nil {
		return err
	}
	if l.admin, err = freeAddress(ctx); err != nil {
		return err
	}
	if err := l.installation.StartProxy(ctx, quickstart.USEast, "--admin-addr", l.admin); err != nil {
		return err
	}
	if _, err := l.hire(ctx, []string{person}); err != nil {
		return err
	}
	token, err := l.installation.SignIn(ctx, person)
	if err != nil {
		return err
	}
	audit, err := l.followAudit(ctx, token)
	if err != nil {
		return err
	}
	defer audit.close()
	measure := map[string]func() error{
		"calls": func() error { return l.measureCalls(ctx, token, reverse, audit) },
		"large": func() error { return l.measureLarge(ctx, token, reverse, audit) },
		"list":  func() error { return l.measureList(ctx, token) },
		"dead":  func() error { return l.measureDead(ctx, token) },
		"idle":  func() error { return l.measureIdle(ctx, token) },
	}
	for _, part := range Parts["proxy"] {
		if len(l.Only) > 0 && !slices.Contains(l.Only, part) {
			continue
		}
		if err := measure[part](); err != nil {
			return err
		}
	}
	return nil
}

// measureCalls prints proxy_throughput_cN for each number of connections, proxy_added_p50_cN and _p99_cN for few, and proxy_allocs.
func (l *lab) measureCalls(ctx context.Context, token, reverse string, audit *auditTail) error {
	allocs := map[int][2]float64{} // by connections: the proxy's, the reference's
	for _, n := range l.Connections {
		ways := []*way{
			{name: "direct", url: l.upstream},
			{name: "ReverseProxy", url: reverse, programs: []string{"reverse-proxy"}, metrics: strings.TrimSuffix(reverse, endpoint) + metrics},
			{
				name: "proxy", url: l.loaded(),
				delivers: true, programs: []string{quickstart.ProxyOf(quickstart.USEast), "control-plane"}, metrics: "http://" + l.admin + metrics,
			},
		}
		drains, err := l.rounds(ctx, ways, token, n, audit)
		if err != nil {
			return err
		}
		if err := l.printProxy(n, ways[0].rounds, ways[1].rounds, ways[2].rounds, drains); err != nil {
			return err
		}
		allocs[n] = [2]float64{median(ways[2].allocs), median(ways[1].allocs)}
	}
	return l.printAllocs(allocs)
}

// printAllocs prints proxy_allocs, by the load with the number of connections that is nearest to 16.
func (l *lab) printAllocs(allocs map[int][2]float64) error {
	at := l.Connections[0]
	for _, n := range l.Connections {
		if max(n-16, 16-n) < max(at-16, 16-at) {
			at = n
		}
	}
	f := Figure{
		Name: "proxy_allocs", Value: allocs[at][0], Unit: "allocations/call", Reference: allocs[at][1],
		Load: fmt.Sprintf("objects that the whole proxy allocates for a call of proxy_throughput_c%d, the delivery of audit and net/http's own among them (a test of the gateway holds those of the call path); "+
			"reference: those of httputil.ReverseProxy; medians of %d rounds", at, l.Rounds),
	}
	f.Ratio = f.Value / f.Reference
	return l.print(f)
}

// rounds measures the ways in turn, so that what else the machine does meets all of them.
func (l *lab) rounds(ctx context.Context, ways []*way, token string, n int, audit *auditTail) (drains []time.Duration, err error) {
	for _, w := range ways {
		for i := range n {
			c, err := newCaller(w.url, token, i)
			if err != nil {
				return nil, err
			}
			defer c.close() //nolint:gocritic // all of them close when the measurement ends
			w.callers = append(w.callers, c)
		}
	}
	for i := range l.Rounds {
		for _, w := range ways {
			if i == 0 { // connections, and what each way remembers after its first calls
				if _, err := load(ctx, w.callers, l.RoundFor/4); err != nil {
					return nil, fmt.Errorf("warm %s up: %w", w.name, err)
				}
				if _, err := audit.drained(ctx); err != nil {
					return nil, err
				}
			}
			d, err := l.round(ctx, w, audit)
			if err != nil {
				return nil, fmt.Errorf("%s with %d connections: %w", w.name, n, err)
			}
			r := w.rounds[i]
			l.say("%d connections, round %d: %-12s %6.0f calls/s, p50 %s, processor time of a call: %s", n, i+1, w.name, r.rate, r.p50.Round(time.Microsecond), w.used)
			if w.delivers {
				drains = append(drains, d)
			}
		}
	}
	return drains, l.profiled(ctx, fmt.Sprintf("c%d", n), ways[len(ways)-1].callers)
}

// profiled makes a profile of the proxy under a load, where that is asked for.
func (l *lab) profiled(ctx context.Context, name string, callers []*caller) error {
	if l.Profiles == "" {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- l.profile(ctx, name, 4*time.Second) }()
	_, err := load(ctx, callers, 4*time.Second)
	return errors.Join(err, <-done)
}

// round measures one way once, until all that its calls cause is done.
func (l *lab) round(ctx context.Context, w *way, audit *auditTail) (drained time.Duration, err error) {
	allocs := 0.0
	if w.metrics != "" {
		if allocs, err = allocated(ctx, w.metrics); err != nil {
			return 0, err
		}
	}
	used := make([]time.Duration, len(w.programs))
	for i, name := range w.programs {
		if used[i], err = processorTime(l.installation.PID(name)); err != nil {
			return 0, err
		}
	}
	r, err := load(ctx, w.callers, l.RoundFor)
	if err != nil {
		return 0, err
	}
	if w.delivers {
		if drained, err = audit.drained(ctx); err != nil {
			return 0, err
		}
	}
	w.used = ""
	for i, name := range w.programs {
		now, err := processorTime(l.installation.PID(name))
		if err != nil {
			return 0, err
		}
		w.used += fmt.Sprintf("%s %s ", name, ((now - used[i]) / time.Duration(r.calls)).Round(100*time.Nanosecond))
	}
	if w.metrics != "" {
		after, err := allocated(ctx, w.metrics)
		if err != nil {
			return 0, err
		}
		w.allocs = append(w.allocs, (after-allocs)/float64(r.calls))
	}
	w.rounds = append(w.rounds, r)
	return drained, nil
}

func (l *lab) printProxy(n int, direct, reverse, proxy []round, drains []time.Duration) error {
	f := Figure{
		Name: fmt.Sprintf("proxy_throughput_c%d", n), Value: rate(proxy), Unit: "calls/s", Reference: rate(reverse), Direct: rate(direct),
		Load: fmt.Sprintf("tools/call over %d keep-alive connections, 2026-07-28, to a minimal net/http upstream; token verified, one condition, audit spooled on disk and delivered to a control plane on the same machine; "+
			"reference: httputil.ReverseProxy before the same upstream; medians of %d interleaved rounds of %s; after a round %s (median) until its last record was delivered",
			n, l.Rounds, l.RoundFor, median(drains).Round(time.Millisecond)),
	}
	f.Ratio = f.Value / f.Reference
	if err := l.print(f); err != nil || n > 16 {
		return err
	}
	for _, q := range []struct {
		name string
		of   func(round) time.Duration
	}{{"p50", func(r round) time.Duration { return r.p50 }}, {"p99", func(r round) time.Duration { return r.p99 }}} {
		// What is added is compared within a round, where the machine was in the same state.
		added := func(rounds []round) float64 {
			var all []time.Duration
			for i, r := range rounds {
				all = append(all, q.of(r)-q.of(direct[i]))
			}
			return microseconds(median(all))
		}
		var alone []time.Duration
		for _, r := range direct {
			alone = append(alone, q.of(r))
		}
		f := Figure{
			Name: fmt.Sprintf("proxy_added_%s_c%d", q.name, n), Unit: "µs", Value: added(proxy), Reference: added(reverse), Direct: microseconds(median(alone)),
			Load: fmt.Sprintf("%s of the time of a call through the proxy less that of the same call to the upstream directly, the load of proxy_throughput_c%d; reference: what httputil.ReverseProxy adds; medians of %d rounds", q.name, n, l.Rounds),
		}
		f.Ratio = f.Value / f.Reference
		if err := l.print(f); err != nil {
			return err
		}
	}
	return nil
}

// rate is the median of rounds'.
func rate(rounds []round) float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, r.rate)
	}
	return median(all)
}

// Of the tools of the connector of proxy_list, so many may be used.
const (
	wide       = "wide"
	wideTools  = 2000
	wideMay    = 200
	wideRounds = 3
)

// measureList prints proxy_list and proxy_list_plain.
func (l *lab) measureList(ctx context.Context, token string) error {
	l.say("a connector with %d tools, of which a person may use %d", wideTools, wideMay)
	// Nobody answers at its address: lists are of what is pinned, and no upstream is asked.
	text := fmt.Sprintf("kind: Connector\nid: %s\nurl: http://127.0.0.1:9/mcp\nallowedRanges: [127.0.0.0/8]\n", wide)
	if err := l.installation.Apply(ctx, "wide.yaml", text); err != nil {
		return err
	}
	tools := make([]*policyv1.Tool, wideTools)
	length := len(`{"jsonrpc":"2.0","id":1,"result":{"tools":[],"ttlMs":0,"cacheScope":"private","resultType":"complete"}}`) + wideMay - 1
	for i := range tools {
		name := fmt.Sprintf("hidden_%04d", i)
		if i < wideMay {
			name = fmt.Sprintf("shown_%05d", i)
		}
		definition := fmt.Appendf(nil, `{"name":%q,"description":"Does what its name says","inputSchema":{"type":"object","properties":{"key":{"type":"string"}},"required":["key"]}}`, name)
		tools[i] = &policyv1.Tool{Name: name, Definition: definition}
		if i < wideMay {
			length += len(definition)
		}
	}
	url, client := l.installation.AdminURL()
	if _, err := adminv1connect.NewConnectorServiceClient(client, url).ApproveCatalogue(ctx, connect.NewRequest(&adminv1.ApproveCatalogueRequest{ConnectorId: wide, Tools: tools})); err != nil {
		return fmt.Errorf("pin %d tools: %w", wideTools, err)
	}
	text = fmt.Sprintf("kind: Grant\ngroup: okta/%s\nconnector: %s\nrules:\n  - allow: [\"shown_*\"]\n", group, wide)
	if err := l.installation.Apply(ctx, "wide-grant.yaml", text); err != nil {
		return err
	}
	if err := l.installation.Enforced(ctx); err != nil {
		return err
	}
	bare, err := l.serve(ctx, "bytes")
	if err != nil {
		return err
	}
	url = l.installation.MCPURL(quickstart.USEast) + "/" + wide
	for _, kind := range []struct {
		name, how string
		gzipped   bool
	}{
		{"proxy_list", "compressed, as clients take it", true},
		{"proxy_list_plain", "not compressed", false},
	} {
		if err := l.measureListOf(ctx, kind.name, kind.how, url, bare, token, length, kind.gzipped); err != nil {
			return err
		}
	}
	return nil
}

// measureListOf prints one figure of lists.
func (l *lab) measureListOf(ctx context.Context, name, how, url, bare, token string, length int, gzipped bool) error {
	first, err := newLister(url, token, 0, length, gzipped)
	if err != nil {
		return err
	}
	defer first.close()
	if err := first.call(ctx); err != nil {
		return err
	}
	sent := len(first.body)
	var rates, references []float64
	for range wideRounds {
		for _, way := range []struct {
			url    string
			length int
			rates  *[]float64
		}{{bare + "?" + strconv.Itoa(sent), sent, &references}, {url, length, &rates}} {
			callers, done, err := crew(16, func(n int) (*caller, error) { return newLister(way.url, token, n, way.length, gzipped) })
			if err != nil {
				return err
			}
			r, err := load(ctx, callers, l.RoundFor)
			done()
			if err != nil {
				return err
			}
			*way.rates = append(*way.rates, r.rate)
		}
	}
	f := Figure{
		Name: name, Value: median(rates), Unit: "lists/s", Reference: median(references),
		Load: fmt.Sprintf("tools/list over 16 keep-alive connections of %d tools out of %d, %d bytes, %s: %d bytes, which the load generator opens once and then compares; token verified, no upstream asked; reference: a net/http handler that answers with as many bytes; medians of %d interleaved rounds of %s",
			wideMay, wideTools, length, how, sent, wideRounds, l.RoundFor),
	}
	f.Ratio = f.Value / f.Reference
	return l.print(f)
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// auditTail follows the records of the marker's connector: a spool is delivered in order, so that when a marker's record
// has arrived, all before it have.
type auditTail struct {
	caller *caller
	stream *connect.ServerStreamForClient[adminv1.TailAuditResponse]
	cancel context.CancelFunc
	seen   chan error // one nil per record; closed at the end
}

func (l *lab) followAudit(ctx context.Context, token string) (*auditTail, error) {
	c, err := newCaller(l.installation.MCPURL(quickstart.USEast)+"/"+marker, token, 0)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	url, client := l.installation.AdminURL()
	stream, err := adminv1connect.NewAuditServiceClient(client, url).TailAudit(ctx, connect.NewRequest(&adminv1.TailAuditRequest{
		Filter: &adminv1.AuditFilter{Connector: marker},
	}))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("follow audit: %w", err)
	}
	t := &auditTail{caller: c, stream: stream, cancel: cancel, seen: make(chan error, 64)}
	go func() {
		defer close(t.seen)
		for stream.Receive() {
			select {
			case t.seen <- nil:
			case <-ctx.Done():
				return
			}
		}
		if err := stream.Err(); err != nil && ctx.Err() == nil {
			t.seen <- fmt.Errorf("follow audit: %w", err)
		}
	}()
	return t, nil
}

// drained makes a call at the marker's connector and waits for its two records.
func (t *auditTail) drained(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	if err := t.caller.call(ctx); err != nil {
		return 0, fmt.Errorf("mark the end of a round: %w", err)
	}
	for range 2 {
		select {
		case err, open := <-t.seen:
			if err != nil || !open {
				return 0, errors.Join(errors.New("audit cannot be followed any more"), err)
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for audit to be delivered: %w", ctx.Err())
		}
	}
	return time.Since(begin), nil
}

func (t *auditTail) close() {
	t.cancel()
	for range t.seen { // until its reader has ended
	}
	_ = t.stream.Close()
	t.caller.close()
}
