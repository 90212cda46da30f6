package fleet

import (
	"io"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
)

// compressFrom is how large a message is that is worth the work: heartbeats and most deltas are smaller.
const compressFrom = 1 << 10

// Compression makes answers to proxies smaller at little cost: a snapshot is compressed for each proxy that starts,
// perhaps for hundreds at once, and gzip's ordinary level would take longer than to make it.
func Compression() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCompressMinBytes(compressFrom),
		connect.WithCompression("gzip",
			func() connect.Decompressor { return new(gzip.Reader) },
			func() connect.Compressor {
				w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
				if err != nil {
					panic(err) // the level is one
				}
				return w
			}))
}
