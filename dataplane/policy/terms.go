package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Terms are what holds of somebody's calls of one tool besides that they may be allowed.
type Terms struct {
	// Confirm and Steps are the least that a call is asked for before it is made, as in Duties.
	Confirm policyv1.ConfirmationAssurance
	Steps   []Step
	Limits  []Bound
	Taken   []Taken
}

// Bound is a limit that counts.
type Bound struct {
	Limit Limit
	// Per is what has a budget of its own.
	Per []policyv1.Per
	// Certain: of each call. Otherwise what only a call says decides, and Rule is the same for the same words of the rule.
	Certain bool
	Rule    [32]byte
}

// Taken is a path at which values are taken out of calls.
type Taken struct {
	Path string
	// Result: of results, otherwise of arguments. Agent: for the agent too, otherwise in audit alone.
	Result, Agent bool
	// Certain and Rule are as in Bound.
	Certain bool
	Rule    [32]byte
	By      string
}

// bound notes which limits count and what is taken out. Whatever a call only decides counts as uncertain.
func (v *verdict) bound(t *Terms, f *facts, q *Request) {
	if v.limited != nil {
		for _, l := range v.limited.certain {
			t.Limits = append(t.Limits, Bound{Limit: *l, Per: l.per(), Certain: true})
		}
		for i := range v.limited.maybe {
			if r := &v.limited.maybe[i]; r.without(f, q) != surelyNot {
				l := r.limit()
				b := Bound{Limit: *l, Per: l.per()}
				b.Certain, b.Rule = r.standing(f, q)
				t.Limits = append(t.Limits, b)
			}
		}
	}
	if v.redacted == nil {
		return
	}
	if v.redacted.certain != nil {
		t.Taken = slices.Clone(v.redacted.certain.Taken)
	}
	for i := range v.redacted.maybe {
		r := &v.redacted.maybe[i]
		if r.without(f, q) == surelyNot {
			continue
		}
		for _, taken := range r.taken().Taken {
			taken.Certain, taken.Rule = r.standing(f, q)
			t.Taken = append(t.Taken, taken)
		}
	}
}

// standing tells whether a rule counts in each call that limits or redacts, and where only a call tells, which rule it is.
func (r *ruleOf) standing(f *facts, q *Request) (certain bool, rule [32]byte) {
	if is := r.without(f, q); is == surely || is == surelyFails {
		return true, rule
	}
	copy(rule[:], r.words())
	return false, rule
}

// per is what has a budget of its own, in order.
func (l *Limit) per() []policyv1.Per {
	var all []policyv1.Per
	for _, one := range []struct {
		is  bool
		per policyv1.Per
	}{{l.person, policyv1.Per_PER_PERSON}, {l.grantee, policyv1.Per_PER_GROUP}, {l.tool, policyv1.Per_PER_TOOL}, {l.connector, policyv1.Per_PER_CONNECTOR}} {
		if one.is {
			all = append(all, one.per)
		}
	}
	if all == nil && l.Budget != "" {
		all = []policyv1.Per{policyv1.Per_PER_EVERYONE}
	}
	return all
}

// Asked is the same where the same is asked for before a call, by whichever rules.
func (t *Terms) Asked() string {
	parts := []string{strconv.Itoa(int(t.Confirm))}
	for _, s := range t.Steps {
		parts = append(parts, s.key())
	}
	return strings.Join(parts, " and ")
}

// Key is the same for the same terms, in whatever order rules say them and wherever they stand.
func (t *Terms) Key() string {
	parts := []string{"asked " + t.Asked()}
	for _, b := range t.Limits {
		l := b.Limit
		l.By, l.Because = "", ""
		parts = append(parts, fmt.Sprintf("limit %+v %t %x", l, b.Certain, b.Rule))
	}
	for _, one := range t.Taken {
		one.By = ""
		parts = append(parts, fmt.Sprintf("taken %+v", one))
	}
	slices.SortFunc(parts, cmp.Compare)
	return strings.Join(slices.Compact(parts), "\n")
}
