package gateway

import (
	"errors"
	"net/http"

	"sallyport.dev/dataplane/internal/mcp"
)

// A proxy that is about to stop first says so: to load balancers by /readyz, to agents by closing each connection behind its answer, to
// other proxies by sending back what they send on. Then its streams end, which agents open again elsewhere. What is in flight ends by
// itself, so that no call is lost.

var errLeaving = errors.New("the proxy is about to stop")

// leavingWord is what a proxy answers others with in forwardedHeader: it did nothing, and they are to do it themselves.
const leavingWord = "leaving"

// Leave says from now on that the proxy is about to stop. It goes on to serve what reaches it.
func (g *Gateway) Leave() { g.leaving.Store(true) }

// EndStreams ends the streams of notifications that are open.
func (g *Gateway) EndStreams() { g.flights.endStreams() }

// sentBack tells another proxy of the region to do itself what it sent on, because this one is about to stop. What lives here and
// nowhere else is still done here.
func (g *Gateway) sentBack(w http.ResponseWriter, r *http.Request, m *mcp.Message) bool {
	if !g.leaving.Load() || len(r.Header[forwardedHeader]) == 0 || bound(m) {
		return false
	}
	w.Header().Set(forwardedHeader, leavingWord)
	mcp.WriteError(w, "", m.ID, &mcp.Error{Code: mcp.CodeInternal, Message: errLeaving.Error(), Status: http.StatusServiceUnavailable})
	return true
}

// leaves finds by the answer of another proxy that it did nothing and is about to stop.
func leaves(answer *http.Response) error {
	if answer.StatusCode == http.StatusServiceUnavailable && answer.Header.Get(forwardedHeader) == leavingWord {
		return errLeaving
	}
	return nil
}

// endStreams cuts what is open and no call.
func (fs *flights) endStreams() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, of := range fs.all {
		for f := of.first; f != nil; f = f.next {
			if f.call == nil {
				f.cancel(errLeaving)
			}
		}
	}
}
