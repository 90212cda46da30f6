package access

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Tested is what recorded calls would have come to.
type Tested struct {
	Calls, Unchanged, NotByRules, GroupsOfNow uint64
	Unknown                                   map[adminv1.BacktestObstacle]uint64
	Changes                                   map[BacktestKey]*BacktestChange
	// Until is when the last call was made that was decided, where more are left than were asked for.
	Until time.Time
}

// BacktestKey is what changes are counted by.
type BacktestKey struct {
	Person, Connector, Tool string
	Before, After           adminv1.BacktestVerdict
}

// BacktestChange counts calls that would have come out otherwise.
type BacktestChange struct {
	Calls uint64
	// CallID and At are the last one's.
	CallID string
	At     time.Time
}

func newTested() *Tested {
	return &Tested{Unknown: map[adminv1.BacktestObstacle]uint64{}, Changes: map[BacktestKey]*BacktestChange{}}
}

// Unseal opens what is sealed in a record of a person; nil: the person was erased. Several may call it at a time.
type Unseal func(ctx context.Context, person string, sealed []byte) ([]byte, error)

// errEnough ends the reading of records.
var errEnough = errors.New("as many calls were decided as were asked for")

// Backtest decides recorded calls again, at most so many, as the policy of a state would have at the time of each. Groups are those that
// counted then, as the record has them; what conditions read of people is as of now. What it cannot decide is unknown, never unchanged.
// Blocks do not count: they are no policy.
//
// Records calls add with each record as it is stored, in their order, until that fails; the bytes are not its own any more. They are decided
// on all processors, those of a person on one.
func Backtest(ctx context.Context, s *core.State, limit uint64, unseal Unseal, records func(add func(data []byte) error) error) (*Tested, error) {
	table, err := tableWithoutPeople(s)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	b := &backtest{limit: limit, sum: newTested(), seed: maphash.MakeSeed()}
	var running sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		t := newTester(s, table, unseal)
		b.testers = append(b.testers, t)
		running.Go(func() {
			if err := t.run(ctx); err != nil {
				stop(err)
			}
		})
	}
	err = records(func(data []byte) error { return b.add(ctx, data) })
	if errors.Is(err, errEnough) {
		b.sum.Until, err = b.last, nil
	}
	for _, t := range b.testers {
		if failed := t.flush(ctx); err == nil {
			err = failed
		}
		close(t.in)
	}
	running.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	for _, t := range b.testers {
		b.sum.add(t.sum)
	}
	return b.sum, nil
}

func tableWithoutPeople(s *core.State) (*policy.Table, error) {
	b := policy.NewBuilder()
	policyOnly := func(yield func(*fleetv1.Entry) bool) {
		for e := range s.EntriesOn(func(string) bool { return true }, func(uint32) bool { return true }) {
			if e.GetBlock() == nil && !yield(e) {
				return
			}
		}
	}
	if err := b.Put(iter.Seq[*fleetv1.Entry](policyOnly)); err != nil {
		return nil, fmt.Errorf("compiling a table: %w", err)
	}
	return b.Table(s.Seq()), nil
}

// add takes in what another counted, of other people.
func (t *Tested) add(other *Tested) {
	t.Unchanged += other.Unchanged
	t.GroupsOfNow += other.GroupsOfNow
	for why, n := range other.Unknown {
		t.Unknown[why] += n
	}
	for key, c := range other.Changes {
		t.Changes[key] = c
	}
}

// backtest hands calls out.
type backtest struct {
	limit   uint64
	sum     *Tested
	last    time.Time
	testers []*tester
	seed    maphash.Seed
}

func (b *backtest) add(ctx context.Context, data []byte) error {
	// The person is not known yet: any tester's place does, and the call moves if it is another's.
	t := b.testers[0]
	r := t.next()
	if err := r.read(data); err != nil || !r.decided() {
		return nil //nolint:nilerr // what is no record is none of a call: whoever searches audit is told of it
	}
	if r.was() == 0 {
		b.sum.NotByRules++
		return nil
	}
	if b.sum.Calls == b.limit {
		return errEnough
	}
	b.sum.Calls++
	b.last = r.at
	if own := b.testers[maphash.Bytes(b.seed, r.person)%uint64(len(b.testers))]; own != t {
		to := own.next()
		*to, *r = *r, *to
		t = own
	}
	return t.take(ctx)
}

