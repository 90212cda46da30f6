// Package bare is what SCIM writes are measured beside: a net/http handler that stores each request's body, durably and in
// batches of what waits, as the engine does, and knows nothing of what it says.
package bare

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"sallyport.dev/controlplane/internal/bench/raw"
	"sallyport.dev/controlplane/internal/natsconn"
)

// maxBody bounds a request.
const maxBody = 16 << 20

// post is a request that waits until its body is stored.
type post struct {
	body   []byte
	stored chan error
}

// Serve answers until the context ends. Its data folder is made where there is none.
func Serve(ctx context.Context, addr, dataDir string) error {
	conn, err := natsconn.Open(ctx, natsconn.Config{DataDir: dataDir, Name: "bare"})
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := raw.Open(ctx, conn.Conn)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serving the bare handler: %w", err)
	}
	waiting := make(chan post, raw.MaxBatch)
	storing := make(chan struct{})
	go func() {
		defer close(storing)
		for p := range waiting {
			store(ctx, stream, p, waiting)
		}
	}()
	server := &http.Server{Handler: handler(waiting), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		err = server.Shutdown(context.WithoutCancel(ctx)) // returns when no request is under way
	}
	close(waiting)
	<-storing
	return err
}

func handler(waiting chan<- post) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			return // it is there
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p := post{body: body, stored: make(chan error, 1)}
		waiting <- p
		if err := <-p.stored; err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body) // the caller may be gone
	})
}

// store stores one body and all that wait with it.
func store(ctx context.Context, to *raw.Stream, first post, waiting <-chan post) {
	all, bodies := []post{first}, [][]byte{first.body}
	for more := true; more && len(all) < raw.MaxBatch; {
		select {
		case p, open := <-waiting:
			if more = open; open {
				all, bodies = append(all, p), append(bodies, p.body)
			}
		default:
			more = false
		}
	}
	err := to.Publish(context.WithoutCancel(ctx), bodies...)
	for _, p := range all {
		p.stored <- err
	}
}
