package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

// onlyPosts refuses a method that the stateless era has not, where the request is of that era.
func onlyPosts(w http.ResponseWriter, r *http.Request, why string) bool {
	v, ok := mcp.ParseRevision(r.Header.Get(mcp.HeaderRevision))
	if !ok || !v.Stateless() {
		return false
	}
	w.Header().Set("Allow", "POST")
	http.Error(w, why, http.StatusMethodNotAllowed)
	return true
}

// listen is the session era's stream of notifications (GET), or the rest of a stream that broke.
func (g *Gateway) listen(w http.ResponseWriter, r *http.Request, c *caller) {
	if onlyPosts(w, r, "this protocol version has no GET: use subscriptions/listen") {
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
	home := s.Home
	last, resumes := readPlace(r.Header.Get("Last-Event-ID"))
	if resumes {
		home = last.proxy
	}
	if g.elsewhere(w, r, onward{home: home, bound: resumes}) {
		return
	}
	var lost []byte
	if resumes {
		t, gone := g.tracks.find(last, s, c)
		if t != nil {
			g.resumed(w, r, t, last.number)
			return
		}
		if gone && last.request != nil {
			lost = mcp.AppendError(nil, last.request, &mcp.Error{Code: mcp.CodeInternal, Message: "the rest of this stream is gone, with the proxy that held it or because it was asked for too late: what the upstream did is not known"})
		}
	}
	f := &flight{person: c.ID, client: c.ClientID, from: &c.from, session: s.ID, connector: c.connector, changed: make(chan struct{}, 1)}
	heard, leave := g.watches.hear(s.ID)
	defer leave()
	g.stream(w, r, c, &subscription{flight: f, wanted: mcp.Filter{ToolsChanged: true, PromptsChanged: true, ResourcesChanged: true}, updates: heard, first: lost})
}

// subscription is a stream of notifications.
type subscription struct {
	flight *flight
	wanted mcp.Filter
	// id is that of a subscriptions/listen, raw; nil in the session era.
	id []byte
	// first is what it begins with; nil: nothing.
	first []byte
	// updates are URIs of resources that changed.
	updates chan string
	// begin starts what the stream needs beside itself, until ctx ends.
	begin func(ctx context.Context)
}

// subscribe is the stateless era's stream of notifications (subscriptions/listen).
func (g *Gateway) subscribe(w http.ResponseWriter, r *http.Request, x *exchange) {
	wanted, e := mcp.ReadFilter(x.message, g.JSON)
	if e != nil {
		mcp.WriteError(w, x.revision, x.message.ID, e)
		return
	}
	if wanted.Tasks && !mcp.DeclaresTasks(x.message.Meta.Capabilities) {
		e = mcp.NeedsTasks()
		mcp.WriteError(w, x.revision, x.message.ID, e)
		return
	}
	s := &subscription{id: x.message.ID, wanted: wanted, updates: make(chan string, updatesKept)}
	s.flight = &flight{person: x.ID, client: x.ClientID, from: &x.from, connector: x.connector, request: string(x.message.ID)}
	if wanted.ToolsChanged || wanted.PromptsChanged || wanted.ResourcesChanged {
		s.flight.changed = make(chan struct{}, 1)
	}
	if len(wanted.Resources) > 0 {
		var begin func(context.Context)
		s.wanted.Resources, begin = g.watchAll(x, wanted.Resources, s.updates)
		s.begin = begin
	}
	g.stream(w, r, x.caller, s)
}

// stream keeps a stream open until the agent goes, the token expires or access is taken away.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, c *caller, s *subscription) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f := s.flight
	f.region, f.caller, f.cancel = g.Region, c.Caller, cancel
	f.listed = g.flights.fingerprints(c.table, f, g.Now())
	if !g.flights.enter(f) {
		g.refused(c, mcp.MethodListen, auditv1.Reason_REASON_LIMIT_REACHED)
		w.Header().Set("Retry-After", "30")
		mcp.WriteError(w, "", s.id, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "as many streams are open as there may be: close some and try again", Status: http.StatusTooManyRequests})
		return
	}
	defer g.flights.leave(f)
	// What changed before it entered is seen now.
	table, err := g.Replica.Usable(g.Now())
	if err != nil || !f.allowed(table, g.Now()) {
		mcp.WriteError(w, "", s.id, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "access was taken away", Status: http.StatusForbidden})
		return
	}
	events, err := mcp.NewEventWriter(w)
	if err != nil {
		return
	}
	if s.id != nil && events.Write(mcp.Event{Data: mcp.AppendSubscribed(nil, s.id, s.wanted)}) != nil {
		return
	}
	if s.first != nil && events.Write(mcp.Event{Data: s.first}) != nil {
		return
	}
	if s.begin != nil {
		s.begin(ctx)
	}
	alive := time.NewTicker(g.KeepAlive)
	defer alive.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); s.id != nil && (errors.Is(cause, errRevoked) || errors.Is(cause, errLeaving)) {
				_ = events.Write(mcp.Event{Data: mcp.AppendSubscriptionEnd(nil, s.id)}) // it may be gone
			}
			return
		case <-f.changed:
			err = s.changed(events)
		case uri := <-s.updates:
			err = events.Write(mcp.Event{Data: mcp.AppendResourceUpdated(nil, uri, s.id)})
		case <-alive.C:
			err = events.KeepAlive()
		}
	}
}

// changed says which lists changed, of those that are asked for.
func (s *subscription) changed(events *mcp.EventWriter) error {
	dirty := s.flight.dirty.Swap(0)
	for i, wanted := range [len(lists)]bool{s.wanted.ToolsChanged, s.wanted.PromptsChanged, s.wanted.ResourcesChanged} {
		if !wanted || dirty&(1<<i) == 0 {
			continue
		}
		if err := events.Write(mcp.Event{Data: mcp.AppendListChanged(nil, lists[i].notice, s.id)}); err != nil {
			return err
		}
	}
	return nil
}
