package gateway

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/upstream"
	"sallyport.dev/dataplane/policy"
)

// Updates of resources come on streams of the upstreams' own, which are open for as long as an agent is subscribed to something.

const (
	// updatesKept is how many updates wait for an agent that is slow. More are dropped: it will read anew anyway.
	updatesKept = 64
	// maxWatched bounds the resources that one session is subscribed to at one upstream, or one stream in all.
	maxWatched = 100
	// A stream of an upstream that ends is opened again, at first after watchAgain, then later and later.
	watchAgain = 500 * time.Millisecond
	watchMost  = time.Minute
)

// watches are the subscriptions of sessions at this proxy, and who hears of updates.
type watches struct {
	mu    sync.Mutex
	ears  map[string]map[chan string]struct{} // by session
	watch map[string]map[string]*watch        // by session, by connector
}

// watch is what a session is subscribed to at one upstream.
type watch struct {
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	uris   map[string]string // as the agent knows them, by the upstream's
	again  func()            // opens the stream anew
}

func newWatches() *watches {
	return &watches{ears: map[string]map[chan string]struct{}{}, watch: map[string]map[string]*watch{}}
}

// hear returns where a session's updates come, until leave is called.
func (ws *watches) hear(session string) (updates chan string, leave func()) {
	updates = make(chan string, updatesKept)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ears[session] == nil {
		ws.ears[session] = map[chan string]struct{}{}
	}
	ws.ears[session][updates] = struct{}{}
	return updates, func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		if delete(ws.ears[session], updates); len(ws.ears[session]) == 0 {
			delete(ws.ears, session)
		}
	}
}

// tell passes an update to whoever hears a session.
func (ws *watches) tell(session, uri string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for updates := range ws.ears[session] {
		select {
		case updates <- uri:
		default:
		}
	}
}

// end forgets what a session is subscribed to.
func (ws *watches) end(session string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, one := range ws.watch[session] {
		one.cancel(errSession)
	}
	delete(ws.watch, session)
}

// close ends all subscriptions.
func (ws *watches) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, of := range ws.watch {
		for _, one := range of {
			one.cancel(errSession)
		}
	}
	clear(ws.watch)
}

func (w *watch) known(uri string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	exposed, ok := w.uris[uri]
	return exposed, ok
}

// errTooMany: the session is subscribed to as much as it may be.
var errTooMany = &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "this session is subscribed to as many resources of the connector as one may be"}

