package approval

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

const (
	// confirmFor is how long a person may take, useFor how long what they said is good.
	confirmFor = 10 * time.Minute
	useFor     = 5 * time.Minute
	// clocks is how much those of proxies may differ from the control planes', and mostFor how long a question in a client may be good.
	clocks  = 2 * time.Minute
	mostFor = time.Hour
)

// confirmation is what a person is asked about one call. Its key names the call.
type confirmation struct {
	ID         uuid.UUID `json:"id"`
	Person     uuid.UUID `json:"person"`
	Generation uint64    `json:"generation"`
	Client     string    `json:"client"`
	Region     string    `json:"region"`
	Connector  string    `json:"connector"`
	Tool       string    `json:"tool"`
	Method     string    `json:"method"`
	Digest     string    `json:"digest"` // of the arguments, hexadecimal
	Because    []string  `json:"because"`
	Arguments  []byte    `json:"arguments"` // sealed under the person's key
	State      answer    `json:"state"`
	Expires    time.Time `json:"expires"`
}

// answer is what became of a confirmation.
type answer string

const (
	pending answer = "pending"
	given   answer = "given"
	refused answer = "refused"
	used    answer = "used"
)

func confirmKey(call string) string { return "confirm." + call }

// Confirm asks a person to confirm a call of their agent, or says how that stands. A yes is used up by the answer, whichever control
// plane gives it.
func (s *Server) Confirm(ctx context.Context, user *core.User, proxy *core.Token, duties *policy.Duties, r *fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error) {
	call, err := s.keyOf(ctx, user, r.GetCall())
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(r.GetWait().AsDuration())
	for {
		c, revision, err := s.confirmation(ctx, call)
		if err != nil {
			return nil, err
		}
		open := c != nil && c.State != used && s.Now().Before(c.Expires)
		switch {
		case r.GetWithdraw() && open:
			err = s.settle(ctx, call, c, revision, used, "confirmation_refused", user, nil)
			fallthrough
		case r.GetWithdraw():
			return &fleetv1.ConfirmResponse{State: fleetv1.AnswerState_ANSWER_STATE_REFUSED}, err
		case !open:
			c, err = s.askToConfirm(ctx, call, user, proxy.Region, duties, r.GetCall(), revision)
		}
		if lost(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		out := &fleetv1.ConfirmResponse{Id: c.ID.String(), Url: s.URL + "/confirm/" + call, ExpiresAt: timestamppb.New(c.Expires), State: fleetv1.AnswerState_ANSWER_STATE_PENDING}
		switch c.State {
		case given:
			out.State, err = fleetv1.AnswerState_ANSWER_STATE_GIVEN, s.settle(ctx, call, c, revision, used, "confirmation_used", user, nil)
		case refused:
			out.State, err = fleetv1.AnswerState_ANSWER_STATE_REFUSED, s.settle(ctx, call, c, revision, used, "", user, nil)
		}
		if lost(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		if out.GetState() != fleetv1.AnswerState_ANSWER_STATE_PENDING || !pause(ctx, until) {
			return out, nil
		}
	}
}

// lost tells whether another was faster, so that it is to be looked again.
func lost(err error) bool { return errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrExists) }

// confirmation reads what a person is asked about a call; nil: nothing.
func (s *Server) confirmation(ctx context.Context, call string) (*confirmation, uint64, error) {
	e, err := s.Store.Get(ctx, confirmKey(call))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading a confirmation: %w", err)
	}
	c := &confirmation{}
	if err := json.Unmarshal(e.Value, c); err != nil {
		return nil, 0, fmt.Errorf("reading a confirmation: %w", err)
	}
	return c, e.Revision, nil
}

// askToConfirm begins, in place of what was there at a revision.
func (s *Server) askToConfirm(ctx context.Context, call string, user *core.User, region string, duties *policy.Duties, asked *fleetv1.AskedCall, revision uint64) (*confirmation, error) {
	if err := s.admit(user.ID); err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("naming a confirmation: %w", err)
	}
	sealed, err := s.Seals.Seal(ctx, user.ID, asked.GetArguments())
	if err != nil {
		return nil, fmt.Errorf("sealing a call's arguments: %w", err)
	}
	digest, err := s.digest(ctx, user.ID, sumOf(asked.GetArguments()))
	if err != nil {
		return nil, err
	}
	c := &confirmation{
		ID: id, Person: user.ID, Generation: user.Generation, Client: asked.GetClientId(), Region: region, Connector: asked.GetConnector(), Tool: asked.GetTool(),
		Method: asked.GetMethod(), Digest: hex.EncodeToString(digest), Because: slices.Clone(duties.Because), Arguments: sealed, State: pending, Expires: s.Now().Add(confirmFor),
	}
	value, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("keeping a confirmation: %w", err)
	}
	if revision == 0 {
		_, err = s.Store.Create(ctx, confirmKey(call), value, confirmFor)
	} else {
		_, err = s.Store.Update(ctx, confirmKey(call), value, revision, confirmFor)
	}
	if err != nil {
		return nil, fmt.Errorf("keeping a confirmation: %w", err)
	}
	s.noteConfirmation("confirmation_asked", c, user, nil)
	return c, nil
}

// settle makes an answer the confirmation's, if it is as it was read. The arguments go with the answer.
func (s *Server) settle(ctx context.Context, call string, c *confirmation, revision uint64, to answer, action string, user, by *core.User) error {
	next := *c
	if next.State = to; to == given {
		next.Expires = s.Now().Add(useFor)
	}
	next.Arguments = nil
	value, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("keeping a confirmation: %w", err)
	}
	if _, err := s.Store.Update(ctx, confirmKey(call), value, revision, max(time.Second, next.Expires.Sub(s.Now()))); err != nil {
		return fmt.Errorf("keeping a confirmation: %w", err)
	}
	if *c = next; action != "" {
		s.noteConfirmation(action, c, user, by)
	}
	return nil
}

func (s *Server) noteConfirmation(action string, c *confirmation, user, by *core.User) {
	s.note(action, c.ID.String(), user, by, c.Region, c.Client, c.Connector, c.Tool, detail("assurance", "browser"), detail(digestKey, c.Digest))
}

// Redeem uses up what a person said in their client, once for all proxies and control planes: nothing of that name may have been used
// before, and the person be who they were when they were asked.
func (s *Server) Redeem(ctx context.Context, user *core.User, proxy *core.Token, r *fleetv1.RedeemRequest) (bool, error) {
	left := r.GetExpiresAt().AsTime().Sub(s.Now())
	digest, err := s.digest(ctx, user.ID, r.GetArgumentsSha256())
	if err != nil {
		return false, err
	}
	if left > mostFor {
		return false, connect.NewError(connect.CodeInvalidArgument, errors.New("what a person says in their client is good for an hour at most"))
	}
	void := left <= -clocks || user.Generation != r.GetGeneration()
	if !void {
		// For as long as any proxy may take it for good.
		_, err := s.Store.Create(ctx, "redeemed."+r.GetId(), []byte(user.ID.String()), max(left, 0)+2*clocks)
		if err != nil && !errors.Is(err, kv.ErrExists) {
			return false, fmt.Errorf("using up what a person said: %w", err)
		}
		void = err != nil
	}
	action := "confirmation_used"
	if void {
		action = "confirmation_used_again"
	}
	s.note(action, r.GetId(), user, nil, proxy.Region, "", r.GetConnector(), r.GetTool(), detail("assurance", "client"), digestDetail(digest))
	return !void, nil
}
