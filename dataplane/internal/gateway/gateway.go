// Package gateway is the proxy's front: it speaks MCP to agents and lets a call through to an upstream when
// the caller is known, the policy allows it, and a record of it is kept.
//
// Call, in call.go, is the call path, top to bottom. What is open (calls in flight, streams) is decided again
// whenever the policy changes, and cut when the verdict is no longer yes. The package holds no policy, and
// nothing that cannot be fetched again.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/internal/identity"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/meter"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/spool"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/telemetry"
	"sallyport.dev/dataplane/internal/upstream"
	"sallyport.dev/dataplane/policy"
	"sallyport.dev/dataplane/sealing"
)

// Config is what a gateway is made of. PublicURL, Replica, Verifier, Spool, Upstream and Credentials are required.
type Config struct {
	// PublicURL is how agents reach the proxy, without a path: resource URLs begin with it.
	PublicURL string
	// Resource is the one URL that people are given, whatever region serves it: an audience that tokens may
	// have at each endpoint. Default: PublicURL and "/mcp".
	Resource string
	// Proxy names this proxy, Region is where it stands.
	Proxy, Region string

	Replica     *replica.Replica
	Verifier    *identity.Verifier
	Spool       *spool.Spool
	Upstream    *upstream.Pool
	Credentials *replica.Credentials
	// Meter holds calls to the limits of the policy. Nil: calls with limits are refused.
	Meter *meter.Meter
	// Approvals asks people for the yes that rules want. Nil: nobody can be asked, and such calls are refused.
	Approvals Approvals

	// PeerTLS configures connections to another proxy of the region. Default: the system's authorities.
	PeerTLS func(p *fleetv1.Peer) *tls.Config
	// Runner is where connectors are reached whose URL is stdio:NAME, and RunnerToken what it wants to see. Empty: there is none.
	Runner, RunnerToken string
	// Metrics and Tracer say how the proxy does; nil: nobody asks.
	Metrics *telemetry.Metrics
	Tracer  *telemetry.Tracer
	// MaxBody is the most bytes of a request's body. Default 4 MiB.
	MaxBody int64
	// MaxResult is the most bytes of a result that comes as one JSON message, or of one event. Default 16 MiB.
	MaxResult int
	// ReadBody is how long a request's body may take to arrive. Default 30 seconds.
	ReadBody time.Duration
	// JSON bounds what is read from agents. Its zero value has defaults.
	JSON strictjson.Limits
	// MaxOpen is how many calls and streams may be open at the proxy, MaxOpenOfOne how many of one person. Defaults: 50,000 and 500.
	MaxOpen, MaxOpenOfOne int
	// Hosts are names by which the proxy is reached, beside those of PublicURL and Resource. What asks for another is refused, as
	// pages do whose name was made to lead here.
	Hosts []string
	// FindTools is how many tools the endpoint of all connectors lists for a person before it lists find_tools and call_tool in their
	// place. Zero: however many there are.
	FindTools int
	// PageSize is how many a list has on one page. Default 1,000: many clients ask for no second one.
	PageSize int
	// SessionFor is how long a session id of the session era is good. Default 24 hours.
	SessionFor time.Duration
	// AskFor is how long an agent may take to answer what an upstream asks. Default 5 minutes.
	AskFor time.Duration
	// ResumeFor is how long an agent of the session era whose connection broke may take to come back for the rest of a stream.
	// Default 30 seconds.
	ResumeFor time.Duration
	// KeepAlive is how often an idle stream gets a sign of life. Default 25 seconds.
	KeepAlive time.Duration
	// Origins may call from a browser, beside the proxy's own. Default: none.
	Origins []string
	// Version is the build's, as agents see it.
	Version string
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Gateway serves agents. It is safe for concurrent use.
type Gateway struct {
	Config
	server  mcp.Server
	origin  string
	base    string // the URL of this proxy's endpoint of all connectors
	hosts   map[string]bool
	flights *flights
	asks    *asks
	parking *parking
	levels  *levels
	tracks  *tracks
	watches *watches
	peers   *peers
	sealer  atomic.Pointer[mcp.Sealer]
	sender  atomic.Pointer[sealing.Sender] // to the control plane; nil: it has told no key
	ended   *endedSessions
	mux     *http.ServeMux

	leaving     atomic.Bool
	refusals    refusals
	lists       kept
	listRecords listRecords
	hidden      []string // names; the subscription's alone
}

// New returns a gateway. It must be told of each Welcome, and Run must be running.
func New(c Config) (*Gateway, error) {
	public, err := url.Parse(c.PublicURL)
	if err != nil || public.Host == "" || public.Scheme != "http" && public.Scheme != "https" {
		return nil, errors.New("the public URL must be http or https with a host, such as https://mcp.example.com")
	}
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	if c.Resource == "" {
		c.Resource = c.PublicURL + "/mcp"
	}
	if c.MaxBody == 0 {
		c.MaxBody = 4 << 20
	}
	if c.MaxResult == 0 {
		c.MaxResult = 16 << 20
	}
	if c.ReadBody == 0 {
		c.ReadBody = 30 * time.Second
	}
	if c.SessionFor == 0 {
		c.SessionFor = 24 * time.Hour
	}
	if c.MaxOpen <= 0 {
		c.MaxOpen = 50_000
	}
	if c.MaxOpenOfOne <= 0 {
		c.MaxOpenOfOne = 500
	}
	if c.PageSize <= 0 {
		c.PageSize = 1000
	}
	if c.AskFor == 0 {
		c.AskFor = 5 * time.Minute
	}
	if c.ResumeFor == 0 {
		c.ResumeFor = 30 * time.Second
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = 25 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{
		Config: c, server: mcp.Server{Name: "sallyport", Title: "Sallyport", Version: c.Version},
		origin: public.Scheme + "://" + public.Host, base: c.PublicURL + "/mcp", flights: newFlights(c.MaxOpen, c.MaxOpenOfOne), asks: newAsks(), parking: newParking(), levels: newLevels(), tracks: newTracks(), watches: newWatches(), peers: newPeers(), ended: newEndedSessions(), mux: http.NewServeMux(),
	}
	g.hosts = hostsOf(append([]string{public.Host, hostOf(c.Resource)}, c.Hosts...))
	g.mux.HandleFunc("/mcp", g.serve)
	g.mux.HandleFunc("/mcp/{connector}", g.serve)
	g.mux.HandleFunc("GET /.well-known/oauth-protected-resource", g.metadata)
	g.mux.HandleFunc("GET /.well-known/oauth-protected-resource/mcp", g.metadata)
	g.mux.HandleFunc("GET /.well-known/oauth-protected-resource/mcp/{connector}", g.metadata)
	g.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	g.mux.HandleFunc("GET /readyz", g.ready)
	return g, nil
}

// Welcome takes the keys that seal session ids in the region.
func (g *Gateway) Welcome(w *fleetv1.Welcome) {
	keys := make([]mcp.SealingKey, len(w.GetSealingKeys()))
	for i, k := range w.GetSealingKeys() {
		keys[i] = mcp.SealingKey{ID: k.GetId(), Key: k.GetKey()}
	}
	sealer, err := mcp.NewSealer(keys)
	if err != nil {
		g.Log.Error("the region's sealing keys cannot be used: no session can be opened", "error", err)
		return
	}
	g.sealer.Store(sealer)
	g.sealTo(w)
}

// Run decides what is open again at each change of the policy, and when time alone changes a verdict, until
// ctx ends.
func (g *Gateway) Run(ctx context.Context) {
	cancel := g.Replica.Subscribe(func(c replica.Change) {
		g.flights.decide(c.Table, c.Effect, g.Now())
		if c.Effect.Everybody {
			g.alarm(c.Table)
		}
	})
	defer cancel()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := g.Now()
	defer g.watches.close()
	defer func() { g.recordRepeats(time.Time{}) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := g.Now()
		g.recordRepeats(now)
		table, err := g.Replica.Usable(now)
		if err != nil {
			continue // the replica told
		}
		if at, ok := table.NextBoundary(last); ok && !at.After(now) {
			g.flights.decide(table, everybody, now)
		}
		last = now
	}
}

// alarm tells of names that are hidden because several things would bear them.
func (g *Gateway) alarm(table *policy.Table) {
	var hidden []string
	if table != nil {
		hidden = table.Collisions()
	}
	slices.Sort(hidden)
	if slices.Equal(hidden, g.hidden) {
		return
	}
	if g.hidden = hidden; len(hidden) > 0 {
		g.Log.Error("tools or prompts would have the same name at /mcp, and are hidden there: rename the connector of one of them; at /mcp/{connector} nothing changes", "names", hidden)
	}
}

// Open returns how many calls and streams are open.
func (g *Gateway) Open() int { return g.flights.open() }

// Parked returns how many calls wait for an agent to answer what their upstream asked.
func (g *Gateway) Parked() int {
	g.parking.mu.Lock()
	defer g.parking.mu.Unlock()
	return len(g.parking.all)
}

// Hidden returns how many names are hidden because several things would bear them.
func (g *Gateway) Hidden() int {
	table, err := g.Replica.Usable(g.Now())
	if err != nil {
		return 0
	}
	return len(table.Collisions())
}

// Ready answers whether calls can be decided and recorded.
func (g *Gateway) Ready(w http.ResponseWriter, r *http.Request) { g.ready(w, r) }

// ServeHTTP answers a request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A body in chunks may have come with a length too, which net/http passes over. Whoever stands in between may have gone by that: what
	// follows on the connection is then not to be believed (RFC 9112, section 6.1).
	if g.leaving.Load() || len(r.TransferEncoding) > 0 {
		w.Header().Set("Connection", "close")
	}
	// What nearly every request asks for is found without the patterns.
	if connector, ok := strings.CutPrefix(r.URL.Path, "/mcp/"); ok && plainName(connector) {
		g.serveAt(w, r, connector)
		return
	}
	g.mux.ServeHTTP(w, r)
}

// plainName tells whether a name has but the characters of a connector's id.
func plainName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return name != ""
}

