package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// authority is Sallyport's own authorization server.
type authority struct {
	issuer string
	wire   *fleetv1.AuthorizationServer
	digest Digest
}

func (a *authority) hash() uint64 { return hashOf(a.issuer) }

// endedSession is a session that was ended before its time.
type endedSession struct {
	id     uuid.UUID
	digest Digest
}

func (s *endedSession) hash() uint64 { return hashOfID(s.id) }

// cutClient is a client of whose sessions those are over that began until a moment.
type cutClient struct {
	id     string
	at     int64 // Unix milliseconds
	digest Digest
}

func (c *cutClient) hash() uint64 { return hashOf(c.id) }

func (s *state) authority(issuer string) *authority {
	a, _ := s.authorities.find(hashOf(issuer), func(a *authority) bool { return a.issuer == issuer })
	return a
}

func (s *state) endedSession(id uuid.UUID) *endedSession {
	x, _ := s.ended.find(hashOfID(id), func(x *endedSession) bool { return x.id == id })
	return x
}

func (s *state) cutClient(id string) *cutClient {
	c, _ := s.cut.find(hashOf(id), func(c *cutClient) bool { return c.id == id })
	return c
}

// AuthorizationServer returns Sallyport's own by its issuer. It is the table's: do not change it.
func (t *Table) AuthorizationServer(issuer string) (*fleetv1.AuthorizationServer, bool) {
	a := t.state().authority(issuer)
	if a == nil {
		return nil, false
	}
	return a.wire, true
}

// AuthorizationServers lists the issuers to which agents are sent to have their people sign in: Sallyport's own first, then
// those that admins trust.
func (t *Table) AuthorizationServers() []string {
	var own []string
	t.state().authorities.each(func(a *authority) bool {
		if a.wire.GetOffered() {
			own = append(own, a.issuer)
		}
		return true
	})
	slices.Sort(own)
	return append(own, t.Issuers()...)
}

// OffersOwn tells whether agents are sent to Sallyport's own authorization server.
func (t *Table) OffersOwn() bool {
	offered := false
	t.state().authorities.each(func(a *authority) bool {
		offered = a.wire.GetOffered()
		return !offered
	})
	return offered
}

// SessionEnded tells whether a session was ended before its time.
func (t *Table) SessionEnded(id uuid.UUID) bool { return t.state().endedSession(id) != nil }

// ClientCut is until when the tokens of a client must have been issued that count no longer; zero for never.
func (t *Table) ClientCut(client string) time.Time {
	if c := t.state().cutClient(client); c != nil {
		return time.UnixMilli(c.at)
	}
	return time.Time{}
}

func (e *edit) putAuthority(w *fleetv1.AuthorizationServer, h Digest) {
	e.removeAuthority(w.GetIssuer())
	a := &authority{issuer: w.GetIssuer(), wire: w, digest: h}
	e.state.authorities.put(e.owner, a, func(q *authority) bool { return q.issuer == a.issuer })
	e.state.digest.add(h)
}

func (e *edit) removeAuthority(issuer string) bool {
	a := e.state.authority(issuer)
	if a == nil {
		return false
	}
	e.state.authorities.remove(e.owner, a.hash(), func(q *authority) bool { return q == a })
	e.state.digest.remove(a.digest)
	e.effect.Tokens = true
	return true
}

func (e *edit) putEndedSession(raw []byte, h Digest) error {
	id, err := uuid.FromBytes(raw)
	if err != nil {
		return fmt.Errorf("a session's id: %w", err)
	}
	e.removeEndedSession(id)
	x := &endedSession{id: id, digest: h}
	e.state.ended.put(e.owner, x, func(q *endedSession) bool { return q.id == id })
	e.state.digest.add(h)
	e.effect.Tokens = true
	return nil
}

func (e *edit) removeEndedSession(id uuid.UUID) bool {
	x := e.state.endedSession(id)
	if x == nil {
		return false
	}
	e.state.ended.remove(e.owner, x.hash(), func(q *endedSession) bool { return q == x })
	e.state.digest.remove(x.digest)
	return true
}

func (e *edit) putCutClient(w *fleetv1.RevokedClient, h Digest) {
	e.removeCutClient(w.GetClientId())
	c := &cutClient{id: w.GetClientId(), at: w.GetValidAfterMs(), digest: h}
	e.state.cut.put(e.owner, c, func(q *cutClient) bool { return q.id == c.id })
	e.state.digest.add(h)
	e.effect.Tokens = true
}

func (e *edit) removeCutClient(id string) bool {
	c := e.state.cutClient(id)
	if c == nil {
		return false
	}
	e.state.cut.remove(e.owner, c.hash(), func(q *cutClient) bool { return q == c })
	e.state.digest.remove(c.digest)
	return true
}
