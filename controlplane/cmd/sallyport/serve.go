package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/validate"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/admin"
	"sallyport.dev/controlplane/internal/adminsession"
	"sallyport.dev/controlplane/internal/approval"
	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/export"
	"sallyport.dev/controlplane/internal/audit/postgres"
	"sallyport.dev/controlplane/internal/audit/readers"
	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/discover"
	"sallyport.dev/controlplane/internal/doctor"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/erasure"
	"sallyport.dev/controlplane/internal/fleet"
	"sallyport.dev/controlplane/internal/fleetca"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/limits"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/peers"
	"sallyport.dev/controlplane/internal/reporting"
	"sallyport.dev/controlplane/internal/scim"
	"sallyport.dev/controlplane/internal/usage"
	"sallyport.dev/controlplane/internal/vault"
)

// serveConfig is what the flags of `serve` say.
type serveConfig struct {
	dataDir          string
	erasedList       string
	sealAudit        bool
	auditing         auditConfig
	recoverOwner     bool
	scimRate         float64
	scimAddr         string
	adminAddr        string
	fleetAddr        string
	scimURL          string
	tlsCert, tlsKey  string
	signin           signinConfig
	webhook          webhookConfig
	balancers        balancersConfig
	spiffe           spiffeConfig
	nats             natsconn.Config
	lease, heartbeat time.Duration
	vaultKeys        []string
	certificateTTL   time.Duration
	logLevel         slog.Level
}

func serveCommand() *cobra.Command {
	c := &serveConfig{}
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a control plane", Args: cobra.NoArgs,
		Long: "Run a control plane: SCIM, the admin API, the proxies' API and sign-in, each on its own listener.\n\n" +
			"Without --nats-url it embeds the server that keeps its log, in --data-dir. While nobody owns\nthe installation, a start writes a bootstrap token to DATA-DIR/bootstrap-token: exchange it within the hour, by\nsallyport admins first-owner.",
		Example: "  sallyport serve --data-dir ./data\n  sallyport serve --data-dir /var/lib/sallyport --nats-url nats://n1,nats://n2,nats://n3 --nats-credentials sallyport.creds",
		RunE:    func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), c) },
	}
	f := cmd.Flags()
	f.StringVar(&c.dataDir, "data-dir", "sallyport-data", "folder for the log (embedded), the key-encryption key and checkpoints")
	f.StringVar(&c.erasedList, "erased-list", "", "file with the ids of people who were erased, to be kept apart from backups (default DATA-DIR/erased-people)")
	f.StringSliceVar(&c.vaultKeys, "vault-key", nil, "what seals the vault's keys: file:PATH, env:NAME (see sallyport vault new-key), hcvault://HOST/MOUNT/keys/NAME (HashiCorp Vault transit, with VAULT_TOKEN or VAULT_TOKEN_FILE), aws-kms://ARN, gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K or azure-kms://NAME.vault.azure.net/keys/KEY (each with its platform's credentials); several: the first seals, all open (default file:DATA-DIR/key-encryption-key.json)")
	f.BoolVar(&c.sealAudit, "seal-audit", false, "seal what audit says of a person (arguments, results, address) so that it goes when they are erased; JetStream consumers cannot read it")
	f.BoolVar(&c.recoverOwner, "recover-owner", false, "make a bootstrap token though there are owners, for the day on which none of them can get in")
	c.auditing.flags(cmd)
	f.StringVar(&c.scimAddr, "scim-addr", "127.0.0.1:7400", "where directories reach SCIM")
	f.StringVar(&c.adminAddr, "admin-addr", "127.0.0.1:7401", "where admins and the CLI reach the admin API")
	f.StringVar(&c.fleetAddr, "fleet-addr", "127.0.0.1:7402", "where proxies reach the control plane")
	f.StringVar(&c.scimURL, "scim-url", "", "public URL of the SCIM listener, for locations in answers (default: as requested)")
	f.Float64Var(&c.scimRate, "scim-rate", 500, "SCIM requests a second that are taken of one token, on average; twice as many may come at once (0: any number)")
	c.signin.flags(f)
	c.webhook.flags(f)
	c.balancers.flags(f)
	c.spiffe.flags(f)
	f.StringVar(&c.tlsCert, "tls-cert", "", "certificate file: all listeners then speak TLS; that of proxies always does, by the fleet's own authority")
	f.StringVar(&c.tlsKey, "tls-key", "", "key file of --tls-cert")
	f.StringVar(&c.nats.URL, "nats-url", "", "URLs of an external NATS cluster, separated by commas (default: embedded)")
	f.StringVar(&c.nats.Credentials, "nats-credentials", "", "NATS credentials file")
	f.StringVar(&c.nats.Listen, "nats-listen", "", "loopback address at which the embedded server can be reached with what sallyport audit consumers create makes, such as 127.0.0.1:4222 (default: not)")
	f.IntVar(&c.nats.Replicas, "nats-replicas", 0, "copies of each stream (default 1 embedded, 3 external)")
	f.DurationVar(&c.certificateTTL, "certificate-ttl", 24*time.Hour, "how long a proxy's certificate is good; it renews it when half of that is over")
	f.DurationVar(&c.lease, "lease", 30*time.Minute, "how long a proxy may serve without hearing from a control plane")
	f.DurationVar(&c.heartbeat, "heartbeat", 5*time.Second, "how often leases are renewed")
	f.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}