// ready says whether calls can be decided and recorded.
func (g *Gateway) ready(w http.ResponseWriter, _ *http.Request) {
	if g.leaving.Load() {
		http.Error(w, "not ready: "+errLeaving.Error(), http.StatusServiceUnavailable)
		return
	}
	if _, err := g.Replica.Usable(g.Now()); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	if g.sealer.Load() == nil {
		http.Error(w, "not ready: the region's sealing keys have not come", http.StatusServiceUnavailable)
		return
	}
	if err := g.Spool.Writable(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.serveAt(w, r, r.PathValue("connector"))
}

// serveAt leads a request at a connector's endpoint, or at that of all of them, to what it is: a message, a stream, the end of a session.
func (g *Gateway) serveAt(w http.ResponseWriter, r *http.Request, connector string) {
	g.Metrics.Request(r.Method)
	if !g.hosts[hostname(r.Host)] {
		http.Error(w, "this proxy is not reached by that name: use its public URL, or name the host in --allow-host", http.StatusMisdirectedRequest)
		return
	}
	if slices.ContainsFunc(r.Header["Origin"], func(o string) bool { return !g.allowedOrigin(o) }) {
		http.Error(w, "this origin may not call: the proxy's --allow-origin names those that may", http.StatusForbidden)
		return
	}
	c, ok := g.identify(w, r, connector)
	if !ok {
		return
	}
	switch r.Method {
	case http.MethodPost:
		g.post(w, r, c)
	case http.MethodGet:
		g.listen(w, r, c)
	case http.MethodDelete:
		g.end(w, r, c)
	default:
		w.Header().Set("Allow", "POST, GET, DELETE")
		http.Error(w, "MCP is spoken by POST", http.StatusMethodNotAllowed)
	}
}

// hostname is a host without its port, in lower case. Names of the loopback interface are one.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return "localhost"
	}
	return host
}

func hostsOf(all []string) map[string]bool {
	hosts := map[string]bool{}
	for _, host := range all {
		if host != "" {
			hosts[hostname(host)] = true
		}
	}
	return hosts
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

func (g *Gateway) allowedOrigin(o string) bool {
	if o == g.origin {
		return true
	}
	for _, allowed := range g.Origins {
		if o == allowed {
			return true
		}
	}
	return false
}
