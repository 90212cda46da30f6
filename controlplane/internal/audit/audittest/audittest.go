// Package audittest holds what every store of audit must do: the same suite runs on the stream and on each index of it.
package audittest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
)

// Searcher is a store as the admin API knows it.
type Searcher interface {
	Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error)
	Count(ctx context.Context, r *adminv1.CountAuditRequest) (*adminv1.CountAuditResponse, error)
}

var (
	regions    = []string{"eu-west", "us-east", "a.b"}
	connectors = []string{"github", "jira", "", "nul\x00"}
	tools      = []string{"push_files", "search_code", ""}
	persons    = []string{uuid.NewString(), uuid.NewString(), "", "person\x00x"}
	groups     = []string{"okta/Staff", "okta/Senior Engineers", "entra/Staff"}
	arguments  = []string{
		`{"branch":"main","labels":["a","b"],"n":1}`, `{"branch":"agent/x","n":1.0,"deep":{"odd name":{"x":true}}}`, `{"n":1e0,"text":"Grüße from the quick\nbrown fox"}`,
		`{"branch":null}`, `[1,2,"three"]`, `"main"`, ``, `{"cut":"the quick brown fo`, `{"cut":{"a":"complete","b":12`, `{"e":"caf\u00e9 \ud83d\ude00","big":123456789012345678901234567890}`,
		`<script>alert(1)</script>`, `{"=cmd|' /C calc'!A0":"\u202egnp.exe"}`, `{"dup":1,"labels":[{"name":"bug"},{"name":"ui"}]}`,
	}
)

// Fill stores records of every sort by several proxies.
func Fill(t testing.TB, s *audit.Store, count int, at time.Time) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // the same records each time
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	next := map[string]uint64{}
	for stored := 0; stored < count; {
		proxy := fmt.Sprint("p", r.IntN(3))
		var batch []*auditv1.AuditRecord
		for range 1 + r.IntN(12) {
			next[proxy]++
			rec := &auditv1.AuditRecord{
				Number: next[proxy], At: timestamppb.New(at.Add(time.Duration(r.IntN(100_000)) * 77_777_777 * time.Nanosecond)), CallId: fmt.Sprint("call-", r.IntN(40)),
				Phase: auditv1.Phase(1 + r.IntN(3)), Kind: auditv1.Kind(r.IntN(6)), Method: "tools/call", PersonId: pick(persons), Connector: pick(connectors), Tool: pick(tools),
				Groups: groups[:r.IntN(4)], Client: &auditv1.Client{Id: "client-" + pick([]string{"a", "b"}), Name: "Claude Code", Address: "192.0.2.1"},
				Decision:  &auditv1.Decision{Verdict: auditv1.Verdict(r.IntN(3)), Reason: auditv1.Reason(r.IntN(4)), Group: pick(groups), Rule: uint32(r.IntN(3)), Text: "rule allows it"},
				Arguments: &auditv1.Payload{Head: []byte(pick(arguments))}, Session: pick([]string{"", "s1", "s2"}), Outcome: auditv1.Outcome(r.IntN(3)),
				Action: pick([]string{"", "grant_applied"}), Target: pick([]string{"", "connector/github"}), TraceId: pick([]string{"", strings.Repeat("ab", 16)}),
				Result: &auditv1.Payload{Head: []byte(pick(arguments))}, Error: pick([]string{"", "upstream said: no such branch"}),
				Details: []*auditv1.Detail{{Key: "why", Value: pick([]string{"", "needle in a haystack"})}},
			}
			batch = append(batch, rec)
		}
		stored += len(batch)
		if _, err := s.Append(t.Context(), proxy, pick(regions), "g", batch); err != nil {
			t.Fatal(err)
		}
	}
}

