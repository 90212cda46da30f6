package meter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// bank is the control plane: it grants to whoever asks first, up to the limit, a fourth of what is left at a time.
type bank struct {
	mu      sync.Mutex
	limit   uint64
	window  string
	granted map[string]uint64
	spent   map[string]uint64
	lasts   time.Duration
	away    bool
	asked   int
}

func newBank(limit uint64) *bank {
	return &bank{limit: limit, window: "first", granted: map[string]uint64{}, spent: map[string]uint64{}, lasts: time.Hour}
}

func (b *bank) LeaseBudget(_ context.Context, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked++; b.away {
		return nil, errors.New("away")
	}
	who := r.GetInstance()
	if r.GetLeaseWindow() == b.window {
		b.spent[who] = r.GetSpent().GetItems()
	}
	free := b.limit - min(b.limit, b.spent[who])
	for other, n := range b.granted {
		if other != who {
			free -= min(free, max(n, b.spent[other]))
		}
	}
	res := &fleetv1.LeaseBudgetResponse{Window: b.window, EndsIn: durationpb.New(b.lasts)}
	want := r.GetWant().GetItems()
	switch {
	case want == 0:
		b.granted[who] = b.spent[who]
	case want > free:
		res.RetryAfter = durationpb.New(b.lasts)
		b.granted[who] = b.spent[who]
	default:
		b.granted[who] = b.spent[who] + max(want, free/4)
	}
	res.Granted = &fleetv1.Amounts{Items: b.granted[who]}
	return res, nil
}

var ann = uuid.UUID{15: 1}

// limitsOf are those of a policy with one rule.
func limitsOf(t testing.TB, l *policyv1.Limit) []*policy.Limit {
	t.Helper()
	table, err := policy.Compile(1, slices.Values([]*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "crm", Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "crm", Tools: []*policyv1.Tool{{Name: "rows", Definition: []byte(`{"name":"rows","inputSchema":{"type":"object"}}`)}}}}},
		{Value: &fleetv1.Entry_User{User: &fleetv1.User{Id: ann[:], Active: true, Groups: []uint32{1}}}},
		{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: 1, Id: make([]byte, 16), Name: "okta/Sales"}}},
		{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: 1, Connector: "crm", Rules: []*policyv1.Rule{{Allow: []string{"*"}}, {Require: policyv1.Duty_DUTY_LIMIT, Tools: []string{"*"}, Limit: l}}}}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	d := table.Decide(policy.Request{Person: ann, Connector: "crm", Tool: "rows", Arguments: policy.NoArguments})
	if !d.Allowed || len(d.Limits) != 1 {
		t.Fatalf("decided %+v", d)
	}
	return d.Limits
}

// clock is one that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func hourly(items, most uint64) *policyv1.Limit {
	return &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Items: items, ResultItems: most}
}

