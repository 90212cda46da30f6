package natstest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Far makes network paths to addresses, each way of which takes a delay, and returns a URL that reaches them
// by those paths alone. Bandwidth is not limited.
func Far(t testing.TB, delay time.Duration, addresses ...string) string {
	t.Helper()
	urls := make([]string, len(addresses))
	for i, address := range addresses {
		urls[i] = "nats://" + newPath(t, delay, address)
	}
	return strings.Join(urls, ",")
}

// FarURL reaches the cluster by paths with a delay each way.
func (c *Cluster) FarURL(delay time.Duration) string {
	c.t.Helper()
	all := make([]string, nodes)
	for i := range nodes {
		all[i] = c.Address(i)
	}
	return Far(c.t, delay, all...)
}

// path is a listener whose connections are forwarded late.
type path struct {
	target string
	delay  time.Duration
	ctx    context.Context //nolint:containedctx // it is the life of the path, which ends with its test
	open   sync.WaitGroup
}

func newPath(t testing.TB, delay time.Duration, target string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &path{target: target, delay: delay, ctx: ctx}
	p.open.Go(func() { p.accept(l) })
	t.Cleanup(func() {
		cancel()
		l.Close()
		p.open.Wait()
	})
	return l.Addr().String()
}

func (p *path) accept(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		p.open.Go(func() { p.connect(near) })
	}
}

func (p *path) connect(near net.Conn) {
	defer near.Close()
	far, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer far.Close()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	go func() {
		<-ctx.Done()
		near.Close()
		far.Close()
	}()
	var both sync.WaitGroup
	both.Go(func() { defer cancel(); p.carry(near, far) })
	both.Go(func() { defer cancel(); p.carry(far, near) })
	both.Wait()
}

// piece is what was read at once, and when it is to arrive.
type piece struct {
	data []byte
	due  time.Time
}

// carry copies one way. Reading goes on while pieces are under way, as on a long line.
func (p *path) carry(from, to net.Conn) {
	line := make(chan piece, 4096)
	go func() {
		defer close(line)
		for {
			buf := make([]byte, 64<<10)
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case line <- piece{buf[:n], time.Now().Add(p.delay)}:
				case <-p.ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for piece := range line {
		time.Sleep(time.Until(piece.due))
		if _, err := to.Write(piece.data); err != nil {
			from.Close() // the reader ends, and with it the line
			for range line {
				continue
			}
			return
		}
	}
}
