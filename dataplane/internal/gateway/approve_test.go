package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// careful is a policy under which echo may be called after something.
func careful(rules ...*policyv1.Rule) *fleetv1.Entry { return grantEntry(1, "demo", rules...) }

func afterConfirm(by policyv1.ConfirmationAssurance) *policyv1.Rule {
	return &policyv1.Rule{Allow: []string{"echo"}, After: policyv1.Duty_DUTY_CONFIRM, Assurance: by}
}

const (
	client  = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT
	browser = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
)

// again makes a call of the stateless era with capabilities, and what params has beside its name and arguments.
func (a *agent) again(capabilities, arguments, more string) answer {
	a.w.t.Helper()
	body := a.message("7", "tools/call", fmt.Sprintf(`{"name":"echo","arguments":%s%s}`, arguments, more))
	body = strings.Replace(body, `clientCapabilities":{}`, `clientCapabilities":`+capabilities, 1)
	return lastOf(a.w.request(http.MethodPost, a.path, a.header("tools/call", "echo"), body))
}

const forms = `{"elicitation":{}}`

// asked is the state of a result that asks the person to confirm.
func asked(t *testing.T, got answer) string {
	t.Helper()
	state, _ := got.field("result", "requestState").(string)
	if got.field("result", "resultType") != "input_required" || state == "" {
		t.Fatalf("the person is not asked: %s", got.body)
	}
	return state
}

func says(action, state string) string {
	return fmt.Sprintf(`,"inputResponses":{"sallyport-confirm":{"action":%q,"content":{"confirm":true}}},"requestState":%q`, action, state)
}

func TestAPersonConfirmsInTheirClientAndTheCallIsMadeOnceAtAnotherProxy(t *testing.T) {
	first := newWorld(t, &options{})
	second := region(t, first, "second")[1]
	first.set(careful(afterConfirm(client)))
	version := first.plane.Set(blockEntry(&policyv1.Block{Id: "b", Target: &policyv1.Block_Region{Region: "elsewhere"}}))
	for _, w := range []*world{first, second} { // the control plane is told by either
		w.eventually("it has the policy", func() bool { // and no call is made there by the one before
			table, err := w.replica.Usable(time.Now())
			return err == nil && table.Version() >= version
		})
	}
	a := first.stateless(ada, "/mcp/demo")
	got := a.again(forms, `{"text":"x"}`, "")
	state := asked(t, got)
	if !strings.Contains(got.body, `\"text\": \"x\"`) || len(first.demo.got("tools/call")) != 0 {
		t.Fatalf("asked without the arguments, or called: %s", got.body)
	}
	got = a.at(second).again(forms, `{ "text" : "x" }`, says("accept", state))
	if got.field("result", "isError") == true || !strings.Contains(got.body, "said x") {
		t.Fatalf("the confirmed call: %s", got.body)
	}
	calls := first.demo.got("tools/call")
	if len(calls) != 1 || strings.Contains(calls[0].body, "inputResponses") || strings.Contains(calls[0].body, "requestState") {
		t.Fatalf("the upstream got %+v", calls)
	}
	for name, replay := range map[string]answer{
		"again":             a.at(second).again(forms, `{"text":"x"}`, says("accept", state)),
		"at the first":      a.again(forms, `{"text":"x"}`, says("accept", state)),
		"other arguments":   a.again(forms, `{"text":"y"}`, says("accept", asked(t, a.again(forms, `{"text":"x"}`, "")))),
		"another person":    first.stateless(bob, "/mcp/demo").again(forms, `{"text":"x"}`, says("accept", asked(t, a.again(forms, `{"text":"x"}`, "")))),
		"forged":            a.again(forms, `{"text":"x"}`, says("accept", "sallyport-asked.AAAA")),
		"without a yes":     a.again(forms, `{"text":"x"}`, strings.ReplaceAll(says("accept", asked(t, a.again(forms, `{"text":"x"}`, ""))), `"confirm":true`, "")),
		"without an answer": a.again(forms, `{"text":"x"}`, `,"requestState":"`+asked(t, a.again(forms, `{"text":"x"}`, ""))+`"`),
	} {
		if replay.field("result", "isError") != true || !strings.Contains(replay.body, "of another call") {
			t.Errorf("%s: %s", name, replay.body)
		}
	}
	if n := len(first.demo.got("tools/call")); n != 1 {
		t.Errorf("the upstream was called %d times", n)
	}
	reasons := func(all []*auditv1.AuditRecord) map[auditv1.Reason]int {
		found := map[auditv1.Reason]int{}
		for _, r := range all {
			found[r.GetDecision().GetReason()]++
			if r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED && (r.GetDecision().GetConfirmed() != "client" || r.GetDecision().GetAsked() == "") {
				t.Errorf("the authorized record says %v", r.GetDecision())
			}
		}
		return found
	}
	first.plane.WaitAudit(t, func(all []*auditv1.AuditRecord) bool {
		found := reasons(all)
		return found[auditv1.Reason_REASON_CONFIRM_INVALID] == 7 && found[auditv1.Reason_REASON_RULE_ALLOWED] == 2 && found[auditv1.Reason_REASON_CONFIRM_REQUIRED] >= 5
	})
}

