package cli_test

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/cli"
)

// TestWrongFlagsAreWrongUsage: scripts tell a mistyped line from a refusal, and the id of a key that begins with a dash has a way in.
func TestWrongFlagsAreWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"users", "list", "--no-such"},
		{"service-accounts", "keys", "remove", "nightly", "-Lixj3hHI1U0S4lFr35XSwBBG51KEWxIxx9A43T4WxY"},
	} {
		root := &cobra.Command{Use: "sallyport", SilenceErrors: true, SilenceUsage: true}
		cli.Commands(root)
		root.SetArgs(args)
		root.SetOut(io.Discard)
		err := root.ExecuteContext(t.Context())
		if cli.ExitCode(err) != cli.ExitUsage {
			t.Errorf("%v: exit code %d: %v", args, cli.ExitCode(err), err)
		}
		if strings.HasPrefix(args[len(args)-1], "-L") && !strings.Contains(cli.Explain(err), "goes behind --") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
