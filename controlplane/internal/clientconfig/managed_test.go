package clientconfig_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"sallyport.dev/controlplane/internal/clientconfig"
)

var gateway = clientconfig.Gateway{URL: "https://mcp.example.com/mcp", Registry: "https://static.example.com/registry/"}

func fileOf(t *testing.T, client, os, ending string) clientconfig.File {
	t.Helper()
	m, err := clientconfig.Configure(client, gateway)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files {
		if f.OS == os && strings.HasSuffix(f.Path, ending) {
			return f
		}
	}
	t.Fatalf("%s has no %s for %s", client, ending, os)
	return clientconfig.File{}
}

func TestAManagedConfigurationGoesWhereTheClientReadsItAndNamesTheGatewayAlone(t *testing.T) {
	for _, c := range []struct{ client, os, ending, path, content string }{
		{"claude-code", "darwin", "managed-mcp.json", "/Library/Application Support/ClaudeCode/managed-mcp.json", `{"mcpServers":{"sallyport":{"type":"http","url":"https://mcp.example.com/mcp"}}}`},
		{"claude-code", "linux", "managed-mcp.json", "/etc/claude-code/managed-mcp.json", `{"mcpServers":{"sallyport":{"type":"http","url":"https://mcp.example.com/mcp"}}}`},
		{"claude-code", "windows", "managed-mcp.json", `C:\Program Files\ClaudeCode\managed-mcp.json`, `{"mcpServers":{"sallyport":{"type":"http","url":"https://mcp.example.com/mcp"}}}`},
		{"claude-code", "linux", "50-sallyport.json", "/etc/claude-code/managed-settings.d/50-sallyport.json", `{"allowManagedMcpServersOnly":true,"allowedMcpServers":[{"serverUrl":"https://mcp.example.com/*"}]}`},
		{"gemini-cli", "darwin", "settings.json", "/Library/Application Support/GeminiCli/settings.json", `{"mcp":{"allowed":["sallyport"]},"mcpServers":{"sallyport":{"type":"http","url":"https://mcp.example.com/mcp"}}}`},
		{"gemini-cli", "windows", "settings.json", `C:\ProgramData\gemini-cli\settings.json`, `{"mcp":{"allowed":["sallyport"]},"mcpServers":{"sallyport":{"type":"http","url":"https://mcp.example.com/mcp"}}}`},
		{"cursor", "", "mcp.json", "~/.cursor/mcp.json", `{"mcpServers":{"sallyport":{"url":"https://mcp.example.com/mcp"}}}`},
		{"vscode", "linux", "policy.json", "/etc/vscode/policy.json", `{"ChatMCP":"registry","McpGalleryServiceUrl":"https://static.example.com/registry"}`},
	} {
		t.Run(c.client+" "+c.os+" "+c.ending, func(t *testing.T) {
			f := fileOf(t, c.client, c.os, c.ending)
			var got any
			if err := json.Unmarshal([]byte(f.Content), &got); err != nil {
				t.Fatal(err)
			}
			content, _ := json.Marshal(got)
			if f.Path != c.path || string(content) != c.content {
				t.Errorf("%s\n%s", f.Path, content)
			}
		})
	}
}

// TestARegistryHasTheGatewayAloneByTheURLThatVSCodeCompares: VS Code runs a remote server of its registry by that very URL and no other.
func TestARegistryHasTheGatewayAloneByTheURLThatVSCodeCompares(t *testing.T) {
	var list struct {
		Servers []struct {
			Server struct {
				Name, Version string
				Remotes       []struct{ Type, URL string }
			}
		}
	}
	if err := json.Unmarshal([]byte(fileOf(t, "vscode", "", "v0.1/servers/index.json").Content), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Servers) != 1 || list.Servers[0].Server.Name != "com.example.mcp/sallyport" || len(list.Servers[0].Server.Remotes) != 1 || list.Servers[0].Server.Remotes[0].URL != gateway.URL {
		t.Errorf("the registry has %+v", list)
	}
	fileOf(t, "vscode", "", "v0.1/servers/com.example.mcp/sallyport/versions/latest/index.json")
}

