package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/address"
	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/h1"
	"sallyport.dev/dataplane/internal/identity"
	"sallyport.dev/dataplane/internal/meter"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/spool"
	"sallyport.dev/dataplane/internal/telemetry"
	"sallyport.dev/dataplane/internal/upstream"
)

// featureLevel is the newest level of changes that this build understands.
const featureLevel = 4

// serveConfig is what the flags of `serve` say.
type serveConfig struct {
	name, region  string
	controlPlanes []string
	invitation    string
	listen        string
	publicURL     string
	resource      string
	spiffe        spiffeConfig
	peerURL       string
	peerListen    string
	dataDir       string
	durability    string
	spoolFull     string
	spoolBytes    int64
	maxBody       int64
	maxResult     int
	heartbeat     time.Duration
	origins       []string
	hosts         []string
	balancers     []string
	balancerSays  string
	maxOpen       int
	maxOpenOfOne  int
	pageSize      int
	findTools     int
	runner        string
	runnerToken   string
	adminAddr     string
	otlpEndpoint  string
	traceRatio    float64
	tlsCert       string
	tlsKey        string
	drainDelay    time.Duration
	drain         time.Duration
	logLevel      slog.Level
}

func serveCommand() *cobra.Command {
	c := &serveConfig{}
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a proxy", Args: cobra.NoArgs,
		Long:    "Run a proxy. At its first start it joins the fleet with an invitation, which names it and its region: sallyport proxies invite NAME --region REGION.\nFrom then on it has a certificate, which it renews by itself.",
		Example: "  sallyport-proxy serve --name us-east-1 --region us-east --control-plane https://sallyport.internal:7402 \\\n    --invitation-file invitation --listen :8080 --public-url https://mcp.us-east.example.com --data-dir /var/lib/sallyport-proxy",
		RunE:    func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), c) },
	}
	f := cmd.Flags()
	f.StringVar(&c.name, "name", "", "the proxy's name, as its invitation has it")
	f.StringVar(&c.region, "region", "", "the proxy's region, as its invitation has it")
	f.StringSliceVar(&c.controlPlanes, "control-plane", nil, "URL of a control plane's fleet listener; several: the next is tried when one fails")
	f.StringVar(&c.invitation, "invitation-file", "", "file with the invitation, which is needed at the first start alone (default: env SALLYPORT_INVITATION)")
	f.StringVar(&c.listen, "listen", "127.0.0.1:8080", "where agents reach the proxy")
	f.StringVar(&c.publicURL, "public-url", "", "how agents reach the proxy, without a path (default: http:// and --listen)")
	f.StringVar(&c.resource, "resource", "", "the one URL that people are given, whatever region serves it (default: --public-url and /mcp)")
	f.StringVar(&c.peerURL, "peer-url", "", "where other proxies of the region reach --peer-listen, such as https://10.1.2.3:7443 (default: not; sessions then stay with one proxy)")
	f.StringVar(&c.peerListen, "peer-listen", "", "where other proxies of the region reach this one, by the fleet's certificates; with --peer-url")
	f.StringVar(&c.dataDir, "data-dir", "sallyport-proxy-data", "folder of the audit spool")
	f.StringVar(&c.durability, "durability", "process", "what a record survives before its call is forwarded: process (its crash), disk (also the machine's) or central (a control plane has it: no call is made while none can be reached)")
	f.Int64Var(&c.spoolBytes, "spool-bytes", 1<<30, "most bytes of undelivered audit")
	f.StringVar(&c.spoolFull, "spool-full", "refuse", "what happens when that is reached: refuse (calls are refused) or drop-oldest (the older half is dropped, and a record says how many that were)")
	f.Int64Var(&c.maxBody, "max-body", 4<<20, "most bytes of a request")
	f.IntVar(&c.maxResult, "max-result", 16<<20, "most bytes of a result that comes as one message")
	f.DurationVar(&c.heartbeat, "heartbeat", 5*time.Second, "the control planes' heartbeat interval: after three without one the stream is opened anew")
	f.StringSliceVar(&c.origins, "allow-origin", nil, "browser origins that may call, beside the proxy's own")
	f.StringSliceVar(&c.hosts, "allow-host", nil, "names by which agents and load balancers reach the proxy, beside those of --public-url, --resource and --peer-url")
	f.StringSliceVar(&c.balancers, "load-balancer", nil, "addresses or ranges of the load balancers before --listen, such as 10.1.0.0/16, whose word is taken for where a request came from (default: nobody's)")
	f.StringVar(&c.balancerSays, "load-balancer-header", address.XForwardedFor, "header in which they say it: X-Forwarded-For or Forwarded")
	f.IntVar(&c.maxOpen, "max-open", 50_000, "most calls and streams that may be open")
	f.IntVar(&c.maxOpenOfOne, "max-open-per-person", 500, "most calls and streams of one person that may be open")
	f.IntVar(&c.pageSize, "page-size", 1000, "most entries of a list on one page")
	f.IntVar(&c.findTools, "find-tools", 0, "where a person has more tools at /mcp than this, list find_tools and call_tool in their place (default: list all, by pages)")
	f.StringVar(&c.runner, "runner", "", "URL of the runner beside the proxy, such as http://127.0.0.1:7420, for connectors whose URL is stdio:NAME (default: there is none)")
	f.StringVar(&c.runnerToken, "runner-token-file", "", "file with the runner's token (default: env SALLYPORT_RUNNER_TOKEN)")
	f.StringVar(&c.adminAddr, "admin-addr", "", "where /metrics, /healthz, /readyz and /debug/pprof/ are, such as 127.0.0.1:9464; not for agents (default: nowhere)")
	f.StringVar(&c.otlpEndpoint, "otlp-endpoint", "", "URL of an OpenTelemetry collector that takes OTLP over HTTP, such as http://127.0.0.1:4318 (default: no traces)")
	f.Float64Var(&c.traceRatio, "trace-ratio", 0.01, "part of the calls without a trace of the agent's own that are traced, 0 to 1")
	f.StringVar(&c.tlsCert, "tls-cert", "", "certificate file: the proxy then speaks TLS")
	f.StringVar(&c.tlsKey, "tls-key", "", "key file of --tls-cert")
	f.DurationVar(&c.drainDelay, "drain-delay", 0, "how long the proxy goes on to take requests after it was asked to stop, while /readyz says that it is not ready: as long as load balancers take to see that")
	f.DurationVar(&c.drain, "drain", 30*time.Second, "how long calls in flight may take to end after that")
	f.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	c.spiffe.flags(f)
	for _, required := range []string{"name", "region", "control-plane"} {
		_ = cmd.MarkFlagRequired(required)
	}
	return cmd
}

