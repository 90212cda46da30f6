package clientconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// largest is the most of a file that is read: Claude Code's own keeps much beside servers.
	largest = 64 << 20
	// mostFiles bounds what one pattern may find, mostProjects the folders that a home names.
	mostFiles    = 2000
	mostProjects = 5000
)

// Scan is what to scan. OS and Root are for tests.
type Scan struct {
	// Homes are home folders.
	Homes []string
	// Projects are folders beside those that clients remember to have been opened in.
	Projects []string
	// Gateway is the gateway's host: servers there are marked.
	Gateway string
	// Device names the machine in the report.
	Device string
	// OS is as in runtime.GOOS; on others than macOS and Windows, files lie as they do on Linux.
	OS string
	// Root is where the machine's own files begin.
	Root string
	Now  time.Time
}

// Run reads what is there. It never fails: what could not be read is in the report.
func (c Scan) Run() Report {
	if _, ok := support[c.OS]; !ok {
		c.OS = "linux"
	}
	s := &scanner{config: c, seen: map[string]bool{}}
	s.report = Report{Device: c.Device, OS: c.OS, Scanned: c.Now.UTC().Format(time.RFC3339), Servers: []Server{}, Problems: []Problem{}}
	s.below(c.Root, "", onMachine(c.OS))
	for _, home := range c.Homes {
		s.home(home)
	}
	for _, project := range c.Projects {
		s.below(project, "", inProject)
	}
	slices.SortStableFunc(s.report.Servers, func(a, b Server) int {
		return slices.Compare([]string{a.User, a.Client, a.File, a.Project, a.Name}, []string{b.User, b.Client, b.File, b.Project, b.Name})
	})
	return s.report
}

type scanner struct {
	config Scan
	report Report
	// seen are files that were read: a home is often among the projects.
	seen map[string]bool
	// projects are the folders that the home at hand names.
	projects []string
}

func (s *scanner) problem(file, format string, args ...any) {
	s.report.Problems = append(s.report.Problems, Problem{File: file, Text: fmt.Sprintf(format, args...)})
}

func (s *scanner) home(dir string) {
	user := filepath.Base(filepath.Clean(dir))
	s.projects = nil
	if !s.below(dir, user, inHome(s.config.OS)) {
		return
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return // below said it
	}
	defer func() { _ = root.Close() }()
	for _, pattern := range workspaces(s.config.OS) {
		for _, name := range s.find(root, dir, pattern) {
			if data, ok := s.read(root, dir, name); ok {
				s.project(folderOf(data))
			}
		}
	}
	if data, ok := s.read(root, dir, ".gemini/trustedFolders.json"); ok {
		trusted, _ := members(plain(data))
		for _, m := range trusted {
			s.project(m.key)
		}
	}
	slices.Sort(s.projects)
	for _, project := range slices.Compact(s.projects) {
		if _, err := os.Stat(project); err == nil { // many were deleted since
			s.below(project, user, inProject)
		}
	}
}

// project remembers a folder that the home names. What is not a local path is none: a share of another machine would be asked for it.
func (s *scanner) project(dir string) {
	if !filepath.IsAbs(dir) || strings.HasPrefix(dir, `\\`) || strings.HasPrefix(dir, "//") || strings.ContainsRune(dir, 0) {
		return
	}
	if len(s.projects) == mostProjects {
		s.problem(dir, "more than %d projects: it and others were not looked at; name them with --project", mostProjects)
	}
	if len(s.projects) <= mostProjects {
		s.projects = append(s.projects, filepath.Clean(dir))
	}
}

// folderOf is the folder that an editor's workspace.json names.
func folderOf(data []byte) string {
	all, _ := members(plain(data))
	for _, m := range all {
		if m.key != "folder" {
			continue
		}
		u, err := url.Parse(text(m.value))
		if err != nil || u.Scheme != "file" || u.Host != "" {
			return ""
		}
		dir := u.Path
		if len(dir) > 2 && dir[0] == '/' && dir[2] == ':' { // /c:/Users
			dir = dir[1:]
		}
		return filepath.FromSlash(dir)
	}
	return ""
}

// below reads the places below a folder, and is false where the folder itself cannot be read.
func (s *scanner) below(dir, user string, places []place) bool {
	root, err := os.OpenRoot(dir)
	if err != nil {
		s.problem(dir, "the folder cannot be read: %s", reason(err))
		return false
	}
	defer func() { _ = root.Close() }()
	for _, p := range places {
		for _, name := range s.find(root, dir, p.path) {
			full := filepath.Join(dir, filepath.FromSlash(name))
			key := full + "\x00" + strings.Join(p.format.first(), ".")
			if s.seen[key] {
				continue
			}
			s.seen[key] = true
			if data, ok := s.read(root, dir, name); ok {
				s.file(p, full, user, plain(data))
			}
		}
	}
	return true
}

func (f format) first() []string {
	if len(f.at) == 0 {
		return nil
	}
	return f.at[0]
}

