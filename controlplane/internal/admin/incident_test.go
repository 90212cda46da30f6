package admin_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/cli"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// TestAnIncidentStopsAPersonInOneCommand runs the command against the API: no proxy is there, so that the receipt is whole at once.
func TestAnIncidentStopsAPersonInOneCommand(t *testing.T) {
	s := planned(t)
	ada := s.Engine.State().UserByName("okta", "ada")
	token := filepath.Join(t.TempDir(), "token")
	enginetest.Must(t, os.WriteFile(token, []byte(s.token), 0o600))
	run := func(args ...string) error {
		root := &cobra.Command{Use: "sallyport", SilenceErrors: true, SilenceUsage: true}
		cli.Commands(root)
		root.SetArgs(append([]string{"--server", s.server.URL, "--token-file", token, "-o", "json"}, args...))
		return root.ExecuteContext(t.Context())
	}
	enginetest.Must(t, run("incident", "ada", "--reason", "laptop stolen"))
	state := s.Engine.State()
	blocks := slices.Collect(state.Blocks())
	if len(blocks) != 1 || blocks[0].GetPersonId() != ada.ID.String() || blocks[0].GetReason() != "laptop stolen" {
		t.Errorf("blocks: %v", blocks)
	}
	if state.User(ada.ID).Generation <= ada.Generation {
		t.Error("her sessions go on")
	}
	if err := run("incident", "nobody", "--reason", "x"); err == nil {
		t.Error("an incident about nobody is done")
	}
}
