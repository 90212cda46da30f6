package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/address"
	"sallyport.dev/dataplane/internal/mcp"
)

// What lives in streams lives at one proxy, the home that a session's id, a question's, an event's or a parked call's state names. A
// proxy that gets a request of another's sends it there, once, as it came: the agent's token is verified there as here, so that the
// way between proxies gives nobody anything. Where the home is gone, what does not need it is done here.

// forwardedHeader says that another proxy sent a request on. Its value is sealed for the region: from where, for whom, when.
const (
	forwardedHeader = "Sallyport-Forwarded"
	forwardedLabel  = "sallyport forwarded request "
	forwardedFor    = 30 * time.Second
)

// peers are the region's other proxies.
type peers struct {
	by atomic.Pointer[map[string]*peer]

	mu sync.Mutex
	// gone are those that could not be reached or are about to stop.
	gone map[string]gone
}

// gone is until when nothing is sent to a proxy; if it is leaving, nothing that can be done elsewhere.
type gone struct {
	until   time.Time
	leaving bool
}

// peer is another proxy of the region. Its connections are its own: each proxy shows another certificate.
type peer struct {
	url       *url.URL
	spiffeID  string
	transport *http.Transport
}

// goneFor is how long nothing is sent to a proxy that could not be reached or was about to stop.
const goneFor = 15 * time.Second

func (p *peers) avoid(name string, g gone) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone[name] = g
}

// avoided tells whether a proxy is not to be sent a request, which is bound to it or could be done elsewhere.
func (p *peers) avoided(name string, bound bool, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, ok := p.gone[name]
	if ok && now.After(g.until) {
		delete(p.gone, name)
	}
	return ok && !now.After(g.until) && (!g.leaving || !bound)
}

func newPeers() *peers {
	p := &peers{gone: map[string]gone{}}
	p.by.Store(&map[string]*peer{})
	return p
}

func (g *Gateway) newPeer(p *fleetv1.Peer, to *url.URL) *peer {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, DisableCompression: true, ForceAttemptHTTP2: true,
	}
	if g.PeerTLS != nil {
		transport.TLSClientConfig = g.PeerTLS(p)
	}
	return &peer{url: to, spiffeID: p.GetSpiffeId(), transport: transport}
}