// find is the names below a folder that fit a pattern.
func (s *scanner) find(root *os.Root, dir, pattern string) []string {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}
	}
	found, err := fs.Glob(root.FS(), pattern)
	if err != nil {
		s.problem(filepath.Join(dir, pattern), "the folder cannot be read: %s", reason(err))
		return nil
	}
	if len(found) > mostFiles {
		s.problem(filepath.Join(dir, pattern), "%d files: the first %d were looked at", len(found), mostFiles)
		found = found[:mostFiles]
	}
	return found
}

// read reads a file below a folder. What is not there is no problem.
func (s *scanner) read(root *os.Root, dir, name string) ([]byte, bool) {
	full := filepath.Join(dir, filepath.FromSlash(name))
	// O_NONBLOCK: a pipe would wait for a writer for ever.
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, false
	}
	if err != nil {
		s.problem(full, "it cannot be read: %s", reason(err))
		return nil, false
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		s.problem(full, "it cannot be read: %s", reason(err))
	case !info.Mode().IsRegular():
		s.problem(full, "it is no regular file")
	case info.Size() > largest:
		s.problem(full, "it is larger than %d MiB", largest>>20)
	default:
		data, err := io.ReadAll(io.LimitReader(f, largest+1))
		switch {
		case err != nil:
			s.problem(full, "it cannot be read: %s", reason(err))
		case len(data) > largest:
			s.problem(full, "it is larger than %d MiB", largest>>20)
		default:
			return data, true
		}
	}
	return nil, false
}

// reason is why a file could not be opened, in words without its name.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, fs.ErrNotExist):
		return "there is none"
	case strings.Contains(err.Error(), "escapes"):
		return "it is a link that leads out of the folder"
	}
	return err.Error()
}

// file reads the servers of one file.
func (s *scanner) file(p place, file, user string, data []byte) {
	if len(strings.TrimSpace(string(data[:min(len(data), 4096)]))) == 0 && len(data) < 4096 {
		return // an empty file is what some clients make
	}
	all, err := members(data)
	if err != nil {
		s.problem(file, "%s", err)
		return
	}
	in := Server{User: user, Client: p.client, File: file, Kind: p.kind, Credentials: []string{}}
	if p.format.manifest {
		s.manifest(in, all)
		return
	}
	for _, way := range p.format.at {
		s.servers(in, all, way)
	}
	if !p.format.projects {
		return
	}
	for _, projects := range named(all, "projects") {
		each, err := members(projects)
		if err != nil {
			s.problem(file, "projects: %s", err)
			continue
		}
		for _, project := range each {
			s.project(project.key)
			of, err := members(project.value)
			if err != nil {
				s.problem(file, "the project %s: %s", cut(project.key), err)
				continue
			}
			in := in
			in.Kind, in.Project = "local", project.key
			s.servers(in, of, []string{"mcpServers"})
		}
	}
}

// named is the values of all members of a key.
func named(all []member, key string) []json.RawMessage {
	var found []json.RawMessage
	for _, m := range all {
		if m.key == key {
			found = append(found, m.value)
		}
	}
	return found
}

// servers reads the servers at a way into an object.
func (s *scanner) servers(in Server, all []member, way []string) {
	for _, value := range named(all, way[0]) {
		if string(value) == "null" {
			continue
		}
		below, err := members(value)
		if err != nil {
			s.problem(in.File, "%s: %s", strings.Join(way, "."), err)
			continue
		}
		if len(way) > 1 {
			s.servers(in, below, way[1:])
			continue
		}
		names := map[string]bool{}
		for _, m := range below {
			if names[m.key] {
				s.problem(in.File, "the server %s is there twice: the client uses one of them", cut(shown(m.key)))
			}
			names[m.key] = true
			s.server(in, m.key, m.value)
		}
	}
}

func (s *scanner) server(in Server, name string, entry json.RawMessage) {
	in.Name = shown(name)
	in.Credentials = []string{}
	if !in.read(entry) {
		s.problem(in.File, "the server %s is not an object", cut(in.Name))
		return
	}
	if in.Transport == "unknown" {
		s.problem(in.File, "the server %s has neither a URL nor a command", cut(in.Name))
	}
	in.Gateway = s.config.Gateway != "" && strings.EqualFold(in.Host, s.config.Gateway)
	s.report.Servers = append(s.report.Servers, in)
}

// manifest reads an extension of Claude Desktop, which is one server.
func (s *scanner) manifest(in Server, all []member) {
	name := path.Base(path.Dir(filepath.ToSlash(in.File)))
	for _, v := range named(all, "name") {
		name = text(v)
	}
	for _, server := range named(all, "server") {
		of, err := members(server)
		if err != nil {
			s.problem(in.File, "server: %s", err)
			continue
		}
		for _, config := range named(of, "mcp_config") {
			s.server(in, name, config)
		}
	}
}

// cut shortens another's words for a line.
func cut(s string) string {
	if runes := []rune(s); len(runes) > 80 {
		return string(runes[:79]) + "…"
	}
	return s
}
