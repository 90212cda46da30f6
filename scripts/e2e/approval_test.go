package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/quickstart"
)

// careful is what Staff may do in an office where people are asked first.
const careful = `kind: Grant
group: okta/Staff
connector: github
rules:
  - allow: [list_branches]
  - allow: [create_branch]
    after: confirm
    assurance: client
  - allow: [delete_branch]
    after: confirm
  - allow: [update_webhook]
    after: review
    review: {approvers: [okta/Leads]}
`

// careful lets Staff do what they may where people are asked first, of whom Ada leads.
func (o *office) careful() {
	o.t.Helper()
	ctx := o.t.Context()
	for _, change := range []func() (okta.Push, error){
		func() (okta.Push, error) { return o.org.CreateGroup(ctx, "Leads", okta.Pushed) },
		func() (okta.Push, error) { return o.org.AddToGroup(ctx, "Leads", ada) },
	} {
		if _, err := change(); err != nil {
			o.t.Fatal(err)
		}
	}
	o.cp.apply(careful)
	o.cp.enforced()
}

// asking is a call of 2026-07-28 by a program that can ask its person, with what it has beside its name and arguments.
func asking(t *testing.T, p *proxy, token, tool string, arguments map[string]any, more string) map[string]any {
	t.Helper()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s%s,%s}}`, tool, mustJSON(t, arguments), more,
		strings.Replace(meta, `clientCapabilities":{}`, `clientCapabilities":{"elicitation":{}}`, 1))
	status, _, text := post(t, p, token, map[string]string{"Mcp-Name": tool}, body)
	for line := range strings.Lines(text) { // of a stream the last event is the answer
		if data, ok := strings.CutPrefix(strings.TrimSpace(line), "data:"); ok {
			text = data
		}
	}
	var said struct{ Result map[string]any }
	if err := json.Unmarshal([]byte(text), &said); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s (%v)", status, text, err)
	}
	return said.Result
}

// yesTo is what a program brings back that asked its person.
func yesTo(t *testing.T, asked map[string]any) string {
	t.Helper()
	state, _ := asked["requestState"].(string)
	if asked["resultType"] != "input_required" || state == "" {
		t.Fatalf("the person is not asked: %v", asked)
	}
	return fmt.Sprintf(`,"inputResponses":{"sallyport-confirm":{"action":"accept","content":{"confirm":true}}},"requestState":%q`, state)
}

// TestADestructiveCallIsMadeOnlyOnceItsPersonSaidYes: in their client, in both eras and at whichever proxy the answer arrives, or
// signed in with a browser; by themselves alone, for that very call, once.
func TestADestructiveCallIsMadeOnlyOnceItsPersonSaidYes(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "")
	ctx := t.Context()
	beside, _ := another(t, o.cp, "us-east", 2, "--resource", o.east.url())
	o.careful()
	tokens, err := o.signIn(ctx, &agent.Program{Name: "agent"}, o.east, bob)
	if err != nil {
		t.Fatal(err)
	}
	branch := func(name string) map[string]any {
		return map[string]any{"owner": "acme", "repo": "payments", "branch": name}
	}
	there := func(name string) bool { return slices.Contains(o.github.Branches("acme/payments"), name) }
	bobs, err := agent.NewBrowser(quickstart.Employee(bob))
	if err != nil {
		t.Fatal(err)
	}

	// In the client, as the MCP library has it, by input_required and by elicitation/create.
	for i, revision := range []string{agent.Modern, agent.SessionEra} {
		answer, shown, led := false, "", ""
		s, err := agent.Connect(ctx, o.east.url(), tokens.Access, agent.Options{Revision: revision, Confirm: func(ctx context.Context, message, page string) bool {
			shown, led = message, page
			if page != "" && answer {
				if at, err := bobs.Open(ctx, page); err != nil || !strings.Contains(at.Text, "You said yes") {
					t.Errorf("%s: the page: %v: %s", revision, err, at.Text)
				}
			}
			return answer
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		name := fmt.Sprintf("agent/%d", i)
		if res := s.Call(ctx, "github__create_branch", branch(name)); res.OK || there(name) || !strings.Contains(res.Text, "said no") {
			t.Errorf("%s: after a no: %+v", revision, res)
		}
		answer = true
		if res := s.Call(ctx, "github__create_branch", branch(name)); !res.OK || !there(name) {
			t.Errorf("%s: after a yes: %+v", revision, res)
		}
		if !strings.Contains(shown, name) || !strings.Contains(shown, "SHA-256") || led != "" {
			t.Errorf("%s: shown %q, led to %q", revision, shown, led)
		}
		// A destructive tool asks for more than the program's word: the page.
		if res := s.Call(ctx, "github__delete_branch", branch(name)); !res.OK || there(name) || led == "" {
			t.Errorf("%s: after a yes on the page %q: %+v", revision, led, res)
		}
	}

	// At another proxy of the region, once, and for that very call.
	asked := asking(t, o.east, tokens.Access, "github__create_branch", branch("agent/x"), "")
	yes := yesTo(t, asked)
	for name, refused := range map[string]map[string]any{
		"other arguments": asking(t, beside, tokens.Access, "github__create_branch", branch("agent/y"), yes),
		"another tool":    asking(t, beside, tokens.Access, "github__delete_branch", branch("agent/x"), yes),
	} {
		if refused["isError"] != true || there("agent/x") || there("agent/y") {
			t.Errorf("%s: %v", name, refused)
		}
	}
	if got := asking(t, beside, tokens.Access, "github__create_branch", branch("agent/x"), yes); got["isError"] == true || !there("agent/x") {
		t.Errorf("at another proxy: %v", got)
	}
	for _, p := range []*proxy{o.east, beside} {
		if got := asking(t, p, tokens.Access, "github__create_branch", branch("agent/x"), yes); got["isError"] != true || !strings.Contains(mustJSON(t, got), "was used before") {
			t.Errorf("a replay at %s: %v", p.name, got)
		}
	}

	// A program that cannot ask is given the page's address. It is its person's alone.
	s, err := agent.Connect(ctx, o.west.url(), tokens.Access, agent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	res := s.Call(ctx, "github__delete_branch", branch("agent/x"))
	page := regexp.MustCompile(`http://\S+`).FindString(res.Text)
	if res.OK || page == "" || !there("agent/x") {
		t.Fatalf("without a yes: %+v", res)
	}
	adas, err := agent.NewBrowser(quickstart.Employee(ada))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := adas.Open(ctx, page); err != nil || at.Status != http.StatusForbidden || !strings.Contains(at.Text, "not yours to confirm") {
		t.Errorf("another person's yes: %v: %d %s", err, at.Status, at.Text)
	}
	if res := s.Call(ctx, "github__delete_branch", branch("agent/x")); res.OK || !there("agent/x") {
		t.Errorf("with another person's yes: %+v", res)
	}
	if at, err := bobs.Open(ctx, page); err != nil || !strings.Contains(at.Text, "You said yes") {
		t.Fatalf("the page: %v: %s", err, at.Text)
	}
	if res := s.Call(ctx, "github__delete_branch", branch("main")); res.OK || !there("main") {
		t.Errorf("the yes was for another branch: %+v", res)
	}
	if res := s.Call(ctx, "github__delete_branch", branch("agent/x")); !res.OK || there("agent/x") {
		t.Errorf("after the yes: %+v", res)
	}
	if res := s.Call(ctx, "github__delete_branch", branch("agent/x")); res.OK || !strings.Contains(res.Text, "http://") {
		t.Errorf("a yes is of use once: %+v", res)
	}
	eventually(t, func() error {
		records, err := o.cp.Records(ctx, &adminv1.AuditFilter{})
		if err != nil {
			return err
		}
		found := map[string]int{}
		for _, stored := range records {
			if r := stored.GetRecord(); r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED {
				found[r.GetTool()+" "+r.GetDecision().GetConfirmed()]++
			}
		}
		if found["create_branch client"] != 3 || found["delete_branch browser"] != 3 {
			return fmt.Errorf("authorized: %v", found)
		}
		return nil
	})
}

