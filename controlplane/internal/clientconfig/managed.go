package clientconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Clients are the programs that Managed knows, in the order in which they are listed.
var Clients = []string{ClaudeCode, ClaudeDesktop, Cursor, GeminiCLI, VSCode}

// Gateway is what clients are to use.
type Gateway struct {
	// URL is what people are given, such as https://mcp.example.com/mcp.
	URL string
	// Name is what clients call it. Default sallyport.
	Name string
	// Registry is where the files of a registry lie, of which VS Code's policy needs one.
	Registry string
}

// File is a file that an admin puts on machines, or on a web server.
type File struct {
	// OS is darwin, linux or windows; empty: any.
	OS string `json:"os,omitempty"`
	// Path is where it goes; "~/" is a person's home folder.
	Path    string `json:"path"`
	Content string `json:"content"`
}

// Managed is a client's managed configuration.
type Managed struct {
	Client string `json:"client"`
	Files  []File `json:"files"`
	// Exclusive: with the files alone, the gateway is the only server that the client uses.
	Exclusive bool `json:"exclusive"`
	// Notes are what an admin must know or do besides.
	Notes []string `json:"notes"`
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Configure makes the configuration that leaves the gateway as a client's only server.
func Configure(client string, g Gateway) (Managed, error) {
	if g.Name == "" {
		g.Name = "sallyport"
	}
	if !nameForm.MatchString(g.Name) {
		return Managed{}, fmt.Errorf("the gateway's name is of letters, digits, - and _, not %q", g.Name)
	}
	if err := g.check(g.URL); err != nil {
		return Managed{}, fmt.Errorf("the gateway's URL: %w", err)
	}
	switch client {
	case ClaudeCode:
		return g.claudeCode(), nil
	case ClaudeDesktop:
		return g.claudeDesktop(), nil
	case Cursor:
		return g.cursor(), nil
	case GeminiCLI:
		return g.geminiCLI(), nil
	case VSCode:
		if g.Registry == "" {
			return Managed{}, errors.New("VS Code limits servers to those of a registry: say with --registry-url where its files, which this writes too, will lie on a web server of yours")
		}
		if err := g.check(g.Registry); err != nil {
			return Managed{}, fmt.Errorf("the registry's URL: %w", err)
		}
		return g.vsCode(), nil
	}
	return Managed{}, fmt.Errorf("the clients are %s, not %q", strings.Join(Clients, ", "), client)
}

// check refuses what no client could use, or what would put a secret on every laptop.
func (g Gateway) check(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return errors.New("it is such as https://mcp.example.com/mcp")
	}
	local := u.Hostname() == "localhost"
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		local = ip.IsLoopback()
	}
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !local):
		return errors.New("it begins with https://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("it has no user, query or fragment: what is in it lies on every laptop")
	case strings.ContainsAny(address, "*${}\"'\\ "):
		return errors.New("it has characters that clients read as their own")
	}
	return nil
}

func indented(v any) string {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // maps and strings
	}
	return string(data) + "\n"
}

type object = map[string]any

// claudeCode: managed-mcp.json alone decides which servers load. The lists beside it hold for what does not pass by it, and on machines where the file is late.
func (g Gateway) claudeCode() Managed {
	u, _ := url.Parse(g.URL)
	servers := indented(object{"mcpServers": object{g.Name: object{"type": "http", "url": g.URL}}})
	settings := indented(object{"allowManagedMcpServersOnly": true, "allowedMcpServers": []object{{"serverUrl": u.Scheme + "://" + u.Host + "/*"}}})
	m := Managed{Client: ClaudeCode, Exclusive: true, Notes: []string{
		"Only an administrator of the machine may be able to write to the folder.",
		"claude mcp list then shows " + g.Name + " alone, and claude mcp add is refused. People sign in at /mcp, in a browser.",
		"Connectors of claude.ai that the desktop app hands to its sessions are the organization's settings at claude.ai, not these files.",
	}}
	for _, os := range []string{"darwin", "linux", "windows"} {
		m.Files = append(m.Files,
			File{OS: os, Path: managedPath(os, managedFolders[os].claude, "managed-mcp.json"), Content: servers},
			File{OS: os, Path: managedPath(os, managedFolders[os].claude, "managed-settings.d", "50-sallyport.json"), Content: settings})
	}
	return m
}

