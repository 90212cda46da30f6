package access

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Backtest decides recorded calls again, as a policy would have at the time of each. Groups are those that counted then, as the record has
// them; what conditions read of people is as of now. What it cannot decide is unknown, never unchanged.
type Backtest struct {
	state  *core.State
	table  *policy.Table
	people map[string]*tested

	Calls, Unchanged, NotByRules, GroupsOfNow uint64
	Unknown                                   map[adminv1.BacktestObstacle]uint64
	Changes                                   map[BacktestKey]*BacktestChange
	// Last is when the last call was made.
	Last time.Time
}

// BacktestKey is what changes are counted by.
type BacktestKey struct {
	Person, Connector, Tool string
	Before, After           adminv1.BacktestVerdict
}

// BacktestChange counts calls that would have come out otherwise.
type BacktestChange struct {
	Calls  uint64
	CallID string
	At     time.Time
}

// tested is a person as the table has them now.
type tested struct {
	id     uuid.UUID
	user   *core.User // nil: gone
	groups []string   // that counted, as the record has them
	ofNow  bool       // they are not all there, and the table has those of now
}

// NewBacktest decides by the policy of a state. Blocks do not count: they are no policy.
func NewBacktest(s *core.State) (*Backtest, error) {
	b := policy.NewBuilder()
	all := func(next iter.Seq[*fleetv1.Entry]) iter.Seq[*fleetv1.Entry] {
		return func(yield func(*fleetv1.Entry) bool) {
			for e := range next {
				if e.GetBlock() == nil && !yield(e) {
					return
				}
			}
		}
	}
	if err := b.Put(all(s.EntriesOn(func(string) bool { return true }, func(uint32) bool { return true }))); err != nil {
		return nil, err
	}
	return &Backtest{
		state: s, table: b.Table(s.Seq()), people: map[string]*tested{},
		Unknown: map[adminv1.BacktestObstacle]uint64{}, Changes: map[BacktestKey]*BacktestChange{},
	}, nil
}

// Decided tells whether a record is of a call on which a verdict was made, whatever it rested on.
func Decided(r *auditv1.AuditRecord) bool {
	if r.GetKind() != auditv1.Kind_KIND_UNSPECIFIED || r.GetPhase() == auditv1.Phase_PHASE_COMPLETED || r.GetPersonId() == "" || r.GetTool() == "" {
		return false
	}
	switch r.GetMethod() {
	case "tools/call", "prompts/get", "resources/read":
		return true
	}
	return false
}

// was is the verdict that a record has, if rules made it.
func was(d *auditv1.Decision) adminv1.BacktestVerdict {
	switch d.GetReason() {
	case auditv1.Reason_REASON_RULE_ALLOWED:
		if d.GetAsked() != "" || d.GetConfirmed() != "" {
			return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
		}
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED
	case auditv1.Reason_REASON_RULE_DENIED, auditv1.Reason_REASON_NOTHING_ALLOWS, auditv1.Reason_REASON_SIGN_IN_REQUIRED:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED
	case auditv1.Reason_REASON_CONFIRM_REQUIRED, auditv1.Reason_REASON_REVIEW_REQUIRED, auditv1.Reason_REASON_CONFIRM_REFUSED, auditv1.Reason_REASON_REVIEW_REFUSED,
		auditv1.Reason_REASON_CONFIRM_INVALID, auditv1.Reason_REASON_APPROVAL_UNAVAILABLE:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
	}
	return 0
}

// Add decides a call again: a record of which Decided is true, opened.
func (b *Backtest) Add(r *auditv1.AuditRecord) error {
	before := was(r.GetDecision())
	if before == 0 {
		b.NotByRules++
		return nil
	}
	b.Calls++
	b.Last = r.GetAt().AsTime()
	p, err := b.person(r)
	if err != nil {
		return err
	}
	if p.user == nil {
		b.Unknown[adminv1.BacktestObstacle_BACKTEST_OBSTACLE_PERSON]++
		return nil
	}
	after, obstacle := b.decide(p, r)
	if obstacle != 0 {
		b.Unknown[obstacle]++
		return nil
	}
	if p.ofNow {
		b.GroupsOfNow++
	}
	if after == before {
		b.Unchanged++
		return nil
	}
	key := BacktestKey{r.GetPersonId(), r.GetConnector(), r.GetTool(), before, after}
	c := b.Changes[key]
	if c == nil {
		c = &BacktestChange{}
		b.Changes[key] = c
	}
	c.Calls, c.CallID, c.At = c.Calls+1, r.GetCallId(), b.Last
	return nil
}