// plane is a running control plane's parts.
type plane struct {
	serveConfig
	log    *slog.Logger
	conn   *natsconn.Conn
	vault  *vault.Vault
	engine *engine.Engine
	audit  *audit.Store
	// conditionValuesKey is that to which proxies seal what conditions read.
	conditionValuesKey []byte
	trail              *audit.Recorder
	index              *postgres.Index
	tables             *reporting.Tables
	roster             *fleet.Roster
	lately             *activity.Recorder
	watch              *activity.Watch
	eraser             *erasure.Worker
	admins             *adminsession.Sessions
	tokens             *authserver.Server
	// sightings remembers who signed in, for the doctor.
	sightings *doctor.Sightings
	// approvals asks people for their yes.
	approvals *approval.Server
	// limits keeps what is used of budgets.
	limits *limits.Ledger
	// exporters send audit on.
	exporters *export.Runner
	// readers gives other systems their own way to read audit.
	readers *readers.Desk
	// usage remembers who used the gateway.
	usage *usage.Recorder
	name  string
}

func serve(ctx context.Context, c *serveConfig) error {
	boundGarbage()
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.logLevel}))
	p := &plane{serveConfig: *c, log: log, name: "cp-" + uuid.NewString()[:8]}
	if err := os.MkdirAll(c.dataDir, 0o700); err != nil {
		return fmt.Errorf("the data folder cannot be used: %w; choose another with --data-dir", err)
	}
	closed, err := p.openInTime(ctx)
	defer closed()
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// settling is how long the servers of an event store may take to agree who leads them, when they and the control plane
// start together.
const settling = time.Minute

