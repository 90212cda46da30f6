package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	"sallyport.dev/scripts/demo/quickstart"
)

const person = "caller@bench.example"

// way is one way to the upstream.
type way struct {
	name    string
	url     string
	callers []*caller
	rounds  []round
}

// measureProxy prints proxy_throughput_cN for each number of connections, and proxy_added_p50_c1.
func measureProxy(ctx context.Context, l *lab) error {
	reverse, err := l.serve(ctx, "reverse-proxy", l.upstream)
	if err != nil {
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
	for _, n := range l.Connections {
		ways := []*way{
			{name: "direct", url: l.upstream}, {name: "ReverseProxy", url: reverse},
			{name: "proxy", url: l.installation.MCPURL(quickstart.USEast) + "/" + loaded},
		}
		drains, err := l.rounds(ctx, ways, token, n, audit)
		if err != nil {
			return err
		}
		if err := l.printProxy(n, ways[0].rounds, ways[1].rounds, ways[2].rounds, drains); err != nil {
			return err
		}
	}
	return nil
}

// rounds measures the ways in turn, so that what else the machine does meets all of them. After each round of the proxy
// it waits until all audit is delivered: otherwise the next round, of another, would pay for it.
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
			r, err := load(ctx, w.callers, l.RoundFor)
			if err != nil {
				return nil, fmt.Errorf("%s with %d connections: %w", w.name, n, err)
			}
			w.rounds = append(w.rounds, r)
			l.say("%d connections, round %d: %-12s %6.0f calls/s, p50 %s", n, i+1, w.name, r.rate, r.p50.Round(time.Microsecond))
		}
		d, err := audit.drained(ctx)
		if err != nil {
			return nil, err
		}
		drains = append(drains, d)
	}
	return drains, nil
}

func (l *lab) printProxy(n int, direct, reverse, proxy []round, drains []time.Duration) error {
	rates := func(rounds []round) float64 {
		var all []float64
		for _, r := range rounds {
			all = append(all, r.rate)
		}
		return median(all)
	}
	f := Figure{
		Name: fmt.Sprintf("proxy_throughput_c%d", n), Value: rates(proxy), Unit: "calls/s", Reference: rates(reverse), Direct: rates(direct),
		Load: fmt.Sprintf("tools/call over %d keep-alive connections, 2026-07-28, to a minimal net/http upstream; token verified, one condition, audit spooled on disk and delivered to a control plane on the same machine; "+
			"reference: httputil.ReverseProxy before the same upstream; medians of %d interleaved rounds of %s; after a round %s (median) until its last record was delivered",
			n, l.Rounds, l.RoundFor, median(drains).Round(time.Millisecond)),
	}
	f.Ratio = f.Value / f.Reference
	if err := l.print(f); err != nil || n != 1 {
		return err
	}
	// What is added is compared within a round, where the machine was in the same state.
	added := func(rounds []round) float64 {
		var all []time.Duration
		for i, r := range rounds {
			all = append(all, r.p50-direct[i].p50)
		}
		return microseconds(median(all))
	}
	var alone []time.Duration
	for _, r := range direct {
		alone = append(alone, r.p50)
	}
	f.Name, f.Unit, f.Value, f.Reference, f.Direct = "proxy_added_p50_c1", "µs", added(proxy), added(reverse), microseconds(median(alone))
	f.Ratio = f.Value / f.Reference
	f.Load = fmt.Sprintf("median time of a call through the proxy less that of the same call to the upstream directly, one connection, the load of proxy_throughput_c1; reference: what httputil.ReverseProxy adds; medians of %d rounds", l.Rounds)
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
