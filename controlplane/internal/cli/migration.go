package cli

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/clientconfig"
)

func migrationCommand(o *options) *cobra.Command {
	return parent("migration", "Move people's MCP servers from laptops to the gateway", scanCommand(o), migrationReportCommand(o))
}

func scanCommand(o *options) *cobra.Command {
	var homes, projects []string
	var gateway, device string
	c := &cobra.Command{
		Use: "scan", Short: "Report the MCP servers that clients on this machine are set up with", Args: cobra.NoArgs,
		Long: "Report the MCP servers that Claude Code, Claude Desktop, Cursor, VS Code and Gemini CLI on this machine are set up with: where each\n" +
			"is and which kinds of credential it has, never a credential. It needs no server and no token, sends nothing, and changes nothing.\n" +
			"Projects are looked at where a client remembers that it was opened there. A file that cannot be read is a line of the report.",
		Example: "  sallyport migration scan\n  sallyport migration scan --gateway mcp.example.com -o json > scan.json\n" +
			"  sudo sallyport migration scan --home '/Users/*' --device \"$(scutil --get ComputerName)\" -o json    # for device management",
		RunE: func(_ *cobra.Command, _ []string) error {
			scan := clientconfig.Scan{Projects: projects, Gateway: gateway, Device: device, OS: runtime.GOOS, Root: machineRoot(), Now: time.Now()}
			if scan.Device == "" {
				scan.Device, _ = os.Hostname() // without one the report is of some device
			}
			var err error
			if scan.Homes, err = homeFolders(homes); err != nil {
				return err
			}
			report := scan.Run()
			return o.print(report, func() table { return scanTable(report) })
		},
	}
	f := c.Flags()
	f.StringArrayVar(&homes, "home", nil, "a home `folder` to look at, or a pattern of several; may be given again (default: your own)")
	f.StringArrayVar(&projects, "project", nil, "a project's `folder` to look at beside those that clients remember; may be given again")
	f.StringVar(&gateway, "gateway", "", "`host` of the gateway, to mark what is moved already")
	f.StringVar(&device, "device", "", "name of this machine in the report (default: its host name)")
	return c
}

// machineRoot is where the machine's own files begin.
func machineRoot() string {
	if runtime.GOOS == "windows" {
		return os.Getenv("SystemDrive") + `\`
	}
	return "/"
}

// homeFolders are the folders that patterns name.
func homeFolders(patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, usage("your home folder is not known: name it with --home")
		}
		return []string{home}, nil
	}
	var all []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			return nil, usage("--home %s: there is no such folder", pattern)
		}
		for _, dir := range found {
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				all = append(all, dir)
			}
		}
	}
	if len(all) == 0 {
		return nil, usage("--home: there is no such folder")
	}
	return all, nil
}

func scanTable(r clientconfig.Report) table {
	servers := table{head: []string{"USER", "CLIENT", "KIND", "NAME", "TRANSPORT", "WHERE", "CREDENTIALS", "IN THE CLEAR", "FILE"}}
	for _, s := range r.Servers {
		where := s.Host
		if s.Transport == "stdio" {
			where = strings.Join(strings.Fields(strings.Join([]string{s.Program, s.Package, s.Host}, " ")), " ")
		}
		if s.Gateway {
			where += " (the gateway)"
		}
		name := s.Name
		if s.Disabled {
			name += " (disabled)"
		}
		credentials := strings.Join(s.Credentials, ", ")
		if credentials == "" {
			credentials = "none"
		}
		servers.rows = append(servers.rows, []string{dash(s.User), s.Client, s.Kind, name, s.Transport, dash(where), credentials, yes(s.InTheClear), s.File})
	}
	problems := table{head: []string{"NOT READ", "WHY"}}
	for _, p := range r.Problems {
		problems.rows = append(problems.rows, []string{p.File, p.Text})
	}
	if len(servers.rows) == 0 {
		return tables("no MCP servers were found", problems)
	}
	return tables("", servers, problems)
}
