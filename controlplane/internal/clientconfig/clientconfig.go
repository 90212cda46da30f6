// Package clientconfig knows the files in which agents' programs (Claude Code, Claude Desktop, Cursor, VS Code, Gemini CLI) keep their MCP
// servers: it reads what laptops have, and writes what leaves the gateway as the only server.
//
// What it reads is hostile: another's files, read by a program that may run as root. It follows no link out of the folder that it was
// given, opens nothing but regular files, and tells of a credential only that it is there and of what kind: never a value, a query, an argument.
package clientconfig

// The clients whose files are known.
const (
	ClaudeCode    = "claude-code"
	ClaudeDesktop = "claude-desktop"
	Cursor        = "cursor"
	VSCode        = "vscode"
	GeminiCLI     = "gemini-cli"
)

// Report is what was found on one machine.
type Report struct {
	// Device names the machine.
	Device string `json:"device"`
	OS     string `json:"os"`
	// Scanned is when, in RFC 3339.
	Scanned  string    `json:"scanned"`
	Servers  []Server  `json:"servers"`
	Problems []Problem `json:"problems"`
}

// Server is one MCP server in one file. What could be a secret is "(withheld)".
type Server struct {
	// User is the home folder's name; empty in a file of the whole machine.
	User   string `json:"user"`
	Client string `json:"client"`
	File   string `json:"file"`
	// Kind is user, local (one person in one project), project, profile, plugin, extension or managed.
	Kind    string `json:"kind"`
	Project string `json:"project,omitempty"`
	Name    string `json:"name"`
	// Transport is http, sse, websocket, stdio or unknown.
	Transport string `json:"transport"`
	// Host is where a remote server is, or where a local program is told to connect.
	Host string `json:"host,omitempty"`
	// Program is what a local server runs, and Package what that runs in turn, such as a package of npm or an image.
	Program string `json:"program,omitempty"`
	Package string `json:"package,omitempty"`
	// Credentials are the kinds that the file holds or points to: bearer header, basic header, API key header, environment variable, argument,
	// URL, OAuth, program. Empty: none. A remote server without any is open, or signs people in itself.
	Credentials []string `json:"credentials"`
	// InTheClear: a credential's value lies in the file itself, not in a variable or a store that it points to.
	InTheClear bool `json:"in_the_clear"`
	// Disabled: the client is told not to use it.
	Disabled bool `json:"disabled,omitempty"`
	// Gateway: it is the gateway already.
	Gateway bool `json:"gateway,omitempty"`
}

// Problem is a file, or a part of one, that could not be read.
type Problem struct {
	File string `json:"file"`
	Text string `json:"text"`
}
