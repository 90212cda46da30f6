package core

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// authorization is what the log holds of the authorization server: the public parts of its keys, what admins say of
// clients, and which sessions were ended before their time. Sessions themselves are not on the log.
type authorization struct {
	keys    btree.Map[string, *policyv1.SigningKey] // by id
	clients btree.Map[string, *policyv1.Client]     // by id
	policy  *policyv1.AuthorizationPolicy
	// ended are revoked sessions, by id, with when nobody needs to know any more.
	ended btree.Map[string, time.Time]
	// cut are clients of whose sessions those are over that began until a moment.
	cut btree.Map[string, time.Time]
}

func (a *authorization) fork() authorization {
	return authorization{keys: *a.keys.Copy(), clients: *a.clients.Copy(), policy: a.policy, ended: *a.ended.Copy(), cut: *a.cut.Copy()}
}

// AddSigningKey makes a key known that signs access tokens.
type AddSigningKey struct {
	Key message[*policyv1.SigningKey]
	// Alone retires all other keys of the issuer at once.
	Alone bool
	// IfNone does nothing where the issuer has a key.
	IfNone bool
}

// NewAddSigningKey adds a key.
func NewAddSigningKey(k *policyv1.SigningKey, alone, ifNone bool) AddSigningKey {
	return AddSigningKey{message[*policyv1.SigningKey]{k}, alone, ifNone}
}

func (c AddSigningKey) decide(s *State, env Env) ([]*eventv1.Event, error) {
	k := c.Key.M
	if k.GetId() == "" || k.GetIssuer() == "" || len(k.GetJwk()) == 0 || k.GetNotBefore() == nil {
		return nil, refuse(InvalidArgument, "a signing key needs an id, an issuer, a public part and a time from when on it signs")
	}
	if _, known := s.authorization.keys.Get(k.GetId()); known {
		return nil, refuse(AlreadyExists, "signing key %s exists", k.GetId())
	}
	events := []*eventv1.Event{{Body: &eventv1.Event_SigningKeyAdded{SigningKeyAdded: &eventv1.SigningKeyAdded{Key: k}}}}
	for old := range s.SigningKeys(k.GetIssuer()) {
		if c.IfNone {
			return nil, nil
		}
		if c.Alone {
			events = append(events, keyRetired(old.GetId()))
		}
	}
	return env.events(events...), nil
}

func keyRetired(id string) *eventv1.Event {
	return &eventv1.Event{Body: &eventv1.Event_SigningKeyRetired{SigningKeyRetired: &eventv1.SigningKeyRetired{KeyId: id}}}
}

// RetireSigningKey makes tokens that a key signed count no longer.
type RetireSigningKey struct{ ID string }

func (c RetireSigningKey) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if _, known := s.authorization.keys.Get(c.ID); !known {
		return nil, nil
	}
	return env.events(keyRetired(c.ID)), nil
}

// EndSession ends a session of a person with a client, before its time.
type EndSession struct {
	ID uuid.UUID
	// Until is when the last access token of the session has expired.
	Until time.Time
}

func (c EndSession) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.SessionEnded(c.ID) {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_SessionRevoked{SessionRevoked: &eventv1.SessionRevoked{SessionId: c.ID.String(), Until: timestamppb.New(c.Until)}}}), nil
}

// EndClientSessions ends all sessions that a client has.
type EndClientSessions struct{ ClientID string }

func (c EndClientSessions) decide(_ *State, env Env) ([]*eventv1.Event, error) {
	if c.ClientID == "" {
		return nil, refuseField(InvalidArgument, "client_id", "which client's sessions?")
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ClientSessionsRevoked{ClientSessionsRevoked: &eventv1.ClientSessionsRevoked{
		ClientId: c.ClientID, ValidAfter: timestamppb.New(env.Now),
	}}}), nil
}

// ForgetEndedSessions drops those of which nobody needs to know any more.
type ForgetEndedSessions struct{}

