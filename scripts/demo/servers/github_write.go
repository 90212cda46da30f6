package servers

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type newBranch struct {
	at
	Branch     string `json:"branch" jsonschema:"name of the new branch"`
	FromBranch string `json:"from_branch,omitempty" jsonschema:"where it starts; default: the default branch"`
}

type namedBranch struct {
	at
	Branch string `json:"branch" jsonschema:"name of the branch"`
}

type file struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

type pushFiles struct {
	at
	Branch  string `json:"branch,omitempty" jsonschema:"branch to push to; default: the default branch"`
	Message string `json:"message" jsonschema:"commit message"`
	Files   []file `json:"files" jsonschema:"files to write"`
}

type writeFile struct {
	at
	Branch  string `json:"branch,omitempty" jsonschema:"branch to write to; default: the default branch"`
	Message string `json:"message" jsonschema:"commit message"`
	Path    string `json:"path" jsonschema:"path of the file"`
	Content string `json:"content" jsonschema:"new content"`
}

type removeFile struct {
	at
	Branch  string `json:"branch,omitempty" jsonschema:"branch to change; default: the default branch"`
	Message string `json:"message" jsonschema:"commit message"`
	Path    string `json:"path" jsonschema:"path of the file"`
}

type pushed struct {
	Branch string `json:"branch"`
	Commit string `json:"commit"`
}

func (g *GitHub) branchTools() {
	tool(g.Upstream, writes, "create_branch", "Create a branch.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newBranch) (done, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in.at)
			if err != nil {
				return done{}, err
			}
			from, _, err := r.branch(in.FromBranch)
			if err != nil {
				return done{}, err
			}
			name, err := r.ref(in.Branch)
			if err != nil {
				return done{}, err
			}
			if r.branches[name] != nil {
				return done{}, fmt.Errorf("branch %q exists", name)
			}
			r.branches[name] = &branch{files: maps.Clone(from.files), commits: append([]Commit(nil), from.commits...)}
			return done{Status: "created " + name}, nil
		})
	tool(g.Upstream, destroys, "delete_branch", "Delete a branch.",
		func(_ context.Context, _ *mcp.CallToolRequest, in namedBranch) (done, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in.at)
			if err != nil {
				return done{}, err
			}
			_, name, err := r.branch(in.Branch)
			if err != nil {
				return done{}, err
			}
			delete(r.branches, name)
			return done{Status: "deleted " + name}, nil
		})
	tool(g.Upstream, destroys, "push_to_branch", "Write one file and push it to a branch.",
		func(_ context.Context, _ *mcp.CallToolRequest, in writeFile) (pushed, error) {
			return g.push(in.at, in.Branch, in.Message, func(files map[string]string) error {
				files[in.Path] = in.Content
				return nil
			})
		})
	tool(g.Upstream, destroys, "create_or_update_file", "Create or update one file on a branch.",
		func(_ context.Context, _ *mcp.CallToolRequest, in writeFile) (pushed, error) {
			return g.push(in.at, in.Branch, in.Message, func(files map[string]string) error {
				files[in.Path] = in.Content
				return nil
			})
		})
	tool(g.Upstream, destroys, "push_files", "Push several files to a branch in one commit.",
		func(_ context.Context, _ *mcp.CallToolRequest, in pushFiles) (pushed, error) {
			if len(in.Files) == 0 {
				return pushed{}, errors.New("there are no files to push")
			}
			return g.push(in.at, in.Branch, in.Message, func(files map[string]string) error {
				for _, f := range in.Files {
					files[f.Path] = f.Content
				}
				return nil
			})
		})
	tool(g.Upstream, destroys, "delete_file", "Delete one file on a branch.",
		func(_ context.Context, _ *mcp.CallToolRequest, in removeFile) (pushed, error) {
			return g.push(in.at, in.Branch, in.Message, func(files map[string]string) error {
				if _, ok := files[in.Path]; !ok {
					return fmt.Errorf("no file %q", in.Path)
				}
				delete(files, in.Path)
				return nil
			})
		})
}

// push makes one commit on a branch, whichever branch that is.
func (g *GitHub) push(a at, name, message string, change func(files map[string]string) error) (pushed, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, err := g.find(a)
	if err != nil {
		return pushed{}, err
	}
	b, name, err := r.branch(name)
	if err != nil {
		return pushed{}, err
	}
	if err := change(b.files); err != nil {
		return pushed{}, err
	}
	return pushed{Branch: name, Commit: r.commit(b, message).ID}, nil
}

