package bench

import (
	"context"
	"fmt"

	"sallyport.dev/scripts/demo/quickstart"
)

const (
	largeCallers = 4
	largeRounds  = 3
)

// measureLarge prints proxy_large: results of one megabyte.
func (l *lab) measureLarge(ctx context.Context, token, reverse string, audit *auditTail) error {
	size := float64(len(appendLarge([]byte("1")))) / (1 << 20)
	ways := []*way{
		{name: "direct", url: l.upstream}, {name: "ReverseProxy", url: reverse, programs: []string{"reverse-proxy"}},
		{name: "proxy", url: l.loaded(), delivers: true, programs: []string{quickstart.ProxyOf(quickstart.USEast), "control-plane"}},
	}
	for _, w := range ways {
		callers, done, err := crew(largeCallers, func(n int) (*caller, error) {
			return newCallerOf(w.url, token, n, []string{largeTool}, appendLarge)
		})
		if err != nil {
			return err
		}
		defer done() //nolint:gocritic // all of them close when the measurement ends
		w.callers = callers
	}
	for i := range largeRounds {
		for _, w := range ways {
			if _, err := l.round(ctx, w, audit); err != nil {
				return fmt.Errorf("results of a megabyte, %s: %w", w.name, err)
			}
			l.say("results of a megabyte, round %d: %-12s %6.0f/s, processor time of a call: %s", i+1, w.name, w.rounds[i].rate, w.used)
		}
	}
	if err := l.profiled(ctx, "large", ways[2].callers); err != nil {
		return err
	}
	f := Figure{
		Name: "proxy_large", Value: size * rate(ways[2].rounds), Unit: "MiB/s", Reference: size * rate(ways[1].rounds), Direct: size * rate(ways[0].rounds),
		Load: fmt.Sprintf("tools/call with a result of one megabyte over %d connections, each answer compared whole; digest and the first 4 KiB, masked, in the audit record; reference: httputil.ReverseProxy before the same upstream; "+
			"medians of %d interleaved rounds of %s", largeCallers, largeRounds, l.RoundFor),
	}
	f.Ratio = f.Value / f.Reference
	return l.print(f)
}

// loaded is where the measured connector is called.
func (l *lab) loaded() string { return l.installation.MCPURL(quickstart.USEast) + "/" + loaded }

// crew makes callers, and what closes them.
func crew(n int, one func(n int) (*caller, error)) (all []*caller, done func(), err error) {
	done = func() {
		for _, c := range all {
			c.close()
		}
	}
	for i := range n {
		c, err := one(i)
		if err != nil {
			done()
			return nil, nil, err
		}
		all = append(all, c)
	}
	return all, done, nil
}
