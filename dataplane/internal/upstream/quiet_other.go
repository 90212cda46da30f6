//go:build !unix

package upstream

import "net"

// quiet cannot tell here whether an idle connection can be used, so that none is.
func quiet(net.Conn) bool { return false }
