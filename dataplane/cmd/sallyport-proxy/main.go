// Command sallyport-proxy stands between agents and upstream MCP servers and enforces the policy.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run()) }

// run returns the exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "sallyport-proxy", Short: "Stands between agents and upstream MCP servers, enforces the policy and records each call",
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), benchCommand(), runnerCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sallyport-proxy: "+err.Error())
		return 1
	}
	return 0
}
