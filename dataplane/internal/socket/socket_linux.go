package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

func direct(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	d := &conn{TCPConn: tcp, raw: raw}
	d.in.f, d.out.f = d.in.read, d.out.write
	return d
}

// conn is a TCP connection. Reads are one at a time, and so are writes, as net has them.
type conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is a read or a write under way. Its function is made once.
type transfer struct {
	mu   sync.Mutex
	p    []byte
	done int
	errs syscall.Errno
	f    func(fd uintptr) bool
}

// Read reads what is there, or waits for something.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := &c.in
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.done, t.errs = p, 0, 0
	err := c.raw.Read(t.f)
	t.p = nil
	switch {
	case err != nil:
		return 0, err
	case t.errs != 0:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", t.errs)}
	case t.done == 0:
		return 0, io.EOF
	}
	return t.done, nil
}

// Write writes all of p.
func (c *conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := &c.out
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.done, t.errs = p, 0, 0
	err := c.raw.Write(t.f)
	t.p = nil
	switch {
	case err != nil:
		return t.done, err
	case t.errs != 0:
		return t.done, &net.OpError{Op: "write", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("write", t.errs)}
	}
	return t.done, nil
}

// The descriptor does not block: the runtime has set it so.

func (t *transfer) read(fd uintptr) bool {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.p))), uintptr(len(t.p))) //nolint:gosec // as package syscall does
		switch e {
		case 0:
			t.done = int(n) //nolint:gosec // at most len(t.p)
			return true
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			t.errs = e
			return true
		}
	}
}

func (t *transfer) write(fd uintptr) bool {
	for t.done < len(t.p) {
		rest := t.p[t.done:]
		n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest))) //nolint:gosec // as above
		switch e {
		case 0:
			t.done += int(n) //nolint:gosec // at most len(rest)
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			t.errs = e
			return true
		}
	}
	return true
}