// person puts a call's person into the table, as they were then.
func (b *Backtest) person(r *auditv1.AuditRecord) (*tested, error) {
	p := b.people[r.GetPersonId()]
	if p != nil && (p.user == nil || slices.Equal(p.groups, r.GetGroups())) {
		return p, nil
	}
	if p == nil {
		p = &tested{}
		var err error
		if p.id, err = uuid.Parse(r.GetPersonId()); err == nil {
			p.user = b.state.User(p.id)
		}
		b.people[r.GetPersonId()] = p
	}
	if p.user == nil {
		return p, nil
	}
	p.groups, p.ofNow = r.GetGroups(), false
	wire := b.state.UserEntry(p.user).GetUser()
	wire.Active = true // as they were when they called
	var groups []uint32
	for _, name := range p.groups {
		g, err := b.state.FindGroup(name)
		if err != nil {
			p.ofNow = true
			break
		}
		groups = append(groups, g.No)
	}
	if p.ofNow {
		groups = slices.Collect(b.state.CountedGroups(p.user))
	}
	slices.Sort(groups)
	wire.Groups = groups
	return p, b.table.Put(one(&fleetv1.Entry{Value: &fleetv1.Entry_User{User: wire}}))
}

// decide is what would have come of a call, or why that is not known.
func (b *Backtest) decide(p *tested, r *auditv1.AuditRecord) (adminv1.BacktestVerdict, adminv1.BacktestObstacle) {
	q := policy.Request{Person: p.id, Client: r.GetClient().GetId(), Connector: r.GetConnector(), Tool: r.GetTool(), Region: r.GetRegion(), Now: b.Last}
	signedIn := r.GetAuthentication()
	if signedIn != nil && !r.GetErased() {
		q.From = &policy.Origin{Address: r.GetClient().GetAddress(), ACR: signedIn.GetAcr(), AMR: signedIn.GetAmr(), At: b.Last}
		if signedIn.GetAt() != nil {
			q.From.AuthTime = signedIn.GetAt().AsTime()
		}
	}
	o := b.table.Outlook(q)
	switch {
	case o.Reason == auditv1.Reason_REASON_TOOL_UNKNOWN || o.Reason == auditv1.Reason_REASON_TOOL_WITHHELD:
		return 0, adminv1.BacktestObstacle_BACKTEST_OBSTACLE_TOOL
	case o.Certain && o.Access == policy.Never:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED, 0
	case o.Certain && o.Duty != policyv1.Duty_DUTY_UNSPECIFIED:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED, 0
	case o.Certain:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED, 0
	}
	args := r.GetArguments()
	if r.GetErased() || args.GetTruncated() || args.GetMasked() || args.GetRedacted() {
		return 0, adminv1.BacktestObstacle_BACKTEST_OBSTACLE_ARGUMENTS
	}
	if q.From == nil {
		return 0, adminv1.BacktestObstacle_BACKTEST_OBSTACLE_SIGN_IN
	}
	var err error
	if q.Arguments, err = b.table.Arguments(q.Connector, q.Tool, args.GetHead()); err != nil {
		return 0, adminv1.BacktestObstacle_BACKTEST_OBSTACLE_TOOL
	}
	switch d := b.table.Decide(q); {
	case d.Allowed:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED, 0
	case d.Reason == auditv1.Reason_REASON_CONFIRM_REQUIRED || d.Reason == auditv1.Reason_REASON_REVIEW_REQUIRED:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED, 0
	}
	return adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED, 0
}
