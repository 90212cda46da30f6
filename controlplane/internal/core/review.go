package core

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

const (
	// How many reviews may be open, of one person and altogether.
	maxOpenReviewsOfOne = 50
	maxOpenReviews      = 20_000
	// rememberReviews is how long a review that is over is still shown. What became of it audit keeps.
	rememberReviews = 24 * time.Hour
)

// Review is what approvers are asked about one call of a person's agent.
type Review struct {
	// Asked is what was asked. It is the state's: do not change it.
	Asked *eventv1.ReviewRequested
	At    time.Time
	// Approvals are the approvers' yes, in their order. Refused is who said no, and Reason why.
	Approvals []ReviewApproval
	Refused   uuid.UUID
	Reason    string
	// Used: the call was made.
	Used bool
}

// ReviewApproval is one approver's yes.
type ReviewApproval struct {
	By uuid.UUID
	At time.Time
}

// ID is the review's.
func (r *Review) ID() string { return r.Asked.GetReviewId() }

// Expires is until when it can be approved, and the call be made.
func (r *Review) Expires() time.Time { return r.Asked.GetExpiresAt().AsTime() }

// Open tells whether the call may still be approved or made.
func (r *Review) Open(now time.Time) bool {
	return !r.Used && r.Refused == uuid.Nil && now.Before(r.Expires())
}

// RequestReview asks approvers about a call. Where they are asked about it already, it becomes nothing.
type RequestReview struct {
	// Asked is what is asked, but for its id and its end.
	Asked    message[*eventv1.ReviewRequested]
	ValidFor time.Duration
}

// NewRequestReview asks.
func NewRequestReview(asked *eventv1.ReviewRequested, validFor time.Duration) RequestReview {
	return RequestReview{message[*eventv1.ReviewRequested]{asked}, validFor}
}

func (c RequestReview) decide(s *State, env Env) ([]*eventv1.Event, error) {
	asked := proto.CloneOf(c.Asked.M)
	if _, err := s.requester(asked); err != nil {
		return nil, err
	}
	if s.OpenReview(asked.GetUserId(), asked.GetCall(), asked.GetReviewed(), env.Now) != nil {
		return nil, nil
	}
	open, own, old := 0, 0, false
	for r := range s.Reviews() {
		if old = old || env.Now.Sub(r.Expires()) > rememberReviews; !r.Open(env.Now) {
			continue
		}
		if open++; r.Asked.GetUserId() == asked.GetUserId() {
			own++
		}
	}
	if own >= maxOpenReviewsOfOne || open >= maxOpenReviews {
		return nil, refuse(FailedPrecondition, "as many calls wait for approval as may: %d of one person, %d altogether", maxOpenReviewsOfOne, maxOpenReviews)
	}
	asked.ReviewId, asked.ExpiresAt = env.NewID().String(), timestamppb.New(env.Now.Add(c.ValidFor))
	var events []*eventv1.Event
	if old {
		events = append(events, &eventv1.Event{Body: &eventv1.Event_ReviewsForgotten{ReviewsForgotten: &eventv1.ReviewsForgotten{At: timestamppb.New(env.Now.Add(-rememberReviews))}}})
	}
	return env.events(append(events, &eventv1.Event{Body: &eventv1.Event_ReviewRequested{ReviewRequested: asked}})...), nil
}

// requester is whose agent asks, if they are who they were then.
func (s *State) requester(asked *eventv1.ReviewRequested) (*User, error) {
	id, err := uuid.Parse(asked.GetUserId())
	if err != nil {
		return nil, refuse(NotFound, "there is no user %q", asked.GetUserId())
	}
	u := s.User(id)
	if u == nil || !u.Active || u.Generation != asked.GetGeneration() {
		return nil, refuse(FailedPrecondition, "the person whose agent asked was deactivated, or their sessions were revoked, since: the review is void")
	}
	return u, nil
}

// ApproveReview is an approver's yes to exactly the call that was asked about.
type ApproveReview struct {
	ID, By uuid.UUID
}

