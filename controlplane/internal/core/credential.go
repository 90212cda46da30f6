package core

import (
	"encoding/binary"
	"iter"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// What upstreams take the gateway for is kept in the vault; the log and the state know whose it is, for what, and since when. A credential
// whose time is over (its person's generation rose, its group or connector is gone, an admin withdrew it) is out of use with that very event,
// and is kept as a withdrawal until an event says that it was revoked upstream, as well as that can be done, and destroyed here.

// maxKeys bounds the keys that an owner has on a connector at a time, for rotation.
const maxKeys = 5

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

// NoteRenewal says that a credential's tokens were renewed, so that those from before go out of use.
type NoteRenewal struct{ ID uuid.UUID }

func (c NoteRenewal) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.Credential(c.ID) == nil {
		return nil, refuse(NotFound, "there is no credential %s in use", c.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_CredentialRenewed{CredentialRenewed: &eventv1.CredentialRenewed{CredentialId: c.ID.String()}}}), nil
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

// MayUse tells whether a person may use anything of a connector in a region, empty for any, by the code that proxies run over what they would
// be sent of the person.
func (s *State) MayUse(user *User, region, connector string, now time.Time) bool {
	table, err := policy.Compile(s.Seq(), s.EntriesFor(user, region))
	return err == nil && len(table.List(policy.Request{Person: user.ID, Connector: connector, Region: region, Now: now})) > 0
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

// serve makes the settings that proxies get, as of a place on the log.
func (c *Connector) serve(credentials uint64) {
	c.credentials = credentials
	c.served = c.Settings
	if credentials > 0 {
		c.served = proto.CloneOf(c.Settings)
		c.served.Credentials = credentials
	}
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
