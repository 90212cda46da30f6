package okta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Start serves the org on a loopback address ("127.0.0.1:0" picks a port) and returns its issuer, its base URL, and
// what stops it.
func (o *Org) Start(ctx context.Context, addr string) (issuer, baseURL string, stop func(), err error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", "", nil, fmt.Errorf("listen for the stand-in Okta: %w", err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = listener.Close()
		return "", "", nil, fmt.Errorf("the stand-in Okta listens on loopback only, not on %s", addr)
	}
	baseURL = "http://" + listener.Addr().String()
	handler, err := o.Handler(baseURL)
	if err != nil {
		_ = listener.Close()
		return "", "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			o.cfg.Log.Error("the stand-in Okta stopped", "error", err)
		}
	}()
	stop = func() {
		_ = server.Close()
		<-done
	}
	return baseURL + IssuerPath, baseURL, stop, nil
}
