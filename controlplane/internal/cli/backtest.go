package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func backtestCommand(o *options) *cobra.Command {
	var files []string
	var since string
	req := &adminv1.BacktestPolicyRequest{}
	c := &cobra.Command{
		Use: "backtest -f FILE|DIR", Short: "Decide the recorded calls again under another policy: what would have been refused, and what allowed", Args: cobra.NoArgs,
		Long: "Decide the recorded calls again under another policy, by the code that proxies run: what would have been refused, allowed or asked for.\n\n" +
			"Groups are those that counted at each call, other attributes of people those of now. What cannot be decided again is counted as unknown, with the reason.\n\n" +
			"Exit codes: 0 nothing comes out otherwise, 2 something does; as of any command: 1 refused.",
		Example: "  sallyport policy backtest -f policy/ --since 30d\n  sallyport policy backtest -f policy/ --since 2027-01-01T00:00:00Z -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.Policy, err = policyFiles(files, cmd.InOrStdin()); err != nil {
				return err
			}
			if req.Since, err = readTime(since); err != nil {
				return err
			}
			res, err := ask(cmd.Context(), o, adminv1connect.NewBacktestServiceClient, adminv1connect.BacktestServiceClient.BacktestPolicy, req)
			if err != nil {
				return err
			}
			if err := o.print(res, func() table { return backtestTable(res) }); err != nil {
				return err
			}
			if res.GetChanged() > 0 {
				return codedError{fmt.Errorf("%d calls would have come out otherwise", res.GetChanged()), ExitChanges}
			}
			return nil
		},
	}
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, filesUsage)
	c.Flags().StringVar(&since, "since", "30d", "from then on: a time (RFC 3339) or how long ago (36h, 30d)")
	c.Flags().Uint64Var(&req.Limit, "limit", 0, "at most so many calls, the oldest first (default 2,000,000)")
	return c
}

func backtestTable(r *adminv1.BacktestPolicyResponse) table {
	unknown := uint64(0)
	var why []string
	for _, u := range r.GetUnknown() {
		unknown += u.GetCalls()
		why = append(why, fmt.Sprintf("%d for %s", u.GetCalls(), lower(u.GetObstacle(), "BACKTEST_OBSTACLE_")))
	}
	head := fmt.Sprintf("at version %d: of %d calls %d come out as they did, %d otherwise, and %d are unknown", r.GetVersion(), r.GetCalls(), r.GetUnchanged(), r.GetChanged(), unknown)
	if unknown > 0 {
		head += " (" + strings.Join(why, ", ") + ")"
	}
	head += "\ngroups are those that counted at each call"
	if n := r.GetGroupsOfNow(); n > 0 {
		head += fmt.Sprintf(" (of %d calls those of now: a group is not there by its name)", n)
	}
	head += ", other attributes of people those of now\n"
	if n := r.GetNotByRules(); n > 0 {
		head += fmt.Sprintf("%d refusals on which rules had no say are left out\n", n)
	}
	if r.GetUntil() != nil {
		head += fmt.Sprintf("calls after %s were not looked at: raise --limit\n", when(r.GetUntil()))
	}
	t := table{head: []string{"PERSON", "TOOL", "BEFORE", "AFTER", "CALLS", "LAST", "CALL"}}
	for _, c := range r.GetChanges() {
		who := c.GetUserName()
		if who == "" {
			who = c.GetUserId()
		}
		t.rows = append(t.rows, []string{
			who, c.GetConnector() + " " + c.GetTool(), lower(c.GetBefore(), "BACKTEST_VERDICT_"), lower(c.GetAfter(), "BACKTEST_VERDICT_"), fmt.Sprint(c.GetCalls()), when(c.GetAt()), c.GetCallId(),
		})
	}
	return tables(head, t)
}
