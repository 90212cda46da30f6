package core

import (
	"iter"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// A proxy may join by a SPIFFE id in place of an invitation: which ids are proxies, control planes say by rules of their own. The log says who
// did join, and who may not any more.

// Barred is a SPIFFE id that may not join, since the proxy that it was is revoked: its SVID may be good for a while, and be renewed.
type Barred struct {
	SPIFFEID     string
	Name, Region string
	At           time.Time
}

// AdmitProxy lets a workload join. The caller verified its SVID, and knows by its rules which proxy it is.
type AdmitProxy struct {
	ID           uuid.UUID
	SPIFFEID     string
	Name, Region string
}

func (c AdmitProxy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	have := s.WorkloadToken(c.SPIFFEID)
	switch {
	case c.SPIFFEID == "":
		return nil, refuse(InvalidArgument, "a proxy joins by a SPIFFE id")
	case s.Barred(c.SPIFFEID):
		return nil, refuse(Forbidden, "%s was revoked: an admin lets it in again with sallyport proxies readmit %s", c.SPIFFEID, c.SPIFFEID)
	case have != nil && have.Name == c.Name && have.Region == c.Region:
		return nil, nil
	case have != nil:
		return nil, refuse(FailedPrecondition, "%s joined as proxy %q of region %q, and the rules name it %q of %q now: revoke it and let it in again (sallyport proxies revoke, readmit)", c.SPIFFEID, have.Name, have.Region, c.Name, c.Region)
	case !isID(c.Name) || !isID(c.Region):
		return nil, refuseField(InvalidArgument, "name", "a proxy needs a name and a region of lower-case words joined by hyphens, such as us-east-1 and us-east: %s names %q of %q", c.SPIFFEID, c.Name, c.Region)
	case s.Token(c.ID) != nil:
		return nil, refuse(AlreadyExists, "token %s exists", c.ID)
	}
	if taken := s.ProxyToken(c.Name); taken != nil {
		return nil, refuseField(AlreadyExists, "name", "there is a proxy %q already, which is not %s: revoke it first", c.Name, c.SPIFFEID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ProxyAdmitted{ProxyAdmitted: &eventv1.ProxyAdmitted{
		TokenId: c.ID.String(), Name: c.Name, Region: c.Region, SpiffeId: c.SPIFFEID,
	}}}), nil
}

// ReadmitProxy lets a SPIFFE id that was barred join again.
type ReadmitProxy struct{ SPIFFEID string }

func (c ReadmitProxy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if !s.Barred(c.SPIFFEID) {
		return nil, refuseField(NotFound, "spiffe_id", "%q is not barred: see sallyport proxies", c.SPIFFEID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ProxyReadmitted{ProxyReadmitted: &eventv1.ProxyReadmitted{SpiffeId: c.SPIFFEID}}}), nil
}

// WorkloadToken returns the token of the proxy that joined by a SPIFFE id, or nil.
func (s *State) WorkloadToken(spiffeID string) *Token {
	id, ok := s.workloads.Get(spiffeID)
	if !ok {
		return nil
	}
	return s.Token(id)
}

// Barred tells whether a SPIFFE id may not join.
func (s *State) Barred(spiffeID string) bool {
	_, barred := s.barred.Get(spiffeID)
	return barred
}

// AllBarred yields the SPIFFE ids that may not join, in their order.
func (s *State) AllBarred() iter.Seq[Barred] {
	return func(yield func(Barred) bool) {
		s.barred.Scan(func(_ string, b Barred) bool { return yield(b) })
	}
}

func (s *State) applyProxyAdmitted(rec Record, b *eventv1.ProxyAdmitted) error {
	id, err := uuid.Parse(b.GetTokenId())
	if err != nil {
		return err
	}
	s.putToken(&Token{
		ID: id, Kind: eventv1.TokenKind_TOKEN_KIND_PROXY, Name: b.GetName(), Region: b.GetRegion(), SPIFFEID: b.GetSpiffeId(), CreatedAt: rec.Event.GetAt().AsTime(),
	})
	return nil
}

// bar keeps a workload out whose token was revoked.
func (s *State) bar(t *Token, at time.Time) {
	s.workloads.Delete(t.SPIFFEID)
	s.barred.Set(t.SPIFFEID, Barred{t.SPIFFEID, t.Name, t.Region, at})
}
