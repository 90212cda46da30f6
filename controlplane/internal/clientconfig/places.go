package clientconfig

import "path"

// format is how servers lie in a file.
type format struct {
	// at are the ways to objects of servers by name.
	at [][]string
	// projects: Claude Code's own file, in which each project has servers too.
	projects bool
	// manifest: an extension's, which is one server.
	manifest bool
}

var (
	mcpServers = format{at: [][]string{{"mcpServers"}}}
	// claudeFile is ~/.claude.json.
	claudeFile    = format{at: mcpServers.at, projects: true}
	claudeManaged = format{at: [][]string{{"managedMcpServers"}}}
	codeServers   = format{at: [][]string{{"servers"}}}
	codeSettings  = format{at: [][]string{{"mcp", "servers"}, {"mcp.servers"}}}
	manifest      = format{manifest: true}
)

// place is where a client keeps servers: a path, or a pattern, below a home folder, a project, or the root of the machine.
type place struct {
	client, kind, path string
	format             format
}

// support is the folder in which applications of an operating system keep what they know, below a home folder.
var support = map[string]string{"darwin": "Library/Application Support", "linux": ".config", "windows": "AppData/Roaming"}

// editors are VS Code and what is made of it, by the names of their folders.
var editors = []struct{ client, folder string }{{VSCode, "Code"}, {VSCode, "Code - Insiders"}, {VSCode, "VSCodium"}, {Cursor, "Cursor"}}

// inHome are the places below a home folder.
func inHome(os string) []place {
	apps := support[os]
	all := []place{
		{ClaudeCode, "user", ".claude.json", claudeFile},
		{ClaudeCode, "plugin", ".claude/plugins/cache/*/*/*/.mcp.json", mcpServers},
		{ClaudeDesktop, "user", path.Join(apps, "Claude/claude_desktop_config.json"), mcpServers},
		{ClaudeDesktop, "extension", path.Join(apps, "Claude/Claude Extensions/*/manifest.json"), manifest},
		{Cursor, "user", ".cursor/mcp.json", mcpServers},
		{GeminiCLI, "user", ".gemini/settings.json", mcpServers},
		{GeminiCLI, "extension", ".gemini/extensions/*/gemini-extension.json", mcpServers},
		{VSCode, "user", ".vscode-server/data/User/mcp.json", codeServers},
		{VSCode, "user", ".vscode-server/data/Machine/mcp.json", codeServers},
	}
	for _, e := range editors {
		if e.client != VSCode {
			continue
		}
		user := path.Join(apps, e.folder, "User")
		all = append(all,
			place{e.client, "user", path.Join(user, "mcp.json"), codeServers},
			place{e.client, "user", path.Join(user, "settings.json"), codeSettings},
			place{e.client, "profile", path.Join(user, "profiles/*/mcp.json"), codeServers},
			place{e.client, "profile", path.Join(user, "profiles/*/settings.json"), codeSettings})
	}
	return all
}

// workspaces are patterns below a home folder of files that each name a folder that was opened in an editor.
func workspaces(os string) []string {
	all := make([]string, 0, len(editors))
	for _, e := range editors {
		all = append(all, path.Join(support[os], e.folder, "User/workspaceStorage/*/workspace.json"))
	}
	return all
}

// inProject are the places below a project's folder.
var inProject = []place{
	{ClaudeCode, "project", ".mcp.json", mcpServers},
	{Cursor, "project", ".cursor/mcp.json", mcpServers},
	{VSCode, "project", ".vscode/mcp.json", codeServers},
	{VSCode, "project", ".vscode/settings.json", codeSettings},
	{GeminiCLI, "project", ".gemini/settings.json", mcpServers},
}

// managedFolders are where the whole machine's configuration lies, without the drive.
var managedFolders = map[string]struct{ claude, gemini string }{
	"darwin":  {"Library/Application Support/ClaudeCode", "Library/Application Support/GeminiCli"},
	"linux":   {"etc/claude-code", "etc/gemini-cli"},
	"windows": {"Program Files/ClaudeCode", "ProgramData/gemini-cli"},
}

// onMachine are the places of the whole machine.
func onMachine(os string) []place {
	at := managedFolders[os]
	return []place{
		{ClaudeCode, "managed", path.Join(at.claude, "managed-mcp.json"), mcpServers},
		{ClaudeCode, "managed", path.Join(at.claude, "managed-settings.json"), claudeManaged},
		{ClaudeCode, "managed", path.Join(at.claude, "managed-settings.d/*.json"), claudeManaged},
		{GeminiCLI, "managed", path.Join(at.gemini, "settings.json"), mcpServers},
		{GeminiCLI, "managed", path.Join(at.gemini, "system-defaults.json"), mcpServers},
	}
}
