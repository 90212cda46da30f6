package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	near = Direct(near)
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	near, far := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // more than the kernel takes at once
	ended := make(chan error, 1)
	go func() {
		n, err := near.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		ended <- errors.Join(err, near.(interface{ CloseWrite() error }).CloseWrite())
	}()
	got, err := io.ReadAll(far)
	if err := errors.Join(err, <-ended); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came: %v", len(got), err)
	}
	go func() {
		_, err := far.Write(sent)
		ended <- errors.Join(err, far.Close())
	}()
	got, err = io.ReadAll(near)
	if err := errors.Join(err, <-ended); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came back: %v", len(got), err)
	}
}

func TestDeadlinesAndClosingEndWhatWaits(t *testing.T) {
	near, _ := pair(t)
	_ = near.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read ends with %v", err)
	}
	_ = near.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := near.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("a write ends with %v after %d bytes", err, n)
	}
	_ = near.SetDeadline(time.Time{})
	ended := make(chan error, 2)
	go func() { _, err := near.Read(make([]byte, 1)); ended <- err }()
	go func() { _, err := near.Write(make([]byte, 64<<20)); ended <- err }()
	time.Sleep(10 * time.Millisecond) // so that they wait; if they do not yet, the same must come of it
	_ = near.Close()
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("it ends with %v", err)
		}
	}
}

func TestAResetIsAnError(t *testing.T) {
	near, far := pair(t)
	_ = far.(*net.TCPConn).SetLinger(0)
	_ = far.Close()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a read ends with %v", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a write ends with %v", err)
	}
}
