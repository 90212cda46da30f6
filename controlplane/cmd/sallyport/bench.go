package main

import (
	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/bench/audit"
	"sallyport.dev/controlplane/internal/bench/bare"
	"sallyport.dev/controlplane/internal/bench/commit"
	"sallyport.dev/controlplane/internal/bench/policy"
)

// benchCommand runs the figures that need the control plane's inside; ./scripts/bench calls it.
func benchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure the control plane's parts", Hidden: true}
	c.AddCommand(&cobra.Command{
		Use: "commit", Short: "Events per second through the engine, beside raw JetStream", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return commit.Run(cmd.Context(), cmd.OutOrStdout()) },
	})
	full, records := false, 1_000_000
	a := &cobra.Command{
		Use: "audit", Short: "Audit stored, indexed, searched, exported and verified, beside raw JetStream and raw COPY", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if full {
				records *= 10
			}
			return audit.Run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), records)
		},
	}
	a.Flags().BoolVar(&full, "full", false, "ten times as many records")
	a.Flags().IntVar(&records, "records", records, "how many records there are to search, export and verify")
	c.AddCommand(a)
	scale, only := 0.1, policy.Figures
	pc := &cobra.Command{
		Use: "policy", Short: "Plans, questions and backtests, beside what they cannot do without", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if full {
				scale = 1
			}
			return policy.Run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), only, scale)
		},
	}
	pc.Flags().BoolVar(&full, "full", false, "the sizes that the figures name, and not a tenth of them")
	pc.Flags().StringSliceVar(&only, "only", only, "the figures to measure")
	c.AddCommand(pc)
	var addr, dir string
	b := &cobra.Command{
		Use: "bare", Short: "Store the bodies of POSTs and do nothing else, for SCIM writes to be measured beside", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return bare.Serve(cmd.Context(), addr, dir) },
	}
	b.Flags().StringVar(&addr, "listen", "127.0.0.1:0", "the `address` to serve at")
	b.Flags().StringVar(&dir, "data-dir", "", "the `folder` to keep the bodies in")
	c.AddCommand(b)
	return c
}
