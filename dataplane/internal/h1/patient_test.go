package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair is both ends of a connection, of which the first is written to.
func pair(t *testing.T, patience time.Duration) (*patientConn, net.Conn) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := Patient(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	conn := near.(*patientConn)
	conn.patience = patience
	return conn, far
}

func TestAnAgentThatReadsNothingIsGivenUp(t *testing.T) {
	near, _ := pair(t, 50*time.Millisecond)
	if _, err := near.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the write ended with %v", err)
	}
}

// TestAnAgentThatReadsSlowlyGetsAll, even though it takes longer than one piece may.
func TestAnAgentThatReadsSlowlyGetsAll(t *testing.T) {
	near, far := pair(t, 2*time.Second)
	const size = 24 << 20
	ended := make(chan error, 1)
	go func() {
		_, err := near.Write(make([]byte, size))
		_ = near.Close()
		ended <- err
	}()
	began, got := time.Now(), 0
	buf := make([]byte, 1<<20)
	for {
		n, err := far.Read(buf)
		if got += n; errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got < size/2 {
			time.Sleep(time.Duration(n) * 3 * time.Second / (size / 2)) // so that all takes longer than the patience
		}
	}
	if err := <-ended; err != nil || got != size {
		t.Errorf("%d of %d bytes came, %v", got, size, err)
	}
	if time.Since(began) < near.patience {
		t.Skip("the kernel took it all at once")
	}
}

// TestAnAgentThatTakesLongForAPieceGetsAll, as long as it reads.
func TestAnAgentThatTakesLongForAPieceGetsAll(t *testing.T) {
	near, far := pair(t, 2*time.Second)
	if err := errors.Join(near.Conn.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(16<<10), far.(*net.TCPConn).SetReadBuffer(16<<10)); err != nil {
		t.Fatal(err)
	}
	const size = 2 * onePiece
	ended := make(chan error, 1)
	go func() {
		_, err := near.Write(make([]byte, size))
		_ = near.Close()
		ended <- err
	}()
	began, got := time.Now(), 0
	for buf := make([]byte, 4<<10); got < size; {
		n, err := io.ReadFull(far, buf)
		if got += n; err != nil {
			t.Fatalf("after %d bytes: %v, %v", got, err, <-ended)
		}
		time.Sleep(40 * time.Millisecond) // 100 KiB a second
	}
	if err := <-ended; err != nil {
		t.Errorf("the write ended with %v", err)
	}
	if took := time.Since(began); took < 2*near.patience {
		t.Errorf("it took %s: a piece was written within its time, and nothing was tried", took)
	}
}

// TestWhoeverSetsADeadlineEndsAWrite, even of an agent that reads.
func TestWhoeverSetsADeadlineEndsAWrite(t *testing.T) {
	near, far := pair(t, time.Minute)
	go func() { _, _ = io.CopyN(io.Discard, far, 3*leastRead) }()
	time.AfterFunc(50*time.Millisecond, func() { _ = near.SetWriteDeadline(time.Unix(1, 0)) })
	if _, err := near.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the write ended with %v", err)
	}
}
