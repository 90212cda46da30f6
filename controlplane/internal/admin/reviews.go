package admin

import (
	"bytes"
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Reviews keeps what approvers are asked beside the log.
type Reviews interface {
	// Arguments are those of the call that a review is about; gone: they are not kept any more.
	Arguments(ctx context.Context, r *core.Review) (arguments []byte, gone bool, err error)
	// Answer is an approver's yes or no. It returns the version of the log that has it.
	Answer(ctx context.Context, by *core.User, actor *eventv1.Actor, id uuid.UUID, yes bool, reason string) (uint64, error)
}

func (a *api) ListReviews(ctx context.Context, req *connect.Request[adminv1.ListReviewsRequest]) (*connect.Response[adminv1.ListReviewsResponse], error) {
	s, now := a.Engine.State(), a.Now()
	res := &adminv1.ListReviewsResponse{}
	for r := range s.Reviews() {
		if req.Msg.GetAll() || r.Open(now) {
			res.Reviews = append(res.Reviews, shownReview(s, r, callerOf(ctx).user, now))
		}
	}
	return connect.NewResponse(res), nil
}

func (a *api) GetReview(ctx context.Context, req *connect.Request[adminv1.GetReviewRequest]) (*connect.Response[adminv1.GetReviewResponse], error) {
	s, c := a.Engine.State(), callerOf(ctx)
	r, err := reviewOf(s, req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	res := &adminv1.GetReviewResponse{Review: shownReview(s, r, c.user, a.Now())}
	mine := c.user != nil && (s.MayApprove(r, c.user) || r.Asked.GetUserId() == c.user.ID.String())
	if !mine && c.role < auditor {
		return connect.NewResponse(res), nil
	}
	arguments, gone, err := a.Reviews.Arguments(ctx, r)
	if err != nil {
		return nil, err
	}
	if text := string(arguments); !gone {
		res.Arguments = &text
	}
	return connect.NewResponse(res), nil
}

func (a *api) ApproveReview(ctx context.Context, req *connect.Request[adminv1.ApproveReviewRequest]) (*connect.Response[adminv1.ApproveReviewResponse], error) {
	r, err := reviewOf(a.Engine.State(), req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(r.Asked.GetArgumentsSha256(), req.Msg.GetArgumentsSha256()) {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the digest is not that of this call's arguments: look at the review again, and approve what it shows"))
	}
	version, err := a.answer(ctx, r, true, "")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ApproveReviewResponse{Version: version}), nil
}

func (a *api) RefuseReview(ctx context.Context, req *connect.Request[adminv1.RefuseReviewRequest]) (*connect.Response[adminv1.RefuseReviewResponse], error) {
	r, err := reviewOf(a.Engine.State(), req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	version, err := a.answer(ctx, r, false, req.Msg.GetReason())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RefuseReviewResponse{Version: version}), nil
}

// answer is a person's: a token, which lies in files and scripts, stands for nobody who looked at the call.
func (a *api) answer(ctx context.Context, r *core.Review, yes bool, reason string) (uint64, error) {
	c := callerOf(ctx)
	if c.user == nil {
		return 0, connect.NewError(connect.CodePermissionDenied, errors.New("a token answers no reviews: sign in as a person, by sallyport login, or open the review's page"))
	}
	id, err := uuid.Parse(r.ID())
	if err != nil {
		return 0, err
	}
	return a.Reviews.Answer(ctx, c.user, c.actor(), id, yes, reason)
}

func reviewOf(s *core.State, id string) (*core.Review, error) {
	parsed, err := uuid.Parse(id)
	if err == nil {
		if r := s.Review(parsed); r != nil {
			return r, nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("there is no review "+id+": see sallyport reviews list"))
}

func userName(s *core.State, id string) string {
	if parsed, err := uuid.Parse(id); err == nil {
		if u := s.User(parsed); u != nil {
			return u.UserName
		}
	}
	return ""
}

func shownReview(s *core.State, r *core.Review, caller *core.User, now time.Time) *adminv1.Review {
	asked := r.Asked
	have, need := s.ReviewProgress(r)
	out := &adminv1.Review{
		Id: r.ID(), State: adminv1.ReviewState_REVIEW_STATE_PENDING, AskedAt: timestamppb.New(r.At), ExpiresAt: asked.GetExpiresAt(), PersonId: asked.GetUserId(),
		Person: userName(s, asked.GetUserId()), ClientId: asked.GetClientId(), Region: asked.GetRegion(), Connector: asked.GetConnectorId(), Tool: asked.GetTool(),
		Method: asked.GetMethod(), ArgumentsSha256: asked.GetArgumentsSha256(), Because: asked.GetBecause(), Approvals: uint32(have), Needed: uint32(need),
		Reason: r.Reason, MayApprove: caller != nil && r.Open(now) && s.MayApprove(r, caller),
	}
	switch {
	case r.Used:
		out.State = adminv1.ReviewState_REVIEW_STATE_USED
	case r.Refused != uuid.Nil:
		out.State, out.RefusedBy = adminv1.ReviewState_REVIEW_STATE_REFUSED, userName(s, r.Refused.String())
	case !r.Open(now):
		out.State = adminv1.ReviewState_REVIEW_STATE_EXPIRED
	case have >= need:
		out.State = adminv1.ReviewState_REVIEW_STATE_APPROVED
	}
	for _, approval := range r.Approvals {
		out.ApprovedBy = append(out.ApprovedBy, userName(s, approval.By.String()))
	}
	for _, step := range asked.GetSteps() {
		shown := &adminv1.ReviewStep{}
		for _, alternative := range step.GetAlternatives() {
			to := &adminv1.ReviewAlternative{Approvals: max(1, alternative.GetApprovals()), Self: alternative.GetSelf()}
			for _, group := range alternative.GetApprovers() {
				if id, err := uuid.Parse(group); err == nil {
					to.Groups = append(to.Groups, s.GranteeName(core.Grantee{Group: id}))
				}
			}
			shown.Alternatives = append(shown.Alternatives, to)
		}
		out.Steps = append(out.Steps, shown)
	}
	return out
}