func (ForgetEndedSessions) decide(s *State, env Env) ([]*eventv1.Event, error) {
	due := false
	s.authorization.ended.Scan(func(_ string, until time.Time) bool {
		due = until.Before(env.Now)
		return !due
	})
	if !due {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_SessionRevocationsForgotten{SessionRevocationsForgotten: &eventv1.SessionRevocationsForgotten{
		At: timestamppb.New(env.Now),
	}}}), nil
}

// maxClients bounds those that admins describe.
const maxClients = 10_000

// SetClient approves a client, or describes it whole.
type SetClient struct{ Client message[*policyv1.Client] }

// NewSetClient sets a client.
func NewSetClient(c *policyv1.Client) SetClient { return SetClient{message[*policyv1.Client]{c}} }

func (c SetClient) decide(s *State, env Env) ([]*eventv1.Event, error) {
	old, known := s.authorization.clients.Get(c.Client.M.GetId())
	switch {
	case c.Client.M.GetId() == "":
		return nil, refuseField(InvalidArgument, "client.id", "a client needs an id")
	case known && equal(old, c.Client.M):
		return nil, nil
	case !known && s.authorization.clients.Len() >= maxClients:
		return nil, refuse(FailedPrecondition, "there are %d clients, which is the most", maxClients)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ClientSet{ClientSet: &eventv1.ClientSet{Client: c.Client.M}}}), nil
}

// RemoveClient takes back what was said of a client.
type RemoveClient struct{ ID string }

func (c RemoveClient) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.Client(c.ID) == nil {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ClientRemoved{ClientRemoved: &eventv1.ClientRemoved{ClientId: c.ID}}}), nil
}

// SetAuthorizationPolicy says what the authorization server permits.
type SetAuthorizationPolicy struct {
	Policy message[*policyv1.AuthorizationPolicy]
}

// NewSetAuthorizationPolicy sets it.
func NewSetAuthorizationPolicy(p *policyv1.AuthorizationPolicy) SetAuthorizationPolicy {
	return SetAuthorizationPolicy{message[*policyv1.AuthorizationPolicy]{p}}
}

func (c SetAuthorizationPolicy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if equal(s.AuthorizationPolicy(), c.Policy.M) {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_AuthorizationPolicySet{AuthorizationPolicySet: &eventv1.AuthorizationPolicySet{Policy: c.Policy.M}}}), nil
}

// SigningKeys yields the keys of an issuer that count, by id; of all issuers for "".
func (s *State) SigningKeys(issuer string) iter.Seq[*policyv1.SigningKey] {
	return func(yield func(*policyv1.SigningKey) bool) {
		s.authorization.keys.Scan(func(_ string, k *policyv1.SigningKey) bool {
			return issuer != "" && k.GetIssuer() != issuer || yield(k)
		})
	}
}

// Client returns what an admin said of a client, or nil.
func (s *State) Client(id string) *policyv1.Client {
	c, _ := s.authorization.clients.Get(id)
	return c
}

// Clients yields the clients of which admins said something, by id.
func (s *State) Clients() iter.Seq[*policyv1.Client] {
	return func(yield func(*policyv1.Client) bool) {
		s.authorization.clients.Scan(func(_ string, c *policyv1.Client) bool { return yield(c) })
	}
}

// AuthorizationPolicy is what the authorization server permits. It is never nil.
func (s *State) AuthorizationPolicy() *policyv1.AuthorizationPolicy {
	if s.authorization.policy == nil {
		return &policyv1.AuthorizationPolicy{}
	}
	return s.authorization.policy
}

// SessionEnded tells whether a session was ended before its time, as long as anybody needs to know.
func (s *State) SessionEnded(id uuid.UUID) bool {
	_, ended := s.authorization.ended.Get(idKey(id))
	return ended
}

// ClientCut is until when a client's sessions must have begun that are over; zero for never.
func (s *State) ClientCut(id string) time.Time {
	at, _ := s.authorization.cut.Get(id)
	return at
}

// Blocked tells whether a block stands against a person or a client now.
func (s *State) Blocked(person, client string, now time.Time) bool {
	blocked := false
	s.blocks.Scan(func(_ string, b *policyv1.Block) bool {
		hit := b.GetPersonId() != "" && b.GetPersonId() == person || b.GetClientId() != "" && b.GetClientId() == client
		blocked = hit && (b.GetUntil() == nil || now.Before(b.GetUntil().AsTime()))
		return !blocked
	})
	return blocked
}

