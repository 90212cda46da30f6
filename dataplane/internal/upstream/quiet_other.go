//go:build !unix

package upstream

import "net"

// silence cannot tell here whether an idle connection can be used, so that none is.
type silence struct{}

func listen(net.Conn) *silence { return &silence{} }

func (*silence) holds() bool { return false }
