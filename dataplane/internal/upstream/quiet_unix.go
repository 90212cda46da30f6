//go:build unix

package upstream

import (
	"errors"
	"net"
	"syscall"
)

// silence tells whether an idle connection can be used: it is open, and nothing was sent on it.
type silence struct {
	raw   syscall.RawConn // nil: the connection cannot be asked
	peek  func(fd uintptr) bool
	quiet bool
}

// listen makes what can tell of a connection.
func listen(conn net.Conn) *silence {
	s := &silence{}
	if c, ok := conn.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn() // without it no connection is used twice
	}
	s.peek = func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		s.quiet = errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK)
		return true
	}
	return s
}

func (s *silence) holds() bool {
	return s.raw != nil && s.raw.Read(s.peek) == nil && s.quiet
}
