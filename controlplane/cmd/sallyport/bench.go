package main

import (
	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/bench/commit"
)

// benchCommand runs the figures that need the control plane's inside; ./scripts/bench calls it.
func benchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure the control plane's parts", Hidden: true}
	c.AddCommand(&cobra.Command{
		Use: "commit", Short: "Events per second through the engine, beside raw JetStream", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return commit.Run(cmd.Context(), cmd.OutOrStdout()) },
	})
	return c
}
