package quickstart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport.dev/scripts/demo/agent"
)

type object = map[string]any

var (
	payments = object{"owner": "acme", "repo": "payments"}
	billing  = object{"owner": "acme", "repo": "legacy-billing"}
)

// in adds arguments to those that name a repository.
func in(repo object, more object) object {
	out := object{}
	for k, v := range repo {
		out[k] = v
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

// What each role is shown.
var (
	engineerReads = of("github", "list_repositories", "get_file_contents", "list_branches", "list_commits", "list_pull_requests", "watch_workflow_run",
		"create_pull_request", "create_pull_request_review")
	seniorPushes  = of("github", "create_branch", "push_to_branch", "push_files", "create_or_update_file", "delete_file")
	engineerJira  = of("jira", "search_issues", "get_issue", "create_issue", "update_issue_status")
	juniorWiki    = of("confluence", "search", "get_page")
	seniorWiki    = of("confluence", "search", "get_page", "create_page")
	salesTools    = of("salesforce", "query_records", "get_record", "update_record", "create_opportunity")
	analystTools  = of("analytics", "list_datasets", "run_query")
	engineerTools = of("analytics", "list_datasets", "run_query", "create_dataset", "write_rows")
)

func concat(lists ...[]string) []string {
	var out []string
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// unmoved says that a branch has no commit that it did not have.
func (s *system) unmoved(repo, branch string) func() error {
	before := len(s.github.Head(repo, branch))
	return func() error {
		if now := len(s.github.Head(repo, branch)); now != before {
			return fmt.Errorf("%s of %s has %d commits, had %d", branch, repo, now, before)
		}
		return nil
	}
}

// grown says that a branch has one commit more.
func (s *system) grown(repo, branch string) func() error {
	before := len(s.github.Head(repo, branch))
	return func() error {
		if now := len(s.github.Head(repo, branch)); now != before+1 {
			return fmt.Errorf("%s of %s has %d commits, had %d", branch, repo, now, before)
		}
		return nil
	}
}

func (s *system) seniorStory(ctx context.Context, r *run) error {
	r.title("Senior engineer: Maya at us-east, by MCP 2026-07-28")
	me, err := r.sit(ctx, maya, usEast, agent.Options{Revision: agent.Modern})
	if err != nil {
		return err
	}
	me.sees(ctx, "is shown what seniors may use", concat(engineerReads, seniorPushes, engineerJira, seniorWiki)...)
	s.seniorReads(ctx, me)
	s.seniorPushes(ctx, me)
	s.seniorRefusals(ctx, me)
	s.seniorElsewhere(ctx, me)

	r.title("Senior engineer: Maya at eu-west, by MCP 2025-11-25, and at one connector's own address")
	if me, err = r.sit(ctx, maya, euWest, agent.Options{Revision: agent.SessionEra}); err != nil {
		return err
	}
	me.may(ctx, attempt{what: "pushes to a branch", name: "github__push_files", holds: s.grown("acme/payments", "agent/fix"),
		args: in(payments, object{"branch": "agent/fix", "message": "From Europe", "files": []object{{"path": "eu.go", "content": "package pay\n"}}})})
	for _, a := range s.pushesToMain("push_files") {
		me.mayNot(ctx, a)
	}
	s.ownAddress(ctx, r)
	return nil
}

func (s *system) seniorReads(ctx context.Context, me *seat) {
	me.may(ctx, attempt{what: "lists repositories", name: "github__list_repositories", args: object{}})
	me.may(ctx, attempt{what: "reads a file", name: "github__get_file_contents", args: in(payments, object{"path": "pay.go"})})
	me.may(ctx, attempt{what: "lists branches", name: "github__list_branches", args: payments})
}

func (s *system) seniorPushes(ctx context.Context, me *seat) {
	me.may(ctx, attempt{what: "creates the branch agent/fix", name: "github__create_branch", args: in(payments, object{"branch": "agent/fix"}),
		holds: func() error {
			if s.github.Head("acme/payments", "agent/fix") == nil {
				return errors.New("the branch is not there")
			}
			return nil
		}})
	for _, tool := range []string{"push_files", "push_to_branch", "create_or_update_file"} {
		me.may(ctx, attempt{what: tool + " to agent/fix", name: "github__" + tool, holds: s.grown("acme/payments", "agent/fix"),
			args: in(payments, write(tool, object{"branch": "agent/fix"}))})
	}
	created := me.may(ctx, attempt{what: "opens a pull request", name: "github__create_pull_request",
		args: in(payments, object{"title": "Fix refunds", "head": "agent/fix", "base": "main"})})
	var pull struct {
		Number int `json:"number"`
	}
	if err := json.Unmarshal(created.Structured, &pull); err != nil {
		pull.Number = 1
	}
	me.may(ctx, attempt{what: "reviews it", name: "github__create_pull_request_review", args: in(payments, object{"pullNumber": pull.Number, "event": "COMMENT"})})
	me.mayNot(ctx, attempt{what: "merge_pull_request, which writes to main", name: "github__merge_pull_request",
		args: in(payments, object{"pullNumber": pull.Number}), holds: s.unmoved("acme/payments", "main")})
}

// write is what a tool needs besides repository and branch.
func write(tool string, more object) object {
	if tool == "push_files" {
		return in(object{"message": "By an agent", "files": []object{{"path": "pay.go", "content": "package pay // fixed\n"}}}, more)
	}
	if tool == "delete_file" {
		return in(object{"message": "By an agent", "path": "README.md"}, more)
	}
	return in(object{"message": "By an agent", "path": "pay.go", "content": "package pay // fixed\n"}, more)
}

// pushesToMain are the ways to write to a default branch with one tool.
func (s *system) pushesToMain(tool string) []attempt {
	name := "github__" + tool
	return []attempt{
		{what: tool + " to main", name: name, args: in(payments, write(tool, object{"branch": "main"})), holds: s.unmoved("acme/payments", "main")},
		{what: tool + " to refs/heads/main", name: name, args: in(payments, write(tool, object{"branch": "refs/heads/main"})), holds: s.unmoved("acme/payments", "main")},
		{what: tool + " to no branch at all", name: name, args: in(payments, write(tool, object{})), holds: s.unmoved("acme/payments", "main")},
		{what: tool + " where the default branch is master", name: name, args: in(billing, write(tool, object{"branch": "master"})), holds: s.unmoved("acme/legacy-billing", "master")},
		{what: tool + " to no branch, default master", name: name, args: in(billing, write(tool, object{})), holds: s.unmoved("acme/legacy-billing", "master")},
	}
}

func (s *system) seniorRefusals(ctx context.Context, me *seat) {
	for _, tool := range []string{"push_files", "push_to_branch", "create_or_update_file", "delete_file"} {
		for _, a := range s.pushesToMain(tool) {
			me.mayNot(ctx, a)
		}
	}
	me.mayNot(ctx, attempt{what: "delete_branch", name: "github__delete_branch", args: in(payments, object{"branch": "agent/fix"}),
		holds: func() error {
			if s.github.Head("acme/payments", "agent/fix") == nil {
				return errors.New("the branch is gone")
			}
			return nil
		}})
	me.mayNot(ctx, attempt{what: "get_repository_secrets", name: "github__get_repository_secrets", args: payments})
	hook := s.github.Webhook("acme/payments")
	me.mayNot(ctx, attempt{what: "update_webhook", name: "github__update_webhook", args: in(payments, object{"url": "https://evil.example"}),
		holds: func() error {
			if s.github.Webhook("acme/payments") != hook {
				return errors.New("the webhook has changed")
			}
			return nil
		}})
}

func (s *system) seniorElsewhere(ctx context.Context, me *seat) {
	engineerInJira(ctx, s, me)
	me.may(ctx, attempt{what: "reads a page in Confluence", name: "confluence__get_page", args: object{"page_id": "1001"}})
	pages := len(s.confluence.Pages())
	me.may(ctx, attempt{what: "creates a page", name: "confluence__create_page", args: object{"space": "ENG", "title": "Refunds", "body": "What we learned."}, holds: s.pages(pages + 1)})
	me.mayNot(ctx, attempt{what: "delete_page", name: "confluence__delete_page", args: object{"page_id": "1001"}, holds: s.pages(pages + 1)})
	me.mayNot(ctx, attempt{what: "Salesforce, which is for sales", name: "salesforce__query_records", args: object{"object": "Account"}})
}

func (s *system) pages(want int) func() error {
	return func() error {
		if got := len(s.confluence.Pages()); got != want {
			return fmt.Errorf("there are %d pages, not %d", got, want)
		}
		return nil
	}
}

// engineerInJira is what all engineers may and may not do in Jira.
func engineerInJira(ctx context.Context, s *system, me *seat) {
	me.may(ctx, attempt{what: "searches issues in Jira", name: "jira__search_issues", args: object{"text": "refunds"}})
	me.may(ctx, attempt{what: "reads an issue", name: "jira__get_issue", args: object{"key": "PAY-1"}})
	me.may(ctx, attempt{what: "updates its status", name: "jira__update_issue_status", args: object{"key": "PAY-1", "status": "In Progress"},
		holds: func() error {
			if i, _ := s.jira.Issue("PAY-1"); i.Status != "In Progress" {
				return fmt.Errorf("PAY-1 is %q", i.Status)
			}
			return nil
		}})
	me.may(ctx, attempt{what: "creates an issue", name: "jira__create_issue", args: object{"summary": "Flaky test"}})
	me.mayNot(ctx, attempt{what: "delete_issue", name: "jira__delete_issue", args: object{"key": "PAY-1"},
		holds: func() error {
			if _, ok := s.jira.Issue("PAY-1"); !ok {
				return errors.New("PAY-1 is gone")
			}
			return nil
		}})
}

// ownAddress signs in at /mcp/{connector}, calls a tool by its own name there, and tries the token elsewhere.
func (s *system) ownAddress(ctx context.Context, r *run) {
	var tokens agent.Tokens
	_ = r.step("at /mcp/github tools have their own names, rules hold", func() (string, time.Duration, error) {
		begin := time.Now()
		var err error
		if tokens, err = s.desk.SignIn(ctx, s.mcpURL(euWest)+"/github", Employee(maya)); err != nil {
			return "", 0, err
		}
		session, err := agent.Connect(ctx, s.mcpURL(euWest)+"/github", tokens.Access, agent.Options{Revision: agent.Modern})
		if err != nil {
			return "", 0, err
		}
		defer session.Close()
		calls := s.github.Calls.Count("")
		read := session.Call(ctx, "list_branches", payments)
		push := session.Call(ctx, "push_files", in(payments, write("push_files", object{"branch": "main"})))
		took := time.Since(begin)
		r.asked[maya] = append(r.asked[maya],
			asked{connector: "github", tool: "list_branches", args: encode(payments), done: read.OK},
			asked{connector: "github", tool: "push_files", args: encode(in(payments, write("push_files", object{"branch": "main"}))), done: push.OK})
		if !read.OK || push.OK || s.github.Calls.Count("") != calls+1 {
			return "", took, fmt.Errorf("list_branches: %t %s; push_files to main: %t %s", read.OK, read.Text, push.OK, push.Text)
		}
		return "list_branches done, push_files to main refused", took, nil
	})
	_ = r.step("what signs in there is refused at /mcp and /mcp/jira", func() (string, time.Duration, error) {
		begin := time.Now()
		for _, path := range []string{"", "/jira"} {
			session, err := agent.Connect(ctx, s.mcpURL(euWest)+path, tokens.Access, agent.Options{Revision: agent.Modern})
			if err == nil {
				session.Close()
				return "", 0, fmt.Errorf("it is taken at /mcp%s", path)
			}
			if !strings.Contains(err.Error(), "Unauthorized") {
				return "", 0, err
			}
		}
		return "401", time.Since(begin), nil
	})
}

func encode(args object) string {
	text, err := json.Marshal(args)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (s *system) juniorStory(ctx context.Context, r *run) error {
	r.title("Junior engineer: Tom at eu-west, by MCP 2025-11-25")
	me, err := r.sit(ctx, tom, euWest, agent.Options{Revision: agent.SessionEra})
	if err != nil {
		return err
	}
	me.sees(ctx, "is shown what juniors may use", concat(engineerReads, engineerJira, juniorWiki)...)
	me.may(ctx, attempt{what: "reads a file", name: "github__get_file_contents", args: in(payments, object{"path": "pay.go"})})
	me.may(ctx, attempt{what: "lists branches", name: "github__list_branches", args: payments})
	me.may(ctx, attempt{what: "opens a pull request", name: "github__create_pull_request", args: in(payments, object{"title": "Mine", "head": "agent/fix", "base": "main"})})
	me.may(ctx, attempt{what: "reviews one", name: "github__create_pull_request_review", args: in(payments, object{"pullNumber": 1, "event": "APPROVE"})})
	for _, tool := range []string{"push_files", "push_to_branch", "create_or_update_file", "delete_file"} {
		me.mayNot(ctx, attempt{what: tool + " to agent/fix", name: "github__" + tool, args: in(payments, write(tool, object{"branch": "agent/fix"})), holds: s.unmoved("acme/payments", "agent/fix")})
		me.mayNot(ctx, attempt{what: tool + " to main", name: "github__" + tool, args: in(payments, write(tool, object{"branch": "main"})), holds: s.unmoved("acme/payments", "main")})
	}
	me.mayNot(ctx, attempt{what: "merge_pull_request", name: "github__merge_pull_request", args: in(payments, object{"pullNumber": 1}), holds: s.unmoved("acme/payments", "main")})
	me.mayNot(ctx, attempt{what: "get_repository_secrets", name: "github__get_repository_secrets", args: payments})
	me.mayNot(ctx, attempt{what: "delete_branch", name: "github__delete_branch", args: in(payments, object{"branch": "agent/fix"})})
	engineerInJira(ctx, s, me)
	pages := len(s.confluence.Pages())
	me.may(ctx, attempt{what: "reads a page in Confluence", name: "confluence__get_page", args: object{"page_id": "1001"}})
	me.mayNot(ctx, attempt{what: "create_page", name: "confluence__create_page", args: object{"space": "ENG", "title": "T", "body": "B"}, holds: s.pages(pages)})
	me.mayNot(ctx, attempt{what: "delete_page", name: "confluence__delete_page", args: object{"page_id": "1001"}, holds: s.pages(pages)})
	return nil
}

func (s *system) salesStory(ctx context.Context, r *run) error {
	r.title("Sales: Lena at us-east, by MCP 2026-07-28")
	me, err := r.sit(ctx, lena, usEast, agent.Options{Revision: agent.Modern})
	if err != nil {
		return err
	}
	account := s.salesforce.Records("Account")[0].ID
	me.sees(ctx, "is shown what sales may use", salesTools...)
	me.may(ctx, attempt{what: "reads records", name: "salesforce__query_records", args: object{"object": "Account"}})
	me.may(ctx, attempt{what: "updates a record", name: "salesforce__update_record", args: object{"id": account, "fields": object{"Industry": "Utilities"}},
		holds: func() error {
			if got := s.salesforce.Records("Account")[0].Fields["Industry"]; got != "Utilities" {
				return fmt.Errorf("the industry is %q", got)
			}
			return nil
		}})
	me.may(ctx, attempt{what: "creates an opportunity", name: "salesforce__create_opportunity", args: object{"account_id": account, "name": "Turbines", "amount": 120000}})
	me.mayNot(ctx, attempt{what: "bulk_export", name: "salesforce__bulk_export", args: object{"object": "Contact"}})
	me.mayNot(ctx, attempt{what: "delete_record", name: "salesforce__delete_record", args: object{"id": account},
		holds: func() error {
			if len(s.salesforce.Records("Account")) != 2 {
				return errors.New("an account is gone")
			}
			return nil
		}})
	me.mayNot(ctx, attempt{what: "GitHub, which is for engineers", name: "github__list_branches", args: payments})
	return nil
}

// speedStory pages through the CRM record by record, at both proxies in turn: no single call is too much, and all of them together are.
func (s *system) speedStory(ctx context.Context, r *run) error {
	r.title("Machine speed: Lena's agent reads Salesforce record by record, at both proxies in turn")
	var seats []*seat
	for _, region := range []string{usEast, euWest} {
		me, err := r.sit(ctx, lena, region, agent.Options{Revision: agent.Modern})
		if err != nil {
			return err
		}
		seats = append(seats, me)
	}
	contact := object{"id": s.salesforce.Records("Contact")[0].ID}
	calls := s.salesforce.Calls
	before, told := calls.Count(""), ""
	const most, budget = 100, 60
	_ = r.step("is stopped by the budget of 60 calls, and told when to come back", func() (string, time.Duration, error) {
		begin, done := time.Now(), 0
		for i := range most {
			res := seats[i%2].call(ctx, "salesforce__get_record", contact)
			if res.OK {
				done++
				continue
			}
			told = res.Text
		}
		took := time.Since(begin)
		switch reached := calls.Count("") - before; {
		case done > budget || done < budget/2:
			return "", took, fmt.Errorf("%d of %d calls were answered: %s", done, most, told)
		case reached != done:
			return "", took, fmt.Errorf("%d calls reached the server, and %d were answered", reached, done)
		case !strings.Contains(told, "Retry after"):
			return "", took, fmt.Errorf("who is refused is told: %s", told)
		}
		return fmt.Sprintf("%d of %d answered; %s", done, most, told), took, nil
	})
	_ = r.step("her other reads are refused too, at either proxy", func() (string, time.Duration, error) {
		begin := time.Now()
		for _, me := range seats {
			if res := me.call(ctx, "salesforce__query_records", object{"object": "Account"}); res.OK || !strings.Contains(res.Text, "Retry after") {
				return "", time.Since(begin), fmt.Errorf("at %s: %s", me.region, res.Text)
			}
		}
		return "refused", time.Since(begin), nil
	})
	_ = r.step("an admin begins a new window", func() (string, time.Duration, error) {
		begin := time.Now()
		out, err := s.admin.Run(ctx, "limits", "reset", "crm")
		return strings.TrimSpace(string(out)), time.Since(begin), err
	})
	return nil
}

// credentialStory looks at what the servers were sent: never an agent's token, and Salesforce's own credential always.
func (s *system) credentialStory(ctx context.Context, r *run) error {
	r.title("Credentials stay in the gateway")
	_ = r.step("Salesforce got its own credential with every call", func() (string, time.Duration, error) {
		calls := s.salesforce.Calls.All()
		for _, c := range calls {
			if c.Authorization != "Bearer "+salesforceCredential {
				return "", 0, errors.New("a call came with another credential")
			}
		}
		if len(calls) == 0 {
			return "", 0, errors.New("no call came")
		}
		return fmt.Sprintf("%d calls", len(calls)), 0, nil
	})
	_ = r.step("no other server got an agent's token", func() (string, time.Duration, error) {
		n := 0
		for _, u := range s.upstreams() {
			for _, c := range u.Calls.All() {
				if n++; u != s.salesforce.Upstream && c.Authorization != "" {
					return "", 0, fmt.Errorf("%s got an Authorization header", u.Name())
				}
			}
		}
		return fmt.Sprintf("%d calls looked at", n), 0, nil
	})
	_ = r.step("an agent that brings no token is told where to sign in", func() (string, time.Duration, error) {
		return s.anonymous(ctx)
	})
	return nil
}
