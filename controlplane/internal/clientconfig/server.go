package clientconfig

import (
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Kinds of credential.
const (
	bearerHeader = "bearer header"
	basicHeader  = "basic header"
	keyHeader    = "API key header"
	environment  = "environment variable"
	argument     = "argument"
	inURL        = "URL"
	oauth        = "OAuth"
	// helper is a program that the client asks for headers.
	helper = "program"
)

// note adds a kind of credential. value is what the file has; empty where the file only points to it.
func (s *Server) note(kind, value string) {
	if !slices.Contains(s.Credentials, kind) {
		s.Credentials = append(s.Credentials, kind)
	}
	if value != "" && !isReference(value) {
		s.InTheClear = true
	}
}

// read fills in what an entry says of a server. It is false for what is no server at all.
func (s *Server) read(entry json.RawMessage) bool {
	all, err := members(entry)
	if err != nil {
		return false
	}
	fields := map[string]json.RawMessage{}
	for _, m := range all {
		fields[m.key] = m.value // of several of a key, clients take the last
	}
	remote, local := text(fields["url"]), text(fields["command"])
	s.Transport = transportOf(text(fields["type"]), text(fields["transport"]))
	switch {
	case text(fields["httpUrl"]) != "":
		remote, s.Transport = text(fields["httpUrl"]), "http"
	case text(fields["serverUrl"]) != "":
		remote = text(fields["serverUrl"])
	case text(fields["tcp"]) != "":
		s.Transport = "websocket"
	}
	switch {
	case remote != "":
		if s.Transport == "" || s.Transport == "stdio" {
			s.Transport = "http"
			if s.Client == GeminiCLI && fields["httpUrl"] == nil {
				s.Transport = "sse" // its url without a type
			}
		}
		s.remote(remote)
	case local != "":
		s.Transport = "stdio"
		s.local(local, list(fields["args"]))
	default:
		s.Transport = "unknown"
	}
	for name, value := range texts(fields["headers"]) {
		s.header(name, value)
	}
	for name, value := range texts(fields["env"]) {
		s.variable(name, value)
	}
	if text(fields["envFile"]) != "" {
		s.note(environment, "")
	}
	if text(fields["headersHelper"]) != "" {
		s.note(helper, "")
	}
	for _, key := range []string{"oauth", "auth", "authProviderType"} {
		if v := string(fields[key]); v != "" && v != "null" && v != "false" {
			s.note(oauth, "")
			for name, value := range texts(fields[key]) {
				if credentialName.MatchString(name) && !strings.Contains(strings.ToLower(name), "url") {
					s.note(oauth, value)
				}
			}
		}
	}
	s.Disabled = string(fields["disabled"]) == "true" || string(fields["enabled"]) == "false"
	slices.Sort(s.Credentials)
	return true
}

func transportOf(kinds ...string) string {
	for _, kind := range kinds {
		switch strings.ToLower(kind) {
		case "http", "streamable-http", "streamablehttp", "streamable_http":
			return "http"
		case "sse":
			return "sse"
		case "ws", "websocket":
			return "websocket"
		case "stdio":
			return "stdio"
		}
	}
	return ""
}

func (s *Server) remote(address string) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		s.Host = "(no URL)"
		if isReference(address) {
			s.Host = "(a variable)"
		}
		return
	}
	s.Host = host(u)
	if has, clear := secretInURL(u); has {
		s.note(inURL, "")
		s.InTheClear = s.InTheClear || clear
	}
}

// header notes the credential that a header carries, if any.
func (s *Server) header(name, value string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(value), " ")
	switch {
	case value == "":
	case strings.EqualFold(scheme, "bearer") && rest != "":
		s.note(bearerHeader, rest)
	case strings.EqualFold(scheme, "basic") && rest != "":
		s.note(basicHeader, rest)
	case strings.EqualFold(name, "authorization") && isReference(value):
		s.note(bearerHeader, value)
	case credentialName.MatchString(name), secretLooking(value):
		s.note(keyHeader, value)
	}
}

// variable notes the credential that an environment variable carries, if any.
func (s *Server) variable(name, value string) {
	if value == "" {
		return
	}
	if u, err := url.Parse(value); err == nil && u.Host != "" && !credentialName.MatchString(name) {
		if has, clear := secretInURL(u); has {
			s.note(environment, "")
			s.InTheClear = s.InTheClear || clear
		}
		return
	}
	if credentialName.MatchString(name) || secretLooking(value) && !strings.EqualFold(name, "PATH") {
		s.note(environment, value)
	}
}

// wrappers start another program that their arguments name.
var wrappers = []string{"cmd", "env", "sudo", "nohup", "time", "exec", "start"}

// runners fetch or find what they run by a name: which of their words come before it.
var runners = map[string][]string{
	"npx": nil, "bunx": nil, "uvx": nil, "pipx": {"run"}, "npm": {"exec", "x"}, "pnpm": {"dlx", "exec"}, "yarn": {"dlx"}, "bun": {"x", "run"}, "deno": {"run"},
	"uv": {"tool", "run"}, "docker": {"run", "container"}, "podman": {"run", "container"}, "node": nil, "python": nil, "python3": nil, "dotnet": {"run"}, "java": nil,
}

