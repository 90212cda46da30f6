package core

import (
	"iter"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// The removal of a person is a tombstone: the person is gone from the state at once, and whoever writes the
// log then destroys the person's key and the messages that hold sealed attributes. Until an event says that
// this is done, the state keeps it as an erasure to finish. What says that there was somebody (creation,
// activity, memberships) stays on the log, as facts about an opaque id.

// Erasure is a person who was removed and whose attributes may still lie somewhere, sealed.
type Erasure struct {
	ID uuid.UUID
	// Seq is where the tombstone lies: no attributes come after it.
	Seq uint64
	At  time.Time
}

// EraseUser removes a person of any directory for good, as DeleteUser does for the directory itself.
type EraseUser struct{ ID uuid.UUID }

func (c EraseUser) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u := s.User(c.ID)
	if u == nil {
		return nil, refuse(NotFound, "there is no user %s", c.ID)
	}
	return env.events(userDeleted(u.ID)), nil
}

// FinishErasures says that nothing is left of people who were removed. Those of whom that was said already
// are passed over.
type FinishErasures struct{ IDs []uuid.UUID }

func (c FinishErasures) decide(s *State, env Env) ([]*eventv1.Event, error) {
	var events []*eventv1.Event
	seen := make(map[uuid.UUID]bool, len(c.IDs))
	for _, id := range c.IDs {
		if _, open := s.erasing.Get(idKey(id)); open && !seen[id] {
			seen[id] = true
			events = append(events, &eventv1.Event{Body: &eventv1.Event_UserErased{UserErased: &eventv1.UserErased{UserId: id.String()}}})
		}
	}
	return env.events(events...), nil
}

// Erasures yields the erasures to finish, in the order of their ids, which is about that of the people's creation.
func (s *State) Erasures() iter.Seq[Erasure] {
	return func(yield func(Erasure) bool) {
		s.erasing.Scan(func(_ string, e Erasure) bool { return yield(e) })
	}
}

// Removed yields all who were ever removed, whether or not their erasure is finished: of them nothing may come back.
func (s *State) Removed() iter.Seq[uuid.UUID] {
	return func(yield func(uuid.UUID) bool) {
		more := true
		s.erased.Scan(func(key string, _ struct{}) bool { more = yield(uuid.UUID([]byte(key))); return more })
		if more {
			s.erasing.Scan(func(_ string, e Erasure) bool { return yield(e.ID) })
		}
	}
}

// ErasureCount is how many erasures are to finish.
func (s *State) ErasureCount() int { return s.erasing.Len() }

// Erasing tells whether a person was removed and the erasure is to finish.
func (s *State) Erasing(id uuid.UUID) bool {
	_, open := s.erasing.Get(idKey(id))
	return open
}

// LastErasure is where the last tombstone lies, zero where there is none: a copy of an older state may hold
// attributes of somebody who was removed.
func (s *State) LastErasure() uint64 { return s.lastErasure }

// UserSubject is where the events about a person lie on the log.
func UserSubject(id uuid.UUID) string { return SubjectPrefix + "user." + id.String() }

// applyTombstone begins an erasure.
func (s *State) applyTombstone(rec Record, id uuid.UUID) {
	s.erasing.Set(idKey(id), Erasure{ID: id, Seq: rec.Seq, At: rec.Event.GetAt().AsTime()})
	s.lastErasure = rec.Seq
}

func (s *State) applyUserErased(b *eventv1.UserErased) error {
	id, err := uuid.Parse(b.GetUserId())
	if err != nil {
		return err
	}
	if _, open := s.erasing.Delete(idKey(id)); !open {
		return invalidLog("there is no erasure of %s to finish", id)
	}
	s.erased.Set(idKey(id), struct{}{})
	return nil
}
