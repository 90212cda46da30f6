package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/durationpb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/meter"
)

// purse is a control plane that grants a tenth of a budget at a time.
type purse struct {
	mu    sync.Mutex
	limit uint64 // of items
	given map[string]uint64
	away  bool
	asked int
}

func (p *purse) LeaseBudget(_ context.Context, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked++; p.away {
		return nil, errors.New("away")
	}
	free := p.limit
	for other, n := range p.given {
		if other != r.GetInstance() {
			free -= min(free, n)
		}
	}
	spent := r.GetSpent().GetItems()
	free -= min(free, spent)
	res := &fleetv1.LeaseBudgetResponse{Window: "w", EndsIn: durationpb.New(time.Hour)}
	want := r.GetWant().GetItems()
	if want > free {
		res.RetryAfter = durationpb.New(42 * time.Second)
		free = 0
	}
	p.given[r.GetInstance()] = spent + min(free, max(want, p.limit/10))
	res.Granted = &fleetv1.Amounts{Items: p.given[r.GetInstance()]}
	return res, nil
}

// coins is a control plane that grants so many calls altogether.
type coins uint64

func (c coins) LeaseBudget(_ context.Context, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error) {
	res := &fleetv1.LeaseBudgetResponse{Window: "w", EndsIn: durationpb.New(time.Hour), Granted: &fleetv1.Amounts{Calls: uint64(c)}}
	if r.GetSpent().GetCalls()+r.GetWant().GetCalls() > uint64(c) {
		res.RetryAfter = durationpb.New(42 * time.Second)
	}
	return res, nil
}

// pages is an upstream with a table of rows, of which it gives so many at a time.
func pages(t testing.TB) *server {
	m := sdk.NewServer(&sdk.Implementation{Name: "crm", Version: "1"}, nil)
	type in struct {
		Text string `json:"text,omitempty"`
	}
	for name, result := range map[string]string{
		"rows":  `{"rows":[` + strings.Repeat(`{"id":1},`, 9) + `{"id":1}]}`,
		"table": strings.Repeat("1,ann\n", 10),
		"huge":  `[` + strings.Repeat("1,", 500) + `1]`,
	} {
		sdk.AddTool(m, &sdk.Tool{Name: name}, func(context.Context, *sdk.CallToolRequest, in) (*sdk.CallToolResult, any, error) {
			return text(result), nil, nil
		})
	}
	return serverOf(t, m, true)
}

func limited(l *policyv1.Limit) *policyv1.Rule {
	return &policyv1.Rule{Require: policyv1.Duty_DUTY_LIMIT, Tools: []string{"*"}, Limit: l}
}

// crm is a proxy before it, whose calls are limited.
func crm(t *testing.T, p *purse, demo *server, beside *world, l *policyv1.Limit) *world {
	o := &options{demo: demo, beside: beside, gateway: func(c *gateway.Config) { c.Meter = meter.New(p, nil) }}
	if beside != nil {
		o.name = "proxy2"
		return newWorld(t, o)
	}
	w := newWorld(t, o)
	w.set(catalogueEntry("demo", "rows", "table", "huge"), grantEntry(1, "demo", allow("*"), limited(l)))
	return w
}

var itemsAnHour = &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Items: 100, ResultItems: 20}

// TestABulkExportInSmallStepsIsStoppedByTheTotalOverTwoProxies: page by page, whichever proxy is asked, no more is had than the budget.
func TestABulkExportInSmallStepsIsStoppedByTheTotalOverTwoProxies(t *testing.T) {
	p := &purse{limit: 100, given: map[string]uint64{}}
	first := crm(t, p, pages(t), nil, itemsAnHour)
	second := crm(t, p, nil, first, itemsAnHour)
	had, last := 0, answer{}
	for i := range 40 {
		w := []*world{first, second}[i%2]
		got := w.stateless(ada, "/mcp/demo").call([]string{"rows", "table"}[i/2%2], `{}`)
		if strings.Contains(got.body, "Retry after") {
			last = got
			continue
		}
		if had++; !strings.Contains(got.body, "ann") && !strings.Contains(got.body, "rows") {
			t.Fatalf("got %s", got.body)
		}
	}
	if had > 10 || had < 7 {
		t.Errorf("%d pages of 10 were had of 100 items, 20 reserved for each", had)
	}
	if !strings.Contains(last.body, "Retry after 42 seconds") && !strings.Contains(last.body, "Retry after 41 seconds") || !strings.Contains(last.body, `"isError":true`) {
		t.Errorf("who is refused is told %s", last.body)
	}
	first.plane.WaitAudit(t, func(all []*auditv1.AuditRecord) bool {
		for _, r := range all {
			if r.GetDecision().GetReason() == auditv1.Reason_REASON_BUDGET_SPENT {
				return r.GetPhase() == auditv1.Phase_PHASE_REFUSED && r.GetDecision().GetBudget() == "crm"
			}
		}
		return false
	})
	if p.asked > 80 {
		t.Errorf("the control plane was asked %d times", p.asked)
	}
}