type newPull struct {
	at
	Title string `json:"title"`
	Head  string `json:"head" jsonschema:"branch with the changes"`
	Base  string `json:"base" jsonschema:"branch to change"`
	Body  string `json:"body,omitempty"`
}

type pullList struct {
	PullRequests []pull `json:"pull_requests"`
}

type numbered struct {
	at
	PullNumber int `json:"pullNumber" jsonschema:"number of the pull request"`
}

type newReview struct {
	numbered
	Event string `json:"event" jsonschema:"APPROVE, REQUEST_CHANGES or COMMENT"`
	Body  string `json:"body,omitempty"`
}

func (g *GitHub) pullTools() {
	tool(g.Upstream, writes, "create_pull_request", "Open a pull request.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newPull) (pull, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in.at)
			if err != nil {
				return pull{}, err
			}
			_, head, err := r.branch(in.Head)
			if err != nil {
				return pull{}, err
			}
			_, base, err := r.branch(in.Base)
			if err != nil {
				return pull{}, err
			}
			p := &pull{Number: len(r.pulls) + 1, Title: in.Title, Head: head, Base: base, State: "open", Reviews: []string{}}
			r.pulls = append(r.pulls, p)
			return *p, nil
		})
	tool(g.Upstream, reads, "list_pull_requests", "List a repository's pull requests.",
		func(_ context.Context, _ *mcp.CallToolRequest, in at) (pullList, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in)
			if err != nil {
				return pullList{}, err
			}
			out := pullList{PullRequests: []pull{}}
			for _, p := range r.pulls {
				out.PullRequests = append(out.PullRequests, *p)
			}
			return out, nil
		})
	tool(g.Upstream, writes, "create_pull_request_review", "Review a pull request.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newReview) (pull, error) {
			return g.changePull(in.numbered, func(_ *repository, p *pull) error {
				if in.Event != "APPROVE" && in.Event != "REQUEST_CHANGES" && in.Event != "COMMENT" {
					return fmt.Errorf("event %q is none of APPROVE, REQUEST_CHANGES, COMMENT", in.Event)
				}
				p.Reviews = append(p.Reviews, in.Event)
				return nil
			})
		})
	tool(g.Upstream, destroys, "merge_pull_request", "Merge a pull request into its base branch.",
		func(_ context.Context, _ *mcp.CallToolRequest, in numbered) (pull, error) {
			return g.changePull(in, func(r *repository, p *pull) error {
				head, _, err := r.branch(p.Head)
				if err != nil {
					return err
				}
				base, _, err := r.branch(p.Base)
				if err != nil {
					return err
				}
				maps.Copy(base.files, head.files)
				r.commit(base, fmt.Sprintf("Merge pull request #%d", p.Number))
				p.State = "merged"
				return nil
			})
		})
}

func (g *GitHub) changePull(in numbered, change func(*repository, *pull) error) (pull, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, err := g.find(in.at)
	if err != nil {
		return pull{}, err
	}
	if in.PullNumber < 1 || in.PullNumber > len(r.pulls) {
		return pull{}, fmt.Errorf("pull request %d not found", in.PullNumber)
	}
	p := r.pulls[in.PullNumber-1]
	if p.State != "open" {
		return pull{}, fmt.Errorf("pull request %d is %s", p.Number, p.State)
	}
	if err := change(r, p); err != nil {
		return pull{}, err
	}
	return *p, nil
}

type secretList struct {
	Secrets []string `json:"secrets"`
}

type newWebhook struct {
	at
	URL string `json:"url" jsonschema:"where events are sent"`
}

func (g *GitHub) adminTools() {
	tool(g.Upstream, reads, "get_repository_secrets", "Read a repository's deployment secrets.",
		func(_ context.Context, _ *mcp.CallToolRequest, in at) (secretList, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in)
			if err != nil {
				return secretList{}, err
			}
			return secretList{Secrets: append([]string(nil), r.secrets...)}, nil
		})
	tool(g.Upstream, destroys, "update_webhook", "Change where a repository's events are sent.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newWebhook) (done, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			r, err := g.find(in.at)
			if err != nil {
				return done{}, err
			}
			r.webhook = in.URL
			return done{Status: "events go to " + in.URL}, nil
		})
}