// openInTime opens the parts, again for as long as the event store's servers are only settling.
func (p *plane) openInTime(ctx context.Context) (closeAll func(), err error) {
	for begun := time.Now(); ; {
		closeAll, err = p.open(ctx)
		if err == nil || !natsconn.Settling(err) || ctx.Err() != nil || time.Since(begun) > settling {
			return closeAll, err
		}
		closeAll()
		p.log.Warn("the event store's servers do not agree yet who leads them: the control plane opens it again", "reason", err.Error())
		select {
		case <-ctx.Done():
			return func() {}, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// open connects the parts, from the log up. What closes them is returned also with an error.
func (p *plane) open(ctx context.Context) (closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}
	nats := p.nats
	nats.DataDir, nats.Name, nats.Log = p.dataDir, p.name, p.log
	if p.conn, err = natsconn.Open(ctx, nats); err != nil {
		return closeAll, err
	}
	closers = append(closers, p.conn.Close)
	replicas := p.conn.Replicas()
	secrets, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_VAULT", Replicas: replicas})
	if err != nil {
		return closeAll, err
	}
	if p.vault, err = vault.Open(ctx, secrets, vault.Config{Keys: p.keysOfVault(), Log: p.log}); err != nil {
		return closeAll, err
	}
	shared, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_SHARED", Replicas: replicas})
	if err != nil {
		return closeAll, err
	}
	events, err := journal.Open(ctx, p.conn.Conn, journal.Config{Replicas: replicas, Log: p.log})
	if err != nil {
		return closeAll, err
	}
	if err := p.openAudit(ctx); err != nil {
		return closeAll, err
	}
	erased, err := erasure.OpenList(cmp.Or(p.erasedList, filepath.Join(p.dataDir, "erased-people")))
	if err != nil {
		return closeAll, err
	}
	config := engine.Config{
		Journal: events, Seals: p.vault, Store: p.conn.Healthy, Log: p.log,
		Checkpoints: &engine.Checkpoints{Path: filepath.Join(p.dataDir, "checkpoint"), Kept: filepath.Join(p.dataDir, "states"), Blobs: p.vault, Erased: erased.All()},
	}
	if !p.conn.Embedded() {
		config.Peers = &peers.Peers{NC: p.conn.Conn, Store: shared, ID: p.name, Log: p.log}
	}
	if p.engine, err = engine.Open(ctx, config); err != nil {
		return closeAll, err
	}
	p.roster = fleet.NewRoster(standings{shared}, p.log)
	p.lately = activity.NewRecorder(shared, p.log)
	p.openUsage(shared)
	p.eraser = erasure.New(erasure.Config{Engine: p.engine, Keys: erasing{p}, Log: events, List: erased, Logger: p.log})
	return closeAll, p.openReporting()
}

// run serves until ctx ends, then lets what is under way finish.
func (p *plane) run(ctx context.Context) error {
	publisher := fleet.NewPublisher(p.engine.State(), 0)
	p.engine.Start(p.watching(publisher.Publish))
	defer p.engine.Close()
	bootstrap, err := p.bootstrap(ctx)
	if err != nil {
		return err
	}
	if err := p.eraser.Restore(ctx); err != nil {
		return err
	}
	authority, err := fleetca.Open(ctx, p.vault, p.certificateTTL, time.Now)
	if err != nil {
		return err
	}
	workloads, err := p.spiffe.openWorkloads(ctx, p.log)
	if err != nil {
		return err
	}
	rotation := &fleet.Rotation{Authority: authority, Engine: p.engine, Roster: p.roster, Trail: p.trail, Now: time.Now}
	p.admins = &adminsession.Sessions{Engine: p.engine, URL: p.signinURL(), Now: time.Now}
	signIn, err := p.openSignIn(ctx)
	if err != nil {
		return err
	}
	if err := p.openLimits(ctx); err != nil {
		return err
	}
	if err := p.openExporters(ctx); err != nil {
		return err
	}
	catalogues, err := p.followCatalogues(ctx, signIn.keeper)
	if err != nil {
		return err
	}
	fleetServer := fleet.New(fleet.Config{
		Engine: p.engine, Commands: p.engine, Authority: authority, Secrets: p.vault, Credentials: signIn.keeper, Audit: p.audit, Trail: p.trail, Roster: p.roster, Publisher: publisher,
		Verifier: fleet.NewVerifier(nil, nil), Own: signIn.server, Approvals: p.approvals, Budgets: p.limits, Issued: catalogues.Issued, Seen: signIn.uses.Seen, Delivered: p.usage.Note, Lease: p.lease, Heartbeat: p.heartbeat, Name: p.name, Log: p.log,
		ConditionValuesKey: p.conditionValuesKey,
	})
	fleetMux := http.NewServeMux()
	fleetMux.Handle(fleetv1connect.NewFleetServiceHandler(fleetServer, fleet.Validation(), connect.WithReadMaxBytes(32<<20), fleet.Compression()))
	fleetMux.Handle(fleetv1connect.NewApprovalServiceHandler(fleetServer, fleet.Validation(), connect.WithReadMaxBytes(1<<20)))
	fleetMux.Handle(fleetv1connect.NewLimitServiceHandler(fleetServer, fleet.Validation(), connect.WithReadMaxBytes(64<<10)))
	fleetMux.Handle(fleetv1connect.NewEnrolmentServiceHandler(fleetServer,
		connect.WithInterceptors(validate.NewInterceptor()), connect.WithReadMaxBytes(64<<10)))

	adminMux := http.NewServeMux()
	adminMux.Handle("/login", p.admins.Handler())
	adminMux.Handle("/login/", p.admins.Handler())
	adminMux.Handle("/", admin.NewHandler(p.withDoctor(p.auditOf(admin.Config{
		Engine: p.engine, Secrets: p.vault, Fleet: p.roster, Discoverer: discover.Discoverer{}, Credentials: signIn.keeper, Activity: p.lately, Sessions: p.admins,
		SignInSecrets: p.vault, SignInURL: p.signinURL(), Authorization: signIn.server, Reviews: p.approvals, Budgets: p.limits, Usage: p.usage, FleetAuthority: rotation, Catalogues: catalogues, Vault: vaultKeys{p.vault}, Invitation: func(token string) string { return fleet.Invitation(token, authority.Fingerprint()) }, Log: p.log,
	}), signIn.people)))
	adminMux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	adminMux.HandleFunc("GET /readyz", p.ready)
	adminMux.Handle("GET /metrics", p.metrics())

	defer p.runAudit(ctx)()
	defer p.runReporting(ctx)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	failed := make(chan error, 5)
	running.Go(func() { fleetServer.Run(ctx) })
	health := &fleet.Health{Roster: p.roster, State: p.engine.State, Leading: p.engine.Leading, Trail: p.trail, Now: time.Now}
	running.Go(func() { health.Run(ctx) })
	running.Go(func() { p.rotate(ctx, rotation) })
	running.Go(func() { workloads.Run(ctx) })
	running.Go(func() { p.eraser.Run(ctx) })
	running.Go(func() { signIn.server.Run(ctx) })
	running.Go(func() { signIn.uses.Run(ctx) })
	running.Go(func() { signIn.keeper.Run(ctx) })
	running.Go(func() { p.approvals.Run(ctx) })
	running.Go(func() { catalogues.Run(ctx) })
	running.Go(func() { p.exporters.Run(ctx) })
	running.Go(func() { p.readers.Run(ctx) })
	if bootstrap != uuid.Nil {
		running.Go(func() { p.forgetBootstrap(ctx, bootstrap) })
	}
	running.Go(func() { p.usage.Run(ctx) })
	running.Go(func() { p.lately.Run(ctx) })
	running.Go(func() { p.watch.Run(ctx) })
	running.Go(func() { p.vault.Run(ctx) })
	running.Go(func() {
		if err := p.roster.Run(ctx); err != nil {
			failed <- err
		}
	})
	provider, err := p.withSignals(ctx, scim.New(scim.Config{Engine: p.engine, BaseURL: p.scimURL, PerSecond: p.scimRate, Note: p.lately.Note, Log: p.log}))
	if err != nil {
		return err
	}
	listeners := []struct {
		name, addr string
		handler    http.Handler
	}{
		{"scim", p.scimAddr, provider},
		{"admin", p.adminAddr, adminMux},
		{"fleet", p.fleetAddr, fleet.ByCertificate(workloads, fleetMux)},
		{"signin", p.signin.addr, signIn.handler},
	}
	for _, l := range listeners {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.addr)
		if err != nil {
			cancel()
			return fmt.Errorf("the %s listener cannot be opened: %w; choose another with --%s-addr", l.name, err, l.name)
		}
		handler := l.handler
		if l.name != "fleet" { // none can stand before it
			if handler, err = p.balancers.behind(handler); err != nil {
				cancel()
				return err
			}
		}
		server := newServer(ctx, handler)
		if l.name == "scim" || l.name == "signin" { // the others have streams
			server.ReadTimeout = time.Minute
		}
		running.Go(func() {
			<-ctx.Done()
			grace, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer done()
			if server.Shutdown(grace) != nil {
				_ = server.Close() // streams that did not end in time
			}
		})
		cert, key := p.tlsCert, p.tlsKey
		if l.name == "fleet" { // proxies and control planes know each other by certificates of their own
			server.TLSConfig, cert, key = fleet.TLS(authority, workloads), "", ""
			server.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
		}
		running.Go(func() {
			var err error
			if server.TLSConfig != nil || cert != "" {
				err = server.ServeTLS(listener, cert, key)
			} else {
				err = server.Serve(listener)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("the %s listener: %w", l.name, err)
			}
		})
		p.log.Info("listening", "what", l.name, "address", listener.Addr().String())
	}
	p.log.Info("ready", "control_plane", p.name, "version", p.engine.State().Seq(), "nats", p.conn.ClientURL())
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		cancel()
		return err
	}
}

// newServer speaks HTTP/1.1 and HTTP/2, without TLS too: streams need it. Its requests end with ctx, so
// that streams let a shutdown go on.
func newServer(ctx context.Context, h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
}

// ready says whether changes can be made durable here and now.
func (p *plane) ready(w http.ResponseWriter, r *http.Request) {
	// The store first: it knows the cause, such as a full disk, of which the engine sees only the silence.
	err := p.conn.Healthy(r.Context())
	if err == nil {
		err = p.engine.Healthy()
	}
	if err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// standings keeps the roster where every control plane sees it.
type standings struct{ store *kv.Store }

// forgottenAfter is how long a proxy that was never heard of again is known.
const forgottenAfter = 30 * 24 * time.Hour

// Update changes a proxy's standing.
func (s standings) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) (uint64, error) {
	return s.store.Change(ctx, key, forgottenAfter, change)
}

// Watch follows all standings.
func (s standings) Watch(ctx context.Context, synced func(), fn func(key string, value []byte, revision uint64)) error {
	return s.store.Watch(ctx, "proxy.", synced, func(e kv.Entry) error {
		if e.Value != nil {
			fn(e.Key, e.Value, e.Revision)
		}
		return nil
	})
}
