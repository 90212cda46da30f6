package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/access"
)

const (
	// callsTested is how many calls a backtest decides where it is not told.
	callsTested = 2_000_000
	// changesTold bounds an answer.
	changesTold = 10_000
)

// BacktestPolicy reads audit, which leaves a record of who did.
func (a *api) BacktestPolicy(ctx context.Context, req *connect.Request[adminv1.BacktestPolicyRequest]) (*connect.Response[adminv1.BacktestPolicyResponse], error) {
	s := a.Engine.State()
	res := &adminv1.BacktestPolicyResponse{Version: s.Seq()}
	if req.Msg.GetPolicy() != nil {
		_, events, err := a.planned(ctx, s, req.Msg.GetPolicy())
		if err != nil {
			return nil, err
		}
		if s, err = access.After(s, events); err != nil {
			return nil, fmt.Errorf("folding what is tested: %w", err)
		}
	}
	a.note(ctx, "backtest_policy", &adminv1.AuditFilter{Since: req.Msg.GetSince()})
	b, err := access.Backtest(ctx, s, cmp.Or(req.Msg.GetLimit(), callsTested), a.Audit.Unseal, func(add func([]byte) error) error {
		return a.Audit.Since(ctx, req.Msg.GetSince().AsTime(), add)
	})
	if err != nil {
		return nil, err
	}
	res.Calls, res.Unchanged, res.NotByRules, res.GroupsOfNow = b.Calls, b.Unchanged, b.NotByRules, b.GroupsOfNow
	if !b.Until.IsZero() {
		res.Until = timestamppb.New(b.Until)
	}
	for _, why := range slices.Sorted(maps.Keys(b.Unknown)) {
		res.Unknown = append(res.Unknown, &adminv1.BacktestUnknown{Obstacle: why, Calls: b.Unknown[why]})
	}
	for key, c := range b.Changes {
		res.Changed += c.Calls
		change := &adminv1.BacktestChange{
			UserId: key.Person, Connector: key.Connector, Tool: key.Tool, Before: key.Before, After: key.After, Calls: c.Calls, CallId: c.CallID, At: timestamppb.New(c.At),
		}
		if id, err := uuid.Parse(key.Person); err == nil && s.User(id) != nil {
			change.UserName = nameOf(s.User(id))
		}
		res.Changes = append(res.Changes, change)
	}
	slices.SortFunc(res.GetChanges(), func(a, b *adminv1.BacktestChange) int {
		return cmp.Or(cmp.Compare(b.GetCalls(), a.GetCalls()), strings.Compare(a.GetUserName(), b.GetUserName()), strings.Compare(a.GetUserId(), b.GetUserId()),
			strings.Compare(a.GetConnector(), b.GetConnector()), strings.Compare(a.GetTool(), b.GetTool()), cmp.Compare(a.GetBefore(), b.GetBefore()), cmp.Compare(a.GetAfter(), b.GetAfter()))
	})
	res.Changes = res.GetChanges()[:min(changesTold, len(res.GetChanges()))]
	return connect.NewResponse(res), nil
}
