package cli

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"

	"sallyport.dev/dataplane/policy"
)

func reviewsCommand(o *options) *cobra.Command {
	var all bool
	list := &cobra.Command{
		Use: "list", Short: "List the calls that wait for approval", Args: cobra.NoArgs,
		Example: "  sallyport reviews list\n  sallyport reviews list --all -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewReviewServiceClient, adminv1connect.ReviewServiceClient.ListReviews, &adminv1.ListReviewsRequest{All: all},
				func(r *adminv1.ListReviewsResponse) table {
					t := table{head: []string{"REVIEW", "STATE", "ASKED", "PERSON", "CONNECTOR", "TOOL", "APPROVALS", "YOURS TO APPROVE", "ENDS"}}
					for _, one := range r.GetReviews() {
						t.rows = append(t.rows, []string{
							one.GetId(), lower(one.GetState(), "REVIEW_STATE_"), ago(one.GetAskedAt()), dash(one.GetPerson()), one.GetConnector(), cut(one.GetTool(), 60),
							fmt.Sprintf("%d of %d", one.GetApprovals(), one.GetNeeded()), yes(one.GetMayApprove()), when(one.GetExpiresAt()),
						})
					}
					return t
				})
		},
	}
	list.Flags().BoolVar(&all, "all", false, "those of the last day that are over too")
	show := &cobra.Command{
		Use: "show ID", Short: "Show a call that waits for approval, with its whole arguments", Args: cobra.ExactArgs(1),
		Example: "  sallyport reviews show 0197f2f0-7c7e-7b4e-9b0e-0d8f5a2f4c11",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewReviewServiceClient, adminv1connect.ReviewServiceClient.GetReview, &adminv1.GetReviewRequest{Id: args[0]}, reviewTable)
		},
	}
	var digest string
	approve := &cobra.Command{
		Use: "approve ID --digest DIGEST", Short: "Approve exactly the call that was shown", Args: cobra.ExactArgs(1),
		Long:    "Approve exactly the call that sallyport reviews show showed: its digest says that it is the one. It takes a person who is\nsigned in (sallyport login) and is in one of the approvers' groups; a token approves nothing.",
		Example: "  sallyport reviews show ID\n  sallyport reviews approve ID --digest 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
		RunE: func(cmd *cobra.Command, args []string) error {
			sum, err := hex.DecodeString(digest)
			if err != nil || len(sum) != 32 {
				return usage("--digest is that of the arguments as sallyport reviews show shows it: 64 hexadecimal digits")
			}
			return call(cmd.Context(), o, adminv1connect.NewReviewServiceClient, adminv1connect.ReviewServiceClient.ApproveReview,
				&adminv1.ApproveReviewRequest{Id: args[0], ArgumentsSha256: sum}, func(r *adminv1.ApproveReviewResponse) table {
					return line("approved at version %d; the call is made when the agent makes it again", r.GetVersion())
				})
		},
	}
	approve.Flags().StringVar(&digest, "digest", "", "that of the arguments that you looked at")
	_ = approve.MarkFlagRequired("digest") // the flag is there
	var reason string
	deny := &cobra.Command{
		Use: "deny ID", Short: "Refuse a call, or take back what your own agent asked", Args: cobra.ExactArgs(1),
		Example: "  sallyport reviews deny ID --reason 'not before the release'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewReviewServiceClient, adminv1connect.ReviewServiceClient.RefuseReview,
				&adminv1.RefuseReviewRequest{Id: args[0], Reason: reason}, func(r *adminv1.RefuseReviewResponse) table {
					return line("refused at version %d", r.GetVersion())
				})
		},
	}
	deny.Flags().StringVar(&reason, "reason", "", "why; the agent is told")
	return parent("reviews", "Calls that wait for approval", list, show, approve, deny)
}

func reviewTable(r *adminv1.GetReviewResponse) table {
	one := r.GetReview()
	var b strings.Builder
	row := func(name, value string) { fmt.Fprintf(&b, "%-11s %s\n", name, printable(value)) }
	row("review", one.GetId())
	row("state", lower(one.GetState(), "REVIEW_STATE_"))
	row("person", one.GetPerson()+" ("+one.GetPersonId()+")")
	row("agent", dash(one.GetClientId()))
	row("call", one.GetTool()+" on "+one.GetConnector()+", region "+one.GetRegion())
	row("because", strings.Join(one.GetBecause(), " and "))
	for _, step := range one.GetSteps() {
		var ways []string
		for _, a := range step.GetAlternatives() {
			ways = append(ways, fmt.Sprintf("%d of %s", a.GetApprovals(), strings.Join(a.GetGroups(), ", ")))
		}
		row("approvers", strings.Join(ways, ", or "))
	}
	row("approvals", fmt.Sprintf("%d of %d %s", one.GetApprovals(), one.GetNeeded(), strings.Join(one.GetApprovedBy(), ", ")))
	if one.GetRefusedBy() != "" {
		row("refused by", one.GetRefusedBy()+": "+one.GetReason())
	}
	row("ends", when(one.GetExpiresAt()))
	row("digest", hex.EncodeToString(one.GetArgumentsSha256()))
	b.WriteString("arguments\n")
	if r.Arguments == nil {
		b.WriteString("  (not for you, or not kept any more)")
	} else {
		b.WriteString("  " + strings.ReplaceAll(policy.Shown([]byte(r.GetArguments())), "\n", "\n  "))
	}
	return line("%s", b.String())
}