const (
	// handed is how many calls a tester is given at a time, and waiting how many times so many it may have before it.
	handed  = 128
	waiting = 4
)

// tester decides calls of some people.
type tester struct {
	state  *core.State
	table  *policy.Table
	unseal Unseal
	people map[string]*tested
	sum    *Tested

	filling []recorded // by whoever hands out
	in      chan []recorded
	free    chan []recorded // decided, for their room
}

func newTester(s *core.State, table *policy.Table, unseal Unseal) *tester {
	return &tester{
		state: s, table: table, unseal: unseal, people: map[string]*tested{}, sum: newTested(),
		filling: make([]recorded, 0, handed), in: make(chan []recorded, waiting), free: make(chan []recorded, waiting+2),
	}
}

// next is where the next call is read to. It is the tester's once it is taken.
func (t *tester) next() *recorded {
	r := &t.filling[:len(t.filling)+1][len(t.filling)]
	r.reset()
	return r
}

func (t *tester) take(ctx context.Context) error {
	if t.filling = t.filling[:len(t.filling)+1]; len(t.filling) < handed {
		return nil
	}
	return t.flush(ctx)
}

// flush hands out what was taken.
func (t *tester) flush(ctx context.Context) error {
	select {
	case t.in <- t.filling:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case t.filling = <-t.free:
	default:
		t.filling = make([]recorded, 0, handed)
	}
	return nil
}

func (t *tester) run(ctx context.Context) error {
	for calls := range t.in {
		for i := range calls {
			if err := t.test(ctx, &calls[i]); err != nil {
				return err
			}
		}
		select {
		case t.free <- calls[:0]:
		default:
		}
	}
	return nil
}

// tested is a person as the table has them now.
type tested struct {
	id     uuid.UUID
	user   *core.User // nil: gone
	groups []string   // that counted, as the record has them
	ofNow  bool       // they are not all there, and the table has those of now
}

// test decides a call again.
func (t *tester) test(ctx context.Context, r *recorded) error {
	p, err := t.person(r)
	if err != nil {
		return err
	}
	if p.user == nil {
		t.sum.Unknown[adminv1.BacktestObstacle_BACKTEST_OBSTACLE_PERSON]++
		return nil
	}
	after, obstacle, err := t.decide(ctx, p, r)
	switch {
	case err != nil:
		return err
	case obstacle != 0:
		t.sum.Unknown[obstacle]++
		return nil
	}
	if p.ofNow {
		t.sum.GroupsOfNow++
	}
	before := r.was()
	if after == before {
		t.sum.Unchanged++
		return nil
	}
	key := BacktestKey{string(r.person), string(r.connector), string(r.tool), before, after}
	c := t.sum.Changes[key]
	if c == nil {
		c = &BacktestChange{}
		t.sum.Changes[key] = c
	}
	c.Calls, c.CallID, c.At = c.Calls+1, string(r.callID), r.at
	return nil
}

// person puts a call's person into the table, as they were then.
func (t *tester) person(r *recorded) (*tested, error) {
	p := t.people[string(r.person)]
	if p != nil && (p.user == nil || slices.EqualFunc(p.groups, r.groups, func(a string, b []byte) bool { return a == string(b) })) {
		return p, nil
	}
	if p == nil {
		p = &tested{}
		var err error
		if p.id, err = uuid.ParseBytes(r.person); err == nil {
			p.user = t.state.User(p.id)
		}
		t.people[string(r.person)] = p
	}
	if p.user == nil {
		return p, nil
	}
	p.groups, p.ofNow = texts(r.groups), false
	wire := t.state.UserEntry(p.user).GetUser()
	wire.Active = true // as they were when they called
	var groups []uint32
	for _, name := range p.groups {
		g, err := t.state.FindGroup(name)
		if err != nil {
			p.ofNow = true
			break
		}
		groups = append(groups, g.No)
	}
	if p.ofNow {
		groups = slices.Collect(t.state.CountedGroups(p.user))
	}
	slices.Sort(groups)
	wire.Groups = groups
	return p, t.table.Put(one(&fleetv1.Entry{Value: &fleetv1.Entry_User{User: wire}}))
}

