package approval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// Review asks approvers about a call, or says how that stands. An approval is used up by the answer where the request says so.
func (s *Server) Review(ctx context.Context, user *core.User, proxy *core.Token, duties *policy.Duties, r *fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error) {
	call, err := s.keyOf(ctx, user, r.GetCall())
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(r.GetWait().AsDuration())
	for first := true; ; first = false {
		state := s.Engine.State()
		if first {
			var err error
			if state, err = s.Engine.Fence(ctx); err != nil {
				return nil, fmt.Errorf("proving that the state is current: %w", err)
			}
		}
		now := s.Now()
		review := state.OpenReview(user.ID.String(), call, duties.Review(), now)
		if review == nil {
			if err := s.request(ctx, call, user, proxy, duties, r.GetCall()); err != nil {
				return nil, err
			}
			if review = s.Engine.State().OpenReview(user.ID.String(), call, duties.Review(), now); review == nil {
				return nil, connect.NewError(connect.CodeUnavailable, errors.New("the review cannot be seen yet: try again"))
			}
			state = s.Engine.State()
		}
		have, need := state.ReviewProgress(review)
		out := &fleetv1.ReviewResponse{
			State: fleetv1.AnswerState_ANSWER_STATE_PENDING, Id: review.ID(), Reviewed: duties.Review(), ExpiresAt: timestamppb.New(review.Expires()),
			Approvals: uint32(have), Needed: uint32(need),
		}
		switch {
		case review.Refused != uuid.Nil:
			out.State, out.Reason = fleetv1.AnswerState_ANSWER_STATE_REFUSED, review.Reason
		case have >= need && !r.GetUse():
			out.State = fleetv1.AnswerState_ANSWER_STATE_GIVEN
		case have >= need:
			return s.use(ctx, review, user, proxy, out)
		}
		if out.GetState() != fleetv1.AnswerState_ANSWER_STATE_PENDING || !pause(ctx, until) {
			return out, nil
		}
	}
}

// use uses an approval up. Where another was faster, or the person is not who they were, it is none.
func (s *Server) use(ctx context.Context, review *core.Review, user *core.User, proxy *core.Token, out *fleetv1.ReviewResponse) (*fleetv1.ReviewResponse, error) {
	id, err := uuid.Parse(review.ID())
	if err != nil {
		return nil, fmt.Errorf("the review's id: %w", err)
	}
	_, err = s.Engine.Do(ctx, actorOf(proxy), core.UseReview{ID: id})
	var refused *core.Error
	if errors.As(err, &refused) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("using a review up: %w", err)
	}
	s.noteReview("review_used", review.Asked, user, nil)
	out.State = fleetv1.AnswerState_ANSWER_STATE_GIVEN
	return out, nil
}

func actorOf(proxy *core.Token) *eventv1.Actor {
	return &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_PROXY, Id: proxy.ID.String()}
}

func argumentsKey(call string) string { return "arguments." + call }

