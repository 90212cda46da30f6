package replica

import (
	"compress/gzip"
	"io"
	"net"
	"net/url"

	"connectrpc.com/connect"
)

// compressFrom is how large a request is that is worth the work: deliveries of audit, and little else.
const compressFrom = 4 << 10

// compression is that of what is sent to a control plane: gzip at its quickest, which makes a delivery of audit about a sixth
// as large for some microseconds a record, where there is a network between; nothing where there is none.
func compression(at *url.URL) []connect.ClientOption {
	if ip := net.ParseIP(at.Hostname()); at.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return compressed()
}

func compressed() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithAcceptCompression("gzip",
			func() connect.Decompressor { return new(gzip.Reader) },
			func() connect.Compressor {
				w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
				if err != nil {
					panic(err) // the level is one
				}
				return w
			}),
		connect.WithSendCompression("gzip"),
		connect.WithCompressMinBytes(compressFrom),
	}
}
