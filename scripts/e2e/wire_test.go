package e2e

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// wire carries connections to an address, until it is cut or loses what comes back.
type wire struct {
	addr, to string
	mu       sync.Mutex // guards what follows
	cut      bool
	deaf     bool
	open     map[net.Conn]bool
}

func newWire(t testing.TB, to string) *wire {
	t.Helper()
	w := &wire{addr: freeAddress(t), to: to, open: map[net.Conn]bool{}}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			carrying.Go(func() { w.carry(context.WithoutCancel(t.Context()), from) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.setCut(true)
		carrying.Wait()
	})
	return w
}

// setCut ends what is open and lets nothing through, or lets it through again.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for c := range w.open {
		if cut {
			_ = c.Close()
		}
	}
}

// setDeaf loses what comes back from the address, or no more: what was lost before is not made up for.
func (w *wire) setDeaf(deaf bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf = deaf
}

func (w *wire) carry(ctx context.Context, from net.Conn) {
	defer from.Close()
	to, err := new(net.Dialer).DialContext(ctx, "tcp", w.to)
	if err != nil {
		return
	}
	defer to.Close()
	if !w.keep(from, to) {
		return
	}
	defer w.forget(from, to)
	var back sync.WaitGroup
	back.Go(func() {
		defer from.Close() // so that the other way ends too
		w.back(from, to)
	})
	_, _ = io.Copy(to, from)
	_ = to.Close()
	back.Wait()
}

// back carries what comes back, unless that is lost.
func (w *wire) back(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := to.Read(buf)
		w.mu.Lock()
		deaf := w.deaf
		w.mu.Unlock()
		if n > 0 && !deaf {
			if _, err := from.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// keep takes note of a connection that is open now. False: the wire is cut.
func (w *wire) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return false
	}
	for _, c := range conns {
		w.open[c] = true
	}
	return true
}

func (w *wire) forget(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		delete(w.open, c)
	}
}