func serve(ctx context.Context, c *serveConfig) error {
	boundGarbage()
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.logLevel}))
	if (c.peerURL == "") != (c.peerListen == "") {
		return errors.New("--peer-url and --peer-listen go together")
	}
	var client *replica.Client
	who, err := c.identity(ctx, log, func() { client.Reconnect() })
	if err != nil {
		return err
	}
	client, err = replica.NewClient(c.controlPlanes, who.ForControlPlanes())
	if err != nil {
		return err
	}
	durability := spool.Process
	switch c.durability {
	case "process":
	case "disk":
		durability = spool.Disk
	case "central":
		durability = spool.Central
	default:
		return fmt.Errorf("--durability is process, disk or central, not %q", c.durability)
	}
	if c.spoolFull != "refuse" && c.spoolFull != "drop-oldest" {
		return fmt.Errorf("--spool-full is refuse or drop-oldest, not %q", c.spoolFull)
	}
	records, err := spool.Open(spool.Config{
		Dir: filepath.Join(c.dataDir, "spool"), Proxy: c.name, Region: c.region, Durability: durability, MaxBytes: c.spoolBytes, DropOldest: c.spoolFull == "drop-oldest", Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := records.Close(); err != nil {
			log.Error("the spool could not be closed", "error", err)
		}
	}()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return fmt.Errorf("the listener cannot be opened: %w; choose another with --listen", err)
	}
	if c.publicURL == "" {
		c.publicURL = "http://" + listener.Addr().String()
	}
	return c.run(ctx, log, who, client, records, listener)
}

