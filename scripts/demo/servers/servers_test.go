package servers_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/servers"
)

type args = map[string]any

var payments = args{"owner": "acme", "repo": "payments"}

func with(base args, more ...any) args {
	out := args{}
	for k, v := range base {
		out[k] = v
	}
	for i := 0; i+1 < len(more); i += 2 {
		out[more[i].(string)] = more[i+1]
	}
	return out
}

func start(t *testing.T, u *servers.Upstream) (url string) {
	t.Helper()
	url, stop, err := u.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return url
}

func connect(t *testing.T, url, token string, o agent.Options) *agent.Session {
	t.Helper()
	s, err := agent.Connect(t.Context(), url, token, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestEveryServerSpeaksBothEras(t *testing.T) {
	for _, u := range []*servers.Upstream{
		servers.NewGitHub().Upstream, servers.NewJira().Upstream, servers.NewConfluence().Upstream,
		servers.NewSalesforce("key").Upstream, servers.NewAnalytics().Upstream,
	} {
		t.Run(u.Name(), func(t *testing.T) {
			url := start(t, u)
			base := url[:strings.Index(url[len("http://"):], "/")+len("http://")]
			for path, want := range map[string]string{servers.SessionPath: agent.SessionEra, servers.StatelessPath: agent.Modern} {
				s := connect(t, base+path, "key", agent.Options{})
				if s.Revision() != want {
					t.Errorf("%s agreed on %s, want %s", path, s.Revision(), want)
				}
				tools, err := s.Definitions(t.Context())
				if err != nil || len(tools) < 5 {
					t.Fatalf("%s lists %d tools: %v", path, len(tools), err)
				}
				for _, d := range tools {
					if d.Annotations == nil || d.Annotations.DestructiveHint == nil || d.Description == "" || d.OutputSchema == nil {
						t.Errorf("%s is not described in full", d.Name)
					}
				}
			}
		})
	}
}

func TestGitHubOffersTheWaysThatLeadToMain(t *testing.T) {
	s := connect(t, start(t, servers.NewGitHub().Upstream), "", agent.Options{})
	definitions, err := s.Definitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	optional := map[string]bool{"push_to_branch": true, "push_files": true, "create_or_update_file": true, "delete_file": true}
	var names []string
	for _, d := range definitions {
		names = append(names, d.Name)
		schema, _ := json.Marshal(d.InputSchema)
		var in struct {
			Required   []string       `json:"required"`
			Properties map[string]any `json:"properties"`
		}
		if err := json.Unmarshal(schema, &in); err != nil {
			t.Fatal(err)
		}
		if optional[d.Name] && (in.Properties["branch"] == nil || slices.Contains(in.Required, "branch")) {
			t.Errorf("%s: branch is not an optional property: %s", d.Name, schema)
		}
	}
	for _, want := range []string{
		"list_repositories", "get_file_contents", "list_branches", "create_branch", "delete_branch", "push_to_branch", "push_files",
		"create_or_update_file", "delete_file", "create_pull_request", "list_pull_requests", "create_pull_request_review",
		"merge_pull_request", "get_repository_secrets", "update_webhook", "watch_workflow_run",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("there is no %s", want)
		}
	}
}

func TestPushesReachTheBranchThatTheyName(t *testing.T) {
	g := servers.NewGitHub()
	s := connect(t, start(t, g.Upstream), "", agent.Options{})
	legacy := args{"owner": "acme", "repo": "legacy-billing"}
	content := []any{"path", "x", "content", "y", "message", "m"}
	for _, c := range []struct {
		tool         string
		in           args
		repo, branch string
	}{
		{"push_to_branch", with(payments, append(content, "branch", "main")...), "acme/payments", "main"},
		{"push_to_branch", with(payments, append(content, "branch", "refs/heads/main")...), "acme/payments", "main"},
		{"create_or_update_file", with(payments, content...), "acme/payments", "main"},
		{"push_files", with(payments, "message", "m", "files", []args{{"path": "a", "content": "b"}}), "acme/payments", "main"},
		{"delete_file", with(payments, "message", "m", "path", "a"), "acme/payments", "main"},
		{"push_to_branch", with(legacy, content...), "acme/legacy-billing", "master"},
		{"push_to_branch", with(legacy, append(content, "branch", "master")...), "acme/legacy-billing", "master"},
	} {
		before := len(g.Head(c.repo, c.branch))
		if r := s.Call(t.Context(), c.tool, c.in); !r.OK {
			t.Fatalf("%s %v: %s", c.tool, c.in, r.Text)
		}
		if after := len(g.Head(c.repo, c.branch)); after != before+1 {
			t.Errorf("%s %v: %s has %d commits, want %d", c.tool, c.in, c.branch, after, before+1)
		}
	}
	if r := s.Call(t.Context(), "push_to_branch", with(payments, append(content, "branch", "agent/../main")...)); r.OK {
		t.Error("a branch name with .. was taken")
	}
}

func TestPullRequestReachesItsBaseOnlyByMerge(t *testing.T) {
	g := servers.NewGitHub()
	s := connect(t, start(t, g.Upstream), "", agent.Options{})
	call := func(tool string, in args) {
		t.Helper()
		if r := s.Call(t.Context(), tool, in); !r.OK {
			t.Fatalf("%s: %s", tool, r.Text)
		}
	}
	call("create_branch", with(payments, "branch", "agent/fix"))
	call("push_files", with(payments, "branch", "agent/fix", "message", "Fix", "files", []args{{"path": "pay.go", "content": "fixed"}}))
	call("create_pull_request", with(payments, "title", "Fix", "head", "agent/fix", "base", "main"))
	call("create_pull_request_review", with(payments, "pullNumber", 1, "event", "APPROVE"))
	if n := len(g.Head("acme/payments", "main")); n != 1 {
		t.Fatalf("main has %d commits before the merge", n)
	}
	call("merge_pull_request", with(payments, "pullNumber", 1))
	if n := len(g.Head("acme/payments", "main")); n != 2 {
		t.Errorf("main has %d commits after the merge", n)
	}
	call("delete_branch", with(payments, "branch", "agent/fix"))
	if got := g.Branches("acme/payments"); !slices.Equal(got, []string{"main"}) {
		t.Errorf("branches = %v", got)
	}
}

func TestEffectsAreReal(t *testing.T) {
	j, c, sf, a := servers.NewJira(), servers.NewConfluence(), servers.NewSalesforce("key"), servers.NewAnalytics()
	sessions := map[string]*agent.Session{}
	for _, u := range []*servers.Upstream{j.Upstream, c.Upstream, sf.Upstream, a.Upstream} {
		sessions[u.Name()] = connect(t, start(t, u), "key", agent.Options{})
	}
	account := sf.Records("Account")[0].ID
	for _, step := range []struct {
		server, tool string
		in           args
		holds        func() bool
	}{
		{"jira", "create_issue", args{"summary": "New"}, func() bool { _, ok := j.Issue("PAY-4"); return ok }},
		{"jira", "update_issue_status", args{"key": "PAY-1", "status": "Done"}, func() bool { i, _ := j.Issue("PAY-1"); return i.Status == "Done" }},
		{"jira", "delete_issue", args{"key": "PAY-2"}, func() bool { _, ok := j.Issue("PAY-2"); return !ok }},
		{"jira", "search_issues", args{"text": "refunds"}, func() bool { return true }},
		{"jira", "get_issue", args{"key": "PAY-1"}, func() bool { return true }},
		{"confluence", "create_page", args{"space": "ENG", "title": "T", "body": "B"}, func() bool { return len(c.Pages()) == 3 }},
		{"confluence", "delete_page", args{"page_id": "1001"}, func() bool { return len(c.Pages()) == 2 }},
		{"confluence", "update_page", args{"page_id": "1002", "body": "B"}, func() bool { return true }},
		{"confluence", "get_page", args{"page_id": "1002"}, func() bool { return true }},
		{"confluence", "search", args{"query": "b"}, func() bool { return true }},
		{"salesforce", "update_record", args{"id": account, "fields": args{"Industry": "Villainy"}}, func() bool { return sf.Records("Account")[0].Fields["Industry"] == "Villainy" }},
		{"salesforce", "create_opportunity", args{"account_id": account, "name": "Dome", "amount": 5}, func() bool { return len(sf.Records("Opportunity")) == 1 }},
		{"salesforce", "query_records", args{"object": "Account", "where": args{"Name": "Globex"}}, func() bool { return true }},
		{"salesforce", "get_record", args{"id": account}, func() bool { return true }},
		{"salesforce", "bulk_export", args{"object": "Account"}, func() bool { return true }},
		{"salesforce", "delete_record", args{"id": account}, func() bool { return len(sf.Records("Account")) == 1 }},
		{"analytics", "create_dataset", args{"dataset": "churn"}, func() bool { return a.Rows("churn") != nil }},
		{"analytics", "write_rows", args{"dataset": "revenue", "rows": []args{{"month": "2026-11", "euro": "1"}}}, func() bool { return len(a.Rows("revenue")) == 3 }},
		{"analytics", "run_query", args{"dataset": "revenue"}, func() bool { return true }},
		{"analytics", "list_datasets", args{}, func() bool { return true }},
		{"analytics", "drop_dataset", args{"dataset": "revenue"}, func() bool { return a.Rows("revenue") == nil }},
	} {
		r := sessions[step.server].Call(t.Context(), step.tool, step.in)
		if !r.OK || len(r.Structured) == 0 {
			t.Errorf("%s %s: %s", step.server, step.tool, r.Text)
		}
		if !step.holds() {
			t.Errorf("%s %s had no effect", step.server, step.tool)
		}
	}
}

func TestSalesforceDemandsItsOwnCredential(t *testing.T) {
	sf := servers.NewSalesforce("key")
	url := start(t, sf.Upstream)
	if s, err := agent.Connect(t.Context(), url, "an agent's token", agent.Options{}); err == nil {
		s.Close()
		t.Fatal("another token was taken")
	}
	if sf.Refused.Load() == 0 {
		t.Error("the refusal was not counted")
	}
	s := connect(t, url, "key", agent.Options{})
	if r := s.Call(t.Context(), "query_records", args{"object": "Account"}); !r.OK {
		t.Fatal(r.Text)
	}
	calls := sf.Calls.All()
	if len(calls) != 1 || calls[0].Tool != "query_records" || calls[0].Authorization != "Bearer key" || calls[0].Ended.IsZero() || calls[0].Failed {
		t.Errorf("log = %+v", calls)
	}
	if string(calls[0].Arguments) != `{"object":"Account"}` {
		t.Errorf("arguments = %s", calls[0].Arguments)
	}
}

func TestLogTellsFailures(t *testing.T) {
	j := servers.NewJira()
	s := connect(t, start(t, j.Upstream), "", agent.Options{})
	if r := s.Call(t.Context(), "get_issue", args{"key": "PAY-99"}); r.OK || !strings.Contains(r.Text, "PAY-99") {
		t.Errorf("result = %+v", r)
	}
	if calls := j.Calls.All(); len(calls) != 1 || !calls[0].Failed {
		t.Errorf("log = %+v", calls)
	}
}

func TestWatchStreamsAndEndsWithItsServer(t *testing.T) {
	for _, path := range []string{servers.SessionPath, servers.StatelessPath} {
		t.Run(path, func(t *testing.T) {
			g := servers.NewGitHub()
			url, stop, err := g.Start(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			s := connect(t, strings.TrimSuffix(url, servers.SessionPath)+path, "", agent.Options{})
			result := make(chan agent.Result, 1)
			go func() {
				result <- s.Call(t.Context(), "watch_workflow_run", with(payments, "run_id", 1, "seconds", 60))
			}()
			for range 3 {
				receive(t, s.Progress())
			}
			if s.Open() != 1 {
				t.Errorf("%d streams are open", s.Open())
			}
			for len(s.Ended()) > 0 { // the handshake's answers were streams too
				<-s.Ended()
			}
			stopped := time.Now()
			stop()
			if r := receive(t, result); r.OK {
				t.Errorf("result = %+v", r)
			}
			if ended := receive(t, s.Ended()); ended.Method != "POST" || ended.Ended.Before(stopped) {
				t.Errorf("stream = %+v", ended)
			}
		})
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
