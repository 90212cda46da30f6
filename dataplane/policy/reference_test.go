package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// world is a random policy, kept as plainly as can be.
type world struct {
	direct     []uint32
	parents    map[uint32][]uint32
	rules      map[uint32][]*policyv1.Rule // of groups; 6: everyone's, 7: ann's own
	blocks     []*policyv1.Block
	department string
}

const (
	ofEveryone = 6
	ofAnn      = 7
)

var (
	someTools      = []string{"delete_branch", "push_files", "read_file"}
	someGlobs      = []string{"*", "read_*", "push_files", "*_branch", "????_file", "nothing"}
	someConditions = []string{
		"", `has(args.branch) && args.branch == "x"`, `args.branch == "x"`, `true`, `false`, `has(user.department) && user.department == "Sales"`,
		`user.department == "Sales"`, `request.region == "us" && has(args.branch)`, `tool.readOnly`, `request.time.getHours() < 9`, `"g3" in user.groups || args.branch == "x"`,
	}
	someArguments = map[string][]string{
		"delete_branch": {`{"branch":"x"}`, `{"branch":"y"}`}, "push_files": {`{}`, `{"branch":"x"}`, `{"branch":"y"}`}, "read_file": {`{"path":"p"}`},
	}
	someRegions = []string{"us", "eu"}
	someNames   = []string{"branch", "path", "note"}
)

func randomWorld(t *rapid.T) *world {
	w := &world{parents: map[uint32][]uint32{}, rules: map[uint32][]*policyv1.Rule{}}
	number := rapid.Uint32Range(1, 5)
	w.direct = rapid.SliceOfNDistinct(number, 0, 3, rapid.ID[uint32]).Draw(t, "direct")
	slices.Sort(w.direct)
	for no := uint32(1); no <= ofAnn; no++ {
		if no <= 5 {
			w.parents[no] = rapid.SliceOfNDistinct(number, 0, 2, rapid.ID[uint32]).Draw(t, "parents")
		}
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			w.rules[no] = append(w.rules[no], randomRule(t))
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "block") == 0 {
		w.blocks = append(w.blocks, &policyv1.Block{Id: "b", Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "github", Tool: "read_file"}}})
	}
	w.department = rapid.SampledFrom([]string{"", "Sales", "Legal"}).Draw(t, "department")
	return w
}

func randomRule(t *rapid.T) *policyv1.Rule {
	globs := rapid.SliceOfN(rapid.SampledFrom(someGlobs), 1, 2).Draw(t, "globs")
	duty := rapid.SampledFrom([]policyv1.Duty{0, 0, confirm, review, policyv1.Duty_DUTY_SIGN_IN, policyv1.Duty_DUTY_REDACT, policyv1.Duty_DUTY_LIMIT}).Draw(t, "duty")
	r := &policyv1.Rule{When: rapid.SampledFrom(someConditions).Draw(t, "when")}
	switch effect := rapid.IntRange(0, 3).Draw(t, "effect"); {
	case effect == 0:
		r.Deny = globs
	case duty == policyv1.Duty_DUTY_REDACT:
		r.Require, r.Tools, r.Redact = duty, globs, &policyv1.Redaction{Arguments: []string{rapid.SampledFrom(someNames).Draw(t, "redact")}}
	case duty == policyv1.Duty_DUTY_LIMIT:
		r.Require, r.Tools, r.Limit = duty, globs, &policyv1.Limit{Budget: rapid.SampledFrom(someNames).Draw(t, "budget"), Window: durationpb.New(time.Hour), Calls: 1}
	case effect == 1 && duty != 0:
		r.Require, r.Tools = duty, globs
	case duty == policyv1.Duty_DUTY_SIGN_IN:
		r.Allow, r.SignIn = globs, strongly()
	default:
		r.Allow, r.After = globs, duty
		if rapid.IntRange(0, 5).Draw(t, "signIn") == 0 {
			r.SignIn = strongly()
		}
	}
	if r.Require == policyv1.Duty_DUTY_SIGN_IN {
		r.SignIn = strongly()
	}
	switch dutyOf(r) {
	case confirm:
		r.Assurance = rapid.SampledFrom([]policyv1.ConfirmationAssurance{0, client, browser}).Draw(t, "assurance")
	case review:
		r.Review = &policyv1.Review{Approvers: []string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "approvers")}}
	}
	if rapid.IntRange(0, 3).Draw(t, "hinted") == 0 {
		r.Hints = &policyv1.Hints{ReadOnly: new(rapid.Bool().Draw(t, "readOnly"))}
	}
	switch rapid.IntRange(0, 5).Draw(t, "until") {
	case 0:
		r.Until = timestamppb.New(now)
	case 1:
		r.Until = timestamppb.New(now.Add(time.Second))
	}
	return r
}