func (c ApproveReview) decide(s *State, env Env) ([]*eventv1.Event, error) {
	r, by, err := s.reviewBy(c.ID, c.By, env.Now)
	if err != nil {
		return nil, err
	}
	if !s.MayApprove(r, by) {
		if r.Asked.GetUserId() == by.ID.String() {
			return nil, refuse(Forbidden, "nobody approves a call of their own agent, unless the rule says self")
		}
		return nil, refuse(Forbidden, "you are in no group whose people may approve this call")
	}
	if r.approvedBy(by.ID) {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ReviewApproved{ReviewApproved: &eventv1.ReviewApproved{ReviewId: r.ID(), ApproverId: by.ID.String()}}}), nil
}

func (r *Review) approvedBy(id uuid.UUID) bool {
	return slices.ContainsFunc(r.Approvals, func(a ReviewApproval) bool { return a.By == id })
}

// reviewBy finds an open review, whose requester is who they were, for an active person to answer.
func (s *State) reviewBy(id, by uuid.UUID, now time.Time) (*Review, *User, error) {
	r := s.Review(id)
	if r == nil {
		return nil, nil, refuse(NotFound, "there is no review %s: it was never asked for, or was over more than a day ago", id)
	}
	u := s.User(by)
	switch _, err := s.requester(r.Asked); {
	case u == nil || !u.Active:
		return nil, nil, refuse(Forbidden, "only active people answer reviews")
	case r.Used:
		return nil, nil, refuse(FailedPrecondition, "the call of review %s was made already", id)
	case r.Refused != uuid.Nil:
		return nil, nil, refuse(FailedPrecondition, "review %s was refused already", id)
	case !r.Open(now):
		return nil, nil, refuse(FailedPrecondition, "review %s has ended: the agent must ask again", id)
	case err != nil:
		return nil, nil, err
	}
	return r, u, nil
}

// RefuseReview is an approver's no, which ends the review.
type RefuseReview struct {
	ID, By uuid.UUID
	Reason string
}

func (c RefuseReview) decide(s *State, env Env) ([]*eventv1.Event, error) {
	r, by, err := s.reviewBy(c.ID, c.By, env.Now)
	if err != nil {
		return nil, err
	}
	if !s.MayApprove(r, by) && r.Asked.GetUserId() != by.ID.String() { // who asked may take it back
		return nil, refuse(Forbidden, "you are in no group whose people may approve this call")
	}
	if len(c.Reason) > 500 {
		return nil, refuseField(InvalidArgument, "reason", "a reason has at most 500 bytes")
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ReviewRefused{ReviewRefused: &eventv1.ReviewRefused{ReviewId: r.ID(), ApproverId: by.ID.String(), Reason: c.Reason}}}), nil
}

// UseReview makes the call that was approved, once.
type UseReview struct{ ID uuid.UUID }

func (c UseReview) decide(s *State, env Env) ([]*eventv1.Event, error) {
	r := s.Review(c.ID)
	switch {
	case r == nil || !r.Open(env.Now):
		return nil, refuse(FailedPrecondition, "review %s was used, was refused or has ended", c.ID)
	case !s.Approved(r):
		return nil, refuse(FailedPrecondition, "review %s is not approved", c.ID)
	}
	if _, err := s.requester(r.Asked); err != nil {
		return nil, err
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ReviewUsed{ReviewUsed: &eventv1.ReviewUsed{ReviewId: r.ID()}}}), nil
}

// Review returns a review, or nil.
func (s *State) Review(id uuid.UUID) *Review {
	r, _ := s.reviews.Get(id.String())
	return r
}

// Reviews yields all reviews in the order in which they were asked for, those that are over included.
func (s *State) Reviews() iter.Seq[*Review] {
	return func(yield func(*Review) bool) {
		s.reviews.Scan(func(_ string, r *Review) bool { return yield(r) })
	}
}