// geminiCLI: settings of the system win over people's, and the list of names leaves no other server.
func (g Gateway) geminiCLI() Managed {
	settings := indented(object{"mcp": object{"allowed": []string{g.Name}}, "mcpServers": object{g.Name: object{"type": "http", "url": g.URL}}})
	m := Managed{Client: GeminiCLI, Exclusive: true, Notes: []string{
		"If there is such a file, put the two keys into it.",
		"People can name another file by the variable GEMINI_CLI_SYSTEM_SETTINGS_PATH: where that matters, start Gemini CLI by a script that sets it.",
	}}
	for _, os := range []string{"darwin", "linux", "windows"} {
		m.Files = append(m.Files, File{OS: os, Path: managedPath(os, managedFolders[os].gemini, "settings.json"), Content: settings})
	}
	return m
}

// cursor has no file that forbids servers.
func (g Gateway) cursor() Managed {
	u, _ := url.Parse(g.URL)
	return Managed{
		Client: Cursor, Notes: []string{
			"Cursor has no policy on the machine that forbids other servers. An admin of a Cursor team (Enterprise) allows the gateway alone in the dashboard's MCP settings: " + u.Scheme + "://" + u.Host + "/*",
			"The file replaces what the person had there; what it had, sallyport migration scan reports.",
		},
		Files: []File{{Path: "~/.cursor/mcp.json", Content: indented(object{"mcpServers": object{g.Name: object{"url": g.URL}}})}},
	}
}

// claudeDesktop can be kept from local servers; remote ones are the organization's at claude.ai, or lie in its policy where it has a provider of its own.
func (g Gateway) claudeDesktop() Managed {
	remote, _ := json.Marshal([]object{{"name": g.Name, "url": g.URL, "transport": "http", "oauth": true}}) // maps and strings
	policy := []setting{
		{"isLocalDevMcpEnabled", false}, {"isDesktopExtensionEnabled", false}, {"isDesktopExtensionDirectoryEnabled", false}, {"managedMcpServers", string(remote)},
	}
	return Managed{
		Client: ClaudeDesktop, Notes: []string{
			"This ends local servers and extensions. Which remote ones people may add is a setting of the organization at claude.ai (Connectors): add " + g.URL + " there, and let nobody add others.",
			"managedMcpServers counts where Claude Desktop is set up with a model provider of your own; elsewhere it is not read.",
			"Claude's connectors call from Anthropic's network: the gateway must be reachable from there.",
		},
		Files: []File{
			{OS: "darwin", Path: "claude-desktop.mobileconfig", Content: profile("com.anthropic.claudefordesktop", "Claude Desktop", policy)},
			{OS: "windows", Path: "claude-desktop.reg", Content: registry(`SOFTWARE\Policies\Claude`, policy)},
		},
	}
}

// registryVersion is that of the registry's API which VS Code reads.
const registryVersion = "v0.1"

