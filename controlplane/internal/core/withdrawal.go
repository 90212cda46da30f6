package core

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// endedFor is how long it is known what became of a withdrawn credential.
const endedFor = 90 * 24 * time.Hour

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

type checkpointWithdrawal struct {
	Withdrawal       Withdrawal
	Settings, Server []byte
}
