package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
	"sallyport.dev/scripts/demo/quickstart"
)

// Connectors of proxy_dead_upstreams, and how many of them die.
const (
	manyConnectors = 1000
	deadConnectors = 10
	deadCallers    = 16
	// Those that die are each called so often, dead or alive.
	deadEvery = 20 * time.Millisecond
)

// measureDead prints proxy_dead_upstreams: what calls to upstreams that are well notice of others that are dead.
func (l *lab) measureDead(ctx context.Context, token string) error {
	count := max(int(float64(manyConnectors)*l.Scale), 2*deadConnectors)
	l.say("%d connectors, of which %d die", count, deadConnectors)
	names, err := l.connect(ctx, count)
	if err != nil {
		return err
	}
	everything := l.installation.MCPURL(quickstart.USEast)
	callers, done, err := crew(deadCallers, func(n int) (*caller, error) {
		c, err := newCallerOf(everything, token, n, names[deadConnectors:], appendResult)
		if err == nil {
			c.next = n * len(c.asks) / deadCallers // each begins elsewhere
		}
		return c, err
	})
	if err != nil {
		return err
	}
	defer done()
	if _, err := load(ctx, callers, 2*l.RoundFor); err != nil { // connections
		return fmt.Errorf("warm %d connectors up: %w", count, err)
	}
	state := strings.TrimSuffix(l.upstream, endpoint) + killing + "?"
	p99s := map[string][]time.Duration{}
	for range l.Rounds {
		for _, now := range []string{"alive", "dead"} {
			if _, err := get(ctx, state+now); err != nil {
				return fmt.Errorf("end upstreams: %w", err)
			}
			r, err := l.beside(ctx, everything, token, names[:deadConnectors], func() (round, error) { return load(ctx, callers, l.RoundFor) })
			if err != nil {
				return fmt.Errorf("with upstreams %s: %w", now, err)
			}
			p99s[now] = append(p99s[now], r.p99)
			l.say("upstreams %-5s: %6.0f calls/s, p99 %s", now, r.rate, r.p99.Round(time.Microsecond))
		}
	}
	if _, err := get(ctx, state+"alive"); err != nil {
		return err
	}
	f := Figure{
		Name: "proxy_dead_upstreams", Value: microseconds(median(p99s["dead"])), Unit: "µs", Reference: microseconds(median(p99s["alive"])), Scale: l.Scale,
		Load: fmt.Sprintf("p99 of tools/call at /mcp over %d connections to the other %d of %d connectors in turn, while %d that take requests and never answer are each called every %s; "+
			"reference: the same load while all answer; medians of %d interleaved rounds of %s", deadCallers, count-deadConnectors, count, deadConnectors, deadEvery, l.Rounds, l.RoundFor),
	}
	f.Ratio = f.Value / f.Reference
	return l.print(f)
}

// connect makes connectors with one tool each, the first of which may die, and returns the tools' names at the endpoint of all.
func (l *lab) connect(ctx context.Context, count int) (names []string, err error) {
	var connectors, grants []string
	for i := range count {
		url := l.upstream
		if i < deadConnectors {
			url = strings.TrimSuffix(l.upstream, endpoint) + mortal
		}
		connectors = append(connectors, fmt.Sprintf("---\nkind: Connector\nid: many-%04d\nurl: %s\nauth: {type: none}\nallowedRanges: [127.0.0.0/8]\ntimeout: 1s\n", i, url))
		grants = append(grants, fmt.Sprintf("---\nkind: Grant\ngroup: okta/%s\nconnector: many-%04d\nrules:\n  - allow: [%s]\n", group, i, toolName))
		names = append(names, fmt.Sprintf("many-%04d__%s", i, toolName))
	}
	if err := l.apply(ctx, "many", connectors); err != nil {
		return nil, err
	}
	url, client := l.installation.AdminURL()
	admin := adminv1connect.NewConnectorServiceClient(client, url)
	tools := []*policyv1.Tool{{Name: toolName, Definition: []byte(definition)}}
	var workers sync.WaitGroup
	failed := make([]error, 16)
	for worker := range failed {
		workers.Go(func() {
			for i := worker; i < count && failed[worker] == nil; i += len(failed) {
				_, failed[worker] = admin.ApproveCatalogue(ctx, connect.NewRequest(&adminv1.ApproveCatalogueRequest{ConnectorId: fmt.Sprintf("many-%04d", i), Tools: tools}))
			}
		})
	}
	workers.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, fmt.Errorf("pin a tool of each connector: %w", err)
	}
	if err := l.apply(ctx, "many-grants", grants); err != nil {
		return nil, err
	}
	return names, l.installation.Enforced(ctx)
}

// apply applies many resources, in files of half of what fits one change.
func (l *lab) apply(ctx context.Context, name string, resources []string) error {
	part := 0
	for some := range slices.Chunk(resources, 500) {
		part++
		if err := l.installation.Apply(ctx, fmt.Sprintf("%s-%d.yaml", name, part), strings.Join(some, "")); err != nil {
			return err
		}
	}
	return nil
}

// beside runs a load while each of some tools is called again and again, whatever comes of it.
func (l *lab) beside(ctx context.Context, url, token string, tools []string, run func() (round, error)) (round, error) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for i, tool := range tools {
		c, err := newCallerOf(url, token, i, []string{tool}, appendResult)
		if err != nil {
			return round{}, err
		}
		group.Go(func() {
			defer c.close()
			ticker := time.NewTicker(deadEvery)
			defer ticker.Stop()
			for {
				_ = c.call(ctx) // a dead one's fails
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
			}
		})
	}
	return run()
}
