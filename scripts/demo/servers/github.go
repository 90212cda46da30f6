package servers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// GitHub is a code host with two repositories: acme/payments, whose default branch is main, and acme/legacy-billing,
// whose default branch is master.
type GitHub struct {
	*Upstream

	mu    sync.Mutex // guards repos and all below
	repos map[string]*repository
}

type repository struct {
	owner, name   string
	defaultBranch string
	branches      map[string]*branch
	pulls         []*pull
	secrets       []string
	webhook       string
}

type branch struct {
	files   map[string]string
	commits []Commit
}

// Commit is one change of a branch.
type Commit struct {
	ID      string `json:"id"`
	Message string `json:"message"`
}

type pull struct {
	Number  int      `json:"number"`
	Title   string   `json:"title"`
	Head    string   `json:"head"`
	Base    string   `json:"base"`
	State   string   `json:"state"`
	Reviews []string `json:"reviews"`
}

// NewGitHub returns the server with its data. It speaks the session era.
func NewGitHub() *GitHub {
	g := &GitHub{Upstream: newUpstream("github", "GitHub", Sessions), repos: map[string]*repository{}}
	g.add("payments", "main", map[string]string{"README.md": "# Payments\n", "pay.go": "package pay\n"})
	g.add("legacy-billing", "master", map[string]string{"README.md": "# Billing, the old one\n"})
	g.readTools()
	g.branchTools()
	g.pullTools()
	g.adminTools()
	return g
}

func (g *GitHub) add(name, defaultBranch string, files map[string]string) {
	g.repos["acme/"+name] = &repository{
		owner: "acme", name: name, defaultBranch: defaultBranch,
		branches: map[string]*branch{defaultBranch: {files: files, commits: []Commit{{ID: commitID(1), Message: "Begin"}}}},
		secrets:  []string{"DEPLOY_KEY=dk_live_51Hx", "STRIPE_KEY=sk_live_4eC39"},
		webhook:  "https://ci.acme.example/hook",
	}
}

func commitID(n int) string { return fmt.Sprintf("%040x", 0xacee0000+n) }

// Head returns a branch's commits, oldest first; nil if there is no such branch.
func (g *GitHub) Head(repo, name string) []Commit {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.repos[repo]; r != nil && r.branches[name] != nil {
		return slices.Clone(r.branches[name].commits)
	}
	return nil
}

// Branches returns a repository's branches, sorted.
func (g *GitHub) Branches(repo string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.repos[repo]; r != nil {
		return slices.Sorted(maps.Keys(r.branches))
	}
	return nil
}

// Webhook returns where a repository's events go.
func (g *GitHub) Webhook(repo string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.repos[repo]; r != nil {
		return r.webhook
	}
	return ""
}

// at names a repository; every tool's input embeds it.
type at struct {
	Owner string `json:"owner" jsonschema:"repository owner"`
	Repo  string `json:"repo" jsonschema:"repository name"`
}

// find needs g.mu.
func (g *GitHub) find(a at) (*repository, error) {
	r := g.repos[a.Owner+"/"+a.Repo]
	if r == nil {
		return nil, fmt.Errorf("repository %s/%s not found", a.Owner, a.Repo)
	}
	return r, nil
}

// ref reads a branch name as the real server does: a full ref means its branch, none means the default branch.
func (r *repository) ref(name string) (string, error) {
	name = strings.TrimPrefix(name, "refs/heads/")
	if name == "" {
		return r.defaultBranch, nil
	}
	if strings.Contains(name, "..") || strings.ContainsAny(name, " ~^:?*[\\\x00") || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") {
		return "", fmt.Errorf("%q is no branch name", name)
	}
	return name, nil
}

func (r *repository) branch(name string) (*branch, string, error) {
	name, err := r.ref(name)
	if err != nil {
		return nil, "", err
	}
	b := r.branches[name]
	if b == nil {
		return nil, "", fmt.Errorf("branch %q not found in %s/%s", name, r.owner, r.name)
	}
	return b, name, nil
}

// commit needs g.mu.
func (r *repository) commit(b *branch, message string) Commit {
	total := 0
	for _, other := range r.branches {
		total += len(other.commits)
	}
	c := Commit{ID: commitID(total + 1), Message: message}
	b.commits = append(b.commits, c)
	return c
}