// TestManyCallsAtSeveralProxiesHaveNoMoreThanTheBudget: each result as large as it may be.
func TestManyCallsAtSeveralProxiesHaveNoMoreThanTheBudget(t *testing.T) {
	b, limits := newBank(1000), limitsOf(t, hourly(1000, 7))
	var wg sync.WaitGroup
	var mu sync.Mutex
	had := uint64(0)
	for range 3 {
		m := New(b, nil)
		for range 8 {
			wg.Go(func() {
				for {
					r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
					if err != nil {
						var spent *Spent
						if !errors.As(err, &spent) {
							t.Error(err)
						}
						return
					}
					r.Settle(Use{Calls: 1, Items: 7})
					mu.Lock()
					had += 7
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if had > 1000 || had < 700 {
		t.Errorf("%d of 1000 were had", had)
	}
}

// TestWhereNoRuleBoundsAResultTheBudgetIsExceededByOneResultPerCallInFlight: and by no more.
func TestWhereNoRuleBoundsAResultTheBudgetIsExceededByOneResultPerCallInFlight(t *testing.T) {
	b, limits := newBank(100), limitsOf(t, hourly(100, 0))
	m := New(b, nil)
	var open []*Reservation
	for range 5 {
		r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, r)
	}
	for _, r := range open {
		r.Settle(Use{Calls: 1, Items: 90})
	}
	if _, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1); err == nil {
		t.Error("a budget that is overdrawn gives more")
	}
	if _, err := New(b, nil).Reserve(t.Context(), limits, "ann", "crm", "rows", 1); err == nil {
		t.Error("at another proxy too")
	}
}

// TestARuleThatLetsResultsBeLargerThanAnothersBudgetDoesNotCloseIt: it is only that the whole of it is reserved.
func TestARuleThatLetsResultsBeLargerThanAnothersBudgetDoesNotCloseIt(t *testing.T) {
	b, limits := newBank(100), limitsOf(t, hourly(100, 0))
	limits = append(slices.Clone(limits), limitsOf(t, &policyv1.Limit{ResultItems: 200})...)
	m := New(b, nil)
	for i := range 2 {
		r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		r.Settle(Use{Calls: 1})
	}
}

// TestLimitsOfOneBudgetAreHeldTogetherWhereTheirWindowsAreOne: of several rules about the same the least holds, and a call counts once.
func TestLimitsOfOneBudgetAreHeldTogetherWhereTheirWindowsAreOne(t *testing.T) {
	var limits []*policy.Limit
	for _, l := range []*policyv1.Limit{
		{Budget: "crm", Window: durationpb.New(time.Hour), Calls: 100, Items: 500}, {Budget: "crm", Window: durationpb.New(time.Hour), Calls: 60},
		{Budget: "crm", Window: durationpb.New(time.Minute), Calls: 10}, {ResultItems: 20},
	} {
		limits = append(limits, limitsOf(t, l)...)
	}
	got := totalsOf(limits, "ann", "crm", "rows")
	hour, minute := subject{budget: "crm", person: "ann", window: time.Hour}, subject{budget: "crm", person: "ann", window: time.Minute}
	if want := []total{{hour, amounts{60, 500, 0}}, {minute, amounts{10, 0, 0}}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAShareIsOverWithItsWindowByEitherClock(t *testing.T) {
	b, limits := newBank(100), limitsOf(t, hourly(100, 100))
	c := &clock{now: time.Now()}
	m := New(b, c.Now)
	use := func() error {
		r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
		r.Settle(Use{Calls: 1, Items: 100})
		return err
	}
	if err := use(); err != nil {
		t.Fatal(err)
	}
	if use() == nil {
		t.Fatal("a budget that is spent gives more")
	}
	c.move(time.Hour - 2*time.Second)
	if use() == nil {
		t.Error("just before the edge")
	}
	b.mu.Lock()
	b.window, b.granted, b.spent = "second", map[string]uint64{}, map[string]uint64{}
	b.mu.Unlock()
	c.move(3 * time.Second)
	if err := use(); err != nil {
		t.Errorf("in the next window: %v", err)
	}
	// A clock that went back makes no window longer: the control plane is asked.
	c.move(-48 * time.Hour)
	if use() == nil {
		t.Error("after the clock went back a spent budget gives more")
	}
}

// TestASettlementAfterTheWindowIsNotCountedInTheNext: nor given back to it.
func TestASettlementAfterTheWindowIsNotCountedInTheNext(t *testing.T) {
	b, limits := newBank(100), limitsOf(t, hourly(100, 50))
	c := &clock{now: time.Now()}
	m := New(b, c.Now)
	late, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
	if err != nil {
		t.Fatal(err)
	}
	c.move(2 * time.Hour)
	b.mu.Lock()
	b.window, b.granted, b.spent = "second", map[string]uint64{}, map[string]uint64{}
	b.mu.Unlock()
	for range 2 {
		r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Settle(Use{Calls: 1, Items: 50})
	}
	late.Settle(Use{})
	if _, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1); err == nil {
		t.Error("what was reserved in one window was given back to the next")
	}
}

func TestWhatIsNotUsedIsGivenBackAndWithoutAControlPlaneKept(t *testing.T) {
	b, limits := newBank(100), limitsOf(t, hourly(100, 10))
	c := &clock{now: time.Now()}
	one, other := New(b, c.Now), New(b, c.Now)
	use := func(m *Meter) error {
		r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
		r.Settle(Use{Calls: 1, Items: 10})
		return err
	}
	if err := use(one); err != nil { // 25 are leased
		t.Fatal(err)
	}
	c.move(time.Minute)
	b.mu.Lock()
	b.away = true
	b.mu.Unlock()
	one.Sweep(t.Context(), idle)
	if err := use(one); err != nil {
		t.Errorf("without a control plane what is left of the share is gone: %v", err)
	}
	var away *Unavailable
	if err := use(one); !errors.As(err, &away) {
		t.Errorf("5 are left of the share, and 10 are wanted: %v", err)
	}
	b.mu.Lock()
	b.away = false
	b.mu.Unlock()
	c.move(time.Minute)
	one.Sweep(t.Context(), idle)
	had := 0
	for use(other) == nil {
		had++
	}
	if had != 8 {
		t.Errorf("of 80 that were given back or never leased the other had %d times 10", had)
	}
}

func TestWhoTriesAgainAtMachineSpeedAsksNoControlPlaneEachTime(t *testing.T) {
	b, limits := newBank(5), limitsOf(t, hourly(5, 5))
	c := &clock{now: time.Now()}
	m := New(b, c.Now)
	for range 100 {
		r, err := m.Reserve(t.Context(), limits, "ann", "crm", "rows", 1)
		if err == nil {
			r.Settle(Use{Calls: 1, Items: 5})
			continue
		}
		var spent *Spent
		if !errors.As(err, &spent) || spent.After < 59*time.Minute {
			t.Fatalf("got %v", err)
		}
	}
	if b.asked > 3 {
		t.Errorf("the control plane was asked %d times", b.asked)
	}
}
