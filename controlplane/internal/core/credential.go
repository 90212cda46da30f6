package core

import (
	"encoding/binary"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// What upstreams take the gateway for is kept in the vault; the log and the state know whose it is, for what, and since when. A credential
// whose time is over (its person's generation rose, its group or connector is gone, an admin withdrew it) is out of use with that very event,
// and is kept as a withdrawal until an event says that it was revoked upstream, as well as that can be done, and destroyed here.

// maxKeys bounds the keys that an owner has on a connector at a time, for rotation.
const maxKeys = 5

// endedFor is how long it is known what became of a withdrawn credential.
const endedFor = 90 * 24 * time.Hour

// Shared owns what is everybody's.
var Shared = Grantee{Everyone: Everyone}

// Credential is what is known of a credential beside its value.
type Credential struct {
	ID   uuid.UUID
	Kind policyv1.CredentialKind
	// Owner is a person, a group or Shared.
	Owner Grantee
	// Connector is empty for a person's tokens of their identity provider.
	Connector string
	// Generation of the person for which it was made.
	Generation uint64
	// SecretID is its name in the vault.
	SecretID string
	At       time.Time
	// Seq is where it was set.
	Seq uint64
}

// Withdrawal is a credential that is out of use.
type Withdrawal struct {
	Credential
	WithdrawnAt time.Time
	// Settings and Server are the connector's, as they were: to revoke it there.
	Settings *policyv1.Connector
	Server   *policyv1.UpstreamAuthorizationServer
	// Tries is how often it was tried to revoke it, Next when it is tried again.
	Tries int
	Next  time.Time
	// Outcome is what the last try came to. Ended is when nothing was left of it; zero: it is still to be destroyed.
	Outcome policyv1.CredentialOutcome
	Ended   time.Time
}

// credentialKey orders credentials by owner, then by connector, then by age.
func credentialKey(owner Grantee, connector string, seq uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(owner.key()+connector+"\x00"), seq))
}

// SetCredential says that the vault holds a credential.
type SetCredential struct {
	ID         uuid.UUID
	Kind       policyv1.CredentialKind
	Owner      Grantee
	Connector  string
	Generation uint64
	SecretID   string
	// KeepOthers of the same owner on the connector.
	KeepOthers bool
}

func (c SetCredential) decide(s *State, env Env) ([]*eventv1.Event, error) {
	connector := s.Connector(c.Connector)
	if connector == nil && c.Kind != policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY {
		return nil, refuse(NotFound, "there is no connector %q", c.Connector)
	}
	name, err := s.granteeName(c.Owner)
	if err != nil {
		return nil, err
	}
	if c.Owner.Person != uuid.Nil {
		if u := s.User(c.Owner.Person); !u.Active || u.Generation != c.Generation {
			return nil, refuse(FailedPrecondition, "%s was deactivated, or the sessions of theirs were revoked, meanwhile", name)
		}
	}
	if c.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_KEY && c.Owner != Shared {
		if holder := KeyHolder(connector.Settings.GetAuth()); holder != policyv1.KeyHolder_KEY_HOLDER_GROUP && c.Owner.Group != uuid.Nil || holder != policyv1.KeyHolder_KEY_HOLDER_PERSON && c.Owner.Person != uuid.Nil {
			return nil, refuse(FailedPrecondition, "connector %q does not send keys of this kind of owner: its YAML says whose under auth.keysOf", c.Connector)
		}
	}
	if c.KeepOthers && s.countCredentials(c.Owner, c.Connector) >= maxKeys {
		return nil, refuse(FailedPrecondition, "%s has %d keys on %q, which is the most: revoke one first", name, maxKeys, c.Connector)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_CredentialSet{CredentialSet: &eventv1.CredentialSet{
		KeepOthers: c.KeepOthers, Credential: (&Credential{ID: c.ID, Kind: c.Kind, Owner: c.Owner, Connector: c.Connector, Generation: c.Generation, SecretID: c.SecretID}).wire(),
	}}}), nil
}

// WithdrawCredentials takes credentials out of use.
type WithdrawCredentials struct{ IDs []uuid.UUID }

func (c WithdrawCredentials) decide(s *State, env Env) ([]*eventv1.Event, error) {
	var events []*eventv1.Event
	seen := map[uuid.UUID]bool{}
	for _, id := range c.IDs {
		if s.Credential(id) == nil || seen[id] {
			continue
		}
		seen[id] = true
		events = append(events, &eventv1.Event{Body: &eventv1.Event_CredentialWithdrawn{CredentialWithdrawn: &eventv1.CredentialWithdrawn{CredentialId: id.String()}}})
	}
	return env.events(events...), nil
}