// strongly asks for a sign-in with the context that only some of the requests below have.
func strongly() *policyv1.Assurance { return &policyv1.Assurance{Acr: []string{"strong"}} }

// referenceTools are those of github, of which one says that it only reads.
func referenceTools() []*policyv1.Tool {
	return []*policyv1.Tool{
		tool("delete_branch", `"branch":{"type":"string"}`, `"branch"`), tool("push_files", `"branch":{"type":"string"}`, ``),
		{Name: "read_file", Definition: []byte(`{"name":"read_file","inputSchema":{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]},"annotations":{"readOnlyHint":true}}`)},
	}
}

func (w *world) entries() []*fleetv1.Entry {
	u := user(ann, w.direct...)
	if w.department != "" {
		u.GetUser().Attributes = []byte(`{"department":"` + w.department + `"}`)
	}
	entries := []*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: referenceTools()}}}, u,
	}
	for no := uint32(1); no <= 5; no++ {
		entries = append(entries, groupEntry(no, fmt.Sprintf("g%d", no), w.parents[no]...))
		if len(w.rules[no]) > 0 {
			entries = append(entries, grantOf(no, w.rules[no]...))
		}
	}
	if len(w.rules[ofEveryone]) > 0 {
		entries = append(entries, principalGrant(uuid.Nil, "*", w.rules[ofEveryone]...))
	}
	if len(w.rules[ofAnn]) > 0 {
		entries = append(entries, principalGrant(ann, "", w.rules[ofAnn]...))
	}
	for _, b := range w.blocks {
		entries = append(entries, blockEntry(b))
	}
	return entries
}