// OpenReview returns what is asked about a call already, or nil. One that was refused stands until its end.
func (s *State) OpenReview(user, call, reviewed string, now time.Time) *Review {
	var found *Review
	s.reviews.Reverse(func(_ string, r *Review) bool {
		if r.Asked.GetUserId() == user && r.Asked.GetCall() == call && r.Asked.GetReviewed() == reviewed && !r.Used && now.Before(r.Expires()) {
			found = r
		}
		return found == nil
	})
	return found
}

// MayApprove tells whether somebody's yes would count.
func (s *State) MayApprove(r *Review, u *User) bool {
	for _, step := range r.Asked.GetSteps() {
		for _, alternative := range step.GetAlternatives() {
			if s.counts(r, alternative, u) {
				return true
			}
		}
	}
	return false
}

// counts tells whether an alternative takes somebody's yes: of an active person in one of its groups, as of now.
func (s *State) counts(r *Review, alternative *policyv1.Review, u *User) bool {
	if !u.Active || u.ID.String() == r.Asked.GetUserId() && !alternative.GetSelf() {
		return false
	}
	for _, approver := range alternative.GetApprovers() {
		if id, err := uuid.Parse(approver); err == nil && s.InGroup(u, id) {
			return true
		}
	}
	return false
}

// Approved tells whether enough people approved whose yes counts as of now.
func (s *State) Approved(r *Review) bool {
	have, need := s.ReviewProgress(r)
	return have >= need
}

// ReviewProgress is how many approvals there are of how many that there must be: of each step, those of the alternative that is nearest.
func (s *State) ReviewProgress(r *Review) (have, need int) {
	for _, step := range r.Asked.GetSteps() {
		bestHave, bestNeed := 0, 0
		for _, alternative := range step.GetAlternatives() {
			wants, got := max(1, int(alternative.GetApprovals())), 0
			for _, a := range r.Approvals {
				if u := s.User(a.By); u != nil && s.counts(r, alternative, u) {
					got++
				}
			}
			if got = min(got, wants); bestNeed == 0 || wants-got < bestNeed-bestHave {
				bestHave, bestNeed = got, wants
			}
		}
		have, need = have+bestHave, need+max(1, bestNeed) // a step without alternatives is never done
	}
	return have, need
}

// InGroup tells whether a user is in a group with effect, directly or by nesting.
func (s *State) InGroup(u *User, group uuid.UUID) bool {
	for g := range s.groupsWithEffect(u, false) {
		if g.ID == group {
			return true
		}
	}
	return false
}

func (s *State) putReview(r *Review) { s.reviews.Set(r.ID(), r) }

func (s *State) applyReviewRequested(ev *eventv1.Event, b *eventv1.ReviewRequested) {
	s.putReview(&Review{Asked: b, At: ev.GetAt().AsTime()})
}

// changeReview replaces a review by a changed copy.
func (s *State) changeReview(id string, change func(r *Review)) error {
	old, ok := s.reviews.Get(id)
	if !ok {
		return invalidLog("there is no review %q", id)
	}
	r := *old
	change(&r)
	s.putReview(&r)
	return nil
}

func (s *State) applyReviewApproved(ev *eventv1.Event, b *eventv1.ReviewApproved) error {
	by, err := uuid.Parse(b.GetApproverId())
	if err != nil {
		return err
	}
	return s.changeReview(b.GetReviewId(), func(r *Review) {
		r.Approvals = append(slices.Clip(r.Approvals), ReviewApproval{By: by, At: ev.GetAt().AsTime()})
	})
}

func (s *State) applyReviewRefused(b *eventv1.ReviewRefused) error {
	by, err := uuid.Parse(b.GetApproverId())
	if err != nil {
		return err
	}
	return s.changeReview(b.GetReviewId(), func(r *Review) { r.Refused, r.Reason = by, b.GetReason() })
}

func (s *State) applyReviewsForgotten(b *eventv1.ReviewsForgotten) {
	var old []string
	for r := range s.Reviews() {
		if !r.Expires().After(b.GetAt().AsTime()) {
			old = append(old, r.ID())
		}
	}
	for _, id := range old {
		s.reviews.Delete(id)
	}
}