// subscribed notes that a session's agent is subscribed to a resource, and begins to listen at the upstream.
func (g *Gateway) subscribed(x *exchange, t target, up *upstream.Upstream, party upstream.Party) error {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	of := g.watches.watch[x.session.ID]
	if of == nil {
		of = map[string]*watch{}
		g.watches.watch[x.session.ID] = of
	}
	if one := of[t.connector]; one != nil {
		one.mu.Lock()
		defer one.mu.Unlock()
		if len(one.uris) >= maxWatched {
			return errTooMany
		}
		one.uris[t.name] = x.message.Name
		if one.again != nil {
			one.again() // what an upstream of the stateless era is asked for is said when the stream is opened
		}
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	one := &watch{cancel: cancel, uris: map[string]string{t.name: x.message.Name}}
	of[t.connector] = one
	session := x.session.ID
	f := &flight{person: x.ID, client: x.ClientID, from: &x.from, session: session, region: g.Region, caller: x.Caller, connector: t.connector, cancel: cancel}
	if !g.flights.enter(f) {
		cancel(nil)
		delete(of, t.connector)
		return errTooMany
	}
	lasting := x.lasting()
	expires := time.AfterFunc(x.session.Expires.Sub(g.Now()), func() { cancel(errSession) })
	go func() {
		defer g.flights.leave(f)
		defer expires.Stop()
		at := &place{up: up, party: party}
		g.follow(ctx, f, lasting, t.connector, at, one, func(uri string) { g.watches.tell(session, uri) })
		g.watches.mu.Lock()
		defer g.watches.mu.Unlock()
		if g.watches.watch[session][t.connector] == one {
			delete(g.watches.watch[session], t.connector)
		}
	}()
	return nil
}

// unsubscribed takes a subscription back.
func (g *Gateway) unsubscribed(x *exchange, t target) {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	one := g.watches.watch[x.session.ID][t.connector]
	if one == nil {
		return
	}
	one.mu.Lock()
	delete(one.uris, t.name)
	rest := len(one.uris)
	one.mu.Unlock()
	if rest == 0 {
		one.cancel(errSession)
		delete(g.watches.watch[x.session.ID], t.connector)
	}
}

// watchAll begins to listen for updates of resources, for a stream of the stateless era. It returns those that the agent may read,
// and what begins it.
func (g *Gateway) watchAll(x *exchange, uris []string, updates chan string) (granted []string, begin func(ctx context.Context)) {
	by := map[string]*watch{}
	for _, uri := range uris[:min(len(uris), maxWatched)] {
		m := *x.message
		m.Method, m.Name = mcp.MethodReadResource, uri
		t := targetOf(x.caller, &m)
		ask := x.asks(g.Region, t.connector, t.label, g.Now())
		if !x.table.Decide(ask).Allowed {
			continue
		}
		granted = append(granted, uri)
		if by[t.connector] == nil {
			by[t.connector] = &watch{uris: map[string]string{}}
		}
		by[t.connector].uris[t.name] = uri
	}
	return granted, func(ctx context.Context) {
		for connector, one := range by {
			go g.watchOne(ctx, x, connector, one, updates)
		}
	}
}

func (g *Gateway) watchOne(ctx context.Context, x *exchange, connector string, one *watch, updates chan string) {
	settings, offered := x.table.Connector(connector)
	if !offered {
		return
	}
	credential, err := g.credential(ctx, x, settings, refusal{})
	if err != nil {
		return
	}
	up, err := g.upstream(settings)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// In flight by itself: the connector may go while the agent's stream stays for others.
	f := &flight{person: x.ID, client: x.ClientID, from: &x.from, region: g.Region, caller: x.Caller, connector: connector, cancel: cancel}
	if !g.flights.enter(f) {
		return
	}
	defer g.flights.leave(f)
	if table, err := g.Replica.Usable(g.Now()); err != nil || !f.allowed(table, g.Now()) { // what changed before it entered is seen now
		return
	}
	// An upstream of the session era has one stream of updates in a session, so that each stream of the agent's gets a session of its own.
	party := g.party(x, settings, credential)
	party.Session = uuid.NewString()
	at := &place{up: up, party: party}
	defer func() { at.up.End(at.party) }()
	g.follow(ctx, f, x, connector, at, one, func(uri string) {
		select {
		case updates <- uri:
		default:
		}
	})
}

// place is where updates come from, and on whose behalf they are asked for.
type place struct {
	up    *upstream.Upstream
	party upstream.Party
}

// errNotOffered: the connector is no more.
var errNotOffered = errors.New("the connector is not offered any more")

// look finds the place anew, after an error: the connector's settings may be others by now, and credentials do not last.
func (p *place) look(ctx context.Context, g *Gateway, x *exchange, connector string, after error) error {
	table, err := g.Replica.Usable(g.Now())
	if err != nil {
		return err
	}
	settings, offered := table.Connector(connector)
	if !offered {
		return errNotOffered
	}
	refused := refusedBy(after)
	credential, err := g.another(ctx, x, settings, p.party.Credential, cmp.Or(refused, &refusal{}))
	switch {
	case err == nil:
		p.party.Credential = credential
	case refused != nil:
		return err
	}
	up, err := g.upstream(settings)
	if err == nil {
		p.up = up
	}
	return err
}

// lasting is what of an exchange outlasts its answer: who calls, but neither what was said nor the policy as of then.
func (x *exchange) lasting() *exchange {
	c := *x.caller
	c.table = nil
	return &exchange{caller: &c, revision: x.revision, session: x.session}
}

// follow listens at an upstream for updates of what is watched, until ctx ends or the connector is no more, and tells those that may be known.
func (g *Gateway) follow(ctx context.Context, f *flight, x *exchange, connector string, at *place, one *watch, tell func(uri string)) {
	for wait := watchAgain; ctx.Err() == nil; wait = min(2*wait, watchMost) {
		began := time.Now()
		err := g.listenAt(ctx, at.up, at.party, one, func(uri string) {
			exposed, watched := one.known(uri)
			table, err := g.Replica.Usable(g.Now())
			if !watched || err != nil {
				return
			}
			ask := policy.Request{Person: f.person, Client: f.client, From: f.from, Connector: connector, Tool: resourceLabel(uri), Region: g.Region, Now: g.Now()}
			if table.Decide(ask).Allowed {
				tell(exposed)
			}
		})
		if ctx.Err() != nil {
			return
		}
		g.Log.DebugContext(ctx, "an upstream's stream of updates ended; it is opened again", "connector", connector, "error", err)
		if err == nil || errors.Is(err, context.Canceled) || time.Since(began) > watchMost {
			wait = watchAgain / 10
		}
		for {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			not := at.look(ctx, g, x, connector, err)
			if errors.Is(not, errNotOffered) {
				return
			}
			if not == nil {
				break
			}
			wait = min(2*wait, watchMost)
		}
	}
}

// listenAt opens the upstream's stream, in its era, and calls updated for each resource that it says was changed.
func (g *Gateway) listenAt(ctx context.Context, up *upstream.Upstream, party upstream.Party, one *watch, updated func(uri string)) error {
	stateless, err := up.Stateless(ctx, party)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	one.mu.Lock()
	uris := slices.Collect(maps.Keys(one.uris))
	if stateless {
		one.again = cancel
	}
	one.mu.Unlock()
	var response *upstream.Response
	if stateless {
		response, err = up.Call(ctx, upstream.Call{Message: g.own(mcp.MethodListen, listenParams(uris)), Revision: mcp.LatestStateless, Party: party})
	} else {
		for _, uri := range uris {
			subscribed, err := up.Call(ctx, upstream.Call{Message: g.own(mcp.MethodSubscribe, `{"uri":`+quote(uri)+`}`), Revision: mcp.LatestSession, Party: party})
			if err != nil {
				return err
			}
			_ = subscribed.Close() // what it said was read
		}
		response, err = up.Listen(ctx, party)
	}
	if err != nil {
		return err
	}
	defer response.Close() //nolint:errcheck // nothing is left to be read
	for {
		event, err := response.Next()
		if err != nil {
			return err
		}
		switch {
		case event.Message.Kind == mcp.Request:
			response.Refuse(event.Message.ID, errNotAsked)
		case event.Message.Method == mcp.NotifyResourceUpdated:
			updated(event.Message.URI)
		}
	}
}

// own is a request of the gateway's own.
func (g *Gateway) own(method, params string) *mcp.Message {
	m := &mcp.Message{}
	if e := mcp.ReadMessage([]byte(`{"jsonrpc":"2.0","id":1,"method":`+quote(method)+`,"params":`+params+`}`), g.JSON, m); e != nil {
		panic("a request of the gateway's own cannot be read: " + e.Message) // it was made here, of quoted parts
	}
	return m
}

func listenParams(uris []string) string {
	quoted := make([]string, len(uris))
	for i, uri := range uris {
		quoted[i] = quote(uri)
	}
	return `{"notifications":{"resourceSubscriptions":[` + strings.Join(quoted, ",") + `]}}`
}

func quote(s string) string { return string(strictjson.Quote(nil, s)) }
