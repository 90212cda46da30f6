package cli

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func eraseCommand(o *options) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "erase USER", Short: "Remove a person for good, with all attributes",
		Long:    "Remove a person for good. Access ends at once. Then the person's key is destroyed and the sealed attributes are\noverwritten on the log; what stays are facts about an opaque id. It cannot be undone, and a backup that is restored\nbrings nobody back. A directory that still has the person provisions a new one: remove the person there first.",
		Example: "  sallyport users erase ann@example.com --yes\n  sallyport users erasures    # what is not finished",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usage("erasing %q cannot be undone: add --yes if it is meant", args[0])
			}
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.EraseUser, &adminv1.EraseUserRequest{User: args[0]}, func(r *adminv1.EraseUserResponse) table {
				return line("%s is removed at version %d\nnext: sallyport users erasures, which lists it until nothing is left", r.GetUserId(), r.GetVersion())
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "it is meant")
	return c
}

func erasuresCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "erasures", Short: "List people who were removed and of whom something may still lie in the stores, sealed", Args: cobra.NoArgs,
		Example: "  sallyport users erasures -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.ListErasures, &adminv1.ListErasuresRequest{}, func(r *adminv1.ListErasuresResponse) table {
				t := table{head: []string{"USER", "REMOVED", "VERSION"}}
				for _, e := range r.GetErasures() {
					t.rows = append(t.rows, []string{e.GetUserId(), e.GetRemovedAt().AsTime().Local().Format(time.DateTime), strconv.FormatUint(e.GetVersion(), 10)})
				}
				return t
			})
		},
	}
}