func TestOneResultThatIsTooLargeIsWithheldAndCostsNoItems(t *testing.T) {
	p := &purse{limit: 100, given: map[string]uint64{}}
	w := crm(t, p, pages(t), nil, itemsAnHour)
	for range 6 { // 20 are reserved each time, and given back
		got := w.stateless(ada, "/mcp/demo").call("huge", `{}`)
		if !strings.Contains(got.body, "it has 501 items, and one answer may have 20") {
			t.Fatalf("got %s", got.body)
		}
		if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_WITHHELD {
			t.Errorf("recorded %v", r)
		}
	}
	if got := w.stateless(ada, "/mcp/demo").call("rows", `{}`); !strings.Contains(got.body, "rows") {
		t.Errorf("got %s", got.body)
	}
}

func TestWithoutTheControlPlaneOnlyWhatWasLeasedIsHad(t *testing.T) {
	p := &purse{limit: 400, given: map[string]uint64{}}
	w := crm(t, p, pages(t), nil, &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Items: 400, ResultItems: 20})
	call := func() string { return w.stateless(ada, "/mcp/demo").call("rows", `{}`).body }
	if got := call(); !strings.Contains(got, "rows") {
		t.Fatal(got)
	}
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	had := 0
	for range 10 {
		if strings.Contains(call(), "rows") {
			had++
		}
	}
	// 40 were leased, 10 used, and a call reserves 20: of 30 that are left two calls fit.
	if had != 2 {
		t.Errorf("%d calls of 10 items were made of a lease of 40", had)
	}
	if got := call(); !strings.Contains(got, "cannot be asked for at the moment") {
		t.Errorf("got %s", got)
	}
	p.mu.Lock()
	p.away = false
	p.mu.Unlock()
	if got := call(); !strings.Contains(got, "rows") {
		t.Errorf("after it came back: %s", got)
	}
}

// TestACallThatClaimsToGoOnCountsUnlessItDoes: what goes on with a parked call was counted, and any agent can say that of its call.
func TestACallThatClaimsToGoOnCountsUnlessItDoes(t *testing.T) {
	calls := &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Calls: 2}
	w := newWorld(t, &options{demo: pages(t), gateway: func(c *gateway.Config) { c.Meter = meter.New(coins(2), nil) }})
	w.set(catalogueEntry("demo", "rows"), grantEntry(1, "demo", allow("*"), limited(calls)))
	for name, a := range map[string]*agent{"stateless": w.stateless(ada, "/mcp/demo"), "session": w.opened(ada, "/mcp/demo", mcp.LatestSession)} {
		had := 0
		for range 6 {
			if got := w.request(http.MethodPost, a.path, a.header(mcp.MethodCallTool, "rows"), a.message("7", mcp.MethodCallTool, `{"name":"rows","arguments":{},"requestState":"sallyport.x"}`)); strings.Contains(got.body, "rows") {
				had++
			}
		}
		if had > 2 {
			t.Errorf("%s: %d calls were made where 2 may be", name, had)
		}
	}
}

func TestWhatIsDeniedCostsNothingAndIsSaidFirst(t *testing.T) {
	p := &purse{limit: 0, given: map[string]uint64{}}
	w := crm(t, p, pages(t), nil, itemsAnHour)
	w.set(grantEntry(1, "demo", allow("*"), deny("rows"), limited(itemsAnHour)))
	if got := w.stateless(ada, "/mcp/demo").call("rows", `{}`); !strings.Contains(got.body, "denies it") || p.asked != 0 {
		t.Errorf("got %s, asked %d", got.body, p.asked)
	}
	if got := w.stateless(bob, "/mcp/demo").call("rows", `{}`); p.asked != 0 {
		t.Errorf("got %s, asked %d", got.body, p.asked)
	}
}

func TestACallWithLimitsIsRefusedWhereNobodyKeepsThem(t *testing.T) {
	w := newWorld(t, &options{demo: pages(t)})
	w.set(catalogueEntry("demo", "rows"), grantEntry(1, "demo", allow("*"), limited(itemsAnHour)))
	if got := w.stateless(ada, "/mcp/demo").call("rows", `{}`); !strings.Contains(got.body, "cannot be asked for") {
		t.Errorf("got %s", got.body)
	}
}