// there tells whether the proxy can be reached.
func (p *peer) there(ctx context.Context) bool {
	port := p.url.Port()
	if port == "" {
		port = p.url.Scheme // which names it
	}
	conn, err := p.transport.DialContext(ctx, "tcp", net.JoinHostPort(p.url.Hostname(), port))
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// Peers takes the proxies of the region that can be reached.
func (g *Gateway) Peers(all []*fleetv1.Peer) {
	before, by := *g.peers.by.Load(), map[string]*peer{}
	for _, one := range all {
		to, err := url.Parse(one.GetUrl())
		if err != nil || to.Host == "" || one.GetProxy() == g.Proxy {
			continue
		}
		if known := before[one.GetProxy()]; known != nil && *known.url == *to && known.spiffeID == one.GetSpiffeId() {
			by[one.GetProxy()] = known
		} else {
			by[one.GetProxy()] = g.newPeer(one, to)
		}
	}
	g.peers.by.Store(&by)
	for proxy, gone := range before {
		if by[proxy] != gone {
			gone.transport.CloseIdleConnections()
		}
	}
}

// homeOf is the proxy where what a message of an agent's needs lives; empty: any does.
func (g *Gateway) homeOf(s *mcp.Session, m *mcp.Message) string {
	switch {
	case m.Kind == mcp.Response:
		return askedBy(m)
	case strings.HasPrefix(m.RequestState, parkedState):
		proxy, _, _ := g.stateOf(m)
		return proxy
	case s.ID == "" && mcp.OfTask(m.Method):
		return g.homeOfTask(m)
	case s.ID == "":
		return ""
	}
	switch m.Method {
	case mcp.MethodCallTool, mcp.MethodGetPrompt, mcp.MethodReadResource, mcp.MethodComplete, mcp.MethodSubscribe, mcp.MethodUnsubscribe,
		mcp.MethodGetTask, mcp.MethodTaskResult, mcp.MethodCancelTask, mcp.MethodSetLevel, mcp.NotifyCancelled:
		return s.Home
	}
	return ""
}

// bound tells whether what a message needs is at its home and nowhere else.
func bound(m *mcp.Message) bool {
	return m.Kind != mcp.Request || m.RequestState != "" || mcp.OfTask(m.Method)
}

// onward is what is known of a request that another proxy may have to answer.
type onward struct {
	home     string
	bound    bool   // it can be done there alone
	body     []byte // nil: it has none
	message  *mcp.Message
	revision mcp.Revision
}

// onward says where a POST belongs: a batch where the first of its messages does that belongs somewhere.
func (g *Gateway) onward(x *exchange, p *mcp.Post, body []byte) onward {
	o := onward{body: body, revision: x.revision}
	for i := range p.Messages {
		m := &p.Messages[i]
		if o.home = g.homeOf(&x.session, m); o.home != "" {
			o.bound = bound(m)
			break
		}
	}
	if !p.Batch {
		o.message = &p.Messages[0]
	}
	return o
}

// elsewhere sends a request on to the proxy where it belongs. False: it is to be answered here.
func (g *Gateway) elsewhere(w http.ResponseWriter, r *http.Request, o onward) (sent bool) {
	home, body := o.home, o.body
	if home == "" || home == g.Proxy || len(r.Header[forwardedHeader]) > 0 {
		return false
	}
	to := (*g.peers.by.Load())[home]
	sealer := g.sealer.Load()
	if to == nil || sealer == nil || g.peers.avoided(home, o.bound, g.Now()) {
		return false
	}
	away, stream := false, false
	on := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to.url)
			p.Out.Header.Set(forwardedHeader, sealer.SealAs(forwardedLabel, []byte(strconv.FormatInt(g.Now().Unix(), 10)+" "+address.Of(r))))
			if body != nil {
				again := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil } // if not a byte of it was sent
				p.Out.Body, _ = again()
				p.Out.GetBody, p.Out.ContentLength = again, int64(len(body))
			}
		},
		ModifyResponse: func(answer *http.Response) error {
			stream = mcp.IsType(answer.Header["Content-Type"], "text/event-stream") == nil
			return leaves(answer)
		},
		Transport: to.transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var op *net.OpError
			if errors.Is(err, errLeaving) || errors.As(err, &op) && op.Op == "dial" { // nothing was done
				away = true
				g.peers.avoid(home, gone{g.Now().Add(goneFor), errors.Is(err, errLeaving)})
				return
			}
			if r.Context().Err() == nil {
				g.Log.Warn("a request could not be sent on to the proxy that it belongs to", "proxy", home, "error", err)
				if said := o.cutShort(); said != nil {
					mcp.WriteJSON(w, http.StatusOK, said)
					return
				}
				mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInternal, Message: cutShort, Status: http.StatusBadGateway})
			}
		},
	}
	// The server's own way to end a response early is not this one's.
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			panic(p)
		} else if p != nil {
			sent = true // as far as it came
			// Where the home is still there, an agent of the session era comes back for the rest.
			if said := o.cutShort(); said != nil && stream && r.Context().Err() == nil && (o.revision.Stateless() || !to.there(r.Context())) {
				_, _ = w.Write(append(append([]byte("\n\ndata: "), said...), "\n\n"...)) // behind what may have been cut within an event
			}
		}
	}()
	on.ServeHTTP(w, r)
	return !away
}

const cutShort = "the proxy that held this session went away during the call: what the upstream did is not known"

// cutShort answers a request whose proxy went away while it was done; nil: it has no answer.
func (o onward) cutShort() []byte {
	switch m := o.message; {
	case m == nil || m.Kind != mcp.Request:
		return nil
	case m.Method == mcp.MethodCallTool:
		return mcp.AppendToolError(nil, m.ID, o.revision, "Sallyport could not complete this call: "+cutShort+".")
	default:
		return mcp.AppendError(nil, m.ID, &mcp.Error{Code: mcp.CodeInternal, Message: cutShort})
	}
}

// addressOf is where a request came from: of one that another proxy sent on, where it came from there.
func (g *Gateway) addressOf(r *http.Request) string {
	sealed := r.Header[forwardedHeader]
	if sealer := g.sealer.Load(); len(sealed) == 1 && sealer != nil {
		if plain, err := sealer.OpenAs(forwardedLabel, sealed[0]); err == nil {
			at, from, _ := strings.Cut(string(plain), " ")
			if unix, err := strconv.ParseInt(at, 10, 64); err == nil && g.Now().Sub(time.Unix(unix, 0)).Abs() < forwardedFor {
				return from
			}
		}
	}
	return address.Of(r)
}
