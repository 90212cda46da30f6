package upstream

import (
	"context"
	"errors"
	"net/http"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// era is what is known of the revision that an upstream speaks.
type era struct {
	revision mcp.Revision // a stateless one; empty: sessions, of which each has its own
}

// speaks returns the era of the upstream, which is asked once: by server/discover, and where that is not understood by opening a
// session (2026-07-28, versioning, backward compatibility).
func (u *Upstream) speaks(ctx context.Context, p *Party) (era, error) {
	if known := u.era.Load(); known != nil {
		return *known, nil
	}
	err := u.asking.do(ctx, func() bool { return u.era.Load() != nil }, func(ctx context.Context) error { return u.discover(ctx, p) })
	if err != nil {
		return era{}, err
	}
	if known := u.era.Load(); known != nil {
		return *known, nil
	}
	return era{}, u.fail(BadResponse, "it changes its protocol version all the time")
}

func (u *Upstream) discover(ctx context.Context, p *Party) error {
	revision, err := u.askRevision(ctx, p.Credential)
	if err != nil {
		return err
	}
	if revision == "" {
		// That it has sessions is believed once it opened one.
		seat, _, err := u.opened(ctx, p)
		if err != nil {
			return err
		}
		u.release(seat)
	}
	u.era.Store(&era{revision: revision})
	return nil
}

// askRevision returns the newest supported stateless revision that the upstream speaks, or none if it seems to have sessions.
func (u *Upstream) askRevision(ctx context.Context, c Credential) (mcp.Revision, error) {
	id := u.newID()
	message := append(append([]byte(`{"jsonrpc":"2.0","id":`), id...), `,"method":"`+mcp.MethodDiscover+`"}`...)
	var m mcp.Message
	if e := mcp.ReadMessage(message, u.limits(), &m); e != nil {
		return "", e
	}
	edit := mcp.Edit{Revision: mcp.LatestStateless, ClientInfo: u.pool.info}
	fields := append(baseFields(), field{mcp.HeaderRevision, string(mcp.LatestStateless)}, field{mcp.HeaderMethod, mcp.MethodDiscover})
	r := request{method: http.MethodPost, fields: u.credential(fields, c), body: edit.Append(nil, &m)}
	response, err := u.exchange(ctx, &r, exchange{sent: id, answer: id, method: mcp.MethodDiscover})
	if isKind(err, BadResponse) {
		return "", nil // it may be of the session era: initialize will tell
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Close() }()
	answer, err := response.whole()
	if isKind(err, BadResponse) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return newestStateless(answer, u.limits()), nil
}

// newestStateless reads which stateless revision a discovery's answer offers, be it a result or an error of that era.
func newestStateless(m *mcp.Message, limits strictjson.Limits) mcp.Revision {
	raw, key := m.Result, "supportedVersions"
	if raw == nil {
		raw, key = m.Failure, "supported"
	}
	v, err := strictjson.Decode(raw, limits)
	if err != nil {
		return ""
	}
	object, _ := v.(map[string]any)
	if m.Failure != nil {
		object, _ = object["data"].(map[string]any)
	}
	offered, _ := object[key].([]any)
	for _, r := range mcp.Revisions() {
		for _, o := range offered {
			if o == string(r) && r.Stateless() {
				return r
			}
		}
	}
	return ""
}

// unlearn makes the next call ask again, if nobody learned anything new meanwhile.
func (u *Upstream) unlearn(known *era) {
	if u.target.Revision == "" {
		u.era.CompareAndSwap(known, nil)
	}
}

// refusesRevision tells whether a call failed because the upstream does not speak the revision any more.
func refusesRevision(r *Response) bool {
	return r != nil && r.code == mcp.CodeUnsupportedRevision
}

// leftTheEra tells whether an error suggests that the upstream is of another era than it was.
func leftTheEra(err error) bool {
	if err == nil {
		return false
	}
	var e *Error
	if !errors.As(err, &e) || e.Kind != BadResponse {
		return false
	}
	return e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed
}
