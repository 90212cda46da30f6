package main

import (
	"fmt"
	"net"
	"time"
)

// What an agent does not read waits, and so does its upstream: nothing is kept for it meanwhile. An agent that reads nothing at all is
// given up, so that it holds nothing for ever.

// patience is how long an agent may take to read a piece of what it is sent.
const patience = time.Minute

// piece bounds what is written under one deadline, so that a slow agent is not taken for one that reads nothing.
const piece = 64 << 10

// patientListener's connections give up writing to who does not read.
type patientListener struct{ net.Listener }

// Accept waits for a connection.
func (l patientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: conn, patience: patience}, nil
}

type patientConn struct {
	net.Conn
	patience time.Duration
}

// Write writes p, piece by piece.
func (c *patientConn) Write(p []byte) (written int, err error) {
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return written, fmt.Errorf("writing to an agent: %w", err)
		}
		n, err := c.Conn.Write(p[:min(len(p), piece)])
		written += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return written, err
		}
	}
}
