package core

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// pending lists the erasures to finish.
func pending(s *State) []uuid.UUID {
	var all []uuid.UUID
	for e := range s.Erasures() {
		all = append(all, e.ID)
	}
	return all
}

func TestAPersonWhoIsRemovedIsToBeErasedUntilTheLogSaysItIsDone(t *testing.T) {
	w := newWorld(t)
	ann, bob, eve := w.user("ann"), w.user("bob"), w.user("eve")
	g := w.group("Engineers", ann, bob, eve)
	want(t, "last erasure", w.state.LastErasure(), 0)

	w.must(DeleteUser{Directory: "okta", ID: ann.ID})
	w.must(EraseUser{ID: bob.ID})
	w.must(UpdateUser{Directory: "okta", ID: eve.ID, Profile: Profile{UserName: "eve", ExternalID: "another"}, Active: true})
	tombstone := w.log[len(w.log)-3]
	want(t, "to finish", pending(w.state), []uuid.UUID{ann.ID, bob.ID, eve.ID})
	want(t, "last erasure", w.state.LastErasure(), tombstone.Seq)
	want(t, "tombstone", tombstone.Event.GetUserDeleted().GetUserId(), eve.ID.String())
	want(t, "members", len(w.memberNames(g)), 0)
	w.refused(EraseUser{ID: bob.ID}, NotFound)

	events := w.must(FinishErasures{IDs: []uuid.UUID{bob.ID, uuid.New(), bob.ID, ann.ID}})
	want(t, "events", kinds(events), []string{"UserErased", "UserErased"})
	want(t, "to finish", pending(w.state), []uuid.UUID{eve.ID})
	want(t, "events", len(w.must(FinishErasures{IDs: []uuid.UUID{bob.ID}})), 0)

	restored, err := DecodeState(bytes.NewReader(dump(t, w.state)))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "to finish after a restart", pending(restored), []uuid.UUID{eve.ID})
	removed := slices.SortedFunc(restored.Removed(), func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) })
	want(t, "removed", removed, []uuid.UUID{ann.ID, bob.ID, eve.ID})
	want(t, "last erasure after a restart", restored.LastErasure(), tombstone.Seq)
}

func TestOnlyTheEventsThatAreErasedHoldAttributes(t *testing.T) {
	w := newWorld(t)
	ann := w.user("ann")
	w.must(UpdateUser{Directory: "okta", ID: ann.ID, Profile: Profile{UserName: "Ann", ExternalID: "00u-ann"}})
	w.must(DeleteUser{Directory: "okta", ID: ann.ID})
	for _, rec := range w.log {
		_, updated := rec.Event.GetBody().(*eventv1.Event_UserUpdated)
		if holds := rec.Event.GetPersonal() != nil; holds != updated {
			t.Fatalf("event %d, a %T: attributes %v", rec.Seq, rec.Event.GetBody(), holds)
		}
		if updated {
			want(t, "subject", Subject(rec.Event), UserSubject(ann.ID))
		}
	}
}
