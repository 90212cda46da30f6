// Package natsconn gives the control plane its connection to NATS: to a server embedded in the process,
// which keeps its data in a folder, or to an external cluster. What uses the connection cannot tell which.
//
// It starts and watches; it knows no stream, and it never lets a publish wait in a buffer while the
// connection is away, since its fate would then be anybody's guess.
package natsconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where NATS is. Its zero value lacks only DataDir.
type Config struct {
	// URL is that of an external cluster. Empty: a server is embedded.
	URL string
	// Credentials is a file with NATS credentials for the external cluster.
	Credentials string
	// DataDir is the folder of the embedded server.
	DataDir string
	// Listen is a loopback address at which the embedded server can be reached by others, such as
	// subscribers to audit. Empty: by nobody.
	Listen string
	// Name names this control plane among others.
	Name string
	// Replicas is how many servers of a cluster keep each stream. Default 1 embedded, 3 external.
	Replicas int
	Log      *slog.Logger
}

// Conn is a connection with, perhaps, the server behind it.
type Conn struct {
	*nats.Conn
	server   *server.Server
	replicas int
	down     atomic.Pointer[string]
}

// Open connects. The caller closes.
func Open(ctx context.Context, c Config) (*Conn, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	conn := &Conn{replicas: c.Replicas}
	options := []nats.Option{
		nats.Name(c.Name), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 100*time.Millisecond), nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(3),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				text := err.Error()
				conn.down.Store(&text)
				c.Log.Warn("the connection to NATS is lost; it is opened again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { conn.down.Store(nil) }),
	}
	url := c.URL
	if url == "" {
		srv, err := embed(ctx, c)
		if err != nil {
			return nil, err
		}
		conn.server = srv
		options = append(options, nats.InProcessServer(srv))
		if conn.replicas == 0 {
			conn.replicas = 1
		}
	} else if conn.replicas == 0 {
		conn.replicas = 3
	}
	if c.Credentials != "" {
		options = append(options, nats.UserCredentials(c.Credentials))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	conn.Conn = nc
	if conn.server == nil {
		checkSyncAlways(ctx, nc, c.Log)
	}
	return conn, nil
}

// embed starts a server whose acknowledgement means that the write was synced.
func embed(ctx context.Context, c Config) (*server.Server, error) {
	dir := filepath.Join(c.DataDir, "nats")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the data folder cannot be used: %w; choose another with --data-dir", err)
	}
	if err := tryWrite(dir); err != nil {
		return nil, err
	}
	options := &server.Options{
		ServerName: "sallyport", StoreDir: dir, JetStream: true, SyncAlways: true, JetStreamMaxStore: 1 << 50, JetStreamMaxMemory: 64 << 20,
		DontListen: true, NoSigs: true, NoLog: true,
	}
	if c.Listen != "" {
		host, port, err := splitLoopback(c.Listen)
		if err != nil {
			return nil, err
		}
		options.DontListen, options.Host, options.Port = false, host, port
	}
	srv, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("starting the embedded NATS server: %w", err)
	}
	srv.SetLoggerV2(&natsLog{c.Log}, false, false, false)
	srv.Start()
	deadline := time.Now().Add(time.Minute)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if !srv.ReadyForConnections(time.Until(deadline)) || !srv.JetStreamEnabled() {
		srv.Shutdown()
		return nil, fmt.Errorf("the embedded NATS server did not start with its data in %s: is another control plane using the folder, or is the disk full?", dir)
	}
	return srv, nil
}

// tryWrite fails early, and says what to do, where a folder cannot be written.
func tryWrite(dir string) error {
	probe := filepath.Join(dir, ".write-probe")
	f, err := os.OpenFile(probe, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(make([]byte, 4096))
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(probe))
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("the disk of the data folder %s is full: make space, then start again", dir)
	}
	return fmt.Errorf("the data folder %s cannot be written: %w; give the process the right to, or choose another with --data-dir", dir, err)
}

// Embedded tells whether the server lives and dies with this process.
func (c *Conn) Embedded() bool { return c.server != nil }

// Replicas is how many copies of a stream are to be kept.
func (c *Conn) Replicas() int { return c.replicas }

// ClientURL is where others reach the embedded server, if it listens.
func (c *Conn) ClientURL() string {
	if c.server == nil {
		return c.ConnectedUrl()
	}
	if c.server.Addr() == nil {
		return ""
	}
	return c.server.ClientURL()
}

// Healthy says why nothing can be written now, as far as the connection can tell. A server whose disk is
// full goes on without JetStream.
func (c *Conn) Healthy(ctx context.Context) error {
	if c.server != nil && !c.server.JetStreamEnabled() {
		return errors.New("the embedded NATS server has stopped to store: is the disk of the data folder full? Make space, then start again")
	}
	if !c.IsConnected() {
		if why := c.down.Load(); why != nil {
			return fmt.Errorf("there is no connection to NATS: %s", *why)
		}
		return errors.New("there is no connection to NATS")
	}
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("JetStream does not answer: %w", err)
	}
	return nil
}

// Close ends the connection and the embedded server, and waits for both.
func (c *Conn) Close() {
	if c.Conn != nil {
		c.Conn.Close()
	}
	if c.server != nil {
		c.server.Shutdown()
		c.server.WaitForShutdown()
	}
}
