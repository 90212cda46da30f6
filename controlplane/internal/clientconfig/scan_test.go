//go:build unix

package clientconfig_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport.dev/controlplane/internal/clientconfig"
)

// machine is a folder that stands for a machine of an operating system with one home.
type machine struct {
	t          *testing.T
	os         string
	root, home string
}

func newMachine(t *testing.T, goos string) *machine {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, os: goos, root: root, home: filepath.Join(root, "Users", "ann")}
	if err := os.MkdirAll(m.home, 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

// write puts a file below the machine's root, or with "~/" below the home.
func (m *machine) write(name, data string) string {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if below, ok := strings.CutPrefix(name, "~/"); ok {
		path = filepath.Join(m.home, below)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) scan() clientconfig.Report {
	return clientconfig.Scan{Homes: []string{m.home}, OS: m.os, Root: m.root, Gateway: "mcp.example.com", Device: "laptop", Now: time.Unix(1e9, 0)}.Run()
}

func TestEachClientsFilesAreReadOnEachSystem(t *testing.T) {
	for goos, support := range map[string]string{"darwin": "~/Library/Application Support", "linux": "~/.config", "windows": "~/AppData/Roaming"} {
		t.Run(goos, func(t *testing.T) {
			m := newMachine(t, goos)
			project := filepath.Join(m.root, "src", "shop")
			remote := func(key, name string) string {
				return fmt.Sprintf(`{"%s": {"%s": {"type": "http", "url": "https://%s.example.org/mcp"}}}`, key, name, name)
			}
			quoted, _ := json.Marshal(project)
			m.write("~/.claude.json", fmt.Sprintf(`{"numStartups": 3, "mcpServers": {"a1": {"type": "http", "url": "https://a1.example.org/mcp"}},
				"projects": {%s: {"mcpServers": {"a2": {"command": "npx", "args": ["-y", "a2-server"]}}}}}`, quoted))
			m.write("src/shop/.mcp.json", remote("mcpServers", "a3"))
			m.write("~/.claude/plugins/cache/market/plugin/1.0/.mcp.json", remote("mcpServers", "a4"))
			managed := map[string]string{"darwin": "Library/Application Support/ClaudeCode", "linux": "etc/claude-code", "windows": "Program Files/ClaudeCode"}[goos]
			m.write(managed+"/managed-mcp.json", remote("mcpServers", "a5"))
			m.write(managed+"/managed-settings.d/10-ours.json", remote("managedMcpServers", "a6"))
			m.write(support+"/Claude/claude_desktop_config.json", remote("mcpServers", "b1"))
			m.write(support+"/Claude/Claude Extensions/ext/manifest.json", `{"name": "b2", "server": {"type": "node", "mcp_config": {"command": "node", "args": ["x/server.js"]}}}`)
			m.write("~/.cursor/mcp.json", remote("mcpServers", "c1"))
			m.write("src/shop/.cursor/mcp.json", remote("mcpServers", "c2"))
			m.write(support+"/Code/User/mcp.json", "{\n // ours\n \"servers\": {\"d1\": {\"url\": \"https://d1.example.org/mcp\", /* twice */},},\n}")
			m.write(support+"/Code/User/settings.json", `{"editor.tabSize": 2, "mcp": {"servers": {"d2": {"command": "uvx", "args": ["d2-server"]}}}, }`)
			m.write(support+"/Code/User/profiles/12ab/mcp.json", remote("servers", "d3"))
			m.write("src/shop/.vscode/mcp.json", remote("servers", "d4"))
			m.write("~/.gemini/settings.json", `{"mcpServers": {"e1": {"httpUrl": "https://e1.example.org/mcp"}, "e2": {"url": "https://e2.example.org/sse"}}}`)
			m.write("~/.gemini/extensions/ext/gemini-extension.json", remote("mcpServers", "e3"))
			system := map[string]string{"darwin": "Library/Application Support/GeminiCli", "linux": "etc/gemini-cli", "windows": "ProgramData/gemini-cli"}[goos]
			m.write(system+"/settings.json", remote("mcpServers", "e4"))
			// A folder that only an editor remembers.
			other := filepath.Join(m.root, "src", "other one")
			m.write("src/other one/.vscode/settings.json", `{"mcp": {"servers": {"d5": {"type": "sse", "url": "https://d5.example.org/sse"}}}}`)
			m.write(support+"/Code/User/workspaceStorage/1/workspace.json", fmt.Sprintf(`{"folder": "file://%s"}`, strings.ReplaceAll(other, " ", "%20")))

			r := m.scan()
			if len(r.Problems) != 0 {
				t.Errorf("problems: %v", r.Problems)
			}
			var got []string
			for _, s := range r.Servers {
				got = append(got, s.Name+" "+s.Client+" "+s.Kind+" "+s.Transport)
			}
			slices.Sort(got)
			want := []string{
				"a1 claude-code user http", "a2 claude-code local stdio", "a3 claude-code project http", "a4 claude-code plugin http",
				"a5 claude-code managed http", "a6 claude-code managed http",
				"b1 claude-desktop user http", "b2 claude-desktop extension stdio", "c1 cursor user http", "c2 cursor project http",
				"d1 vscode user http", "d2 vscode user stdio", "d3 vscode profile http", "d4 vscode project http", "d5 vscode project sse",
				"e1 gemini-cli user http", "e2 gemini-cli user sse", "e3 gemini-cli extension http", "e4 gemini-cli managed http",
			}
			if !slices.Equal(got, want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestAServerIsToldByItsHostOrProgramAndItsKindsOfCredential(t *testing.T) {
	const key = "sk4f9Q2xT7bV1mZ8"
	for _, c := range []struct {
		name, entry                     string
		transport, where, pkg, whatKind string
		clear                           bool
	}{
		{"open", `{"url": "https://Docs.Example.org:8443/mcp"}`, "http", "docs.example.org:8443", "", "", false},
		{"bearer", `{"url": "https://h.example/mcp", "headers": {"authorization": "Bearer ` + key + `"}}`, "http", "h.example", "", "bearer header", true},
		{"bearer of a variable", `{"url": "https://h.example/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}}`, "http", "h.example", "", "bearer header", false},
		{"basic", `{"url": "https://h.example/mcp", "headers": {"Authorization": "Basic YWxpY2U6cHc="}}`, "http", "h.example", "", "basic header", true},
		{"key", `{"url": "https://h.example/mcp", "headers": {"X-API-Key": "` + key + `", "Accept": "*/*"}}`, "http", "h.example", "", "API key header", true},
		{"key by its form", `{"url": "https://h.example/mcp", "headers": {"X-Ours": "` + key + `"}}`, "http", "h.example", "", "API key header", true},
		{"plain header", `{"url": "https://h.example/mcp", "headers": {"X-Toolsets": "issues,repos"}}`, "http", "h.example", "", "", false},
		{"VS Code's input", `{"url": "https://h.example/mcp", "headers": {"Authorization": "Bearer ${input:gh}"}}`, "http", "h.example", "", "bearer header", false},
		{"query", `{"url": "https://h.example/mcp?api_key=` + key + `&x=1"}`, "http", "h.example", "", "URL", true},
		{"user", `{"url": "https://ann:` + key + `@h.example/mcp"}`, "http", "h.example", "", "URL", true},
		{"path", `{"url": "https://h.example/s/` + key + `/mcp"}`, "http", "h.example", "", "URL", true},
		{"host", `{"url": "https://` + strings.ToLower(key) + `.h.example/mcp"}`, "http", "(withheld).h.example", "", "", false},
		{"OAuth", `{"url": "https://h.example/mcp", "oauth": {"clientId": "abc"}}`, "http", "h.example", "", "OAuth", false},
		{"OAuth with a secret", `{"url": "https://h.example/mcp", "oauth": {"clientId": "abc", "clientSecret": "` + key + `"}}`, "http", "h.example", "", "OAuth", true},
		{"helper", `{"url": "https://h.example/mcp", "headersHelper": "/bin/tok ` + key + `"}`, "http", "h.example", "", "program", false},
		{"websocket", `{"type": "ws", "url": "wss://h.example/mcp"}`, "websocket", "h.example", "", "", false},
		{"npx", `{"command": "npx", "args": ["-y", "@scope/github-mcp@1.2.3"], "env": {"GITHUB_TOKEN": "` + key + `"}}`, "stdio", "npx", "@scope/github-mcp@1.2.3", "environment variable", true},
		{"env of a variable", `{"command": "npx", "args": ["-y", "pkg"], "env": {"GITHUB_TOKEN": "${GITHUB_TOKEN}", "DEBUG": "1"}}`, "stdio", "npx", "pkg", "environment variable", false},
		{"env without", `{"command": "npx", "args": ["pkg"], "env": {"LOG_LEVEL": "debug"}}`, "stdio", "npx", "pkg", "", false},
		{"database URL", `{"command": "uvx", "args": ["--from", "pg-mcp", "pg"], "env": {"DATABASE_URI": "postgres://u:` + key + `@db.example/x"}}`, "stdio", "uvx", "pg-mcp", "environment variable", true},
		{"windows", `{"command": "cmd", "args": ["/c", "npx", "-y", "pkg"]}`, "stdio", "npx", "pkg", "", false},
		{"windows path", `{"command": "C:\\Program Files\\nodejs\\npx.cmd", "args": ["pkg"]}`, "stdio", "npx", "pkg", "", false},
		{"env wrapper", `{"command": "env", "args": ["API_KEY=` + key + `", "node", "/opt/x/server.js"]}`, "stdio", "node", "server.js", "environment variable", true},
		{"docker", `{"command": "docker", "args": ["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"], "env": {}}`, "stdio", "docker", "ghcr.io/github/github-mcp-server", "environment variable", false},
		{"docker with a value", `{"command": "docker", "args": ["run", "-e", "TOKEN=` + key + `", "mcp/x"]}`, "stdio", "docker", "mcp/x", "environment variable", true},
		{"python", `{"command": "python3", "args": ["-m", "my_server"]}`, "stdio", "python3", "my_server", "", false},
		{"flag", `{"command": "npx", "args": ["pkg", "--api-key", "` + key + `"]}`, "stdio", "npx", "pkg", "argument", true},
		{"flag and value in one", `{"command": "npx", "args": ["pkg", "--token=` + key + `"]}`, "stdio", "npx", "pkg", "argument", true},
		{"bare argument", `{"command": "npx", "args": ["pkg", "` + key + `"]}`, "stdio", "npx", "pkg", "argument", true},
		{"mcp-remote", `{"command": "npx", "args": ["mcp-remote", "https://h.example/sse?token=` + key + `", "--header", "Authorization: Bearer ` + key + `"]}`, "stdio", "npx", "mcp-remote", "URL, bearer header", true},
		{"shell", `{"command": "bash", "args": ["-c", "TOKEN=` + key + ` npx pkg"]}`, "stdio", "bash", "", "argument", true},
		{"one line", `{"command": "npx -y pkg --password ` + key + `"}`, "stdio", "npx", "pkg", "argument", true},
		{"secret for a program", `{"command": "` + key + `"}`, "stdio", "(withheld)", "", "", false},
		{"secret for a package", `{"command": "npx", "args": ["` + key + `"]}`, "stdio", "npx", "(withheld)", "argument", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "linux")
			m.write("~/.cursor/mcp.json", `{"mcpServers": {"one": `+c.entry+`}}`)
			r := m.scan()
			if len(r.Servers) != 1 || len(r.Problems) != 0 {
				t.Fatalf("found %+v", r)
			}
			s := r.Servers[0]
			where := s.Host
			if s.Transport == "stdio" {
				where = s.Program
			}
			if s.Transport != c.transport || where != c.where || s.Package != c.pkg || strings.Join(s.Credentials, ", ") != c.whatKind || s.InTheClear != c.clear {
				t.Errorf("it is %+v", s)
			}
			data, _ := json.Marshal(r)
			if strings.Contains(strings.ToLower(string(data)), strings.ToLower(key)) {
				t.Errorf("the report has the secret: %s", data)
			}
		})
	}
}

func TestTheGatewayIsMarked(t *testing.T) {
	m := newMachine(t, "linux")
	m.write("~/.cursor/mcp.json", `{"mcpServers": {"a": {"url": "https://MCP.example.com/mcp"}, "b": {"url": "https://other.example.com/mcp", "disabled": true}}}`)
	r := m.scan()
	if len(r.Servers) != 2 || !r.Servers[0].Gateway || r.Servers[1].Gateway || !r.Servers[1].Disabled {
		t.Errorf("found %+v", r.Servers)
	}
}

// TestNoSecretIsInAReport puts secrets of many forms into every string of an entry, names included.
func TestNoSecretIsInAReport(t *testing.T) {
	m := newMachine(t, "linux")
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.OneOf(
			rapid.StringMatching(`(sk|ghp|xoxb|glpat)[-_][A-Za-z0-9]{30,40}`),
			rapid.StringMatching(`[0-9a-f]{32,64}`),
			rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`),
			rapid.StringMatching(`eyJ[A-Za-z0-9]{40}\.[A-Za-z0-9]{40}\.[A-Za-z0-9_-]{20}`),
			rapid.StringMatching(`AKIA[A-Z2-7]{28}`),
		).Draw(t, "secret")
		wrap := rapid.SampledFrom([]string{"%s", "Bearer %s", "https://h.example/%s", "https://h.example/?q=%s", "https://u:%s@h.example", "https://%s.h.example/", "--key=%s", "--opt %s", "KEY=%s", "-H x:%s", "/opt/%s", `C:\%s`, "@scope/%s", "npx %s", "a;%s", "${%s"}).Draw(t, "wrap")
		value := fmt.Sprintf(wrap, secret)
		for _, key := range []string{"url", "httpUrl", "serverUrl", "command", "type", "headersHelper", "envFile", "oauth", "auth", "authProviderType", "cwd", "what"} {
			entry := map[string]any{key: value}
			if key != "command" && key != "url" {
				entry["command"] = rapid.SampledFrom([]string{"npx", "node", "docker", "bash", "/bin/x"}).Draw(t, "command")
			}
			entry["args"] = []any{value, "run", value, "-e", value, "--header", value, "-m", value, 3, "--from", value}
			entry["env"] = map[string]any{"A": value, value: "1"}
			entry["headers"] = map[string]any{"A": value, value: "1"}
			data, _ := json.Marshal(map[string]any{"mcpServers": map[string]any{value: entry, "not": value}})
			m.write("~/.cursor/mcp.json", string(data))
			report, _ := json.Marshal(m.scan())
			if strings.Contains(strings.ToLower(string(report)), strings.ToLower(secret)) {
				t.Fatalf("%s\nis in the report\n%s", secret, report)
			}
		}
	})
}

func TestAHostileFileIsALineAndTheScanGoesOn(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(outside, []byte(`{"mcpServers": {"stolen": {"url": "https://stolen.example"}}} root:$6$hash`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, data string
		make       func(path string) error
		says       string
	}{
		{name: "garbage", data: "root:$6$hash", says: "it is not JSON"},
		{name: "torn", data: `{"mcpServers": {"a": {"url": "https://a.exa`, says: "it is not JSON"},
		{name: "deep", data: strings.Repeat(`{"mcpServers":`, 200000), says: "it is not JSON"},
		{name: "deep lists", data: `{"mcpServers": ` + strings.Repeat("[", 3<<20) + "}", says: "it is not JSON"},
		{name: "a list", data: `[]`, says: "it is not an object"},
		{name: "servers of the wrong type", data: `{"mcpServers": "all"}`, says: "mcpServers: it is not an object"},
		{name: "a server of the wrong type", data: `{"mcpServers": {"a": 7}}`, says: "the server a is not an object"},
		{name: "fields of the wrong type", data: `{"mcpServers": {"a": {"url": {}, "command": 3, "args": {"x": 1}, "env": [], "headers": "h"}}}`, says: "the server a has neither a URL nor a command"},
		{name: "twice", data: `{"mcpServers": {"a": {"url": "https://a.example"}, "a": {"url": "https://b.example"}}}`, says: "the server a is there twice"},
		{name: "too many", data: `{"mcpServers": {` + strings.Repeat(`"a":1,`, 30000) + `"b":1}}`, says: "more than 20000 members"},
		{name: "an unclosed comment", data: `{ /* "mcpServers": {}`, says: "it is not JSON"},
		{name: "a link out of the home", make: func(path string) error { return os.Symlink(outside, path) }, says: "a link that leads out of the folder"},
		{name: "a link to itself", make: func(path string) error { return os.Symlink(filepath.Base(path), path) }, says: "it cannot be read"},
		{name: "a folder", make: func(path string) error { return os.Mkdir(path, 0o700) }, says: "it is no regular file"},
		{name: "a pipe", make: func(path string) error { return syscall.Mkfifo(path, 0o600) }, says: "it is no regular file"},
		{name: "huge", make: func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, 65<<20)
		}, says: "it is larger than 64 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "linux")
			path := m.write("~/.cursor/mcp.json", c.data)
			if c.make != nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := c.make(path); err != nil {
					t.Fatal(err)
				}
			}
			m.write("~/.gemini/settings.json", `{"mcpServers": {"good": {"httpUrl": "https://good.example/mcp"}}}`)
			r := m.scan()
			if len(r.Problems) == 0 || !strings.Contains(r.Problems[0].Text, c.says) || r.Problems[0].File != path {
				t.Errorf("the problems are %v", r.Problems)
			}
			if !slices.ContainsFunc(r.Servers, func(s clientconfig.Server) bool { return s.Name == "good" }) {
				t.Error("the scan did not go on")
			}
			data, _ := json.Marshal(r)
			if strings.Contains(string(data), "stolen") || strings.Contains(string(data), "hash") || strings.Contains(string(data), "root:") {
				t.Errorf("the report tells of what is elsewhere: %s", data)
			}
		})
	}
}

func TestALinkWithinTheHomeIsFollowed(t *testing.T) {
	m := newMachine(t, "linux")
	m.write("~/dotfiles/cursor.json", `{"mcpServers": {"a": {"url": "https://a.example"}}}`)
	m.write("~/.cursor/other", "")
	if err := os.Symlink("../dotfiles/cursor.json", filepath.Join(m.home, ".cursor", "mcp.json")); err != nil {
		t.Fatal(err)
	}
	if r := m.scan(); len(r.Servers) != 1 || len(r.Problems) != 0 {
		t.Errorf("found %+v", r)
	}
}

func TestProjectsThatAreNoLocalFolderAreNotOpened(t *testing.T) {
	m := newMachine(t, "linux")
	m.write("~/.claude.json", `{"projects": {"relative": {}, "//server/share": {}, "\\\\server\\share": {}, "/gone/since": {}, "": {}, "/x\u0000y": {}}}`)
	if r := m.scan(); len(r.Problems) != 0 || len(r.Servers) != 0 {
		t.Errorf("found %+v", r)
	}
}

func TestAHomeThatIsNotThereIsALine(t *testing.T) {
	m := newMachine(t, "linux")
	r := clientconfig.Scan{Homes: []string{filepath.Join(m.root, "nobody"), m.home}, OS: "linux", Root: m.root}.Run()
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Text, "cannot be read") {
		t.Errorf("the problems are %v", r.Problems)
	}
}
