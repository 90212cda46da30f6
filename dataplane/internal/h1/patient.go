package h1

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"sallyport.dev/dataplane/internal/socket"
)

// What an agent does not read waits, and so does its upstream: nothing is kept for it meanwhile. An agent that reads nothing at all is
// given up, so that it holds nothing for ever.

const (
	// patience is how long an agent may take to read a piece of what it is sent, and may be given a quarter less.
	patience = time.Minute
	// onePiece bounds what is written under one deadline. In larger pieces a large answer wakes its reader less often.
	onePiece = 256 << 10
	// leastRead is how much of a piece must have gone for its agent to get more time: a slow one is not taken for one that reads nothing.
	leastRead = 64 << 10
)

// Patient returns a listener whose connections give up writing to who does not read.
func Patient(l net.Listener) net.Listener { return patientListener{l} }

type patientListener struct{ net.Listener }

// Accept waits for a connection.
func (l patientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: socket.Direct(conn), patience: patience}, nil
}

type patientConn struct {
	net.Conn
	patience time.Duration
	until    atomic.Int64 // the deadline that was set last, in nanoseconds of Unix time
}

// SetDeadline and SetWriteDeadline change the deadline under which Write writes, which sets its own again.
func (c *patientConn) SetDeadline(t time.Time) error {
	defer c.until.Store(0)
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline is like SetDeadline.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	defer c.until.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// Write writes p, piece by piece.
func (c *patientConn) Write(p []byte) (written int, err error) {
	for {
		// Setting it costs about as much as a small write: one that has most of its time left will do.
		if now := time.Now(); c.until.Load()-now.UnixNano() < int64(c.patience)*3/4 {
			until := now.Add(c.patience)
			if err := c.Conn.SetWriteDeadline(until); err != nil {
				return written, fmt.Errorf("writing to an agent: %w", err)
			}
			c.until.Store(until.UnixNano())
		}
		n, err := c.Conn.Write(p[:min(len(p), onePiece)])
		written += n
		p = p[n:]
		if n >= leastRead && errors.Is(err, os.ErrDeadlineExceeded) && c.over() {
			continue
		}
		if err != nil || len(p) == 0 {
			return written, err
		}
	}
}

// over tells whether it is Write's own deadline that is over.
func (c *patientConn) over() bool {
	until := c.until.Load()
	return until != 0 && time.Now().UnixNano() >= until
}
