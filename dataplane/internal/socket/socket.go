// Package socket reads and writes TCP connections without a word to Go's scheduler. A read or a write of a socket that does not wait takes some
// microseconds; the scheduler takes it for one that may last, and where processors are few and busy gives its place to another
// thread, which costs more than the call itself. Whatever would wait is left to the runtime, as ever.
package socket

import "net"

// Direct returns the connection with reads and writes of that kind where the system has them, and else as it is.
func Direct(c net.Conn) net.Conn { return direct(c) }
