package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"sallyport.dev/scripts/demo/quickstart"
)

// patience is how long a deactivation may take to arrive before the measurement fails.
const patience = 10 * time.Second

// deactivation is what one came to.
type deactivation struct {
	lag time.Duration // from SCIM's answer to the last refusal; zero: the last refusal was first
	get time.Duration // a SCIM GET just before
}

// measureRevoke prints revoke_p50_N and revoke_p99_N, for two real proxies and for a large fleet of replicas.
func measureRevoke(ctx context.Context, l *lab) error {
	pair, many := logins("pair", l.Deactivations), logins("many", l.Deactivations)
	l.say("Okta pushes %d people", 2*l.Deactivations)
	ids, err := l.hire(ctx, append(append([]string{}, pair...), many...))
	if err != nil {
		return err
	}
	if err := l.revokeAtProxies(ctx, pair); err != nil {
		return err
	}
	return l.revokeAtReplicas(ctx, many, ids)
}

func logins(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d@bench.example", prefix, i+1)
	}
	return out
}

func (l *lab) revokeAtProxies(ctx context.Context, people []string) error {
	tokens := make([]string, len(people))
	for i, login := range people {
		var err error
		if tokens[i], err = l.installation.SignIn(ctx, login); err != nil {
			return err
		}
	}
	l.say("%d people have signed in; each is deactivated while their agents call at two proxies", len(people))
	var all []deactivation
	for i, login := range people {
		polls, err := l.poll(ctx, tokens[i])
		if err != nil {
			return err
		}
		d, err := l.deactivate(ctx, login, polls.last)
		polls.stop()
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	return l.printRevoke(2, all, "2 proxy processes, each called in a loop by one agent of the person, so that the time of a call is part of it")
}

// polls are one agent at each proxy, calling until it is refused.
type polls struct {
	cancel  context.CancelFunc
	group   sync.WaitGroup
	refused chan result
	n       int
}

type result struct {
	at  time.Time
	err error
}

// poll begins to call; it returns when each proxy has answered a call.
func (l *lab) poll(ctx context.Context, token string) (*polls, error) {
	regions := []string{quickstart.USEast, quickstart.EUWest}
	ctx, cancel := context.WithCancel(ctx)
	p := &polls{cancel: cancel, refused: make(chan result, len(regions)), n: len(regions)}
	for _, region := range regions {
		c, err := newCaller(l.installation.MCPURL(region)+"/"+loaded, token, 0)
		if err == nil {
			err = c.call(ctx)
		}
		if err != nil {
			p.stop()
			return nil, fmt.Errorf("a first call at %s: %w", region, err)
		}
		p.group.Go(func() {
			defer c.close()
			for {
				err := c.call(ctx)
				switch {
				case errors.Is(err, errRefused):
					p.refused <- result{at: time.Now()}
					return
				case err != nil:
					p.refused <- result{err: fmt.Errorf("call at %s: %w", region, err)}
					return
				}
				// A moment of rest: two loops without one would take the whole machine from what is measured.
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Millisecond / 2):
				}
			}
		})
	}
	return p, nil
}

// last waits for the last refusal.
func (p *polls) last(ctx context.Context) (time.Time, error) {
	var last time.Time
	for range p.n {
		select {
		case r := <-p.refused:
			if r.err != nil {
				return time.Time{}, r.err
			}
			if r.at.After(last) {
				last = r.at
			}
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for refusals: %w", ctx.Err())
		}
	}
	return last, nil
}

func (p *polls) stop() {
	p.cancel()
	p.group.Wait()
}

func (l *lab) revokeAtReplicas(ctx context.Context, people []string, ids map[string]string) error {
	l.say("%d replicas connect", l.Replicas)
	f, err := l.startFleet(ctx, l.Replicas)
	if err != nil {
		return err
	}
	defer f.close()
	l.say("every replica has a table; %d people are deactivated", len(people))
	var all []deactivation
	for _, login := range people {
		if err := f.watch(ids[login]); err != nil {
			return err
		}
		d, err := l.deactivate(ctx, login, f.last)
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	load := fmt.Sprintf("%d in-process replicas of the policy table, not processes, each with its own connection and token, following Sync as a proxy does, "+
		"applying each change and deciding a call of the person by it (sallyport.dev/dataplane/policy); 2 proxy processes beside them", l.Replicas)
	return l.printRevoke(l.Replicas, all, load)
}

// deactivate asks SCIM something for the reference, then deactivates a person and waits for the last refusal.
func (l *lab) deactivate(ctx context.Context, login string, last func(context.Context) (time.Time, error)) (deactivation, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	person, err := l.installation.Org().Person(login)
	if err != nil {
		return deactivation{}, err
	}
	get, err := l.scimGet(ctx, person.SCIMID)
	if err != nil {
		return deactivation{}, err
	}
	push, err := l.installation.Org().Deactivate(ctx, login)
	if err != nil {
		return deactivation{}, fmt.Errorf("deactivate %s: %w", login, err)
	}
	at, err := last(ctx)
	if err != nil {
		return deactivation{}, fmt.Errorf("after the deactivation of %s: %w", login, err)
	}
	return deactivation{lag: max(0, at.Sub(push.Answered)), get: get}, nil
}

// scimGet reads one user and tells how long that took.
func (l *lab) scimGet(ctx context.Context, id string) (time.Duration, error) {
	base, token := l.installation.SCIM()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/Users/"+id, nil)
	if err != nil {
		return 0, fmt.Errorf("make a SCIM request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("get a user by SCIM: %w", err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
	took := time.Since(begin)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, fmt.Errorf("get a user by SCIM: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("get a user by SCIM: status %d", resp.StatusCode)
	}
	return took, nil
}

func (l *lab) printRevoke(n int, all []deactivation, load string) error {
	var lags, gets []time.Duration
	first := 0
	for _, d := range all {
		lags, gets = append(lags, d.lag), append(gets, d.get)
		if d.lag == 0 {
			first++
		}
	}
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		f := Figure{
			Name: fmt.Sprintf("revoke_%s_%d", q.name, n), Value: milliseconds(quantile(lags, q.at)), Unit: "ms", Reference: milliseconds(quantile(gets, q.at)),
			Load: fmt.Sprintf("%s; from SCIM's answer to a deactivation to the last of them refusing, %d deactivations, in %d of which all refused before SCIM's answer (counted as 0); "+
				"reference: the same quantile of the round trip of a SCIM GET of one user in the same run", load, len(all), first),
		}
		f.Ratio = f.Value / f.Reference
		if err := l.print(f); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