func TestWhatAPersonSaidIsOfNoUseAfterItsTimeOrTheirGeneration(t *testing.T) {
	var mu sync.Mutex
	ahead := time.Duration(0)
	w := newWorld(t, &options{gateway: func(c *gateway.Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
		c.AskFor = 30 * time.Second
	}})
	w.set(careful(afterConfirm(client)))
	a := w.stateless(ada, "/mcp/demo")
	state := asked(t, a.again(forms, `{}`, ""))
	mu.Lock()
	ahead = 40 * time.Second
	mu.Unlock()
	if got := a.again(forms, `{}`, says("accept", state)); !strings.Contains(got.body, "too old") {
		t.Errorf("after its time: %s", got.body)
	}
	state = asked(t, a.again(forms, `{}`, ""))
	raised := userEntry(ada, true, 1)
	raised.GetUser().Generation = 2
	w.set(raised)
	if got := a.again(forms, `{}`, says("accept", state)); !strings.Contains(got.body, "of another call") {
		t.Errorf("after the sessions were revoked: %s", got.body)
	}
	for _, no := range []string{"decline", "cancel"} {
		if got := a.again(forms, `{}`, says(no, asked(t, a.again(forms, `{}`, "")))); !strings.Contains(got.body, "said no") {
			t.Errorf("%s: %s", no, got.body)
		}
	}
	if n := len(w.demo.got("tools/call")); n != 0 {
		t.Errorf("the upstream was called %d times", n)
	}
}

func TestARuleThatWasTakenAwayMeanwhileIsNotHelpedByAYes(t *testing.T) {
	w := newWorld(t, &options{})
	w.set(careful(afterConfirm(client)))
	a := w.stateless(ada, "/mcp/demo")
	state := asked(t, a.again(forms, `{}`, ""))
	w.set(careful(afterConfirm(client), deny("echo")))
	if got := a.again(forms, `{}`, says("accept", state)); !strings.Contains(got.body, "denies it") {
		t.Errorf("decided anew: %s", got.body)
	}
	// And one that became stricter asks once more, in the browser.
	w.set(careful(afterConfirm(client)))
	state = asked(t, a.again(forms, `{}`, ""))
	w.set(careful(afterConfirm(browser)))
	if got := a.again(forms, `{}`, says("accept", state)); got.field("result", "isError") != true || !strings.Contains(got.body, "can ask nobody") {
		t.Errorf("decided anew: %s", got.body)
	}
	if n := len(w.demo.got("tools/call")); n != 0 {
		t.Errorf("the upstream was called %d times", n)
	}
}

func TestAnAgentOfTheSessionEraIsAskedOnItsStream(t *testing.T) {
	w := newWorld(t, &options{})
	w.set(careful(afterConfirm(client)))
	action := make(chan string, 1)
	c := sdk.NewClient(&sdk.Implementation{Name: "program", Version: "1"}, &sdk.ClientOptions{
		ElicitationHandler: func(_ context.Context, r *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			if !strings.Contains(r.Params.Message, "echo") {
				t.Errorf("asked %q", r.Params.Message)
			}
			return &sdk.ElicitResult{Action: <-action, Content: map[string]any{"confirm": true}}, nil
		},
	})
	session, err := c.Connect(t.Context(), &sdk.StreamableClientTransport{
		Endpoint: w.url + "/mcp/demo", HTTPClient: &http.Client{Transport: bearing{w.token(ada, "/mcp/demo", "agent")}}, MaxRetries: -1,
	}, &sdk.ClientSessionOptions{ProtocolVersion: string(mcp.LatestSession)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	call := func() string {
		got, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "x"}})
		return said(t, got, err)
	}
	action <- "accept"
	if got := call(); got != "said x" {
		t.Errorf("after yes: %s", got)
	}
	action <- "decline"
	if got := call(); !strings.Contains(got, "said no") {
		t.Errorf("after no: %s", got)
	}
	if n := len(w.demo.got("tools/call")); n != 1 {
		t.Errorf("the upstream was called %d times", n)
	}
}