// NoteRevocation says what came of trying to revoke a withdrawn credential upstream.
type NoteRevocation struct {
	ID      uuid.UUID
	Outcome policyv1.CredentialOutcome
	// Next is when it is tried again.
	Next time.Time
}

func (c NoteRevocation) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if w := s.Withdrawal(c.ID); w == nil || !w.Ended.IsZero() {
		return nil, nil
	}
	tried := &eventv1.CredentialRevocationTried{CredentialId: c.ID.String(), Outcome: c.Outcome}
	if !c.Next.IsZero() {
		tried.NextAt = timestamppb.New(c.Next)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_CredentialRevocationTried{CredentialRevocationTried: tried}}), nil
}

// NoteRenewal says that a credential's tokens were renewed, so that those from before go out of use.
type NoteRenewal struct{ ID uuid.UUID }

func (c NoteRenewal) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.Credential(c.ID) == nil {
		return nil, refuse(NotFound, "there is no credential %s in use", c.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_CredentialRenewed{CredentialRenewed: &eventv1.CredentialRenewed{CredentialId: c.ID.String()}}}), nil
}

// FinishWithdrawal says that nothing is left of a withdrawn credential here.
type FinishWithdrawal struct {
	ID      uuid.UUID
	Outcome policyv1.CredentialOutcome
}

func (c FinishWithdrawal) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if w := s.Withdrawal(c.ID); w == nil || !w.Ended.IsZero() {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_CredentialDestroyed{CredentialDestroyed: &eventv1.CredentialDestroyed{CredentialId: c.ID.String(), Outcome: c.Outcome}}}), nil
}

// PinUpstreamServer says which authorization server an admin approved for a connector.
type PinUpstreamServer struct {
	Connector string
	Server    message[*policyv1.UpstreamAuthorizationServer]
}

// NewPinUpstreamServer pins a server.
func NewPinUpstreamServer(connector string, server *policyv1.UpstreamAuthorizationServer) PinUpstreamServer {
	return PinUpstreamServer{Connector: connector, Server: message[*policyv1.UpstreamAuthorizationServer]{server}}
}

func (c PinUpstreamServer) decide(s *State, env Env) ([]*eventv1.Event, error) {
	connector := s.Connector(c.Connector)
	switch {
	case connector == nil:
		return nil, refuse(NotFound, "there is no connector %q", c.Connector)
	case !usesServer(connector.Settings.GetAuth()):
		return nil, refuse(FailedPrecondition, "connector %q gets its credentials from no authorization server", c.Connector)
	case connector.Server != nil && equal(connector.Server, c.Server.M):
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_UpstreamServerPinned{UpstreamServerPinned: &eventv1.UpstreamServerPinned{ConnectorId: c.Connector, Server: c.Server.M}}}), nil
}

// usesServer tells whether a connector's tokens come from an authorization server of the upstream's.
func usesServer(a *policyv1.UpstreamAuth) bool {
	return a.GetOauth() != nil || a.GetServiceAccount() != nil || a.GetTokenExchange() != nil || a.GetIdentityAssertion() != nil
}

// KeyHolder is whose keys a connector sends; unspecified: it sends none.
func KeyHolder(a *policyv1.UpstreamAuth) policyv1.KeyHolder {
	switch k := a.GetKind().(type) {
	case *policyv1.UpstreamAuth_Header:
		return max(k.Header.GetHolder(), policyv1.KeyHolder_KEY_HOLDER_SHARED)
	case *policyv1.UpstreamAuth_Query:
		return max(k.Query.GetHolder(), policyv1.KeyHolder_KEY_HOLDER_SHARED)
	}
	return policyv1.KeyHolder_KEY_HOLDER_UNSPECIFIED
}

// takesSecret tells whether a connector has a secret of its own: a key for all, or that of the gateway as a client.
func takesSecret(a *policyv1.UpstreamAuth) bool {
	return KeyHolder(a) == policyv1.KeyHolder_KEY_HOLDER_SHARED || usesServer(a)
}

