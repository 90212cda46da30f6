package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
)

// listen is the session era's stream of notifications (GET).
func (g *Gateway) listen(w http.ResponseWriter, r *http.Request, c *caller) {
	if v, ok := mcp.ParseRevision(r.Header.Get(mcp.HeaderRevision)); ok && v.Stateless() {
		w.Header().Set("Allow", "POST")
		http.Error(w, "this protocol version has no GET: use subscriptions/listen", http.StatusMethodNotAllowed)
		return
	}
	if e := mcp.CheckGet(r.Header); e != nil {
		mcp.WriteError(w, "", nil, e)
		return
	}
	s, e := g.session(r, c)
	if e != nil {
		mcp.WriteError(w, "", nil, e)
		return
	}
	if t, number := g.tracks.find(r.Header.Get("Last-Event-ID"), s, c); t != nil {
		g.resumed(w, r, t, number)
		return
	}
	f := &flight{person: c.ID, client: c.ClientID, session: s.ID, connector: c.connector}
	g.stream(w, r, c, f, nil)
}

// subscribe is the stateless era's stream of notifications (subscriptions/listen): of changed lists of tools.
func (g *Gateway) subscribe(w http.ResponseWriter, r *http.Request, x *exchange) {
	wanted, e := mcp.ReadFilter(x.message, g.JSON)
	if e != nil {
		mcp.WriteError(w, x.revision, x.message.ID, e)
		return
	}
	f := &flight{person: x.ID, client: x.ClientID, connector: x.connector, request: string(x.message.ID)}
	if wanted.ToolsChanged {
		f.changed = make(chan struct{}, 1)
	}
	g.stream(w, r, x.caller, f, x.message.ID)
}

// stream keeps a stream open until the agent goes, the token expires or access is taken away. subscription
// is the raw id of a subscriptions/listen; nil in the session era.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, c *caller, f *flight, subscription []byte) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f.region, f.issuedAt, f.cancel = g.Region, c.IssuedAt, cancel
	if subscription == nil {
		f.changed = make(chan struct{}, 1)
	}
	f.listed = g.flights.fingerprint(c.table, f, g.Now())
	g.flights.enter(f)
	defer g.flights.leave(f)
	// What changed before it entered is seen now.
	table, err := g.Replica.Usable(g.Now())
	if err != nil || !f.allowed(table, g.Now()) {
		mcp.WriteError(w, "", subscription, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "access was taken away", Status: http.StatusForbidden})
		return
	}
	events, err := mcp.NewEventWriter(w)
	if err != nil {
		return
	}
	if subscription != nil {
		granted := mcp.Filter{ToolsChanged: f.changed != nil}
		if events.Write(mcp.Event{Data: mcp.AppendSubscribed(nil, subscription, granted)}) != nil {
			return
		}
	}
	alive := time.NewTicker(g.KeepAlive)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			if subscription != nil && errors.Is(context.Cause(ctx), errRevoked) {
				_ = events.Write(mcp.Event{Data: mcp.AppendSubscriptionEnd(nil, subscription)}) // it may be gone
			}
			return
		case <-f.changed:
			err = events.Write(mcp.Event{Data: mcp.AppendListChanged(nil, mcp.NotifyToolsChanged, subscription)})
		case <-alive.C:
			err = events.KeepAlive()
		}
		if err != nil {
			return
		}
	}
}