// vsCode runs servers of one registry alone, so it gets a registry with one server, as files for any web server.
func (g Gateway) vsCode() Managed {
	u, _ := url.Parse(g.URL)
	labels := strings.Split(u.Hostname(), ".")
	slices.Reverse(labels)
	name := strings.Join(labels, ".") + "/" + g.Name
	entry := object{
		"server": object{
			"name": name, "title": "Sallyport", "description": "The MCP gateway of this organization", "version": "1.0.0",
			"remotes": []object{{"type": "streamable-http", "url": g.URL}},
		},
		"_meta": object{"io.modelcontextprotocol.registry/official": object{"status": "active", "isLatest": true}},
	}
	base := registryVersion + "/servers/"
	site := strings.TrimSuffix(g.Registry, "/")
	policy := []setting{{"ChatMCP", "registry"}, {"McpGalleryServiceUrl", site}}
	linux := object{}
	for _, s := range policy {
		linux[s.name] = s.value
	}
	return Managed{
		Client: VSCode, Exclusive: true, Notes: []string{
			"Put the folder " + registryVersion + " at " + site + ", on a web server that answers a folder with its index.json, as application/json, with Access-Control-Allow-Origin: *.",
			"People install the gateway once, from Extensions (@mcp). Servers that are not of the registry stay in their files and do not run.",
			"VS Code 1.106 or later on Linux. If there is a policy.json, put the two keys into it.",
		},
		Files: []File{
			{OS: "linux", Path: "/etc/vscode/policy.json", Content: indented(linux)},
			{OS: "darwin", Path: "vscode.mobileconfig", Content: profile("com.microsoft.VSCode", "Visual Studio Code", policy)},
			{OS: "windows", Path: "vscode.reg", Content: registry(`SOFTWARE\Policies\Microsoft\VSCode`, policy)},
			{Path: base + "index.json", Content: indented(object{"servers": []object{entry}, "metadata": object{"count": 1}})},
			{Path: base + name + "/versions/latest/index.json", Content: indented(entry)},
			{Path: base + name + "/versions/1.0.0/index.json", Content: indented(entry)},
		},
	}
}

func managedPath(os string, parts ...string) string {
	if os == "windows" {
		return `C:\` + strings.ReplaceAll(strings.Join(parts, `\`), "/", `\`)
	}
	return "/" + strings.Join(parts, "/")
}

// setting is a value of a policy: a string or a bool.
type setting struct {
	name  string
	value any
}

// profile is a configuration profile of macOS. The same settings make the same profile, so that a new one replaces it.
func profile(domain, app string, settings []setting) string {
	id := func(of string) string {
		return strings.ToUpper(uuid.NewSHA1(uuid.NameSpaceURL, []byte("sallyport:"+domain+":"+of)).String())
	}
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>PayloadContent</key>
	<array>
		<dict>
`)
	for _, s := range settings {
		value := "<false/>"
		switch v := s.value.(type) {
		case bool:
			if v {
				value = "<true/>"
			}
		case string:
			value = "<string>" + html.EscapeString(v) + "</string>"
		}
		fmt.Fprintf(&b, "\t\t\t<key>%s</key>\n\t\t\t%s\n", s.name, value)
	}
	fmt.Fprintf(&b, `			<key>PayloadDisplayName</key>
			<string>%[1]s</string>
			<key>PayloadIdentifier</key>
			<string>%[2]s.%[3]s</string>
			<key>PayloadType</key>
			<string>%[2]s</string>
			<key>PayloadUUID</key>
			<string>%[3]s</string>
			<key>PayloadVersion</key>
			<integer>1</integer>
		</dict>
	</array>
	<key>PayloadDisplayName</key>
	<string>%[1]s: MCP by the gateway alone</string>
	<key>PayloadIdentifier</key>
	<string>dev.sallyport.%[2]s</string>
	<key>PayloadScope</key>
	<string>System</string>
	<key>PayloadType</key>
	<string>Configuration</string>
	<key>PayloadUUID</key>
	<string>%[4]s</string>
	<key>PayloadVersion</key>
	<integer>1</integer>
</dict>
</plist>
`, app, domain, id("payload"), id("profile"))
	return b.String()
}

// registry is a file for the registry of Windows.
func registry(key string, settings []setting) string {
	lines := []string{"Windows Registry Editor Version 5.00", "", `[HKEY_LOCAL_MACHINE\` + key + "]"}
	for _, s := range settings {
		switch v := s.value.(type) {
		case bool:
			n := 0
			if v {
				n = 1
			}
			lines = append(lines, fmt.Sprintf(`"%s"=dword:%08x`, s.name, n))
		case string:
			lines = append(lines, fmt.Sprintf(`"%s"="%s"`, s.name, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v)))
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}
