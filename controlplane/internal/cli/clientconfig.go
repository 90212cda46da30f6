package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/clientconfig"
)

func clientConfigCommand(o *options) *cobra.Command {
	var g clientconfig.Gateway
	var system, out string
	c := &cobra.Command{
		Use: "config CLIENT", Short: "Write the managed configuration that leaves the gateway as a client's only MCP server", Args: cobra.ExactArgs(1),
		Long: "Write the managed configuration that leaves the gateway as a client's only MCP server, and say where it goes. CLIENT is one of\n" +
			strings.Join(clientconfig.Clients, ", ") + ". It needs no server and no token.\n" +
			"What a client has no file for is said beside it: Cursor and Claude Desktop need a setting of their vendor's too.",
		Example: "  sallyport clients config claude-code --url https://mcp.example.com/mcp\n" +
			"  sallyport clients config gemini-cli --url https://mcp.example.com/mcp --os windows --out ./managed\n" +
			"  sallyport clients config vscode --url https://mcp.example.com/mcp --registry-url https://static.example.com/mcp-registry --out ./managed",
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := clientconfig.Configure(args[0], g)
			if err != nil {
				return usage("%w", err)
			}
			if err := forSystem(&m, system); err != nil {
				return err
			}
			if out == "" {
				return o.print(m, func() table { return line("%s", managedText(m)) })
			}
			written, err := writeManaged(m, out)
			if err != nil {
				return err
			}
			return o.print(m, func() table { return tables("", written, notes(m)) })
		},
	}
	f := c.Flags()
	f.StringVar(&g.URL, "url", "", "the gateway's `URL`, as people are given it")
	f.StringVar(&g.Name, "name", "sallyport", "what clients call it")
	f.StringVar(&g.Registry, "registry-url", "", "`URL` at which the registry's files will lie (VS Code)")
	f.StringVar(&system, "os", "", "macos, linux or windows (default: all)")
	f.StringVar(&out, "out", "", "`folder` to write the files to, by system and path (default: show them)")
	_ = c.MarkFlagRequired("url")
	return c
}

// systems are the names that people give to runtime.GOOS.
var systems = map[string]string{"macos": "darwin", "darwin": "darwin", "linux": "linux", "windows": "windows"}

// forSystem leaves the files of one operating system.
func forSystem(m *clientconfig.Managed, system string) error {
	if system == "" {
		return nil
	}
	goos, ok := systems[system]
	if !ok {
		return usage("--os is macos, linux or windows, not %q", system)
	}
	var files []clientconfig.File
	for _, f := range m.Files {
		if f.OS == goos || f.OS == "" {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return usage("%s does not run on %s", m.Client, system)
	}
	m.Files = files
	return nil
}

func systemName(goos string) string {
	switch goos {
	case "":
		return "any"
	case "darwin":
		return "macos"
	}
	return goos
}

func managedText(m clientconfig.Managed) string {
	var b strings.Builder
	for _, f := range m.Files {
		fmt.Fprintf(&b, "# %s: %s\n%s\n", systemName(f.OS), f.Path, strings.ReplaceAll(f.Content, "\r\n", "\n"))
	}
	for _, note := range m.Notes {
		fmt.Fprintf(&b, "Note: %s\n", note)
	}
	return strings.TrimRight(b.String(), "\n")
}

func notes(m clientconfig.Managed) table {
	t := table{head: []string{"NOTE"}}
	for _, note := range m.Notes {
		t.rows = append(t.rows, []string{note})
	}
	return t
}

// writeManaged writes the files below a folder: OS/PATH.
func writeManaged(m clientconfig.Managed, out string) (table, error) {
	t := table{head: []string{"SYSTEM", "GOES TO", "WRITTEN"}}
	for _, f := range m.Files {
		below := strings.TrimPrefix(strings.NewReplacer(`C:\`, "", `\`, "/", "~/", "home/").Replace(f.Path), "/")
		path := filepath.Join(out, systemName(f.OS), filepath.FromSlash(below))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // everybody reads a managed configuration
			return table{}, fmt.Errorf("writing the configuration: %w", err)
		}
		if err := os.WriteFile(path, []byte(f.Content), 0o644); err != nil { //nolint:gosec // the same
			return table{}, fmt.Errorf("writing the configuration: %w", err)
		}
		t.rows = append(t.rows, []string{systemName(f.OS), f.Path, path})
	}
	return t, nil
}
