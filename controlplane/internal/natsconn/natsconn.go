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
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where NATS is. Its zero value lacks only URL or DataDir.
type Config struct {
	// URL is that of an external server or cluster, or several with commas. Empty: a server is embedded.
	URL string
	// Credentials is a file with NATS credentials for the external cluster.
	Credentials string
	// DataDir is the folder of the embedded server, which keeps its data below it in "nats". It is made
	// where there is none. One process at a time can use it.
	DataDir string
	// Listen is a loopback address, such as "127.0.0.1:0", at which whoever SetReaders names can read on this machine, and
	// nobody else is let in. Empty: nobody can.
	Listen string
	// MaxStore is the most bytes that the embedded server keeps. Default: as the disk has.
	MaxStore int64
	// Name names this control plane among others.
	Name string
	// Replicas is how many servers of a cluster keep each stream. Default 1 embedded, 3 external.
	Replicas int
	Log      *slog.Logger
}

// ErrUnavailable says that NATS stores nothing now; the text tells why, and what to do.
var ErrUnavailable = errors.New("the event store is not available")

// Conn is a connection with, perhaps, the server behind it.
type Conn struct {
	*nats.Conn
	server   *embedded
	replicas int
}

// Open connects, and returns when the server answers. The context bounds opening alone. The caller closes,
// after all that use the connection have ended.
func Open(ctx context.Context, c Config) (*Conn, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.URL != "":
		return openExternal(ctx, c)
	case c.DataDir != "":
		return openEmbedded(ctx, c)
	}
	return nil, errors.New("opening the event store: name a data folder, or the URL of a NATS cluster")
}

func openEmbedded(ctx context.Context, c Config) (*Conn, error) {
	server, err := startEmbedded(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening the event store: %w", err)
	}
	own, err := server.own.PublicKey()
	if err != nil {
		server.close()
		return nil, fmt.Errorf("reading the embedded NATS server's key: %w", err)
	}
	nc, err := nats.Connect("", append(options(c), nats.InProcessServer(server), nats.Nkey(own, server.own.Sign))...)
	if err != nil {
		server.close()
		return nil, fmt.Errorf("connecting to the embedded NATS server: %w", err)
	}
	return &Conn{Conn: nc, server: server, replicas: max(c.Replicas, 1)}, nil
}

func openExternal(ctx context.Context, c Config) (*Conn, error) {
	all := options(c)
	if c.Credentials != "" {
		all = append(all, nats.UserCredentials(c.Credentials))
	}
	if deadline, ok := ctx.Deadline(); ok {
		all = append(all, nats.Timeout(max(time.Until(deadline), time.Millisecond)))
	}
	nc, err := nats.Connect(c.URL, all...)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS at %s: %w; is it running, and can this machine reach it?", redacted(c.URL), err)
	}
	conn := &Conn{Conn: nc, replicas: c.Replicas}
	if conn.replicas == 0 {
		conn.replicas = 3
	}
	if err := checkSyncAlways(ctx, nc, c.Log); err != nil {
		nc.Close()
		return nil, err
	}
	return conn, nil
}

// settlingCodes are JetStream's for: no peers, no leader of all, and not enough servers.
var settlingCodes = []jetstream.ErrorCode{10005, 10008, 10023}

// Settling says whether an error is one of servers that have no leader yet, or not enough peers, as while a cluster starts.
func Settling(err error) bool {
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) {
		return slices.Contains(settlingCodes, api.ErrorCode)
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders)
}

// options are the same for both kinds of server: one code path.
func options(c Config) []nats.Option {
	return []nats.Option{
		nats.Name(c.Name),
		nats.ReconnectBufSize(-1), // what is published while there is no connection fails, and is known not to be sent
		nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 100*time.Millisecond),
		nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(3),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				c.Log.Warn("the connection to NATS is lost; it is opened again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.Log.Info("connected to NATS again", "server", nc.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.Log.Warn("NATS reports an error", "error", err)
		}),
	}
}

// Embedded tells whether the server lives and dies with this process: nobody else can write to it.
func (c *Conn) Embedded() bool { return c.server != nil }

// Replicas is how many copies of a stream are to be kept.
func (c *Conn) Replicas() int { return c.replicas }

// ClientURL is where others reach the server: empty where the embedded one does not listen.
func (c *Conn) ClientURL() string {
	if c.server == nil {
		return c.ConnectedUrlRedacted()
	}
	return c.server.clientURL()
}

// Healthy returns nil when NATS stores what it is given, or an ErrUnavailable that says why not. A server
// whose disk is full goes on without storing; the embedded one recovers when there is space again.
func (c *Conn) Healthy(ctx context.Context) error {
	if c.server != nil {
		if err := c.server.healthy(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if !c.IsConnected() {
		if err := c.LastError(); err != nil {
			return fmt.Errorf("%w: there is no connection to NATS: %w", ErrUnavailable, err)
		}
		return fmt.Errorf("%w: there is no connection to NATS", ErrUnavailable)
	}
	return askJetStream(ctx, c.Conn)
}

// Close ends the connection and the embedded server, and waits for both.
func (c *Conn) Close() {
	c.Conn.Close()
	if c.server != nil {
		c.server.close()
	}
}