// TestACallIsMadeOnceItsApproverSaidYesByTheCommandLine: the whole call is shown with its digest, which the approval must name. It
// passes once, at another proxy; with other arguments, a second time, after a no, or once its requester was deactivated it does not.
func TestACallIsMadeOnceItsApproverSaidYesByTheCommandLine(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "")
	ctx := t.Context()
	o.cp.must("admins", "directory", "okta")
	o.cp.must("admins", "grant", "okta/"+admins, "viewer")
	o.careful()
	lead := o.commands(ada)
	must := func(args ...string) string {
		t.Helper()
		out, err := lead(args...)
		if err != nil {
			t.Fatalf("sallyport %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return out
	}
	program := &agent.Program{Name: "agent"}
	tokens, err := o.signIn(ctx, program, o.east, bob)
	if err != nil {
		t.Fatal(err)
	}
	call := func(p *proxy, target string) agent.Result {
		t.Helper()
		s, err := agent.Connect(ctx, p.url(), tokens.Access, agent.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.Call(ctx, "github__update_webhook", map[string]any{"owner": "acme", "repo": "payments", "url": target})
	}
	before := o.github.Webhook("acme/payments")
	unmade := func(what string, res agent.Result) string {
		t.Helper()
		id := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).FindString(res.Text)
		if res.OK && id == "" || o.github.Webhook("acme/payments") != before {
			t.Errorf("%s: %+v; the webhook is %q", what, res, o.github.Webhook("acme/payments"))
		}
		return id
	}

	const hook = "https://hooks.example/one"
	id := unmade("before anybody approved it", call(o.east, hook))
	if id == "" {
		t.Fatal("the agent is not told which request it is")
	}
	var listed struct {
		Reviews []struct {
			ID, Person, Tool string
			MayApprove       bool `json:"may_approve"`
		}
	}
	if err := json.Unmarshal([]byte(must("reviews", "list", "-o", "json")), &listed); err != nil || len(listed.Reviews) != 1 {
		t.Fatalf("%v: %+v", err, listed)
	}
	if r := listed.Reviews[0]; r.ID != id || r.Tool != "update_webhook" || !strings.Contains(r.Person, bob) || !r.MayApprove {
		t.Errorf("listed: %+v", r)
	}
	if table := must("reviews", "list"); !strings.Contains(table, id) || !strings.Contains(table, "0 of 1") {
		t.Errorf("the table: %s", table)
	}
	shown := must("reviews", "show", id)
	digest := regexp.MustCompile(`(?m)^digest +([0-9a-f]{64})$`).FindStringSubmatch(shown)
	if digest == nil || !strings.Contains(shown, hook) || !strings.Contains(shown, "okta/Leads") {
		t.Fatalf("shown: %s", shown)
	}
	for name, refused := range map[string]func() (string, error){
		"another digest": func() (string, error) { return lead("reviews", "approve", id, "--digest", strings.Repeat("0", 64)) },
		"no digest":      func() (string, error) { return lead("reviews", "approve", id) },
		"another id": func() (string, error) {
			return lead("reviews", "approve", "0197f2f0-7c7e-7b4e-9b0e-0d8f5a2f4c11", "--digest", digest[1])
		},
		"an owner's token": func() (string, error) {
			out, err := o.cp.Run(ctx, "reviews", "approve", id, "--digest", digest[1])
			return string(out), err
		},
	} {
		if out, err := refused(); err == nil {
			t.Errorf("approved by %s: %s", name, out)
		}
	}
	unmade("before a good approval", call(o.west, hook))
	must("reviews", "approve", id, "--digest", digest[1])
	const other = "https://hooks.example/two"
	if second := unmade("with other arguments", call(o.west, other)); second == "" || second == id {
		t.Errorf("with other arguments it is request %q", second)
	}
	if res := call(o.west, hook); !res.OK || o.github.Webhook("acme/payments") != hook {
		t.Fatalf("approved: %+v", res)
	}
	before = hook
	if second := unmade("a second time", call(o.east, hook)); second == "" || second == id {
		t.Errorf("a second time it is request %q", second)
	}

	// A no, with its reason.
	denied := unmade("other arguments", call(o.east, other))
	must("reviews", "deny", denied, "--reason", "not before the release")
	if res := call(o.west, other); !strings.Contains(res.Text, "not before the release") {
		t.Errorf("after a no the agent is told %+v", res)
	}
	unmade("after a no", call(o.west, other))

	// An approval is void once its requester was deactivated, also when they are back.
	const late = "https://hooks.example/late"
	id = unmade("before it is approved", call(o.east, late))
	digest = regexp.MustCompile(`(?m)^digest +([0-9a-f]{64})$`).FindStringSubmatch(must("reviews", "show", id))
	must("reviews", "approve", id, "--digest", digest[1])
	for _, change := range []func() (okta.Push, error){
		func() (okta.Push, error) { return o.org.Deactivate(ctx, bob) },
		func() (okta.Push, error) { return o.org.Reactivate(ctx, bob) },
		func() (okta.Push, error) { return o.org.PushGroup(ctx, "Staff") },
	} {
		if _, err := change(); err != nil {
			t.Fatal(err)
		}
	}
	o.cp.enforced()
	if err := o.refuses(o.west, tokens.Access); err != nil {
		t.Error(err)
	}
	if tokens, err = o.signIn(ctx, program, o.east, bob); err != nil {
		t.Fatal(err)
	}
	if err := o.takes(o.west, tokens.Access); err != nil {
		t.Fatal(err)
	}
	if again := unmade("approved before the deactivation", call(o.west, late)); again == "" || again == id {
		t.Errorf("after the deactivation it is request %q", again)
	}

	records, err := o.cp.Records(ctx, &adminv1.AuditFilter{Kinds: []auditv1.Kind{auditv1.Kind_KIND_REVIEW}})
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]int{}
	for _, r := range records {
		actions[r.GetRecord().GetAction()]++
		if strings.Contains(r.String(), "hooks.example") {
			t.Errorf("audit tells the arguments: %v", r)
		}
	}
	if actions["review_approved"] != 2 || actions["review_refused"] != 1 || actions["review_used"] != 1 || actions["review_asked"] != 5 {
		t.Errorf("audit has %v", actions)
	}
}
