package clientconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Left is what laptops still have beside the gateway, from the reports of many. Its zero value is of none.
type Left struct {
	// where are hosts and programs by whose home folder they lie in.
	where   map[string]map[string]bool
	servers map[string]*leftServer
	matched map[string]bool
}

type leftServer struct {
	machines, people, clear map[string]bool
}

// LeftServer is one host or program.
type LeftServer struct {
	Where      string `json:"where"`
	Machines   int    `json:"machines"`
	People     int    `json:"people"`
	InTheClear int    `json:"in_the_clear"`
}

// ReadReports reads the reports that lie in a folder. One that is none is an error: who moves people by a part of them would miss some.
func ReadReports(dir string) (*Left, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the folder of reports cannot be read: %s", reason(err))
	}
	defer func() { _ = root.Close() }()
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("in %s are no reports: write them with sallyport migration scan -o json", dir)
	}
	l := &Left{where: map[string]map[string]bool{}, servers: map[string]*leftServer{}, matched: map[string]bool{}}
	for _, name := range names {
		r, err := readReport(root, filepath.Base(name))
		if err != nil {
			return nil, fmt.Errorf("%s is no report: %w; move it away, or write it again", name, err)
		}
		device := r.Device
		if device == "" {
			device = name
		}
		l.add(device, r)
	}
	return l, nil
}

func readReport(root *os.Root, name string) (Report, error) {
	var r Report
	f, err := root.Open(name)
	if err != nil {
		return r, errors.New(reason(err))
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, largest))
	if err != nil {
		return r, errors.New(reason(err))
	}
	if json.Unmarshal(data, &r) != nil || r.Scanned == "" {
		return r, errNotJSON
	}
	return r, nil
}

func (l *Left) add(device string, r Report) {
	for _, s := range r.Servers {
		if s.Gateway || s.Disabled {
			continue
		}
		where := s.Host
		if where == "" {
			where = strings.TrimSpace(s.Program + " " + s.Package)
		}
		if where == "" {
			where = "(unknown)"
		}
		user := strings.ToLower(s.User)
		of := l.servers[where]
		if of == nil {
			of = &leftServer{machines: map[string]bool{}, people: map[string]bool{}, clear: map[string]bool{}}
			l.servers[where] = of
		}
		of.machines[device] = true
		if user != "" {
			of.people[user] = true
			if l.where[user] == nil {
				l.where[user] = map[string]bool{}
			}
			l.where[user][where] = true
		}
		if s.InTheClear {
			of.clear[device+"/"+user] = true
		}
	}
}

// Of is what a person's laptops have: those of a home folder that is called as the person is, or as what stands before the @ of the
// person's user name or address.
func (l *Left) Of(user, email string) []string {
	_, name, _ := strings.Cut(user, "/")
	found := map[string]bool{}
	for _, of := range []string{name, email} {
		local, _, _ := strings.Cut(of, "@")
		for _, key := range []string{strings.ToLower(of), strings.ToLower(local)} {
			if len(l.where[key]) == 0 {
				continue
			}
			l.matched[key] = true
			for where := range l.where[key] {
				found[where] = true
			}
		}
	}
	return sorted(found)
}

// Unmatched are home folders that Of found nobody for.
func (l *Left) Unmatched() []string {
	unmatched := map[string]bool{}
	for user := range l.where {
		if !l.matched[user] {
			unmatched[user] = true
		}
	}
	return sorted(unmatched)
}

// Servers are all hosts and programs, those of most machines first.
func (l *Left) Servers() []LeftServer {
	all := make([]LeftServer, 0, len(l.servers))
	for where, s := range l.servers {
		all = append(all, LeftServer{where, len(s.machines), len(s.people), len(s.clear)})
	}
	slices.SortFunc(all, func(a, b LeftServer) int {
		if a.Machines != b.Machines {
			return b.Machines - a.Machines
		}
		return strings.Compare(a.Where, b.Where)
	})
	return all
}

func sorted(set map[string]bool) []string {
	all := make([]string, 0, len(set))
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}