// withValue are flags of runners whose next argument is their value.
var withValue = []string{
	"-p", "--package", "-c", "--call", "--from", "--with", "--directory", "--project", "--index-url", "--python", "-e", "--env", "--env-file", "-v", "--volume", "--mount",
	"--name", "--network", "-u", "--user", "-w", "--workdir", "-m", "--platform", "--entrypoint", "--registry", "--prefix", "-r", "--require", "-cp", "-classpath",
}

// local says what a program on the machine is, of which arguments are looked at and never shown: a package's name, and a URL's host.
func (s *Server) local(command string, args []string) {
	words := append(strings.Fields(command), args...)
	if strings.ContainsAny(command, `/\`) { // a path, which may have spaces
		words = append([]string{command}, args...)
	}
	for len(words) > 0 && slices.Contains(wrappers, program(words[0])) {
		words = words[1:]
		for len(words) > 0 && (strings.HasPrefix(words[0], "/") && len(words[0]) == 2 || strings.HasPrefix(words[0], "-") || strings.Contains(words[0], "=")) {
			if name, value, ok := strings.Cut(words[0], "="); ok {
				s.variable(name, value)
			}
			words = words[1:]
		}
	}
	if len(words) == 0 {
		s.Program = shown(program(command))
		return
	}
	s.Program = shown(program(words[0]))
	s.Package = packageOf(program(words[0]), words[1:])
	s.arguments(words[1:])
}

// program is a command's name without its folder and the ending that Windows gives it.
func program(command string) string {
	name := path.Base(strings.ReplaceAll(command, `\`, "/"))
	for _, ending := range []string{".exe", ".cmd", ".bat", ".ps1"} {
		if cut, ok := strings.CutSuffix(strings.ToLower(name), ending); ok {
			return cut
		}
	}
	return name
}

// packageOf is what a runner runs: its first word that is neither a flag, nor a flag's value, nor a word of its own.
func packageOf(runner string, args []string) string {
	own, known := runners[runner]
	if !known {
		return ""
	}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "-m" && strings.HasPrefix(runner, "python") && i+1 < len(args):
			return shown(args[i+1])
		case slices.Contains([]string{"-p", "--package", "--from"}, arg) && i+1 < len(args) && runner != "docker" && runner != "podman":
			return shownPackage(args[i+1])
		case slices.Contains(withValue, arg):
			i++
		case strings.HasPrefix(arg, "-"), slices.Contains(own, arg), arg == "":
		default:
			return shownPackage(arg)
		}
	}
	return ""
}

// shownPackage is a package's name; of a path its last part, of a URL the host.
func shownPackage(name string) string {
	if strings.Contains(name, "://") {
		u, err := url.Parse(strings.TrimPrefix(name, "git+"))
		if err != nil {
			return withheld
		}
		return host(u)
	}
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "~") || strings.HasPrefix(name, ".") || strings.Contains(name, `\`) {
		name = program(name)
	}
	if strings.ContainsAny(name, " =?&;|$") {
		return withheld
	}
	return shown(name)
}

// arguments notes credentials that are given as arguments, and the first host that one names.
func (s *Server) arguments(args []string) {
	for i, arg := range args {
		next := ""
		if i+1 < len(args) {
			next = args[i+1]
		}
		flag, value, joined := strings.Cut(arg, "=")
		if !joined {
			value = next
		}
		isFlag := strings.HasPrefix(flag, "-")
		u, err := url.Parse(arg)
		switch {
		case err == nil && u.Host != "" && u.Scheme != "":
			if s.Host == "" {
				s.Host = host(u)
			}
			if has, clear := secretInURL(u); has {
				s.note(inURL, "")
				s.InTheClear = s.InTheClear || clear
			}
		case flag == "--header" || flag == "-H":
			if name, v, ok := strings.Cut(value, ":"); ok {
				s.header(strings.TrimSpace(name), strings.TrimSpace(v))
			}
		case flag == "-e" || flag == "--env":
			if name, v, ok := strings.Cut(strings.TrimPrefix(arg, "--env="), "="); ok && joined {
				s.variable(name, v)
			} else if name, v, ok := strings.Cut(next, "="); ok {
				s.variable(name, v)
			} else if credentialName.MatchString(next) {
				s.note(environment, "")
			}
		case isFlag && credentialName.MatchString(strings.TrimLeft(flag, "-")):
			if value != "" && !strings.HasPrefix(value, "-") {
				s.note(argument, value)
			}
		case strings.Contains(arg, "=") && !isFlag && credentialName.MatchString(flag):
			if i == 0 || args[i-1] != "-e" && args[i-1] != "--env" {
				s.note(argument, value)
			}
		case !isFlag && s.Package != arg && secretLooking(arg) && !strings.ContainsAny(arg, `/\@: `):
			s.note(argument, arg)
		}
	}
}
