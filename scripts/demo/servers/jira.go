package servers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Jira is an issue tracker with one project, PAY.
type Jira struct {
	*Upstream

	mu     sync.Mutex // guards issues and last
	issues map[string]*Issue
	last   int
}

// Issue is one issue.
type Issue struct {
	Key         string `json:"key"`
	Summary     string `json:"summary"`
	Status      string `json:"status"`
	Description string `json:"description"`
}

// NewJira returns the server with its data. It speaks the session era.
func NewJira() *Jira {
	j := &Jira{Upstream: newUpstream("jira", "Jira", Sessions), issues: map[string]*Issue{}}
	for _, summary := range []string{"Refunds fail on Sundays", "Rotate the gateway key", "Write the postmortem"} {
		j.add(summary, "")
	}
	j.tools()
	return j
}

// add needs j.mu, or no other user yet.
func (j *Jira) add(summary, description string) Issue {
	j.last++
	i := &Issue{Key: fmt.Sprintf("PAY-%d", j.last), Summary: summary, Status: "To Do", Description: description}
	j.issues[i.Key] = i
	return *i
}

// Issue returns an issue as it stands.
func (j *Jira) Issue(key string) (Issue, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := j.issues[key]; i != nil {
		return *i, true
	}
	return Issue{}, false
}

type issueSearch struct {
	Text   string `json:"text,omitempty" jsonschema:"words in the summary"`
	Status string `json:"status,omitempty" jsonschema:"To Do, In Progress or Done"`
}

type issueList struct {
	Issues []Issue `json:"issues"`
}

type issueKey struct {
	Key string `json:"key" jsonschema:"key of the issue, such as PAY-1"`
}

type newIssue struct {
	Summary     string `json:"summary"`
	Description string `json:"description,omitempty"`
}

type issueStatus struct {
	Key    string `json:"key" jsonschema:"key of the issue, such as PAY-1"`
	Status string `json:"status" jsonschema:"To Do, In Progress or Done"`
}

func (j *Jira) tools() {
	tool(j.Upstream, reads, "search_issues", "Search issues.",
		func(_ context.Context, _ *mcp.CallToolRequest, in issueSearch) (issueList, error) {
			j.mu.Lock()
			defer j.mu.Unlock()
			out := issueList{Issues: []Issue{}}
			for _, key := range slices.Sorted(maps.Keys(j.issues)) {
				i := j.issues[key]
				if strings.Contains(strings.ToLower(i.Summary), strings.ToLower(in.Text)) && (in.Status == "" || in.Status == i.Status) {
					out.Issues = append(out.Issues, *i)
				}
			}
			return out, nil
		})
	tool(j.Upstream, reads, "get_issue", "Read one issue.",
		func(_ context.Context, _ *mcp.CallToolRequest, in issueKey) (Issue, error) {
			return j.change(in.Key, func(*Issue) error { return nil })
		})
	tool(j.Upstream, writes, "create_issue", "Create an issue.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newIssue) (Issue, error) {
			j.mu.Lock()
			defer j.mu.Unlock()
			return j.add(in.Summary, in.Description), nil
		})
	tool(j.Upstream, writes, "update_issue_status", "Move an issue to another status.",
		func(_ context.Context, _ *mcp.CallToolRequest, in issueStatus) (Issue, error) {
			return j.change(in.Key, func(i *Issue) error {
				if !slices.Contains([]string{"To Do", "In Progress", "Done"}, in.Status) {
					return fmt.Errorf("status %q is none of To Do, In Progress, Done", in.Status)
				}
				i.Status = in.Status
				return nil
			})
		})
	tool(j.Upstream, destroys, "delete_issue", "Delete an issue for good.",
		func(_ context.Context, _ *mcp.CallToolRequest, in issueKey) (done, error) {
			_, err := j.change(in.Key, func(i *Issue) error {
				delete(j.issues, i.Key)
				return nil
			})
			if err != nil {
				return done{}, err
			}
			return done{Status: "deleted " + in.Key}, nil
		})
}

func (j *Jira) change(key string, f func(*Issue) error) (Issue, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := j.issues[key]
	if i == nil {
		return Issue{}, fmt.Errorf("issue %q not found", key)
	}
	if err := f(i); err != nil {
		return Issue{}, err
	}
	return *i, nil
}