// applyAuthorization folds what is about the authorization server, and tells whether an event is.
func (s *State) applyAuthorization(ev *eventv1.Event) (bool, error) {
	a := &s.authorization
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_SigningKeyAdded:
		a.keys.Set(b.SigningKeyAdded.GetKey().GetId(), b.SigningKeyAdded.GetKey())
	case *eventv1.Event_SigningKeyRetired:
		a.keys.Delete(b.SigningKeyRetired.GetKeyId())
	case *eventv1.Event_SessionRevoked:
		id, err := uuid.Parse(b.SessionRevoked.GetSessionId())
		if err != nil {
			return true, err
		}
		a.ended.Set(idKey(id), b.SessionRevoked.GetUntil().AsTime())
	case *eventv1.Event_SessionRevocationsForgotten:
		for _, id := range a.endedBefore(b.SessionRevocationsForgotten.GetAt().AsTime()) {
			a.ended.Delete(id)
		}
	case *eventv1.Event_ClientSessionsRevoked:
		a.cut.Set(b.ClientSessionsRevoked.GetClientId(), b.ClientSessionsRevoked.GetValidAfter().AsTime())
	case *eventv1.Event_ClientSet:
		a.clients.Set(b.ClientSet.GetClient().GetId(), b.ClientSet.GetClient())
	case *eventv1.Event_ClientRemoved:
		a.clients.Delete(b.ClientRemoved.GetClientId())
	case *eventv1.Event_AuthorizationPolicySet:
		a.policy = b.AuthorizationPolicySet.GetPolicy()
	default:
		return false, nil
	}
	return true, nil
}

func (a *authorization) endedBefore(at time.Time) []string {
	var all []string
	a.ended.Scan(func(id string, until time.Time) bool {
		if until.Before(at) {
			all = append(all, id)
		}
		return true
	})
	return all
}

// authorizationKeys yields the keys of the entries that are the authorization server's.
func (s *State) authorizationKeys() iter.Seq[entryKey] {
	return func(yield func(entryKey) bool) {
		more := true
		put := func(k entryKey) bool { more = more && yield(k); return more }
		for _, issuer := range s.ownIssuers() {
			if !put(entryKey{kind: authorizationServerEntry, text: issuer}) {
				return
			}
		}
		s.authorization.ended.Scan(func(id string, _ time.Time) bool {
			return put(entryKey{kind: revokedSessionEntry, id: uuid.UUID([]byte(id))})
		})
		s.authorization.cut.Scan(func(id string, _ time.Time) bool { return put(entryKey{kind: revokedClientEntry, text: id}) })
	}
}

// ownIssuers are the issuers that have keys.
func (s *State) ownIssuers() []string {
	var all []string
	for k := range s.SigningKeys("") {
		if !slices.Contains(all, k.GetIssuer()) {
			all = append(all, k.GetIssuer())
		}
	}
	slices.Sort(all)
	return all
}

// NewestSigningKey is the key that begins last, of any issuer, or nil. Its issuer is where people are sent: a server that moved
// leaves keys behind, which count until the last token of its former address has expired.
func (s *State) NewestSigningKey() *policyv1.SigningKey {
	var newest *policyv1.SigningKey
	for k := range s.SigningKeys("") {
		if newest == nil || k.GetNotBefore().AsTime().After(newest.GetNotBefore().AsTime()) {
			newest = k
		}
	}
	return newest
}

