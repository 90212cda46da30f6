package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
)

// effectOf says how access changes.
func effectOf(m access.Move) adminv1.Effect {
	switch m {
	case access.Comes:
		return adminv1.Effect_EFFECT_GAINS
	case access.Goes:
		return adminv1.Effect_EFFECT_LOSES
	case access.Widens:
		return adminv1.Effect_EFFECT_WIDENS
	case access.Narrows:
		return adminv1.Effect_EFFECT_NARROWS
	case access.Changes:
		return adminv1.Effect_EFFECT_CHANGES
	case access.Stays:
	}
	return adminv1.Effect_EFFECT_UNSPECIFIED
}

// asked says what is asked for before a call, in words.
func asked(s *core.State, t policy.Terms) string {
	var parts []string
	switch t.Confirm {
	case policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT:
		parts = append(parts, "confirm in the client")
	case policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER:
		parts = append(parts, "confirm in the browser")
	case policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_UNSPECIFIED:
	}
	for _, step := range t.Steps {
		alternatives := make([]string, len(step))
		for i := range step {
			alternatives[i] = approval(s, &step[i])
		}
		parts = append(parts, "review by "+strings.Join(alternatives, " or by "))
	}
	return strings.Join(parts, " and ")
}

// approval says who must approve, and for how long that is good where a rule says so.
func approval(s *core.State, a *policy.Approval) string {
	names := make([]string, len(a.Approvers))
	for i, id := range a.Approvers {
		names[i] = id
		if parsed, err := uuid.Parse(id); err == nil && s.Group(parsed) != nil {
			names[i] = groupRef(s.Group(parsed)).GetName()
		}
	}
	slices.Sort(names)
	text := strings.Join(names, ", ")
	if a.Approvals > 1 {
		text = fmt.Sprintf("%d of %s", a.Approvals, text)
	}
	if a.Self {
		text += ", oneself too"
	}
	if a.Wait > 0 {
		text += ", waiting " + a.Wait.String()
	}
	if a.ValidFor != time.Hour {
		text += ", good for " + a.ValidFor.String()
	}
	return text
}

// termEffects says what becomes of limits and redactions.
func termEffects(all []access.TermChange) []*adminv1.TermEffect {
	var out []*adminv1.TermEffect
	for _, c := range all {
		e := &adminv1.TermEffect{Term: adminv1.Term_TERM_LIMIT, Before: c.Before, After: c.After, By: c.By}
		if c.Redaction {
			e.Term = adminv1.Term_TERM_REDACTION
		}
		e.Change = termChange(c.Move)
		out = append(out, e)
	}
	return out
}

func termChange(m access.Move) adminv1.TermChange {
	switch m {
	case access.Comes:
		return adminv1.TermChange_TERM_CHANGE_COMES
	case access.Goes:
		return adminv1.TermChange_TERM_CHANGE_GOES
	case access.Widens:
		return adminv1.TermChange_TERM_CHANGE_WIDENS
	case access.Narrows:
		return adminv1.TermChange_TERM_CHANGE_NARROWS
	case access.Changes:
		return adminv1.TermChange_TERM_CHANGE_CHANGES
	case access.Stays:
	}
	return adminv1.TermChange_TERM_CHANGE_UNSPECIFIED
}
