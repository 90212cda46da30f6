package natsconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

const (
	// watchInterval is how often the embedded server's health is looked at.
	watchInterval = time.Second
	// believedAfter is how many looks in a row must find the store failed. One alone proves nothing: on a busy machine the server says
	// that it is not ready where it gets no processor for a millisecond, and that a stream is lost while it is being made.
	believedAfter = 3
	startTimeout  = time.Minute
	maxMemory     = 256 << 20
	asTheDiskHas  = 1 << 50
	// maxBatch is the most messages of an atomic batch. Each batch costs some milliseconds, however few are in it.
	maxBatch = 5000
)

// embedded is a server in this process. When its store failed, because the disk was full or went away, it
// is started again as soon as the folder takes writes: JetStream does not recover from that by itself.
type embedded struct {
	dir     string
	own     nkeys.KeyPair // of this process, the only one that may write
	config  Config
	log     *slog.Logger
	lock    *folderLock
	stop    chan struct{}
	watched sync.WaitGroup

	mu     sync.Mutex
	srv    *server.Server
	failed error // why the server is being started again, if it is
	port   int   // of the listener, once it is known
	// readers are who may read. Whoever comes without a key that is known is not let in.
	readers []Reader
}

func startEmbedded(ctx context.Context, c Config) (*embedded, error) {
	dir, err := filepath.Abs(filepath.Join(c.DataDir, "nats"))
	if err != nil {
		return nil, err
	}
	if err := probeFolder(dir); err != nil {
		return nil, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	own, err := nkeys.CreateUser()
	if err != nil {
		lock.release()
		return nil, fmt.Errorf("making the embedded server's key: %w", err)
	}
	e := &embedded{dir: dir, own: own, config: c, log: c.Log, lock: lock, stop: make(chan struct{})}
	if err := e.start(ctx); err != nil {
		lock.release()
		return nil, err
	}
	e.watched.Add(1)
	go e.watch()
	return e, nil
}

// options are those of RELIABILITY: each write is synced before it is acknowledged.
func (e *embedded) options() (*server.Options, error) {
	own, err := e.own.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded server's key: %w", err)
	}
	o := &server.Options{
		ServerName: "sallyport", StoreDir: e.dir,
		JetStream: true, SyncAlways: true, JetStreamMaxStore: e.config.MaxStore, JetStreamMaxMemory: maxMemory, JetStreamLimits: server.JSLimitOpts{MaxBatchSize: maxBatch},
		NoSigs: true, DontListen: true,
		Nkeys: []*server.NkeyUser{{Nkey: own}},
	}
	if o.JetStreamMaxStore == 0 {
		o.JetStreamMaxStore = asTheDiskHas
	}
	if e.config.Listen == "" {
		return o, nil
	}
	host, port, err := loopback(e.config.Listen)
	if err != nil {
		return nil, err
	}
	if e.port != 0 {
		port = e.port // after a restart, where it was
	}
	o.DontListen, o.Host, o.Port = false, host, port
	for _, r := range e.readers {
		o.Nkeys = append(o.Nkeys, r.user())
	}
	return o, nil
}

// loopback reads an address, and refuses one that others than this machine could reach.
func loopback(address string) (host string, port int, err error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("the address to listen on: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", 0, fmt.Errorf("the embedded server listens on loopback only, not on %q: for others than this machine run a NATS cluster", host)
	}
	port, err = strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("the address to listen on: %q is no port", portText)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// start starts a server. The caller is alone, or holds mu.
func (e *embedded) start(ctx context.Context) error {
	options, err := e.options()
	if err != nil {
		return err
	}
	srv, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("configuring the embedded server: %w", err)
	}
	logger := &serverLog{log: e.log}
	srv.SetLoggerV2(logger, false, false, false)
	// Start returns at once where there is no listener, and runs on its own.
	started := make(chan struct{})
	go func() { defer close(started); srv.Start() }()
	select {
	case <-started:
	case <-ctx.Done():
	case <-time.After(startTimeout):
	}
	wait := startTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	if logger.fatal() == nil && !srv.ReadyForConnections(max(wait, time.Millisecond)) && logger.fatal() == nil {
		srv.Shutdown()
		return errors.New("the embedded server did not start in time")
	}
	if err := logger.fatal(); err != nil {
		srv.Shutdown()
		return err
	}
	if !srv.JetStreamEnabled() {
		srv.Shutdown()
		return errors.New("the embedded server started without JetStream")
	}
	e.srv = srv
	if address, ok := srv.Addr().(*net.TCPAddr); ok && address != nil {
		e.port = address.Port
	}
	return nil
}

// InProcessConn gives nats.Connect a pipe to the server that runs now.
func (e *embedded) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.srv.InProcessConn()
}

func (e *embedded) clientURL() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.config.Listen == "" {
		return ""
	}
	host, _, err := loopback(e.config.Listen)
	if err != nil {
		return ""
	}
	return "nats://" + net.JoinHostPort(host, strconv.Itoa(e.port))
}

// healthy says why the store takes no writes, if so.
func (e *embedded) healthy() error {
	e.mu.Lock()
	failed := e.failed
	e.mu.Unlock()
	if failed != nil {
		if probe := probeFolder(e.dir); probe != nil {
			return probe
		}
		return fmt.Errorf("%w; it is being started again", failed)
	}
	if nearlyFull(e.dir) { // a server whose disk is full may go on and fail only at the next batch
		return probeFolder(e.dir)
	}
	return nil
}

func storeError(srv *server.Server) error {
	if !srv.JetStreamEnabled() {
		return errors.New("JetStream disabled itself")
	}
	if h := srv.Healthz(&server.HealthzOptions{}); h.Error != "" {
		return errors.New(h.Error)
	}
	return nil
}

// suspicion is how many looks in a row found the store failed.
type suspicion int

// look takes what one look found, and returns it once it is to be believed.
func (s *suspicion) look(found error) error {
	if found == nil {
		*s = 0
		return nil
	}
	if *s++; *s < believedAfter {
		return nil
	}
	return found
}

// watch starts the server again when its store failed and the folder takes writes again.
func (e *embedded) watch() {
	defer e.watched.Done()
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var suspected suspicion
	raised := false
	for {
		select {
		case <-e.stop:
			return
		case <-ticker.C:
		}
		failed := suspected.look(storeError(e.srv)) // only this goroutine replaces srv
		e.mu.Lock()
		e.failed = failed
		e.mu.Unlock()
		if failed == nil && !nearlyFull(e.dir) {
			raised = false
			continue
		}
		if err := probeFolder(e.dir); err != nil {
			if !raised {
				e.log.Error("the event store takes no writes", "error", err, "cause", failed)
				raised = true
			}
			continue
		}
		if failed == nil {
			raised = false
			continue
		}
		e.log.Warn("the event store failed and its folder takes writes again: starting it again", "cause", failed)
		e.restart()
	}
}

func (e *embedded) restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	if err := e.start(context.Background()); err != nil {
		// e.srv is the one that was shut down: the next look finds it disabled and tries again.
		e.log.Error("the event store did not start again", "error", err)
	}
}

func (e *embedded) close() {
	close(e.stop)
	e.watched.Wait()
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	e.lock.release()
}
