package identity

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// own is what a token of Sallyport's own authorization server says beyond what others say. It names the person by id, and
// what it counts for is compared with the snapshot at each use: its key, the person's generation, the session and the client.
type own struct {
	kid        string
	person     uuid.UUID
	session    uuid.UUID
	generation uint64
	began      time.Time // of the session
}

// ownKeys are the keys of authorization servers as snapshots have them, parsed once for each entry.
type ownKeys struct {
	mu    sync.Mutex
	known map[string]parsedKeys // by issuer
}

type parsedKeys struct {
	of   *fleetv1.AuthorizationServer
	keys map[string]any // public keys, by id
}

// key returns a key by its id, or nil. Nothing is fetched: what the snapshot does not have is not a key.
func (o *ownKeys) key(server *fleetv1.AuthorizationServer, kid string) any {
	o.mu.Lock()
	defer o.mu.Unlock()
	have := o.known[server.GetIssuer()]
	if have.of != server {
		have = parsedKeys{of: server, keys: map[string]any{}}
		for _, k := range server.GetKeys() {
			var public jose.JSONWebKey
			if json.Unmarshal(k.GetJwk(), &public) == nil && public.IsPublic() && public.Valid() && public.KeyID == k.GetId() {
				have.keys[k.GetId()] = public.Key
			}
		}
		if o.known == nil {
			o.known = map[string]parsedKeys{}
		}
		o.known[server.GetIssuer()] = have
	}
	return have.keys[kid]
}

// verifyOwn does what need be done once for a token of Sallyport's own. Unlike others' it is marked as an access token
// (RFC 9068) and signed by one algorithm.
func (p *parsed) verifyOwn(public any) (*verified, *Error) {
	if err := p.checkType(); err != nil {
		return nil, err
	}
	if typ, _ := p.header.ExtraHeaders[jose.HeaderType].(string); !strings.EqualFold(strings.TrimPrefix(strings.ToLower(typ), "application/"), "at+jwt") {
		return nil, fail(WrongType, errors.New("it is not marked as an access token"))
	}
	if public == nil || p.header.Algorithm != string(jose.ES256) {
		return nil, fail(BadSignature, errors.New("no key of the authorization server fits"))
	}
	payload, err := p.jws.Verify(public)
	if err != nil {
		return nil, fail(BadSignature, nil)
	}
	v, failed := p.believe(nil, payload, "sub")
	if failed != nil {
		return nil, failed
	}
	var c struct {
		Generation uint64 `json:"sallyport_gen"`
		Began      int64  `json:"sallyport_began"`
	}
	person, err := uuid.Parse(v.subject)
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return nil, fail(NoSubject, errors.New("it names no person"))
	}
	session, err := uuid.Parse(v.session)
	if err != nil {
		return nil, fail(Malformed, errors.New("it names no session"))
	}
	v.own = &own{kid: p.header.KeyID, person: person, session: session, generation: c.Generation, began: time.UnixMilli(c.Began)}
	return v, nil
}

// identifyOwn finds the person of a token of Sallyport's own in the current table.
func identifyOwn(table Table, known *verified, d digest) (Caller, error) {
	person, found := table.PersonByID(known.own.person)
	c := Caller{
		Person: person, Issuer: known.issuer, Subject: known.subject, ClientID: known.clientID, TokenID: known.tokenID, Session: known.session,
		Token: d, IssuedAt: known.issuedAt, Expiry: known.expiry, ACR: known.acr, AMR: known.amr, AuthTime: known.authTime, own: known.own, bound: known.bound,
	}
	switch {
	case !found:
		return Caller{}, &Error{Kind: PersonUnknown, Caller: c}
	case !person.Active:
		return Caller{}, &Error{Kind: PersonInactive, Caller: c}
	case !c.Counts(table):
		return Caller{}, &Error{Kind: Revoked, Caller: c}
	}
	return c, nil
}

// Counts tells whether the token with which a caller was identified still counts in a table: what is in flight is held to it
// at each change.
func (c *Caller) Counts(table Table) bool {
	p, known := table.PersonByID(c.ID)
	if !known || !p.Active {
		return false
	}
	if c.own == nil {
		return p.ValidAfter.IsZero() || c.IssuedAt.After(p.ValidAfter)
	}
	server, known := table.AuthorizationServer(c.Issuer)
	if !known || !slices.ContainsFunc(server.GetKeys(), func(k *policyv1.SigningKey) bool { return k.GetId() == c.own.kid }) {
		return false
	}
	return p.Generation == c.own.generation && !table.SessionEnded(c.own.session) && c.own.began.After(table.ClientCut(c.ClientID))
}
