package policy

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// world is a random policy, kept as plainly as can be.
type world struct {
	direct  []uint32
	parents map[uint32][]uint32
	rules   map[uint32][]*policyv1.Rule
	blocks  []*policyv1.Block
}

var (
	someTools      = []string{"delete_branch", "push_files", "read_file"}
	someGlobs      = []string{"*", "read_*", "push_files", "*_branch", "????_file", "nothing"}
	someConditions = []string{"", `has(args.branch) && args.branch == "x"`, `args.branch == "x"`, `true`, `false`}
	someArguments  = map[string][]string{
		"delete_branch": {`{"branch":"x"}`, `{"branch":"y"}`}, "push_files": {`{}`, `{"branch":"x"}`, `{"branch":"y"}`}, "read_file": {`{"path":"p"}`},
	}
)

func randomWorld(t *rapid.T) *world {
	w := &world{parents: map[uint32][]uint32{}, rules: map[uint32][]*policyv1.Rule{}}
	number := rapid.Uint32Range(1, 5)
	w.direct = rapid.SliceOfNDistinct(number, 0, 3, rapid.ID[uint32]).Draw(t, "direct")
	slices.Sort(w.direct)
	for no := uint32(1); no <= 5; no++ {
		w.parents[no] = rapid.SliceOfNDistinct(number, 0, 2, rapid.ID[uint32]).Draw(t, "parents")
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			globs := rapid.SliceOfN(rapid.SampledFrom(someGlobs), 1, 2).Draw(t, "globs")
			r := &policyv1.Rule{When: rapid.SampledFrom(someConditions).Draw(t, "when")}
			if rapid.Bool().Draw(t, "deny") {
				r.Deny = globs
			} else {
				r.Allow = globs
			}
			w.rules[no] = append(w.rules[no], r)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "block") == 0 {
		w.blocks = append(w.blocks, &policyv1.Block{Id: "b", Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "github", Tool: "read_file"}}})
	}
	return w
}

func (w *world) entries() []*fleetv1.Entry {
	entries := slices.Concat(github(), []*fleetv1.Entry{user(ann, w.direct...)})
	for no := uint32(1); no <= 5; no++ {
		entries = append(entries, groupEntry(no, "g", w.parents[no]...))
		if len(w.rules[no]) > 0 {
			entries = append(entries, grantOf(no, w.rules[no]...))
		}
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

// reference is the verdict as DESIGN states it, made slowly and from nothing: every rule of every group that
// can be reached, each condition evaluated.
func (w *world) reference(t *rapid.T, tool string, a Arguments) bool {
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
	if len(w.blocks) > 0 && tool == "read_file" {
		return false
	}
	allowed := false
	for no := range reached {
		for _, r := range w.rules[no] {
			if !slices.ContainsFunc(slices.Concat(r.GetAllow(), r.GetDeny()), func(g string) bool { return slowGlob(g, tool) }) {
				continue
			}
			holds, failed := true, false
			if r.GetWhen() != "" {
				var err error
				if holds, err = newCondition(r.GetWhen()).holds(a.values); err != nil {
					holds, failed = false, true
				}
			}
			if len(r.GetDeny()) > 0 && (holds || failed) {
				return false
			}
			allowed = allowed || len(r.GetAllow()) > 0 && holds
		}
	}
	return allowed
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

func decided(t *rapid.T, table *Table, tool string, raw string) (bool, Arguments) {
	a, err := table.Arguments("github", tool, []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return table.Decide(Request{Person: ann, Connector: "github", Tool: tool, Arguments: a, Now: now}).Allowed, a
}

// explained is what the traces of an explanation come to.
func explained(table *Table, tool string, a Arguments) bool {
	e := table.Explain(Request{Person: ann, Connector: "github", Tool: tool, Arguments: a, Now: now})
	allowed, denied := false, e.Reason == auditv1.Reason_REASON_BLOCKED
	for _, r := range e.Rules {
		if len(r.Rule.GetDeny()) > 0 {
			denied = denied || r.Matched || r.Err != nil
		} else {
			allowed = allowed || r.Matched && r.Err == nil
		}
	}
	return allowed && !denied
}

// TestTableDecidesAsTheReferenceDoes also guards that a list holds whatever some arguments allow.
func TestTableDecidesAsTheReferenceDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		table := w.table(t)
		listed := map[string]bool{}
		for _, tool := range table.List(ann, "", "github", "", now) {
			listed[tool.Name] = true
		}
		for _, tool := range someTools {
			for _, raw := range someArguments[tool] {
				got, a := decided(t, table, tool, raw)
				if want := w.reference(t, tool, a); got != want {
					t.Fatalf("%s %s: got %v, the reference says %v", tool, raw, got, want)
				}
				if explained(table, tool, a) != got {
					t.Fatalf("%s %s: decided %v, and the explanation's rules come to the contrary", tool, raw, got)
				}
				if got && !listed[tool] {
					t.Fatalf("%s %s is allowed, and the tool is not listed", tool, raw)
				}
			}
		}
	})
}

// TestVerdictsAreMonotonous: to remove an allow never widens access, to remove a deny never narrows it.
func TestVerdictsAreMonotonous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		no := rapid.Uint32Range(1, 5).Draw(t, "group")
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
				was, _ := decided(t, before, tool, raw)
				is, _ := decided(t, after, tool, raw)
				if len(removed.GetAllow()) > 0 && is && !was || len(removed.GetDeny()) > 0 && was && !is {
					t.Fatalf("without %v the verdict on %s %s went from %v to %v", removed, tool, raw, was, is)
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
					got, _ := decided(t, table, tool, raw)
					if is, _ := decided(t, want, tool, raw); got != is {
						t.Fatalf("%s %s: %v after the delta, %v after the snapshot", tool, raw, got, is)
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
			_, _ = newCondition(text).holds(values)
		}
	})
}