// authIdentity is what credentials of a connector were made for. Where it changes they are of no use any more.
func authIdentity(c *policyv1.Connector) string {
	client := func(kind string, server *policyv1.UpstreamAuthorizationServer, client *policyv1.UpstreamClient) string {
		return strings.Join([]string{kind, c.GetUrl(), server.GetIssuer(), server.GetTokenEndpoint(), server.GetResource(), client.GetId()}, "\x00")
	}
	switch k := c.GetAuth().GetKind().(type) {
	case *policyv1.UpstreamAuth_Header, *policyv1.UpstreamAuth_Query:
		return "key " + KeyHolder(c.GetAuth()).String()
	case *policyv1.UpstreamAuth_Oauth:
		return client("oauth", k.Oauth.GetServer(), k.Oauth.GetClient())
	case *policyv1.UpstreamAuth_ServiceAccount:
		return client("service account", k.ServiceAccount.GetServer(), k.ServiceAccount.GetClient())
	case *policyv1.UpstreamAuth_TokenExchange:
		return client("token exchange", k.TokenExchange.GetServer(), k.TokenExchange.GetClient())
	case *policyv1.UpstreamAuth_IdentityAssertion:
		return client("identity assertion", k.IdentityAssertion.GetServer(), k.IdentityAssertion.GetClient())
	}
	return ""
}

// Credential returns a credential that is in use, or nil.
func (s *State) Credential(id uuid.UUID) *Credential {
	key, ok := s.credentialByID.Get(idKey(id))
	if !ok {
		return nil
	}
	c, _ := s.credentials.Get(key)
	return c
}

// CredentialsOf yields an owner's credentials on a connector, newest first.
func (s *State) CredentialsOf(owner Grantee, connector string) iter.Seq[*Credential] {
	return func(yield func(*Credential) bool) {
		s.credentials.Descend(credentialKey(owner, connector, 1<<64-1), func(_ string, c *Credential) bool {
			return c.Owner == owner && c.Connector == connector && yield(c)
		})
	}
}

func (s *State) countCredentials(owner Grantee, connector string) (n int) {
	for range s.CredentialsOf(owner, connector) {
		n++
	}
	return n
}

// Credentials yields all credentials that are in use, by owner.
func (s *State) Credentials() iter.Seq[*Credential] {
	return func(yield func(*Credential) bool) {
		s.credentials.Scan(func(_ string, c *Credential) bool { return yield(c) })
	}
}

// PersonCredentials yields all credentials of a person, by connector.
func (s *State) PersonCredentials(person uuid.UUID) iter.Seq[*Credential] {
	return s.ownedBy(Grantee{Person: person})
}

func (s *State) ownedBy(owner Grantee) iter.Seq[*Credential] {
	return func(yield func(*Credential) bool) {
		s.credentials.Ascend(owner.key(), func(_ string, c *Credential) bool { return c.Owner == owner && yield(c) })
	}
}

// Withdrawal returns what became of a withdrawn credential, or nil where it is not known any more.
func (s *State) Withdrawal(id uuid.UUID) *Withdrawal {
	if w, ok := s.withdrawn.Get(idKey(id)); ok {
		return w
	}
	return nil
}

// Withdrawals yields withdrawn credentials, those of which nothing is left included, for as long as they are known.
func (s *State) Withdrawals() iter.Seq[*Withdrawal] {
	return func(yield func(*Withdrawal) bool) {
		s.withdrawn.Scan(func(_ string, w *Withdrawal) bool { return yield(w) })
	}
}

// OpenWithdrawals is how many withdrawn credentials are still to be destroyed.
func (s *State) OpenWithdrawals() int { return s.openWithdrawals }

// MayUse tells whether a person may use anything of a connector in a region, empty for any, by the code that proxies run over what they would
// be sent of the person.
func (s *State) MayUse(user *User, region, connector string, now time.Time) bool {
	table, err := policy.Compile(s.Seq(), s.EntriesFor(user, region))
	return err == nil && len(table.List(policy.Request{Person: user.ID, Connector: connector, Region: region, Now: now})) > 0
}

// NeedsIdentity tells whether some connector needs people's tokens of their identity provider.
func (s *State) NeedsIdentity() bool {
	for c := range s.Connectors() {
		switch c.Settings.GetAuth().GetKind().(type) {
		case *policyv1.UpstreamAuth_TokenExchange, *policyv1.UpstreamAuth_IdentityAssertion, *policyv1.UpstreamAuth_PassThrough:
			return true
		}
	}
	return false
}

func (c *Credential) wire() *eventv1.Credential {
	out := &eventv1.Credential{Id: c.ID.String(), Kind: c.Kind, ConnectorId: c.Connector, Generation: c.Generation, SecretId: c.SecretID}
	out.GroupId, out.PersonId, _ = c.Owner.wire()
	return out
}