// All reads the stream to its end, oldest first.
func All(t testing.TB, s *audit.Store) []*adminv1.StoredRecord {
	t.Helper()
	last, err := s.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []*adminv1.StoredRecord
	if last == 0 {
		return nil
	}
	err = s.Read(t.Context(), 0, func(m audit.Message) error {
		r := audit.Decode(m.Data, m.Sequence)
		if err := s.Open(t.Context(), r); err != nil {
			return err
		}
		if all = append(all, r); m.Sequence >= last {
			return audit.ErrStop
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Conform compares what a store finds and counts with what a plain reading of all records finds. The records are those
// of Fill, stored from at on.
func Conform(t *testing.T, s Searcher, all []*adminv1.StoredRecord, at time.Time) {
	t.Helper()
	filters := Filters(at)
	found := 0
	for name, f := range filters {
		t.Run(name, func(t *testing.T) {
			var matching []*auditv1.AuditRecord
			var want []uint64 // newest first
			for _, r := range slices.Backward(all) {
				if plainMatch(t, f, r.GetRecord()) {
					matching, want = append(matching, r.GetRecord()), append(want, r.GetSequence())
				}
			}
			found += len(want)
			for _, limit := range []int{1000, 37} {
				if got := pages(t, s, f, limit, all); !slices.Equal(got, want) {
					t.Fatalf("in pages of %d: found %d records %v, want %d %v", limit, len(got), got, len(want), want)
				}
			}
			conformCounts(t, s, f, matching)
		})
	}
	if found == 0 {
		t.Fatal("no filter found anything")
	}
	for name, f := range map[string]*adminv1.AuditFilter{
		"a path that is none":  {Arguments: []*adminv1.ArgumentEquals{{Path: "a..b", JsonValue: "1"}}},
		"a value that is none": {Arguments: []*adminv1.ArgumentEquals{{Path: "a", JsonValue: "{}"}}},
		"no word":              {Text: "-- !"},
		"a rule of no grant":   {Rule: 1},
	} {
		if _, _, err := s.Search(t.Context(), f, 10, ""); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, _, err := s.Search(t.Context(), nil, 10, "x"); err == nil {
		t.Error("a page token that nobody gave was taken")
	}
}

// Filters are filters of every sort.
func Filters(at time.Time) map[string]*adminv1.AuditFilter {
	argument := func(path, value string) *adminv1.ArgumentEquals {
		return &adminv1.ArgumentEquals{Path: path, JsonValue: value}
	}
	arguments := func(a ...*adminv1.ArgumentEquals) *adminv1.AuditFilter { return &adminv1.AuditFilter{Arguments: a} }
	return map[string]*adminv1.AuditFilter{
		"everything": {}, "nobody": {Person: uuid.NewString()}, "person": {Person: persons[0]}, "odd person": {Person: persons[3]},
		"connector": {Connector: "github"}, "odd connector": {Connector: "nul\x00"}, "tool": {Connector: "jira", Tool: "search_code"},
		"region": {Region: "a.b"}, "proxy": {Proxy: "p1"}, "call": {CallId: "call-7"}, "denied": {Verdict: auditv1.Verdict_VERDICT_DENIED},
		"group": {Group: "okta/Senior Engineers"}, "client by id": {Client: "client-b"}, "client by name": {Client: "Claude Code"},
		"grant": {RuleGroup: "okta/Staff"}, "rule": {RuleGroup: "okta/Staff", Rule: 2}, "reason": {Reason: auditv1.Reason_REASON_RULE_DENIED},
		"kinds": {Kinds: []auditv1.Kind{auditv1.Kind_KIND_UNSPECIFIED, auditv1.Kind_KIND_CHANGE}}, "session": {Session: "s2"}, "method": {Method: "tools/call"},
		"action": {Action: "grant_applied", Target: "connector/github"}, "outcome": {Outcome: auditv1.Outcome_OUTCOME_TOOL_ERROR}, "trace": {TraceId: strings.Repeat("ab", 16)},
		"since": {Since: timestamppb.New(at.Add(time.Hour))}, "until": {Until: timestamppb.New(at.Add(20 * time.Minute))},
		"a window":    {Since: timestamppb.New(at.Add(30 * time.Minute)), Until: timestamppb.New(at.Add(31 * time.Minute))},
		"the future":  {Since: timestamppb.New(at.AddDate(1000, 0, 0))},
		"an argument": arguments(argument("branch", `"main"`)), "with a dollar": arguments(argument("$.branch", `"agent/x"`)), "null": arguments(argument("branch", "null")),
		"numbers by value": arguments(argument("n", "1.000")), "a large number": arguments(argument("big", "123456789012345678901234567890.0")), "another number": arguments(argument("n", `"1"`)),
		"in an array": arguments(argument("labels[1]", `"b"`)), "in objects in an array": arguments(argument("labels[1].name", `"ui"`)), "an odd name": arguments(argument(`deep["odd name"].x`, "true")),
		"several": arguments(argument("branch", `"main"`), argument("labels[0]", `"a"`)), "of an array": arguments(argument("[2]", `"three"`)),
		"what was cut": arguments(argument("cut.a", `"complete"`)), "a number at the cut": arguments(argument("cut.b", "12")), "escaped": arguments(argument("e", `"café 😀"`)),
		"formula": arguments(argument(`['=cmd|\' /C calc\'!A0']`, `"\u202egnp.exe"`)),
		"words":   {Text: "quick BROWN"}, "a word of another alphabet": {Text: "grüße"}, "in two texts": {Text: "needle branch"}, "a key": {Text: "labels"}, "part of a name": {Text: "push"},
		"no such words": {Text: "quick nowhere"}, "markup": {Text: "script"}, "at the cut": {Text: "fo"},
		"a mixture": {Connector: "github", Verdict: auditv1.Verdict_VERDICT_ALLOWED, Group: "okta/Staff", Text: "upstream"},
	}
}

func pages(t *testing.T, s Searcher, f *adminv1.AuditFilter, limit int, all []*adminv1.StoredRecord) (found []uint64) {
	t.Helper()
	cursor := ""
	for {
		records, next, err := s.Search(t.Context(), f, limit, cursor)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) > limit {
			t.Fatalf("a page has %d records, of at most %d", len(records), limit)
		}
		for _, r := range records {
			if want := all[r.GetSequence()-1]; !proto.Equal(r, want) {
				t.Fatalf("record %d is %v, want %v", r.GetSequence(), r, want)
			}
			found = append(found, r.GetSequence())
		}
		if next == "" {
			return found
		}
		if next == cursor {
			t.Fatalf("the cursor %s stays where it is", cursor)
		}
		cursor = next
	}
}

func conformCounts(t *testing.T, s Searcher, f *adminv1.AuditFilter, matching []*auditv1.AuditRecord) {
	t.Helper()
	for _, by := range [][]adminv1.CountBy{nil, {adminv1.CountBy_COUNT_BY_REGION, adminv1.CountBy_COUNT_BY_DECISION}, {adminv1.CountBy_COUNT_BY_KIND}, {adminv1.CountBy_COUNT_BY_REASON, adminv1.CountBy_COUNT_BY_TOOL}} {
		for _, interval := range []*durationpb.Duration{nil, durationpb.New(10 * time.Minute)} {
			got, err := s.Count(t.Context(), &adminv1.CountAuditRequest{Filter: f, By: by, Interval: interval})
			if err != nil {
				t.Fatal(err)
			}
			want, total := map[string]uint64{}, uint64(len(matching))
			for _, r := range matching {
				var keys []string
				for _, b := range by {
					keys = append(keys, audit.CountKey(b, r))
				}
				at := int64(0)
				if interval != nil {
					at = r.GetAt().AsTime().Truncate(10 * time.Minute).Unix()
				}
				want[fmt.Sprint(keys, at)]++
			}
			have := map[string]uint64{}
			for _, c := range got.GetCounts() {
				have[fmt.Sprint(c.GetKeys(), c.GetAt().GetSeconds())] = c.GetCount()
			}
			if got.GetTotal() != total || got.GetBeforeNotCounted() != 0 || fmt.Sprint(have) != fmt.Sprint(want) {
				t.Fatalf("by %v, %v: counted %d %v, want %d %v", by, interval, got.GetTotal(), have, total, want)
			}
		}
	}
}

var wordPattern = regexp.MustCompile(`[\p{L}\p{Nd}]+`)

// plainMatch reads a filter as its documentation says, and shares no code with what it judges.
func plainMatch(t *testing.T, f *adminv1.AuditFilter, r *auditv1.AuditRecord) bool {
	t.Helper()
	for _, pair := range [][2]string{
		{f.GetPerson(), r.GetPersonId()}, {f.GetConnector(), r.GetConnector()}, {f.GetTool(), r.GetTool()}, {f.GetRegion(), r.GetRegion()}, {f.GetProxy(), r.GetProxy()},
		{f.GetCallId(), r.GetCallId()}, {f.GetSession(), r.GetSession()}, {f.GetMethod(), r.GetMethod()}, {f.GetAction(), r.GetAction()}, {f.GetTarget(), r.GetTarget()},
		{f.GetTraceId(), r.GetTraceId()}, {f.GetRuleGroup(), r.GetDecision().GetGroup()},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	at := r.GetAt().AsTime()
	switch {
	case f.GetRule() != 0 && f.GetRule() != r.GetDecision().GetRule(), f.GetVerdict() != 0 && f.GetVerdict() != r.GetDecision().GetVerdict(),
		f.GetReason() != 0 && f.GetReason() != r.GetDecision().GetReason(), f.GetOutcome() != 0 && f.GetOutcome() != r.GetOutcome(),
		len(f.GetKinds()) > 0 && !slices.Contains(f.GetKinds(), r.GetKind()), f.GetGroup() != "" && !slices.Contains(r.GetGroups(), f.GetGroup()),
		f.GetClient() != "" && f.GetClient() != r.GetClient().GetId() && f.GetClient() != r.GetClient().GetName(),
		f.GetSince() != nil && at.Before(f.GetSince().AsTime()), f.GetUntil() != nil && !at.Before(f.GetUntil().AsTime()):
		return false
	}
	for _, a := range f.GetArguments() {
		if !plainArgument(string(r.GetArguments().GetHead()), a) {
			return false
		}
	}
	texts := []string{r.GetTool(), r.GetConnector(), r.GetMethod(), r.GetAction(), r.GetTarget(), r.GetError(), r.GetDecision().GetText(), r.GetClient().GetName()}
	for _, d := range r.GetDetails() {
		texts = append(texts, d.GetKey(), d.GetValue())
	}
	texts = append(texts, plainTexts(string(r.GetArguments().GetHead()))...)
	texts = append(texts, plainTexts(string(r.GetResult().GetHead()))...)
	have := wordPattern.FindAllString(strings.ToLower(strings.Join(texts, " ")), -1)
	for _, w := range wordPattern.FindAllString(strings.ToLower(f.GetText()), -1) {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// plainArgument knows by hand what the arguments of Fill hold.
func plainArgument(head string, a *adminv1.ArgumentEquals) bool {
	holds := map[string][]string{
		`branch "main"`: {arguments[0]}, `$.branch "agent/x"`: {arguments[1]}, `branch null`: {arguments[3]}, `n 1.000`: {arguments[0], arguments[1], arguments[2]},
		`big 123456789012345678901234567890.0`: {arguments[9]}, `labels[1] "b"`: {arguments[0]}, `labels[0] "a"`: {arguments[0]}, `labels[1].name "ui"`: {arguments[12]},
		`deep["odd name"].x true`: {arguments[1]}, `[2] "three"`: {arguments[4]}, `cut.a "complete"`: {arguments[8]}, `e "café 😀"`: {arguments[9]},
		`['=cmd|\' /C calc\'!A0'] "\u202egnp.exe"`: {arguments[11]},
	}
	return slices.Contains(holds[a.GetPath()+" "+a.GetJsonValue()], head)
}

// plainTexts are the texts of a JSON value; of one that was cut, and of what is none, what Fill's have by hand.
func plainTexts(head string) (texts []string) {
	switch head {
	case arguments[7]:
		return []string{"cut", "the quick brown fo"}
	case arguments[8]:
		return []string{"cut", "a", "complete", "b"}
	}
	decoder := json.NewDecoder(strings.NewReader(head))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return texts
		}
		if _, punctuation := token.(json.Delim); !punctuation {
			texts = append(texts, fmt.Sprint(token))
		}
	}
}