func (w *world) table(t *rapid.T) *Table {
	table, err := Compile(1, slices.Values(w.entries()))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// judgement is a verdict: whether it is allowed, and what must be done before.
type judgement struct {
	allowed bool
	confirm policyv1.ConfirmationAssurance
	steps   string
	signIn  bool // it is denied for want of a sign-in
	// redacted are names that are taken out, whatever the verdict.
	redacted string
	// limited are budgets against which it counts, where it is allowed.
	limited string
}

// reference is the verdict as DESIGN states it, made slowly and from nothing: every rule of every group that
// can be reached, each condition evaluated.
func (w *world) reference(tool, region, acr string, a Arguments) judgement {
	reached := map[uint32]bool{}
	for changed := true; changed; {
		changed = false
		for no := uint32(1); no <= 5; no++ {
			is := slices.Contains(w.direct, no)
			for child := range reached {
				is = is || slices.Contains(w.parents[child], no)
			}
			if is && !reached[no] {
				reached[no], changed = true, true
			}
		}
	}
	var names []string
	for no := range reached {
		names = append(names, fmt.Sprintf("g%d", no))
	}
	reached[ofEveryone], reached[ofAnn] = true, true
	readOnly := tool == "read_file"
	p := &person{id: ann, directory: "okta", attributes: noAttributes}
	if w.department != "" {
		p.attributes = &attributes{values: map[string]any{"department": w.department}}
	}
	var pinned *pinnedTool
	for _, t := range referenceTools() {
		if t.GetName() == tool {
			pinned = newTool("github", t)
		}
	}
	f := &facts{args: a.values, person: p, groups: names, tool: pinned, connector: &connector{id: "github"}}
	best, atBest, required := 4, []*policyv1.Rule{}, []*policyv1.Rule{}
	denied, taken, budgets := len(w.blocks) > 0 && tool == "read_file", map[string]bool{}, map[string]bool{}
	weakAllow, weakRequire := false, false
	for no := range reached {
		for _, r := range w.rules[no] {
			if !slices.ContainsFunc(slices.Concat(r.GetAllow(), r.GetDeny(), r.GetTools()), func(g string) bool { return slowGlob(g, tool) }) {
				continue
			}
			if r.GetHints() != nil && r.GetHints().GetReadOnly() != readOnly || r.GetUntil() != nil && !now.Before(r.GetUntil().AsTime()) {
				continue
			}
			holds, failed := true, false
			if r.GetWhen() != "" {
				var err error
				if holds, err = newCondition(r.GetWhen()).holds(f, &Request{Region: region, From: &Origin{ACR: acr}, Now: now}); err != nil {
					holds, failed = false, true
				}
			}
			permissive := 0
			switch {
			case r.GetAfter() == review:
				permissive = 3
			case r.GetAfter() == confirm:
				permissive = int(slowAssurance(r, readOnly))
			}
			switch {
			case r.GetRequire() == policyv1.Duty_DUTY_REDACT:
				if holds || failed {
					taken[r.GetRedact().GetArguments()[0]] = true
				}
			case r.GetRequire() == policyv1.Duty_DUTY_LIMIT:
				if holds || failed {
					budgets[r.GetLimit().GetBudget()] = true
				}
			case len(r.GetDeny()) > 0:
				denied = denied || holds || failed
			case r.GetRequire() == policyv1.Duty_DUTY_SIGN_IN:
				weakRequire = weakRequire || (holds || failed) && acr != "strong"
			case len(r.GetAllow()) > 0 && r.SignIn != nil && acr != "strong":
				weakAllow = weakAllow || holds
			case len(r.GetTools()) > 0 && (holds || failed):
				required = append(required, r)
			case len(r.GetAllow()) > 0 && holds && permissive < best:
				best, atBest = permissive, []*policyv1.Rule{r}
			case len(r.GetAllow()) > 0 && holds && permissive == best:
				atBest = append(atBest, r)
			}
		}
	}
	out, steps := judgement{redacted: strings.Join(slices.Sorted(maps.Keys(taken)), " ")}, map[string]bool{}
	switch {
	case denied:
		return out
	case best == 4 || weakRequire:
		out.signIn = weakAllow || weakRequire && best < 4
		return out
	}
	out.allowed, out.limited = true, strings.Join(slices.Sorted(maps.Keys(budgets)), " ")
	var alternatives []string
	for _, r := range atBest {
		switch r.GetAfter() {
		case confirm:
			out.confirm = slowAssurance(r, readOnly)
		case review:
			alternatives = append(alternatives, r.GetReview().GetApprovers()[0])
		}
	}
	if alternatives != nil {
		slices.Sort(alternatives)
		steps[strings.Join(slices.Compact(alternatives), "|")] = true
	}
	for _, r := range required {
		if r.GetRequire() == confirm {
			out.confirm = max(out.confirm, slowAssurance(r, readOnly))
		} else {
			steps[r.GetReview().GetApprovers()[0]] = true
		}
	}
	out.steps = strings.Join(slices.Sorted(maps.Keys(steps)), " & ")
	return out
}

func slowAssurance(r *policyv1.Rule, readOnly bool) policyv1.ConfirmationAssurance {
	if r.GetAssurance() == 0 && readOnly {
		return client
	}
	return cmp.Or(r.GetAssurance(), browser)
}

// slowGlob tries every way in which a star can match.
func slowGlob(glob, name string) bool {
	switch {
	case glob == "":
		return name == ""
	case glob[0] == '*':
		return slowGlob(glob[1:], name) || name != "" && slowGlob(glob, name[1:])
	}
	return name != "" && (glob[0] == '?' || glob[0] == name[0]) && slowGlob(glob[1:], name[1:])
}

// decided is the verdict of a table, as if nothing had been done that it asks for.
func decided(t *rapid.T, table *Table, tool, region, acr, raw string) (judgement, Request) {
	a, err := table.Arguments("github", tool, []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Person: ann, Connector: "github", Tool: tool, Region: region, From: &Origin{ACR: acr}, Arguments: a, Now: now}
	d := table.Decide(r)
	j := judgement{allowed: d.Allowed, signIn: d.Reason == auditv1.Reason_REASON_SIGN_IN_REQUIRED, redacted: namesIn(t, d.Redaction)}
	if d.Allowed {
		j.limited = budgetsOf(d)
	}
	if again := namesIn(t, table.Redaction(r)); again != j.redacted {
		t.Fatalf("taken out are %q by the verdict, and %q made from nothing", j.redacted, again)
	}
	if d.Duties == nil || d.Reason == auditv1.Reason_REASON_RULE_DENIED || d.Reason == auditv1.Reason_REASON_NOTHING_ALLOWS {
		return j, r
	}
	j.allowed, j.confirm, j.limited = true, d.Duties.Confirm, budgetsOf(d)
	var steps []string
	for _, step := range d.Duties.Steps {
		var alternatives []string
		for _, a := range step {
			alternatives = append(alternatives, a.Approvers...)
		}
		steps = append(steps, strings.Join(alternatives, "|"))
	}
	slices.Sort(steps)
	j.steps = strings.Join(steps, " & ")
	if d.Allowed {
		t.Fatalf("what is asked for (%+v) was not done, and it is allowed", j)
	}
	r.Confirmed, r.Reviewed = d.Duties.Confirm, d.Duties.Review()
	if done := table.Decide(r); !done.Allowed {
		t.Fatalf("what is asked for (%+v) was done, and still %s", j, done.Text())
	}
	return j, r
}

// budgetsOf are those against which a call counts.
func budgetsOf(d Decision) string {
	var names []string
	for _, l := range d.Limits {
		names = append(names, l.Budget)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

// namesIn are those of someNames that a redaction takes out.
func namesIn(t *rapid.T, r *Redaction) string {
	var names []string
	for _, name := range slices.Sorted(slices.Values(someNames)) {
		if r == nil {
			continue
		}
		_, found, err := r.Arguments.Redact([]byte(`{"` + name + `":1}`))
		if err != nil {
			t.Fatal(err)
		}
		if found {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// explained is what the traces of an explanation come to: whether it may be allowed at all.
func explained(table *Table, request Request) bool {
	e := table.Explain(request)
	allowed, denied := false, e.Reason == auditv1.Reason_REASON_BLOCKED
	for _, r := range e.Rules {
		switch {
		case len(r.Rule.GetDeny()) > 0:
			denied = denied || r.Matched || r.Err != nil
		case r.Rule.GetRequire() == policyv1.Duty_DUTY_SIGN_IN:
			denied = denied || r.TooWeak || r.Err != nil && request.From.ACR != "strong"
		case len(r.Rule.GetAllow()) > 0:
			allowed = allowed || r.Matched && r.Err == nil && !r.TooWeak
		}
	}
	return allowed && !denied
}

// TestTableDecidesAsTheReferenceDoes also guards that a list holds whatever some arguments allow.
func TestTableDecidesAsTheReferenceDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		table := w.table(t)
		region := rapid.SampledFrom(someRegions).Draw(t, "region")
		listed, early := map[string]bool{}, map[string]bool{}
		for _, tool := range table.List(Request{Person: ann, Connector: "github", Region: region, From: &Origin{}, Now: now}) {
			listed[tool.Name] = true
		}
		for _, tool := range table.List(Request{Person: ann, Connector: "github", Now: now}) {
			early[tool.Name] = true
		}
		for _, tool := range someTools {
			for _, raw := range someArguments[tool] {
				acr := rapid.SampledFrom([]string{"", "strong"}).Draw(t, "acr")
				got, r := decided(t, table, tool, region, acr, raw)
				if want := w.reference(tool, region, acr, r.Arguments); got != want {
					t.Fatalf("%s %s: got %+v, the reference says %+v", tool, raw, got, want)
				}
				if explained(table, r) != got.allowed {
					t.Fatalf("%s %s: decided %+v, and the explanation's rules come to the contrary", tool, raw, got)
				}
				if (got.allowed || got.signIn) && (!listed[tool] || !early[tool]) {
					t.Fatalf("%s %s is allowed, and the tool is not listed", tool, raw)
				}
			}
		}
	})
}

// TestVerdictsAreMonotonous: to remove an allow never widens access, to remove a deny or what is required never narrows it. Access
// is as narrow as the most that is asked for: nothing, a confirmation in the client, one in the browser, a review, never.
func TestVerdictsAreMonotonous(t *testing.T) {
	narrow := func(j judgement) int {
		switch {
		case !j.allowed:
			return 4
		case j.steps != "":
			return 3
		}
		return int(j.confirm)
	}
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		no := rapid.Uint32Range(1, ofAnn).Draw(t, "group")
		if len(w.rules[no]) == 0 {
			return
		}
		i := rapid.IntRange(0, len(w.rules[no])-1).Draw(t, "rule")
		removed := w.rules[no][i]
		before := w.table(t)
		w.rules[no] = slices.Delete(slices.Clone(w.rules[no]), i, i+1)
		after := w.table(t)
		for _, tool := range someTools {
			for _, raw := range someArguments[tool] {
				acr := rapid.SampledFrom([]string{"", "strong"}).Draw(t, "acr")
				was, _ := decided(t, before, tool, "us", acr, raw)
				is, _ := decided(t, after, tool, "us", acr, raw)
				if removed.GetRequire() == policyv1.Duty_DUTY_LIMIT && (narrow(is) != narrow(was) || len(is.limited) > len(was.limited)) {
					t.Fatalf("without %v the verdict on %s %s went from %+v to %+v", removed, tool, raw, was, is)
				}
				if removed.GetRequire() == policyv1.Duty_DUTY_REDACT && (narrow(is) != narrow(was) || len(is.redacted) > len(was.redacted)) {
					t.Fatalf("without %v the verdict on %s %s went from %+v to %+v", removed, tool, raw, was, is)
				}
				if len(removed.GetAllow()) > 0 && narrow(is) < narrow(was) || len(removed.GetAllow()) == 0 && narrow(is) > narrow(was) {
					t.Fatalf("without %v the verdict on %s %s went from %+v to %+v", removed, tool, raw, was, is)
				}
			}
		}
	})
}

// TestDeltasLeadToTheTableThatASnapshotMakes: Apply(Diff(a, b)) on a equals b, the digest included, and so on
// from there, while verdicts of each version are remembered.
func TestDeltasLeadToTheTableThatASnapshotMakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := randomWorld(t)
		table := last.table(t)
		for version := uint64(2); version < 5; version++ {
			next := randomWorld(t)
			want := next.table(t)
			if _, err := table.Apply(delta(last.entries(), next.entries(), version)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(table.Digest(), want.Digest()) {
				t.Fatalf("the digests differ at version %d", version)
			}
			for _, tool := range someTools {
				for _, raw := range someArguments[tool] {
					got, _ := decided(t, table, tool, "us", "", raw)
					if is, _ := decided(t, want, tool, "us", "", raw); got != is {
						t.Fatalf("%s %s: %+v after the delta, %+v after the snapshot", tool, raw, got, is)
					}
				}
			}
			last = next
		}
	})
}

func TestGlobMatchesAsTheSlowOneDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`[ab*?]{0,8}`).Draw(t, "glob")
		name := rapid.StringMatching(`[ab]{0,8}`).Draw(t, "name")
		if got, want := matchGlob(glob, name), slowGlob(glob, name); got != want {
			t.Fatalf("%q on %q: got %v, want %v", glob, name, got, want)
		}
	})
}

func FuzzCondition(f *testing.F) {
	for _, c := range someConditions {
		f.Add(c, `{"branch":"x"}`)
	}
	f.Fuzz(func(_ *testing.T, text, raw string) {
		// Whatever is written is refused or evaluated; nothing panics and nothing runs for ever.
		if len(text) > 4096 || Check(&policyv1.Rule{Allow: []string{"*"}, When: text}, []*policyv1.Tool{tool("push_files", `"branch":{"type":"string"}`, ``)}) != nil {
			return
		}
		if values, err := decodeObject([]byte(raw)); err == nil {
			_, _ = newCondition(text).holds(&facts{args: values}, &Request{})
		}
	})
}
