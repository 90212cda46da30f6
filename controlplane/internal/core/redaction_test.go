package core

import (
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// TestARedactionMustFitTheToolsThatItIsAbout: what is misspelt would be believed to be taken out.
func TestARedactionMustFitTheToolsThatItIsAbout(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	redacting := func(name string) *policyv1.Connector {
		c := github()
		c.Redactions = []*policyv1.Redaction{{Arguments: []string{name}}}
		return c
	}
	by := func(name string) ApplyPolicy {
		rule := &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"push"}, Redact: &policyv1.Redaction{Arguments: []string{name}}}
		return NewApplyPolicy(nil, []GrantSpec{NewGrantSpec(g.ID, "github", []*policyv1.Rule{rule})})
	}
	w.must(NewApplyPolicy([]*policyv1.Connector{redacting("branch")}, nil)) // nothing is pinned yet
	w.refused(NewPinCatalogue("github", []*policyv1.Tool{tool("push", `"brnch":{"type":"string"}`)}), FailedPrecondition)
	w.must(NewPinCatalogue("github", []*policyv1.Tool{tool("push", `"branch":{"type":"string"}`)}))
	w.refused(NewApplyPolicy([]*policyv1.Connector{redacting("brnch")}, nil), InvalidArgument)
	w.refused(NewApplyPolicy([]*policyv1.Connector{redacting("$[?@.a]")}, nil), InvalidArgument)
	w.refused(by("brnch"), InvalidArgument)
	w.must(by("branch"))
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, nil))
	w.refused(NewPinCatalogue("github", []*policyv1.Tool{tool("push", `"brnch":{"type":"string"}`)}), FailedPrecondition) // the rule still says branch
}

// TestBoundsOfWhatIsKeptWholeAreRefusedWhereNothingIs: who gave days would believe that audit is kept for so long.
func TestBoundsOfWhatIsKeptWholeAreRefusedWhereNothingIs(t *testing.T) {
	w := newWorld(t)
	with := func(s *policyv1.AuditSettings) ApplyPolicy {
		c := github()
		c.Audit = s
		return NewApplyPolicy([]*policyv1.Connector{c}, nil)
	}
	w.refused(with(&policyv1.AuditSettings{Days: 3}), InvalidArgument)
	w.refused(with(&policyv1.AuditSettings{MaxBytes: 4096}), InvalidArgument)
	w.must(with(&policyv1.AuditSettings{}))
	w.must(with(&policyv1.AuditSettings{Whole: true, Days: 3, MaxBytes: 4096}))
}
