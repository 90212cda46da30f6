// Command sallyport is the control plane (`sallyport serve`) and the admin command line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/cli"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run()) }

// run returns the exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "sallyport", Short: "An MCP gateway: which of an upstream's tools a person's agents may use, enforced and recorded",
		Version: version, SilenceUsage: true, SilenceErrors: true,
		Example: "  sallyport serve --data-dir ./data\n  sallyport apply -f policy/\n  sallyport access explain ann@example.com github push_files --args '{\"branch\":\"main\"}'",
	}
	root.AddCommand(serveCommand(), reportingCommand(), benchCommand())
	cli.Commands(root)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sallyport: "+cli.Explain(err))
		return cli.ExitCode(err)
	}
	return 0
}