func TestProfilesAndRegistryFilesSaySettingsAsTheirSystemsReadThem(t *testing.T) {
	for _, client := range []string{"claude-desktop", "vscode"} {
		profile := fileOf(t, client, "darwin", ".mobileconfig").Content
		var words []string
		for d := xml.NewDecoder(strings.NewReader(profile)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", client, err)
			}
			switch e := token.(type) {
			case xml.CharData:
				if word := strings.TrimSpace(string(e)); word != "" {
					words = append(words, word)
				}
			case xml.StartElement:
				if e.Name.Local == "false" || e.Name.Local == "true" {
					words = append(words, e.Name.Local)
				}
			}
		}
		all, want := strings.Join(words, " "), `isLocalDevMcpEnabled false isDesktopExtensionEnabled false isDesktopExtensionDirectoryEnabled false managedMcpServers [{"name":"sallyport","oauth":true,"transport":"http","url":"https://mcp.example.com/mcp"}]`
		if client == "vscode" {
			want = "ChatMCP registry McpGalleryServiceUrl https://static.example.com/registry"
		}
		if !strings.HasPrefix(all, "PayloadContent "+want) {
			t.Errorf("%s: the profile says %s", client, all)
		}
		again := fileOf(t, client, "darwin", ".mobileconfig").Content
		if again != profile {
			t.Errorf("%s: the same settings made another profile, which would not replace the first", client)
		}
	}
	reg := fileOf(t, "claude-desktop", "windows", ".reg").Content
	if !strings.Contains(reg, "[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Claude]\r\n\"isLocalDevMcpEnabled\"=dword:00000000\r\n") || !strings.Contains(reg, `"managedMcpServers"="[{\"name\":\"sallyport\"`) {
		t.Errorf("the registry file says %s", reg)
	}
}

func TestWhatWouldBeOfNoUseOrASecretOnEachLaptopIsRefused(t *testing.T) {
	for _, c := range []struct {
		client string
		g      clientconfig.Gateway
		says   string
	}{
		{"claude-code", clientconfig.Gateway{URL: "http://mcp.example.com/mcp"}, "https://"},
		{"claude-code", clientconfig.Gateway{URL: "mcp.example.com"}, "such as"},
		{"claude-code", clientconfig.Gateway{URL: "https://u:p@mcp.example.com/mcp"}, "no user, query"},
		{"claude-code", clientconfig.Gateway{URL: "https://mcp.example.com/mcp?key=1"}, "no user, query"},
		{"claude-code", clientconfig.Gateway{URL: "https://*.example.com/mcp"}, "characters"},
		{"claude-code", clientconfig.Gateway{URL: "https://${HOST}/mcp"}, "such as"},
		{"claude-code", clientconfig.Gateway{URL: gateway.URL, Name: "our gateway"}, "name"},
		{"vscode", clientconfig.Gateway{URL: gateway.URL}, "--registry-url"},
		{"emacs", clientconfig.Gateway{URL: gateway.URL}, "the clients are"},
	} {
		if _, err := clientconfig.Configure(c.client, c.g); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %+v: %v", c.client, c.g, err)
		}
	}
}

// TestWhatIsWrittenIsWhatAScanCallsTheGateway: the two halves know the same places.
func TestWhatIsWrittenIsWhatAScanCallsTheGateway(t *testing.T) {
	for _, client := range []string{"claude-code", "cursor", "gemini-cli"} {
		m := newMachine(t, "linux")
		config, err := clientconfig.Configure(client, gateway)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range config.Files {
			if f.OS == "linux" || f.OS == "" {
				m.write(f.Path, f.Content)
			}
		}
		r := m.scan()
		if len(r.Servers) != 1 || !r.Servers[0].Gateway || r.Servers[0].Client != client || len(r.Problems) != 0 {
			t.Errorf("%s: found %+v", client, r)
		}
	}
}
