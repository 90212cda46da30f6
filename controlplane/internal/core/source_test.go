package core

import (
	"errors"
	"strings"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func TestWhatWasChangedSinceFilesWereAppliedIsNotOverwrittenUnasked(t *testing.T) {
	allow := func(globs ...string) []*policyv1.Rule { return []*policyv1.Rule{{Allow: globs}} }
	type site struct {
		*world
		leads Grantee
	}
	files := func(s site, url string, globs ...string) ApplyPolicy {
		c := NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: url}}, []GrantSpec{NewGrantTo(s.leads, "github", allow(globs...))}).WithRuleSets([]*policyv1.RuleSet{{Name: "reads", Rules: allow("read")}})
		c.Source = "files"
		return c
	}
	same := func(s site) ApplyPolicy { return files(s, "https://a.example", "read") }
	for name, c := range map[string]struct {
		since func(s site)
		next  func(s site) ApplyPolicy
		drift string // a part of the refusal; empty: there is none
	}{
		"nothing was changed": {func(site) {}, func(s site) ApplyPolicy { return files(s, "https://b.example", "read", "push") }, ""},
		"a grant was removed": {func(s site) { s.must(RemoveGrant{To: s.leads, Connector: "github"}) }, same, "the grant of okta/Leads on github was removed"},
		"a grant was changed": {func(s site) { s.must(NewApplyPolicy(nil, []GrantSpec{NewGrantTo(s.leads, "github", allow("list"))})) }, same, "the grant of okta/Leads on github was changed"},
		"by other files": {func(s site) {
			c := files(s, "https://b.example", "list")
			c.Source = "others"
			s.must(c)
		}, same, "connector github was changed, the grant of okta/Leads on github was changed"},
		"a connector was retired": {func(s site) { s.must(RetireConnector{ID: "github"}) }, same, "connector github was removed, the grant"},
		"a rule set was removed":  {func(s site) { s.must(RemoveRuleSet{Name: "reads"}) }, same, "rule set reads was removed"},
		"policy was rolled back":  {func(s site) { s.must(NewRollbackPolicy(s.past[0])) }, same, "the grant of okta/Leads on github was removed"},
		"the files followed": {func(s site) { s.must(NewApplyPolicy(nil, []GrantSpec{NewGrantTo(s.leads, "github", allow("list"))})) },
			func(s site) ApplyPolicy { return files(s, "https://b.example", "list") }, ""},
		"what they no longer say was changed": {func(s site) { s.must(RemoveGrant{To: s.leads, Connector: "github"}) },
			func(s site) ApplyPolicy { c := same(s); c.Grants = nil; return c }, ""},
		"it comes from no files": {func(s site) { s.must(RemoveGrant{To: s.leads, Connector: "github"}) },
			func(s site) ApplyPolicy { c := same(s); c.Source = ""; return c }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := site{w, Grantee{Group: w.group("Leads").ID}}
			w.past = append(w.past, w.state)
			w.must(same(s))
			if events := w.must(same(s)); len(events) != 0 {
				t.Fatalf("applied again it becomes %v", kinds(events))
			}
			c.since(s)
			before := w.state
			_, err := w.do(c.next(s))
			var refused *Error
			if c.drift == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.As(err, &refused) || refused.Code != FailedPrecondition || !strings.Contains(refused.Message, c.drift) || w.state != before {
				t.Fatalf("%v, want a refusal that says %q", err, c.drift)
			}
			forced := c.next(s)
			forced.ForceDrift = true
			w.must(forced)
			if events := w.must(c.next(s)); len(events) != 0 {
				t.Errorf("after it was forced it still becomes %v", kinds(events))
			}
		})
	}
}
