package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/agent"
)

// balancer leads requests to those proxies that say that they are ready, in turn, as a load balancer does: it asks them now and
// then, and makes no request twice.
type balancer struct {
	url   string
	of    []*url.URL
	ready []atomic.Bool
	turn  atomic.Uint64
}

func newBalancer(t testing.TB, listen string, proxies []*proxy) *balancer {
	t.Helper()
	b := &balancer{url: "http://" + listen + "/mcp", ready: make([]atomic.Bool, len(proxies))}
	for _, p := range proxies {
		to, err := url.Parse("http://" + p.listen)
		if err != nil {
			t.Fatal(err)
		}
		b.of = append(b.of, to)
	}
	front := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(b.next())
			r.Out.Host = r.In.Host
		},
		FlushInterval: -1,
	}
	server := &http.Server{Addr: listen, Handler: front, ReadHeaderTimeout: patience}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = server.ListenAndServe() }) // it ends with the test
	running.Go(func() { b.ask(ctx) })
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		running.Wait()
	})
	return b
}

func (b *balancer) next() *url.URL {
	for range len(b.of) {
		if i := int(b.turn.Add(1) % uint64(len(b.of))); b.ready[i].Load() {
			return b.of[i]
		}
	}
	return b.of[0]
}

// askEvery is how often the balancer looks.
const askEvery = 50 * time.Millisecond

func (b *balancer) ask(ctx context.Context) {
	for {
		for i, to := range b.of {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String()+"/readyz", nil)
			if err != nil {
				return
			}
			resp, err := http.DefaultClient.Do(r)
			b.ready[i].Store(err == nil && resp.StatusCode == http.StatusOK)
			if err == nil {
				_ = resp.Body.Close()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(askEvery):
		}
	}
}

// TestARollingRestartLosesNoCall restarts each of three proxies under load: agents of both eras call through a balancer all the time,
// each of the session era in one session, and no call fails, is made twice or lacks a record.
func TestARollingRestartLosesNoCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	front := freeAddress(t)
	var proxies []*proxy
	for i := range 3 {
		p := &proxy{t: t, name: fmt.Sprintf("us-east-%d", i+1), region: "us-east", listen: freeAddress(t), dir: t.TempDir(), fleet: "https://" + w.cp.fleet}
		p.invitation = p.dir + "/invitation"
		if err := w.cp.Invite(t.Context(), p.invitation, p.name, p.region); err != nil {
			t.Fatal(err)
		}
		peers := freeAddress(t)
		p.flags = []string{"--public-url", "http://" + front, "--peer-listen", peers, "--peer-url", "https://" + peers, "--drain-delay", "1s", "--heartbeat", "1s"}
		p.start()
		proxies = append(proxies, p)
	}
	w.cp.enforced()
	b := newBalancer(t, front, proxies)
	eventually(t, func() error {
		for i := range b.ready {
			if !b.ready[i].Load() {
				return errors.New("a proxy is not ready")
			}
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calling sync.WaitGroup
	var made atomic.Int64
	for i := range 6 {
		revision := []string{agent.Modern, agent.SessionEra}[i%2]
		s, err := agent.Connect(t.Context(), b.url, w.issuer.token(ada), agent.Options{Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		calling.Go(func() {
			for ctx.Err() == nil {
				if err := works(t.Context(), s); err != nil {
					t.Errorf("%s, call %d: %v", revision, made.Load(), err)
					return
				}
				made.Add(1)
			}
		})
	}
	for _, p := range proxies {
		before := made.Load()
		eventually(t, func() error {
			if made.Load() < before+50 {
				return errors.New("few calls are made")
			}
			return nil
		})
		if err := p.StopWithin(patience); err != nil {
			t.Fatal(err)
		}
		p.start()
	}
	stop()
	calling.Wait()
	if t.Failed() {
		return
	}
	eventually(t, func() error {
		got, err := w.audit(&adminv1.AuditFilter{Person: ada, Connector: "github"})
		if err != nil {
			return err
		}
		return got.twoPhases(int(made.Load()))
	})
	t.Logf("%d calls", made.Load())
}
