package policy

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Duties are what must be done before a call is made that rules allow.
type Duties struct {
	// Confirm is how sure it must be that the person said yes. Unspecified: nobody asks for it.
	Confirm policyv1.ConfirmationAssurance
	// Steps are what must be approved: each of them, by any one of its alternatives.
	Steps []Step
	// Because names the rules that ask for it.
	Because []string

	reviewed string
}

// Step is a part of a review. Several alternatives are there where several rules allow the call, each after a review of its own.
type Step []Approval

// Approval says who must approve.
type Approval struct {
	Approvers []string // groups' ids, sorted
	// Approvals is how many different people must, at least 1.
	Approvals int
	// Self: the person whose agent asks may be one of them.
	Self           bool
	Wait, ValidFor time.Duration
}

// Review names what must be approved, the same for the same steps in whatever order rules ask for them. Empty: nothing.
func (d *Duties) Review() string {
	if d == nil {
		return ""
	}
	return d.reviewed
}

// Wait is how long an agent's call waits for approvals.
func (d *Duties) Wait() time.Duration {
	var longest time.Duration
	for _, step := range d.Steps {
		for _, a := range step {
			longest = max(longest, a.Wait)
		}
	}
	return longest
}

// ValidFor is how long a review's request is good: as long as the strictest rule says.
func (d *Duties) ValidFor() time.Duration {
	shortest := time.Duration(0)
	for _, step := range d.Steps {
		for _, a := range step {
			if shortest == 0 || a.ValidFor < shortest {
				shortest = a.ValidFor
			}
		}
	}
	return shortest
}

// defaultValidFor is how long a review's request is good where the rule does not say.
const defaultValidFor = time.Hour

func newApproval(r *policyv1.Review) *Approval {
	a := &Approval{
		Approvers: slices.Compact(slices.Sorted(slices.Values(r.GetApprovers()))), Approvals: max(1, int(r.GetApprovals())), Self: r.GetSelf(),
		Wait: r.GetWait().AsDuration(), ValidFor: r.GetValidFor().AsDuration(),
	}
	if a.ValidFor <= 0 {
		a.ValidFor = defaultValidFor
	}
	return a
}

// who must approve, whatever the times are.
func (a *Approval) who() string {
	return fmt.Sprintf("%s %d %t", strings.Join(a.Approvers, ","), a.Approvals, a.Self)
}

func (a *Approval) key() string { return fmt.Sprintf("%s %d %d", a.who(), a.Wait, a.ValidFor) }

func (s Step) key() string {
	parts := make([]string, len(s))
	for i := range s {
		parts[i] = s[i].key()
	}
	return strings.Join(parts, " or ")
}

// settle brings steps and alternatives into one order, each once, and names them.
func (d *Duties) settle() {
	for i, step := range d.Steps {
		slices.SortFunc(step, func(a, b Approval) int { return strings.Compare(a.key(), b.key()) })
		d.Steps[i] = slices.CompactFunc(step, func(a, b Approval) bool { return a.key() == b.key() })
	}
	slices.SortFunc(d.Steps, func(a, b Step) int { return strings.Compare(a.key(), b.key()) })
	d.Steps = slices.CompactFunc(d.Steps, func(a, b Step) bool { return a.key() == b.key() })
	slices.Sort(d.Because)
	if len(d.Steps) == 0 {
		return
	}
	h := sha256.New()
	for _, step := range d.Steps {
		for i := range step {
			_, _ = fmt.Fprintf(h, "%s\n", step[i].who()) // a hash does not fail
		}
		_, _ = h.Write([]byte("\n"))
	}
	d.reviewed = fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// because names the rules that ask for something.
func (d *Duties) because() string {
	if d == nil {
		return "nobody"
	}
	return strings.TrimSuffix(strings.Join(d.Because, " and "), ",")
}

// confirmed tells whether a confirmation is enough.
func (d *Duties) confirmed(by policyv1.ConfirmationAssurance) bool {
	return d == nil || by >= d.Confirm
}

// assuranceOf is how sure a confirmation of a tool must be where a rule asks for one.
func assuranceOf(said policyv1.ConfirmationAssurance, tool *pinnedTool) policyv1.ConfirmationAssurance {
	switch {
	case said == policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT || said == policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER:
		return said
	case tool.annotated().destructive:
		return policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
	}
	return policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT
}