type repositoryList struct {
	Repositories []repositoryView `json:"repositories"`
}

type repositoryView struct {
	FullName      string `json:"full_name"`
	DefaultBranch string `json:"default_branch"`
}

type fileQuery struct {
	at
	Path string `json:"path" jsonschema:"path of the file"`
	Ref  string `json:"ref,omitempty" jsonschema:"branch to read; default: the default branch"`
}

type fileContents struct {
	Path    string `json:"path"`
	Ref     string `json:"ref"`
	Content string `json:"content"`
}

type branchList struct {
	Branches []string `json:"branches"`
}

type commitQuery struct {
	at
	SHA string `json:"sha,omitempty" jsonschema:"branch to list; default: the default branch"`
}

type commitList struct {
	Commits []Commit `json:"commits"`
}

type watchRun struct {
	at
	RunID   int `json:"run_id" jsonschema:"id of the workflow run"`
	Seconds int `json:"seconds,omitempty" jsonschema:"how long to watch, 1 to 600; default 10"`
}

func (g *GitHub) readTools() {
	tool(g.Upstream, reads, "list_repositories", "List the repositories that are visible.",
		func(context.Context, *mcp.CallToolRequest, struct{}) (repositoryList, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			var out repositoryList
			for _, name := range slices.Sorted(maps.Keys(g.repos)) {
				out.Repositories = append(out.Repositories, repositoryView{FullName: name, DefaultBranch: g.repos[name].defaultBranch})
			}
			return out, nil
		})
	tool(g.Upstream, reads, "get_file_contents", "Read one file of a repository.",
		func(_ context.Context, _ *mcp.CallToolRequest, in fileQuery) (fileContents, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in.at)
			if err != nil {
				return fileContents{}, err
			}
			b, name, err := r.branch(in.Ref)
			if err != nil {
				return fileContents{}, err
			}
			content, ok := b.files[in.Path]
			if !ok {
				return fileContents{}, fmt.Errorf("no file %q on %s", in.Path, name)
			}
			return fileContents{Path: in.Path, Ref: name, Content: content}, nil
		})
	tool(g.Upstream, reads, "list_branches", "List a repository's branches.",
		func(_ context.Context, _ *mcp.CallToolRequest, in at) (branchList, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in)
			if err != nil {
				return branchList{}, err
			}
			return branchList{Branches: slices.Sorted(maps.Keys(r.branches))}, nil
		})
	tool(g.Upstream, reads, "list_commits", "List the commits of a branch, newest first.",
		func(_ context.Context, _ *mcp.CallToolRequest, in commitQuery) (commitList, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in.at)
			if err != nil {
				return commitList{}, err
			}
			b, _, err := r.branch(in.SHA)
			if err != nil {
				return commitList{}, err
			}
			commits := slices.Clone(b.commits)
			slices.Reverse(commits)
			return commitList{Commits: commits}, nil
		})
	tool(g.Upstream, reads, "watch_workflow_run", "Follow a workflow run; each step is told as progress.", g.watch)
}

// watch tells progress ten times a second until its time is over, the caller lets go or the server stops.
func (g *GitHub) watch(ctx context.Context, req *mcp.CallToolRequest, in watchRun) (done, error) {
	if in.Seconds == 0 {
		in.Seconds = 10
	}
	if in.Seconds < 1 || in.Seconds > 600 {
		return done{}, fmt.Errorf("seconds is %d, not 1 to 600", in.Seconds)
	}
	over := time.NewTimer(time.Duration(in.Seconds) * time.Second)
	defer over.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	token := req.Params.GetProgressToken()
	for step := 1; ; step++ {
		if token != nil {
			err := req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
				ProgressToken: token, Progress: float64(step), Total: float64(in.Seconds * 10), Message: fmt.Sprintf("step %d", step),
			})
			if err != nil {
				return done{}, fmt.Errorf("tell progress: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return done{}, ctx.Err()
		case <-g.ended:
			return done{}, errors.New("the server stops")
		case <-over.C:
			return done{Status: fmt.Sprintf("run %d succeeded", in.RunID)}, nil
		case <-tick.C:
		}
	}
}