// request asks approvers. The arguments are kept before anybody can see the review.
func (s *Server) request(ctx context.Context, call string, user *core.User, proxy *core.Token, duties *policy.Duties, c *fleetv1.AskedCall) error {
	if err := s.admit(user.ID); err != nil {
		return err
	}
	sealed, err := s.Seals.Seal(ctx, user.ID, c.GetArguments())
	if err != nil {
		return fmt.Errorf("sealing a call's arguments: %w", err)
	}
	if err := s.put(ctx, argumentsKey(call), sealed, duties.ValidFor()+time.Minute); err != nil {
		return fmt.Errorf("keeping a call's arguments: %w", err)
	}
	digest, err := s.digest(ctx, user.ID, sumOf(c.GetArguments()))
	if err != nil {
		return err
	}
	asked := &eventv1.ReviewRequested{
		UserId: user.ID.String(), Generation: user.Generation, ClientId: c.GetClientId(), Region: proxy.Region, ConnectorId: c.GetConnector(), Tool: c.GetTool(),
		Method: c.GetMethod(), ArgumentsSha256: digest, Call: call, Reviewed: duties.Review(), Because: duties.Because,
	}
	for _, step := range duties.Steps {
		out := &eventv1.ReviewStep{}
		for _, a := range step {
			out.Alternatives = append(out.Alternatives, &policyv1.Review{
				Approvers: a.Approvers, Approvals: uint32(a.Approvals), Self: a.Self, Wait: durationpb.New(a.Wait), ValidFor: durationpb.New(a.ValidFor),
			})
		}
		asked.Steps = append(asked.Steps, out)
	}
	done, err := s.Engine.Do(ctx, actorOf(proxy), core.NewRequestReview(asked, duties.ValidFor()))
	var refused *core.Error
	if errors.As(err, &refused) {
		return connect.NewError(connect.CodeFailedPrecondition, refused)
	}
	if err != nil {
		return fmt.Errorf("asking approvers: %w", err)
	}
	for _, ev := range done.Events {
		if r := ev.GetReviewRequested(); r != nil {
			s.noteReview("review_asked", r, user, nil)
			s.nudge()
		}
	}
	return nil
}

// put keeps a value for a time, in place of what may be there.
func (s *Server) put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	for {
		_, err := s.Store.Create(ctx, key, value, ttl)
		if !errors.Is(err, kv.ErrExists) {
			return err
		}
		e, err := s.Store.Get(ctx, key)
		if err == nil {
			_, err = s.Store.Update(ctx, key, value, e.Revision, ttl)
		}
		if !errors.Is(err, kv.ErrNotFound) && !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
}

// Arguments are those of the call that a review is about, in their canonical form. Gone: they are not kept any more, since the review is
// over or its person was erased.
func (s *Server) Arguments(ctx context.Context, r *core.Review) (arguments []byte, gone bool, err error) {
	person, err := uuid.Parse(r.Asked.GetUserId())
	if err != nil {
		return nil, false, fmt.Errorf("whose review it is: %w", err)
	}
	e, err := s.Store.Get(ctx, argumentsKey(r.Asked.GetCall()))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading a call's arguments: %w", err)
	}
	arguments, erased, err := s.Seals.Open(ctx, person, e.Value)
	if err != nil {
		return nil, false, fmt.Errorf("opening a call's arguments: %w", err)
	}
	if erased {
		return nil, true, nil
	}
	digest, err := s.digest(ctx, person, sumOf(arguments))
	if err != nil {
		return nil, false, err
	}
	return arguments, !bytes.Equal(digest, r.Asked.GetArgumentsSha256()), nil
}

// Answer is an approver's yes or no to a review, for a person who is signed in. It returns the version of the log that has it.
func (s *Server) Answer(ctx context.Context, by *core.User, actor *eventv1.Actor, id uuid.UUID, yes bool, reason string) (uint64, error) {
	var c core.Command = core.ApproveReview{ID: id, By: by.ID}
	action := "review_approved"
	if !yes {
		c, action = core.RefuseReview{ID: id, By: by.ID, Reason: reason}, "review_refused"
	}
	out, err := s.Engine.Do(ctx, actor, c)
	state := s.Engine.State()
	r := state.Review(id)
	if err != nil {
		if r != nil {
			s.noteReview(action+"_in_vain", r.Asked, nil, by)
		}
		return 0, err
	}
	if r != nil && len(out.Events) > 0 {
		s.noteReview(action, r.Asked, nil, by)
	}
	return out.Seq, nil
}

func (s *Server) noteReview(action string, asked *eventv1.ReviewRequested, user, by *core.User) {
	r := digestDetail(asked.GetArgumentsSha256())
	if user == nil {
		if id, err := uuid.Parse(asked.GetUserId()); err == nil {
			user = s.Engine.State().User(id)
		}
	}
	s.note(action, asked.GetReviewId(), user, by, asked.GetRegion(), asked.GetClientId(), asked.GetConnectorId(), asked.GetTool(), r)
}
