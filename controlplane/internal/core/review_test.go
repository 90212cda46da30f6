package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// reviewCommand asks for a review, or does something to one that there is.
func reviewCommand(t *rapid.T, w *world, user, group func() uuid.UUID) Command {
	if rapid.IntRange(0, 2).Draw(t, "ask") == 0 {
		asked := &eventv1.ReviewRequested{UserId: user().String(), Call: "call", Reviewed: "r", Steps: []*eventv1.ReviewStep{{Alternatives: []*policyv1.Review{{Approvers: []string{group().String()}, Self: true}}}}}
		if u := w.state.User(uuid.MustParse(asked.GetUserId())); u != nil {
			asked.Generation = u.Generation
		}
		return NewRequestReview(asked, time.Minute)
	}
	id := uuid.Nil
	for r := range w.state.Reviews() {
		id = uuid.MustParse(r.ID())
	}
	switch rapid.IntRange(0, 4).Draw(t, "answer") {
	case 0:
		return RefuseReview{ID: id, By: user()}
	case 1:
		return UseReview{ID: id}
	}
	return ApproveReview{ID: id, By: user()}
}

// asks has a person's agent ask for a review by groups, of each so many approvals as there are of its name in groups.
func (w *world) asks(u *User, steps ...*policyv1.Review) uuid.UUID {
	asked := &eventv1.ReviewRequested{UserId: u.ID.String(), Generation: u.Generation, Call: fmt.Sprint(w.state.Seq()), Reviewed: "r"}
	for _, step := range steps {
		asked.Steps = append(asked.Steps, &eventv1.ReviewStep{Alternatives: []*policyv1.Review{step}})
	}
	events := w.must(NewRequestReview(asked, time.Hour))
	return uuid.MustParse(events[len(events)-1].GetReviewRequested().GetReviewId())
}

func by(g *Group, approvals uint32) *policyv1.Review {
	return &policyv1.Review{Approvers: []string{g.ID.String()}, Approvals: approvals}
}

func TestAReviewIsApprovedByEnoughOfItsApproversAndUsedOnce(t *testing.T) {
	w := newWorld(t)
	ann, bob, eve := w.user("ann"), w.user("bob"), w.user("eve")
	leads := w.group("Leads", ann, bob, eve)
	id := w.asks(ann, by(leads, 2))
	w.refused(UseReview{ID: id}, FailedPrecondition)
	w.refused(ApproveReview{ID: id, By: ann.ID}, Forbidden) // her own
	w.must(ApproveReview{ID: id, By: bob.ID})
	if got := w.must(ApproveReview{ID: id, By: bob.ID}); len(got) != 0 {
		t.Errorf("bob approved twice: %v", kinds(got))
	}
	w.refused(UseReview{ID: id}, FailedPrecondition) // four eyes
	w.must(ApproveReview{ID: id, By: eve.ID})
	w.must(UseReview{ID: id})
	w.refused(UseReview{ID: id}, FailedPrecondition)
	w.refused(ApproveReview{ID: id, By: eve.ID}, FailedPrecondition)
}

func TestAnApproverIsInTheGroupNowAndNestedGroupsCount(t *testing.T) {
	w := newWorld(t)
	ann, bob, eve := w.user("ann"), w.user("bob"), w.user("eve")
	inner := w.group("Inner", bob)
	leads := w.group("Leads")
	w.must(UpdateGroup{Directory: "okta", ID: leads.ID, Members: []MemberChange{{Op: AddMembers, Groups: []uuid.UUID{inner.ID}}}})
	id := w.asks(ann, by(leads, 1))
	w.refused(ApproveReview{ID: id, By: eve.ID}, Forbidden)
	w.must(ApproveReview{ID: id, By: bob.ID})
	want(t, "approved", w.state.Approved(w.state.Review(id)), true)
	// Who is no approver any more has approved nothing.
	w.must(UpdateGroup{Directory: "okta", ID: inner.ID, Members: []MemberChange{{Op: RemoveMembers, Users: []uuid.UUID{bob.ID}}}})
	w.refused(UseReview{ID: id}, FailedPrecondition)
}