// TestABulkExportThroughTasksIsStopped: a task's result counts each time that it is fetched, and no other method of tasks has it for nothing.
func TestABulkExportThroughTasksIsStopped(t *testing.T) {
	for _, c := range []struct {
		agent    mcp.Revision
		upstream bool
	}{{mcp.LatestStateless, true}, {mcp.LatestStateless, false}, {mcp.LatestSession, false}} {
		t.Run(fmt.Sprintf("agent %s, upstream stateless %v", c.agent, c.upstream), func(t *testing.T) {
			f := newFactory(t, c.upstream)
			rows := strings.Repeat(`{"id":1},`, 9) + `{"id":1}`
			f.built, f.beside = `{"content":[],"structuredContent":{"rows":[`+rows+`]},`+builtBy+`}`, `,"statusMessage":"row","rows":[`+rows+`]`
			w := worksWith(t, f, &options{gateway: func(c *gateway.Config) { c.Meter = meter.New(&purse{limit: 100, given: map[string]uint64{}}, nil) }})
			w.set(grantEntry(1, "works", allow("build"), limited(itemsAnHour)))
			a := w.stateless(ada, "/mcp/works")
			if !c.agent.Stateless() {
				a = w.opened(ada, "/mcp/works", c.agent)
			}
			id := a.begun("build")
			f.become("completed")
			fetch := "tasks/get"
			if !c.agent.Stateless() {
				fetch = "tasks/result"
			}
			had, last := 0, answer{}
			for range 20 {
				if last = a.task(fetch, id); strings.Contains(last.body, `"rows"`) {
					had++
				}
			}
			if had > 10 || had < 7 || !strings.Contains(last.body, "Retry after") {
				t.Errorf("10 rows of 100 were had %d times, then %s", had, last.body)
			}
			if got := a.task("tasks/get", id); strings.Contains(got.body, `row`) {
				t.Errorf("asking how it stands gave %s", got.body)
			}
			if got := a.task("tasks/cancel", id); strings.Contains(got.body, `row`) || strings.Contains(got.body, "error") || got.field("result") == nil {
				t.Errorf("cancelling gave %s", got.body)
			}
		})
	}
}

func TestCompletionsCountByTheirValues(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		limit := &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Items: 100, ResultItems: 20}
		w := archiveWorld(t, stateless, limited(limit), &options{gateway: func(c *gateway.Config) { c.Meter = meter.New(&purse{limit: 100, given: map[string]uint64{}}, nil) }})
		had, last := 0, answer{}
		a := w.stateless(ada, "/mcp/demo")
		for i := range 120 {
			ask := archived[2+i%2]
			if last = a.about(ask.method, ask.name, ask.params); strings.Contains(last.body, secretNumber) {
				had++
			}
		}
		if had > 100 || had < 80 || !strings.Contains(last.body, "Retry after") {
			t.Errorf("upstream stateless %v: of 100 values %d were had, then %s", stateless, had, last.body)
		}
	}
}

// TestWhatIsSaidBeforeTheAnswerCounts: rows do not come for nothing where a server says them as progress, nor larger ones than an answer may have.
func TestWhatIsSaidBeforeTheAnswerCounts(t *testing.T) {
	m := sdk.NewServer(&sdk.Implementation{Name: "crm", Version: "1"}, nil)
	sdk.AddTool(m, &sdk.Tool{Name: "rows"}, func(ctx context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
		for i := range 10 {
			if err := r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i), Message: strings.Repeat("r", 2048)}); err != nil {
				return nil, nil, err
			}
		}
		return text("done"), nil, nil
	})
	p := &purse{limit: 100, given: map[string]uint64{}}
	w := crm(t, p, serverOf(t, m, true), nil, &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Items: 100})
	had := 0
	for range 20 {
		if got := w.stateless(ada, "/mcp/demo").call("rows", `{}`); strings.Contains(got.body, "done") {
			had++
		}
	}
	if had < 3 || had > 6 {
		t.Errorf("20 KiB of progress were had %d times of 100 items", had)
	}
	w.set(grantEntry(1, "demo", allow("*"), limited(&policyv1.Limit{ResultBytes: 9000})))
	if got := w.request(http.MethodPost, "/mcp/demo", w.stateless(ada, "/mcp/demo").header("tools/call", "rows"), w.stateless(ada, "/mcp/demo").message("7", "tools/call", `{"name":"rows","arguments":{}}`)); len(got.body) > 12000 || !strings.Contains(got.body, "one answer may have 9000") {
		t.Errorf("%d bytes came: %s", len(got.body), got.body[max(0, len(got.body)-300):])
	}
}