// authorizationEntry returns an entry that is the authorization server's, or nil where it has no value.
func (s *State) authorizationEntry(k entryKey) *fleetv1.Entry {
	switch k.kind {
	case authorizationServerEntry:
		keys := slices.Collect(s.SigningKeys(k.text))
		if len(keys) == 0 {
			return nil
		}
		offered := false
		for d := range s.Directories() {
			offered = offered || d.GetSignIn() != nil && s.NewestSigningKey().GetIssuer() == k.text
		}
		return &fleetv1.Entry{Value: &fleetv1.Entry_AuthorizationServer{AuthorizationServer: &fleetv1.AuthorizationServer{Issuer: k.text, Keys: keys, Offered: offered}}}
	case revokedSessionEntry:
		if s.SessionEnded(k.id) {
			return &fleetv1.Entry{Value: &fleetv1.Entry_RevokedSession{RevokedSession: &fleetv1.RevokedSession{Id: k.id[:]}}}
		}
	case revokedClientEntry:
		if at := s.ClientCut(k.text); !at.IsZero() {
			return &fleetv1.Entry{Value: &fleetv1.Entry_RevokedClient{RevokedClient: &fleetv1.RevokedClient{ClientId: k.text, ValidAfterMs: at.UnixMilli()}}}
		}
	}
	return nil
}

// authorization touches the entries that an event about the authorization server changes.
func (t *touch) authorization(ev *eventv1.Event) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_SigningKeyAdded, *eventv1.Event_SigningKeyRetired:
		t.ownIssuers()
	case *eventv1.Event_SessionRevoked:
		if id, err := uuid.Parse(b.SessionRevoked.GetSessionId()); err == nil {
			t.key(entryKey{kind: revokedSessionEntry, id: id})
		}
	case *eventv1.Event_SessionRevocationsForgotten:
		for _, id := range t.prev.authorization.endedBefore(b.SessionRevocationsForgotten.GetAt().AsTime()) {
			t.key(entryKey{kind: revokedSessionEntry, id: uuid.UUID([]byte(id))})
		}
	case *eventv1.Event_ClientSessionsRevoked:
		t.key(entryKey{kind: revokedClientEntry, text: b.ClientSessionsRevoked.GetClientId()})
	}
}

func (t *touch) ownIssuers() {
	for _, s := range []*State{t.prev, t.next} {
		for _, issuer := range s.ownIssuers() {
			t.key(entryKey{kind: authorizationServerEntry, text: issuer})
		}
	}
}

// checkpointAuthorization is authorization in a checkpoint.
type checkpointAuthorization struct {
	Keys, Clients [][]byte
	Policy        []byte
	Ended, Cut    []checkpointMoment
}

type checkpointMoment struct {
	ID string
	At time.Time
}

// checkpoint writes it down; marshal keeps its own error.
func (a *authorization) checkpoint(marshal func(proto.Message) []byte) checkpointAuthorization {
	var out checkpointAuthorization
	a.keys.Scan(func(_ string, k *policyv1.SigningKey) bool { out.Keys = append(out.Keys, marshal(k)); return true })
	a.clients.Scan(func(_ string, c *policyv1.Client) bool { out.Clients = append(out.Clients, marshal(c)); return true })
	if a.policy != nil {
		out.Policy = append([]byte{1}, marshal(a.policy)...) // an empty policy is one too
	}
	a.ended.Scan(func(id string, until time.Time) bool {
		out.Ended = append(out.Ended, checkpointMoment{id, until})
		return true
	})
	a.cut.Scan(func(id string, at time.Time) bool { out.Cut = append(out.Cut, checkpointMoment{id, at}); return true })
	return out
}

func (a *authorization) restore(in checkpointAuthorization) error {
	keys, err := unmarshalAll[policyv1.SigningKey](in.Keys)
	if err != nil {
		return err
	}
	for _, k := range keys {
		a.keys.Set(k.GetId(), k)
	}
	clients, err := unmarshalAll[policyv1.Client](in.Clients)
	if err != nil {
		return err
	}
	for _, c := range clients {
		a.clients.Set(c.GetId(), c)
	}
	if len(in.Policy) > 0 {
		policies, err := unmarshalAll[policyv1.AuthorizationPolicy]([][]byte{in.Policy[1:]})
		if err != nil {
			return err
		}
		a.policy = policies[0]
	}
	for _, m := range in.Ended {
		a.ended.Set(m.ID, m.At)
	}
	for _, m := range in.Cut {
		a.cut.Set(m.ID, m.At)
	}
	return nil
}