func texts(all [][]byte) []string {
	out := make([]string, len(all))
	for i, b := range all {
		out[i] = string(b)
	}
	return out
}

// decide is what would have come of a call, or why that is not known. Only where the call has a say is opened what is sealed.
func (t *tester) decide(ctx context.Context, p *tested, r *recorded) (adminv1.BacktestVerdict, adminv1.BacktestObstacle, error) {
	q := policy.Request{Person: p.id, Client: string(r.client), Connector: string(r.connector), Tool: string(r.tool), Region: string(r.region), Now: r.at}
	if o, settled := t.table.Settled(q); settled {
		verdict, obstacle := foretold(o)
		return verdict, obstacle, nil
	}
	if len(r.sealed) > 0 {
		plain, err := t.unseal(ctx, string(r.person), r.sealed)
		if err == nil && plain != nil {
			err = r.read(plain)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("opening what was recorded of call %s: %w", r.callID, err)
		}
		r.erased = plain == nil
	}
	if r.authenticated && !r.erased {
		q.From = &policy.Origin{Address: string(r.address), ACR: string(r.acr), AMR: texts(r.amr), AuthTime: r.authTime, At: r.at}
	}
	obstacle := adminv1.BacktestObstacle_BACKTEST_OBSTACLE_ARGUMENTS
	if !r.erased && !r.argumentsCut {
		obstacle = adminv1.BacktestObstacle_BACKTEST_OBSTACLE_SIGN_IN
		var err error
		switch q.Arguments, err = t.table.Arguments(q.Connector, q.Tool, r.arguments); {
		case err != nil:
			obstacle = adminv1.BacktestObstacle_BACKTEST_OBSTACLE_TOOL
		case q.From != nil:
			return verdictOf(t.table.Decide(q)), 0, nil
		}
	}
	if obstacle == adminv1.BacktestObstacle_BACKTEST_OBSTACLE_ARGUMENTS && q.From != nil && len(r.conditionValues) > 0 {
		verdict, known, err := t.recall(ctx, q, r)
		if known || err != nil {
			return verdict, 0, err
		}
	}
	o := t.table.Outlook(q)
	if !o.Certain {
		return 0, obstacle, nil
	}
	verdict, obstacle := foretold(o)
	return verdict, obstacle, nil
}

// recall decides a call of whose arguments audit has not all, by what was recorded beside for conditions, if that is enough.
func (t *tester) recall(ctx context.Context, q policy.Request, r *recorded) (verdict adminv1.BacktestVerdict, known bool, err error) {
	plain, err := t.unseal(ctx, string(r.person), r.conditionValues)
	if err != nil || plain == nil {
		return 0, false, err
	}
	values := &auditv1.ConditionValues{}
	if err := proto.Unmarshal(plain, values); err != nil {
		return 0, false, fmt.Errorf("reading what was recorded of call %s for conditions: %w", r.callID, err)
	}
	if q.Arguments, err = t.table.Recalled(q.Connector, q.Tool, values); err != nil {
		return 0, false, nil //nolint:nilerr // of another tool, or not to be read: not known
	}
	d := t.table.Decide(q)
	return verdictOf(d), !d.Missed, nil
}

// foretold is what comes of each call of which an outlook is certain.
func foretold(o policy.Outlook) (adminv1.BacktestVerdict, adminv1.BacktestObstacle) {
	switch {
	case o.Reason == auditv1.Reason_REASON_TOOL_UNKNOWN || o.Reason == auditv1.Reason_REASON_TOOL_WITHHELD:
		return 0, adminv1.BacktestObstacle_BACKTEST_OBSTACLE_TOOL
	case o.Access == policy.Never:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED, 0
	case o.Duty != policyv1.Duty_DUTY_UNSPECIFIED:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED, 0
	}
	return adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED, 0
}

func verdictOf(d policy.Decision) adminv1.BacktestVerdict {
	switch {
	case d.Allowed:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED
	case d.Reason == auditv1.Reason_REASON_CONFIRM_REQUIRED || d.Reason == auditv1.Reason_REASON_REVIEW_REQUIRED:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
	}
	return adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED
}