func (s *State) applyCredential(rec Record) (known bool, err error) {
	switch b := rec.Event.GetBody().(type) {
	case *eventv1.Event_ConnectorSecretSet:
		return true, s.applyConnectorSecretSet(rec, b.ConnectorSecretSet)
	case *eventv1.Event_CredentialSet:
		return true, s.applyCredentialSet(rec, b.CredentialSet)
	case *eventv1.Event_CredentialWithdrawn:
		c, err := s.mustCredential(b.CredentialWithdrawn.GetCredentialId())
		if err != nil {
			return true, err
		}
		return true, s.withdraw(rec, c)
	case *eventv1.Event_CredentialRenewed:
		c, err := s.mustCredential(b.CredentialRenewed.GetCredentialId())
		if err != nil {
			return true, err
		}
		return true, s.credentialChanged(rec, c)
	case *eventv1.Event_CredentialRevocationTried:
		return true, s.changeWithdrawal(b.CredentialRevocationTried.GetCredentialId(), func(w *Withdrawal) {
			w.Tries++
			w.Outcome, w.Next = b.CredentialRevocationTried.GetOutcome(), time.Time{}
			if at := b.CredentialRevocationTried.GetNextAt(); at != nil {
				w.Next = at.AsTime()
			}
		})
	case *eventv1.Event_CredentialDestroyed:
		s.forgetEnded(rec)
		s.openWithdrawals--
		return true, s.changeWithdrawal(b.CredentialDestroyed.GetCredentialId(), func(w *Withdrawal) {
			w.Outcome, w.Ended, w.Next = b.CredentialDestroyed.GetOutcome(), rec.Event.GetAt().AsTime(), time.Time{}
			w.Settings, w.Server = nil, nil
		})
	case *eventv1.Event_UpstreamServerPinned:
		return true, s.changeConnector(b.UpstreamServerPinned.GetConnectorId(), func(c *Connector) { c.Server = b.UpstreamServerPinned.GetServer() })
	}
	return false, nil
}

func (s *State) mustCredential(id string) (*Credential, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, err
	}
	if c := s.Credential(parsed); c != nil {
		return c, nil
	}
	return nil, invalidLog("there is no credential %s", id)
}

// applyConnectorSecretSet keeps a connector's own secret as a credential that everybody shares.
func (s *State) applyConnectorSecretSet(rec Record, b *eventv1.ConnectorSecretSet) error {
	if s.Connector(b.GetConnectorId()) == nil {
		return invalidLog("there is no connector %q", b.GetConnectorId())
	}
	id, err := uuid.Parse(rec.Event.GetId())
	if err != nil {
		return err
	}
	return s.putCredential(rec, &Credential{
		ID: id, Kind: policyv1.CredentialKind_CREDENTIAL_KIND_KEY, Owner: Shared, Connector: b.GetConnectorId(), SecretID: b.GetSecretId(),
	}, b.GetKeepOthers())
}

func (s *State) applyCredentialSet(rec Record, b *eventv1.CredentialSet) error {
	w := b.GetCredential()
	c := &Credential{Kind: w.GetKind(), Connector: w.GetConnectorId(), Generation: w.GetGeneration(), SecretID: w.GetSecretId(), Owner: Shared}
	var err error
	if c.ID, err = uuid.Parse(w.GetId()); err != nil {
		return err
	}
	if w.GetGroupId()+w.GetPersonId() != "" {
		if c.Owner, err = granteeOf(w.GetGroupId(), w.GetPersonId(), ""); err != nil {
			return err
		}
	}
	return s.putCredential(rec, c, b.GetKeepOthers())
}

func (s *State) putCredential(rec Record, c *Credential, keepOthers bool) error {
	if !keepOthers {
		for old := range s.CredentialsOf(c.Owner, c.Connector) {
			// A client's own secret and what it got with it are both everybody's.
			if old.Kind == c.Kind {
				if err := s.withdraw(rec, old); err != nil {
					return err
				}
			}
		}
	}
	c.At, c.Seq = rec.Event.GetAt().AsTime(), rec.Seq
	key := credentialKey(c.Owner, c.Connector, c.Seq)
	s.credentials.Set(key, c)
	s.credentialByID.Set(idKey(c.ID), key)
	return s.credentialChanged(rec, c)
}

// credentialChanged has proxies forget what they hold of it.
func (s *State) credentialChanged(rec Record, c *Credential) error {
	if c.Owner.Person != uuid.Nil {
		old := s.User(c.Owner.Person)
		if old == nil || old.Credentials == rec.Seq {
			return nil
		}
		u := *old
		u.Credentials = rec.Seq
		s.putUser(old, &u)
		return nil
	}
	if s.Connector(c.Connector) == nil {
		return nil
	}
	return s.changeConnector(c.Connector, func(k *Connector) {
		k.SecretID = ""
		for newest := range s.CredentialsOf(Shared, c.Connector) {
			if newest.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
				k.SecretID = newest.SecretID
				break
			}
		}
		k.serve(rec.Seq)
	})
}

