// Package runner runs MCP servers that speak over standard input and output, and serves them to proxies as streamable HTTP servers of
// the session era.
//
// What may be run is in the runner's own configuration, on its own host: nothing that comes over the network names a program. A
// program runs once for each person, or once for all, without a shell, in a process group of its own and within limits.
package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is a runner's.
type Config struct {
	Servers []Server `yaml:"servers"`
}

// Server is a program that may be run.
type Server struct {
	// Name is what a connector's URL names: stdio:NAME.
	Name string `yaml:"name"`
	// Command is the program and its arguments, as it gets them: no shell reads them.
	Command []string `yaml:"command"`
	// Dir is where it runs. Default: a temporary folder of its own.
	Dir string `yaml:"dir"`
	// Env is its environment, beside what Inherit names of the runner's own. Default of Inherit: PATH, HOME, LANG, TMPDIR.
	Env     map[string]string `yaml:"env"`
	Inherit []string          `yaml:"inherit"`
	// Per is "person", for a process of each person, or "shared", for one of all. Default: person.
	Per    string `yaml:"per"`
	Limits Limits `yaml:"limits"`
}

// Limits are a program's.
type Limits struct {
	// Processes is how many may run at a time. Default 50.
	Processes int `yaml:"processes"`
	// Memory is what one may allocate (RLIMIT_DATA), in bytes. Default: no limit.
	Memory uint64 `yaml:"memory"`
	// Files is how many one may have open. Default 1024.
	Files uint64 `yaml:"files"`
	// Message is the most bytes of one message. Default 16 MiB.
	Message int `yaml:"message"`
	// Start is how long one may take to answer initialize, and to take a message in, Idle after how long without use it is ended, Grace how long it may take
	// to end when it is asked to. Defaults: 30 s, 10 min, 5 s.
	Start Duration `yaml:"start"`
	Idle  Duration `yaml:"idle"`
	Grace Duration `yaml:"grace"`
}

// Duration is one that YAML has as text, such as "10m".
type Duration time.Duration

// UnmarshalYAML reads one.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := time.ParseDuration(node.Value)
	if err != nil || parsed <= 0 {
		return fmt.Errorf("line %d: %q is no duration above zero, such as 30s or 10m", node.Line, node.Value)
	}
	*d = Duration(parsed)
	return nil
}

var namePattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// Load reads a configuration, strictly, and finds the programs that it names.
func Load(file string) (Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Config{}, fmt.Errorf("reading the runner's configuration: %w", err)
	}
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	seen := map[string]bool{}
	for i := range c.Servers {
		s := &c.Servers[i]
		if err := s.check(); err != nil {
			return Config{}, fmt.Errorf("%s: server %q: %w", file, s.Name, err)
		}
		if seen[s.Name] {
			return Config{}, fmt.Errorf("%s: server %q is there twice", file, s.Name)
		}
		seen[s.Name] = true
	}
	if len(c.Servers) == 0 {
		return Config{}, fmt.Errorf("%s: it names no server", file)
	}
	return c, nil
}

// check completes a server's settings, or says what is wrong with them.
func (s *Server) check() error {
	switch {
	case !namePattern.MatchString(s.Name) || len(s.Name) > 40:
		return errors.New("a name is lower-case words joined by single hyphens")
	case len(s.Command) == 0:
		return errors.New("it has no command")
	case s.Per != "" && s.Per != "person" && s.Per != "shared":
		return fmt.Errorf("per is person or shared, not %q", s.Per)
	}
	program, err := exec.LookPath(s.Command[0])
	if err != nil {
		return fmt.Errorf("its program cannot be found: %w", err)
	}
	if s.Command[0], err = filepath.Abs(program); err != nil {
		return fmt.Errorf("its program cannot be found: %w", err)
	}
	if s.Inherit == nil {
		s.Inherit = []string{"PATH", "HOME", "LANG", "TMPDIR"}
	}
	l := &s.Limits
	orDefault(&l.Processes, 50)
	orDefault(&l.Files, 1024)
	orDefault(&l.Message, 16<<20)
	orDefault(&l.Start, Duration(30*time.Second))
	orDefault(&l.Idle, Duration(10*time.Minute))
	orDefault(&l.Grace, Duration(5*time.Second))
	return nil
}

func orDefault[T int | uint64 | Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// environment is what a program gets: never nil, by which os/exec would hand on the runner's own, with its token.
func (s *Server) environment() []string {
	env := []string{}
	for _, name := range s.Inherit {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range s.Env {
		env = append(env, name+"="+value)
	}
	return env
}