// run connects the parts and serves until ctx ends, then lets what is under way finish.
func (c *serveConfig) run(ctx context.Context, log *slog.Logger, who identityOf, client *replica.Client, records *spool.Spool, listener net.Listener) error {
	var front *gateway.Gateway
	verifier := identity.New(identity.Config{Logger: log})
	policies := replica.New(replica.Config{
		Client: client, Build: version, FeatureLevel: featureLevel, Heartbeat: c.heartbeat, Logger: log,
		PeerURL: c.peerURL, OnPeers: func(all []*fleetv1.Peer) { who.Peers(all); front.Peers(all) },
		Troubles: func() *fleetv1.Troubles { return front.Troubles() }, Authorities: who.Holds, OnAuthorities: who.Want,
		OnWelcome: func(w *fleetv1.Welcome) {
			if w.GetProxy() != c.name || w.GetRegion() != c.region {
				log.Error("the invitation was for another proxy: start with --name and --region as it has them", "invited_proxy", w.GetProxy(), "invited_region", w.GetRegion())
				return
			}
			front.Welcome(w)
		},
	})
	credentials := policies.Credentials()
	defer credentials.Close()
	pool := upstream.NewPool(upstream.Config{})
	defer func() {
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
		defer done()
		if err := pool.Close(grace); err != nil {
			log.Warn("upstreams were not told in time that the proxy stops", "error", err)
		}
	}()
	runnerToken, err := secret(c.runnerToken, "SALLYPORT_RUNNER_TOKEN")
	if err != nil {
		return err
	}
	metrics := telemetry.NewMetrics(version)
	var tracer *telemetry.Tracer
	if c.otlpEndpoint != "" {
		if tracer, err = telemetry.NewTracer(ctx, c.otlpEndpoint, c.traceRatio, c.name, c.region, version); err != nil {
			return err
		}
		defer func() {
			grace, done := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
			defer done()
			if err := tracer.Close(grace); err != nil {
				log.Warn("traces were not sent in time", "error", err)
			}
		}()
	}
	budgets := meter.New(client, nil)
	front, err = gateway.New(gateway.Config{
		PublicURL: c.publicURL, Resource: c.resource, Proxy: c.name, Region: c.region, Replica: policies, Verifier: verifier, Spool: records,
		Upstream: pool, Credentials: credentials, Approvals: client, Meter: budgets, PeerTLS: who.ForPeer, Runner: c.runner, RunnerToken: runnerToken, Metrics: metrics, Tracer: tracer, MaxBody: c.maxBody, MaxResult: c.maxResult, Origins: c.origins, Hosts: append(c.hosts, hostOf(c.peerURL)), MaxOpen: c.maxOpen, MaxOpenOfOne: c.maxOpenOfOne, PageSize: c.pageSize, FindTools: c.findTools, Version: version, Log: log,
	})
	if err != nil {
		return err
	}
	// Delivery goes on while requests end, so that their records still leave.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer stopWork()
	unsubscribe := policies.Subscribe(func(change replica.Change) {
		if change.Table != nil && change.Effect.Everybody {
			verifier.Watch(change.Table.Issuers())
		}
	})
	defer unsubscribe()
	running.Go(func() { _ = policies.Run(work) }) // it returns work's end
	running.Go(func() { _ = verifier.Run(work) })
	running.Go(func() { front.Run(work) })
	running.Go(func() { who.Run(work) })
	running.Go(func() { sweep(work, pool) })
	running.Go(func() { budgets.Run(work) })
	running.Go(func() {
		if err := records.Deliver(work, client.DeliverAudit); err != nil && work.Err() == nil {
			log.Error("audit is not delivered any more: restart the proxy", "error", err)
		}
	})
	observe(metrics, front, policies, records, pool)
	if c.adminAddr != "" {
		admin, err := new(net.ListenConfig).Listen(ctx, "tcp", c.adminAddr)
		if err != nil {
			return fmt.Errorf("the admin listener cannot be opened: %w; choose another with --admin-addr", err)
		}
		server := adminServer(metrics, front)
		running.Go(func() {
			if err := server.Serve(admin); !errors.Is(err, http.ErrServerClosed) {
				log.Error("the admin listener ended", "error", err)
			}
		})
		defer server.Close() //nolint:errcheck // nobody waits for what it says
		log.Info("metrics", "address", admin.Addr().String())
	}
	if c.peerListen != "" {
		closePeers, err := c.servePeers(ctx, log, front, who.FromPeers())
		if err != nil {
			return err
		}
		defer closePeers()
	}
	return c.listenAndServe(ctx, log, front, h1.Patient(listener))
}

// servePeers lets the other proxies of the region in, and nobody else.
func (c *serveConfig) servePeers(ctx context.Context, log *slog.Logger, front http.Handler, by *tls.Config) (closeAll func(), err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.peerListen)
	if err != nil {
		return nil, fmt.Errorf("the peers' listener cannot be opened: %w; choose another with --peer-listen", err)
	}
	server := &http.Server{Handler: front, TLSConfig: by, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.ServeTLS(h1.Patient(listener), "", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the peers' listener ended", "error", err)
		}
	}()
	return func() {
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
		defer done()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // what did not end in time
		}
		<-ended
	}, nil
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

// sweep ends upstream sessions that nobody uses any more.
func sweep(ctx context.Context, pool *upstream.Pool) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			pool.Sweep()
		}
	}
}

func (c *serveConfig) listenAndServe(ctx context.Context, log *slog.Logger, front *gateway.Gateway, listener net.Listener) error {
	balancers, err := address.NewBalancers(c.balancers, c.balancerSays)
	if err != nil {
		return fmt.Errorf("--load-balancer: %w", err)
	}
	handler := balancers.Handler(front)
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := h1.New(handler, &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return requests },
	})
	server.Base, server.Log = requests, log
	if c.tlsCert != "" {
		certificate, err := tls.LoadX509KeyPair(c.tlsCert, c.tlsKey)
		if err != nil {
			return fmt.Errorf("the certificate of --tls-cert and --tls-key cannot be used: %w", err)
		}
		server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("listening", "address", listener.Addr().String(), "public_url", c.publicURL)
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	front.Leave()
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-time.After(c.drainDelay):
	}
	front.EndStreams()
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), c.drain)
	defer done()
	if server.Shutdown(grace) != nil {
		log.Warn("calls were cut that did not end in time", "after", c.drain)
		cut()
		_ = server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// drainFor is how long may be taken to tell others that the proxy stops.
const drainFor = 5 * time.Second