// withdraw takes a credential out of use, and has proxies forget it.
func (s *State) withdraw(rec Record, c *Credential) error {
	s.putWithdrawal(rec, c)
	return s.credentialChanged(rec, c)
}

func (s *State) putWithdrawal(rec Record, c *Credential) {
	w := &Withdrawal{Credential: *c, WithdrawnAt: rec.Event.GetAt().AsTime()}
	if connector := s.Connector(c.Connector); connector != nil {
		w.Settings, w.Server = connector.Settings, connector.Server
	}
	s.credentials.Delete(credentialKey(c.Owner, c.Connector, c.Seq))
	s.credentialByID.Delete(idKey(c.ID))
	s.withdrawn.Set(idKey(c.ID), w)
	s.openWithdrawals++
}

// withdrawAll takes all of somebody's credentials out of use.
func (s *State) withdrawAll(rec Record, owner Grantee) error {
	for _, c := range slices.Collect(s.ownedBy(owner)) {
		if err := s.withdraw(rec, c); err != nil {
			return err
		}
	}
	return nil
}

// withdrawOn takes all credentials on a connector out of use. Proxies forget them with the connector's entry, which changes.
func (s *State) withdrawOn(rec Record, connector string) error {
	found := false
	for _, c := range slices.Collect(s.Credentials()) {
		if c.Connector == connector {
			s.putWithdrawal(rec, c)
			found = true
		}
	}
	if !found {
		return nil
	}
	return s.credentialChanged(rec, &Credential{Owner: Shared, Connector: connector})
}

func (s *State) changeWithdrawal(id string, change func(*Withdrawal)) error {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return err
	}
	old := s.Withdrawal(parsed)
	if old == nil {
		return invalidLog("there is no withdrawn credential %s", id)
	}
	w := *old
	change(&w)
	s.withdrawn.Set(idKey(parsed), &w)
	return nil
}

// forgetEnded drops what ended long before an event. Ids are about in the order of time, so that the first are looked at alone.
func (s *State) forgetEnded(rec Record) {
	before := rec.Event.GetAt().AsTime().Add(-endedFor)
	var gone []string
	looked := 0
	s.withdrawn.Scan(func(key string, w *Withdrawal) bool {
		looked++
		if !w.Ended.IsZero() && w.Ended.Before(before) {
			gone = append(gone, key)
		}
		return looked < 1000 && w.At.Before(before)
	})
	for _, key := range gone {
		s.withdrawn.Delete(key)
	}
}

// serve makes the settings that proxies get, as of a place on the log.
func (c *Connector) serve(credentials uint64) {
	c.credentials = credentials
	c.served = c.Settings
	if credentials > 0 {
		c.served = proto.CloneOf(c.Settings)
		c.served.Credentials = credentials
	}
}

type checkpointWithdrawal struct {
	Withdrawal       Withdrawal
	Settings, Server []byte
}

func (s *State) checkpointCredentials(head *checkpointHead, marshal func(proto.Message) []byte) {
	for c := range s.Credentials() {
		head.Credentials = append(head.Credentials, *c)
	}
	for w := range s.Withdrawals() {
		out := checkpointWithdrawal{Withdrawal: *w}
		out.Withdrawal.Settings, out.Withdrawal.Server = nil, nil
		if w.Settings != nil {
			out.Settings = marshal(w.Settings)
		}
		if w.Server != nil {
			out.Server = marshal(w.Server)
		}
		head.Withdrawals = append(head.Withdrawals, out)
	}
}

func (s *State) restoreCredentials(head *checkpointHead) error {
	for _, c := range head.Credentials {
		key := credentialKey(c.Owner, c.Connector, c.Seq)
		s.credentials.Set(key, &c)
		s.credentialByID.Set(idKey(c.ID), key)
	}
	for _, in := range head.Withdrawals {
		w := in.Withdrawal
		if in.Settings != nil {
			w.Settings = &policyv1.Connector{}
			if err := proto.Unmarshal(in.Settings, w.Settings); err != nil {
				return err
			}
		}
		if in.Server != nil {
			w.Server = &policyv1.UpstreamAuthorizationServer{}
			if err := proto.Unmarshal(in.Server, w.Server); err != nil {
				return err
			}
		}
		s.withdrawn.Set(idKey(w.ID), &w)
		if w.Ended.IsZero() {
			s.openWithdrawals++
		}
	}
	return nil
}
