package main

import (
	"slices"

	"github.com/spf13/cobra"

	"sallyport.dev/dataplane/internal/bench/decide"
	"sallyport.dev/dataplane/internal/bench/record"
)

// benchCommand runs the figures that need the proxy's inside; ./scripts/bench calls it.
func benchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure the proxy's parts", Hidden: true}
	users := 1_000_000
	d := &cobra.Command{
		Use: "decide", Short: "Nanoseconds and allocations per verdict", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return decide.Run(cmd.Context(), cmd.OutOrStdout(), users) },
	}
	d.Flags().IntVar(&users, "users", users, "users in the snapshot")
	full, only := false, []string{"decide"}
	p := &cobra.Command{
		Use: "policy", Short: "Nanoseconds and allocations per verdict of people with 500 rules", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(only, "decide") { // the control plane measures the others
				return nil
			}
			if full {
				return decide.RunPolicy(cmd.Context(), cmd.OutOrStdout(), 1_000_000, 1)
			}
			return decide.RunPolicy(cmd.Context(), cmd.OutOrStdout(), 100_000, 0.1)
		},
	}
	p.Flags().BoolVar(&full, "full", false, "1,000,000 users, and not a tenth of them")
	p.Flags().StringSliceVar(&only, "only", only, "the figures to measure")
	a := &cobra.Command{
		Use: "audit", Short: "Microseconds to append a record to the spool", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return record.Run(cmd.Context(), cmd.OutOrStdout()) },
	}
	c.AddCommand(d, p, a)
	return c
}