func TestAClientThatCannotAskIsGivenALinkAndTheYesIsFoundByTheCall(t *testing.T) {
	var mu sync.Mutex
	state := fleetv1.AnswerState_ANSWER_STATE_PENDING
	var last *fleetv1.ConfirmRequest
	o := &options{}
	o.plane.Confirming = func(r *fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		last = r
		return &fleetv1.ConfirmResponse{State: state, Url: "https://sallyport.example/confirm/k", Id: "c1", ExpiresAt: timestamppb.New(time.Now().Add(time.Minute))}, nil
	}
	set := func(to fleetv1.AnswerState) { mu.Lock(); defer mu.Unlock(); state = to }
	w := newWorld(t, o)
	w.set(careful(afterConfirm(browser)))
	for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", mcp.LatestSession)} {
		set(fleetv1.AnswerState_ANSWER_STATE_PENDING)
		if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "https://sallyport.example/confirm/k") || got.field("result", "isError") != true {
			t.Errorf("no link: %s", got.body)
		}
		if string(last.GetCall().GetArguments()) != `{"text":"x"}` || last.GetCall().GetTool() != "echo" || last.GetCall().GetAccessToken() != a.token {
			t.Errorf("asked for %v", last)
		}
		set(fleetv1.AnswerState_ANSWER_STATE_GIVEN)
		if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "said x") {
			t.Errorf("after yes: %s", got.body)
		}
		set(fleetv1.AnswerState_ANSWER_STATE_REFUSED)
		if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "said no") {
			t.Errorf("after no: %s", got.body)
		}
	}
	// One that can lead its person there does.
	a := w.stateless(ada, "/mcp/demo")
	set(fleetv1.AnswerState_ANSWER_STATE_PENDING)
	got := a.again(`{"elicitation":{"url":{}}}`, `{"text":"x"}`, "")
	token := asked(t, got)
	if !strings.Contains(got.body, `"mode":"url"`) {
		t.Errorf("asked %s", got.body)
	}
	set(fleetv1.AnswerState_ANSWER_STATE_GIVEN)
	if got := a.again(`{"elicitation":{"url":{}}}`, `{"text":"x"}`, says("accept", token)); !strings.Contains(got.body, "said x") {
		t.Errorf("after yes: %s", got.body)
	}
	if last.GetWait().AsDuration() == 0 {
		t.Error("the proxy did not wait for the person who was led to the page")
	}
	if n := len(w.demo.got("tools/call")); n != 3 {
		t.Errorf("the upstream was called %d times", n)
	}
}

func TestWithTheControlPlaneAwayNobodyIsAskedAndNothingIsMade(t *testing.T) {
	w := newWorld(t, &options{})
	w.set(careful(afterConfirm(browser)))
	if got := w.stateless(ada, "/mcp/demo").call("echo", `{}`); !strings.Contains(got.body, "can ask nobody at the moment") {
		t.Errorf("answered %s", got.body)
	}
	records := w.settled(1)
	if r := records[len(records)-1]; r.GetDecision().GetReason() != auditv1.Reason_REASON_APPROVAL_UNAVAILABLE {
		t.Errorf("recorded %v", r)
	}
	if n := len(w.demo.got("tools/call")); n != 0 {
		t.Errorf("the upstream was called %d times", n)
	}
}

func TestACallThatNeedsReviewIsMadeOnceItWasApproved(t *testing.T) {
	var mu sync.Mutex
	state := fleetv1.AnswerState_ANSWER_STATE_PENDING
	uses := 0
	rule := &policyv1.Rule{Allow: []string{"echo"}, After: policyv1.Duty_DUTY_REVIEW, Review: &policyv1.Review{Approvers: []string{uuid.NewString()}}}
	o := &options{}
	reviewed := ""
	o.plane.Reviewing = func(r *fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if r.GetUse() {
			uses++
		}
		return &fleetv1.ReviewResponse{State: state, Id: "r1", Reviewed: reviewed, ExpiresAt: timestamppb.New(time.Now().Add(time.Minute)), Reason: "not today"}, nil
	}
	set := func(to fleetv1.AnswerState) { mu.Lock(); defer mu.Unlock(); state = to }
	w := newWorld(t, o)
	w.set(careful(rule))
	table, err := w.replica.Usable(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	reviewed = table.Decide(policy.Request{Person: ada, Connector: "demo", Tool: "echo", Arguments: policy.NoArguments, Now: time.Now()}).Duties.Review()
	a := w.stateless(ada, "/mcp/demo")
	if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "request r1") || got.field("result", "isError") != true {
		t.Errorf("pending: %s", got.body)
	}
	set(fleetv1.AnswerState_ANSWER_STATE_REFUSED)
	if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "not today") {
		t.Errorf("refused: %s", got.body)
	}
	if n := len(w.demo.got("tools/call")); n != 0 || uses != 0 {
		t.Errorf("the upstream was called %d times, %d approvals were used", n, uses)
	}
	set(fleetv1.AnswerState_ANSWER_STATE_GIVEN)
	if got := a.call("echo", `{"text":"x"}`); !strings.Contains(got.body, "said x") || uses != 1 {
		t.Errorf("approved, %d used: %s", uses, got.body)
	}
	// With a confirmation as well the approval is used up only when the person said yes too.
	w.set(careful(rule, &policyv1.Rule{Require: policyv1.Duty_DUTY_CONFIRM, Tools: []string{"echo"}, Assurance: client}))
	state1 := asked(t, a.again(forms, `{"text":"x"}`, ""))
	if uses != 1 {
		t.Errorf("%d approvals were used before the person was asked", uses)
	}
	if got := a.again(forms, `{"text":"x"}`, says("accept", state1)); !strings.Contains(got.body, "said x") || uses != 2 {
		t.Errorf("approved and confirmed, %d used: %s", uses, got.body)
	}
}
