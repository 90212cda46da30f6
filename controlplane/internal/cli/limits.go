package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"
)

func limitsCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the rules that limit calls and results", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewLimitServiceClient, adminv1connect.LimitServiceClient.ListLimits, &adminv1.ListLimitsRequest{}, func(r *adminv1.ListLimitsResponse) table {
				t := table{head: []string{"BUDGET", "OF", "CONNECTOR", "TOOLS", "LIMIT"}}
				for _, l := range r.GetLimits() {
					t.rows = append(t.rows, []string{dash(l.GetLimit().GetBudget()), l.GetGrantee(), l.GetConnector(), cut(strings.Join(l.GetTools(), ", "), 40), policy.LimitText(l.GetLimit())})
				}
				return t
			})
		},
	}
	var shown adminv1.GetBudgetRequest
	show := &cobra.Command{
		Use: "show BUDGET", Short: "Show what is used of a budget, by whom", Args: cobra.ExactArgs(1),
		Example: "  sallyport limits show crm\n  sallyport limits show crm --person ann@example.com -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			shown.Budget = args[0]
			return call(cmd.Context(), o, adminv1connect.NewLimitServiceClient, adminv1connect.LimitServiceClient.GetBudget, &shown, func(r *adminv1.GetBudgetResponse) table {
				t := table{head: []string{"OF", "CALLS", "ITEMS", "BYTES", "HELD BY PROXIES", "UNTIL"}}
				for _, u := range r.GetUses() {
					t.rows = append(t.rows, []string{
						subjectOf(u), usedOf(u, (*fleetv1.Amounts).GetCalls), usedOf(u, (*fleetv1.Amounts).GetItems), usedOf(u, (*fleetv1.Amounts).GetBytes),
						fmt.Sprintf("%d calls, %d items, %d bytes by %d", u.GetHeld().GetCalls(), u.GetHeld().GetItems(), u.GetHeld().GetBytes(), u.GetProxies()), when(u.GetEndsAt()),
					})
				}
				return t
			})
		},
	}
	show.Flags().StringVar(&shown.Person, "person", "", "of this person alone")
	var began adminv1.ResetBudgetRequest
	reset := &cobra.Command{
		Use: "reset BUDGET", Short: "Begin new windows of a budget", Args: cobra.ExactArgs(1),
		Example: "  sallyport limits reset crm --person ann@example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			began.Budget = args[0]
			return call(cmd.Context(), o, adminv1connect.NewLimitServiceClient, adminv1connect.LimitServiceClient.ResetBudget, &began, func(r *adminv1.ResetBudgetResponse) table {
				return line("windows ended: %d; what proxies hold of them they may still spend", r.GetWindows())
			})
		},
	}
	reset.Flags().StringVar(&began.Person, "person", "", "of this person alone")
	return parent("limits", "How much may be called and had, and what is used of it", list, show, reset)
}

// subjectOf says whose budget it is.
func subjectOf(u *adminv1.BudgetUse) string {
	var parts []string
	s := u.GetSubject()
	for _, part := range []string{u.GetPersonName(), s.GetGroup(), s.GetConnector(), s.GetTool()} {
		if part != "" {
			parts = append(parts, printable(part))
		}
	}
	if u.GetPersonName() == "" && s.GetPerson() != "" {
		parts = append([]string{s.GetPerson()}, parts...)
	}
	if len(parts) == 0 {
		return "everyone"
	}
	return strings.Join(parts, ", ")
}

func usedOf(u *adminv1.BudgetUse, of func(*fleetv1.Amounts) uint64) string {
	if of(u.GetLimit()) == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", of(u.GetUsed()), of(u.GetLimit()))
}