func TestAReviewIsVoidOnceItsRequesterWasDeactivated(t *testing.T) {
	w := newWorld(t)
	ann, bob := w.user("ann"), w.user("bob")
	leads := w.group("Leads", bob)
	pending, approved := w.asks(ann, by(leads, 1)), w.asks(ann, by(leads, 1))
	w.must(ApproveReview{ID: approved, By: bob.ID})
	w.must(UpdateUser{Directory: "okta", ID: ann.ID, Profile: Profile{UserName: "ann", ExternalID: ann.ExternalID}, Active: false})
	w.refused(ApproveReview{ID: pending, By: bob.ID}, FailedPrecondition)
	w.refused(UseReview{ID: approved}, FailedPrecondition)
	w.must(UpdateUser{Directory: "okta", ID: ann.ID, Profile: Profile{UserName: "ann", ExternalID: ann.ExternalID}, Active: true})
	w.refused(UseReview{ID: approved}, FailedPrecondition) // of another generation
	// And who approved must still be somebody.
	other := w.asks(w.state.User(ann.ID), by(leads, 1))
	w.must(ApproveReview{ID: other, By: bob.ID})
	w.must(UpdateUser{Directory: "okta", ID: bob.ID, Profile: Profile{UserName: "bob", ExternalID: bob.ExternalID}, Active: false})
	w.refused(UseReview{ID: other}, FailedPrecondition)
}

func TestEachStepOfAReviewIsApprovedAndOneNoEndsIt(t *testing.T) {
	w := newWorld(t)
	ann, bob, eve := w.user("ann"), w.user("bob"), w.user("eve")
	leads, legal := w.group("Leads", bob), w.group("Legal", eve)
	id := w.asks(ann, by(leads, 1), by(legal, 1))
	w.must(ApproveReview{ID: id, By: bob.ID})
	w.refused(UseReview{ID: id}, FailedPrecondition)
	w.must(ApproveReview{ID: id, By: eve.ID})
	w.must(RefuseReview{ID: id, By: eve.ID, Reason: "on second thoughts"})
	w.refused(UseReview{ID: id}, FailedPrecondition)
	w.refused(ApproveReview{ID: id, By: bob.ID}, FailedPrecondition)
	mine := w.asks(ann, by(leads, 1))
	w.refused(RefuseReview{ID: mine, By: eve.ID}, Forbidden)
	w.must(RefuseReview{ID: mine, By: ann.ID}) // taken back
}

func TestAReviewEndsAndIsForgotten(t *testing.T) {
	w := newWorld(t)
	ann, bob := w.user("ann"), w.user("bob")
	leads := w.group("Leads", bob)
	id := w.asks(ann, by(leads, 1))
	w.must(ApproveReview{ID: id, By: bob.ID})
	w.now = w.now.Add(time.Hour + time.Second)
	w.refused(UseReview{ID: id}, FailedPrecondition)
	w.refused(ApproveReview{ID: id, By: bob.ID}, FailedPrecondition)
	w.now = w.now.Add(rememberReviews + time.Hour)
	w.asks(ann, by(leads, 1))
	if w.state.Review(id) != nil {
		t.Error("a review that is long over is still there")
	}
}

func TestThereIsAnEndToWhatWaitsForApproval(t *testing.T) {
	w := newWorld(t)
	ann, bob := w.user("ann"), w.user("bob")
	leads := w.group("Leads", bob)
	for range maxOpenReviewsOfOne {
		w.asks(ann, by(leads, 1))
	}
	asked := &eventv1.ReviewRequested{UserId: ann.ID.String(), Generation: ann.Generation, Call: "one more"}
	w.refused(NewRequestReview(asked, time.Hour), FailedPrecondition)
	w.asks(bob, by(leads, 1))
}
