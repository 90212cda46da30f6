// Package limits keeps what is used of budgets, for all control planes.
//
// A budget of one subject is one value in kv: when its window ends, and for each proxy how much it was granted and how much it said that
// it spent. What is granted counts as used until the proxy gives it back, so that the sum of what all proxies may spend never exceeds the limit,
// whatever becomes of a proxy, an answer or a control plane. A window begins with the first call that counts, and the value expires with it.
package limits

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/kv"
)

// Store is what the ledger needs of kv.
type Store interface {
	Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error)
	Each(ctx context.Context, prefix string, fn func(kv.Entry) error) error
	Purge(ctx context.Context, key string) error
}

// Ledger keeps budgets. It is safe for concurrent use.
type Ledger struct {
	Store Store
	// Now tells the time.
	Now func() time.Time
}

const (
	// share is which part of what is left a proxy is granted, where it needs less.
	share = 4
	// returned is within what time proxies give back what they do not use.
	returned = 15 * time.Second
	// slack is how long a value outlives its window, since clocks differ.
	slack = time.Minute
	// maxProxies bounds who holds shares of one budget.
	maxProxies = 10_000
)

// errOvertaken: a later request of the same process was answered before.
var errOvertaken = errors.New("the request was overtaken by a later one")

// amounts are calls, items and bytes.
type amounts [3]uint64

// sum adds what proxies say, which may be anything: it ends at the largest number, and never comes round to a small one.
func sum(a, b uint64) uint64 {
	if c, carry := bits.Add64(a, b, 0); carry == 0 {
		return c
	}
	return math.MaxUint64
}

func amountsOf(a *fleetv1.Amounts) amounts {
	return amounts{a.GetCalls(), a.GetItems(), a.GetBytes()}
}

func (a amounts) wire() *fleetv1.Amounts {
	return &fleetv1.Amounts{Calls: a[0], Items: a[1], Bytes: a[2]}
}

// account is the value of a key.
type account struct {
	Window  string // its id
	Budget  string
	Person  string `json:",omitempty"`
	Group   string `json:",omitempty"`
	Tool    string `json:",omitempty"`
	Of      string `json:",omitempty"` // connector
	Ends    int64  // Unix milliseconds
	Limit   amounts
	Gone    amounts // what was granted to processes that are no more
	Holders map[string]*holder
}

// holder is what a proxy has.
type holder struct {
	Instance       string
	Sequence       uint64
	Granted, Spent amounts
}

// Lease notes what a proxy spent, and grants it a share of what is left.
func (l *Ledger) Lease(ctx context.Context, proxy string, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error) {
	window := r.GetWindow().AsDuration()
	var res *fleetv1.LeaseBudgetResponse
	_, err := l.Store.Change(ctx, key(r.GetBudget(), window, r.GetSubject()), window+slack, func(value []byte) ([]byte, error) {
		now := l.Now()
		a, err := read(value)
		if err != nil {
			return nil, err
		}
		if a == nil || now.UnixMilli() >= a.Ends {
			s := r.GetSubject()
			a = &account{
				Window: uuid.NewString(), Budget: r.GetBudget(), Person: s.GetPerson(), Group: s.GetGroup(), Tool: s.GetTool(), Of: s.GetConnector(),
				Ends: now.Add(window).UnixMilli(), Holders: map[string]*holder{},
			}
		}
		if latest := now.Add(window).UnixMilli(); a.Ends > latest { // the clock went back
			a.Ends = latest
		}
		a.Limit = amountsOf(r.GetLimit())
		h, err := a.holder(proxy, r)
		if err != nil {
			return nil, err
		}
		enough := a.grant(h, amountsOf(r.GetWant()))
		left := time.UnixMilli(a.Ends).Sub(now)
		res = &fleetv1.LeaseBudgetResponse{Window: a.Window, EndsIn: durationpb.New(left), Granted: h.Granted.wire()}
		if !enough {
			res.RetryAfter = durationpb.New(left)
			if a.comesBack(proxy, h, amountsOf(r.GetWant())) {
				res.RetryAfter = durationpb.New(min(left, returned))
			}
		}
		return json.Marshal(a)
	})
	if err != nil {
		return nil, fmt.Errorf("leasing a share of a budget: %w", err)
	}
	return res, nil
}

// holder is the proxy's, with what it says that it spent in this window. What another process of the proxy was granted may all be spent.
func (a *account) holder(proxy string, r *fleetv1.LeaseBudgetRequest) (*holder, error) {
	h := a.Holders[proxy]
	if h == nil || h.Instance != r.GetInstance() {
		if h != nil {
			for i := range a.Gone {
				a.Gone[i] = sum(a.Gone[i], max(h.Granted[i], h.Spent[i]))
			}
		} else if len(a.Holders) >= maxProxies {
			return nil, errors.New("too many proxies hold shares of one budget")
		}
		h = &holder{Instance: r.GetInstance()}
		a.Holders[proxy] = h
	}
	if r.GetSequence() <= h.Sequence {
		return nil, errOvertaken
	}
	if h.Sequence = r.GetSequence(); r.GetLeaseWindow() == a.Window {
		h.Spent = amountsOf(r.GetSpent())
	}
	return h, nil
}

// grant gives a holder what it wants beyond what it spent, and a share more, as far as that is left. None wanted: what is not spent goes back.
func (a *account) grant(h *holder, want amounts) (enough bool) {
	enough = true
	for i, limit := range a.Limit {
		if want == (amounts{}) || limit == 0 {
			h.Granted[i] = h.Spent[i]
			continue
		}
		free := a.free(i, h)
		if free < want[i] {
			enough = false
		}
		if have := h.Granted[i] - min(h.Granted[i], h.Spent[i]); have >= want[i] && have <= free {
			continue // what was granted before is enough
		}
		h.Granted[i] = h.Spent[i] + min(free, max(want[i], free/share))
	}
	if !enough && want != (amounts{}) { // of no use to it
		h.Granted = h.Spent
	}
	return enough
}

// free is what nobody else was granted, and this holder did not spend.
func (a *account) free(i int, of *holder) uint64 {
	used := sum(a.Gone[i], of.Spent[i])
	for _, h := range a.Holders {
		if h != of {
			used = sum(used, max(h.Granted[i], h.Spent[i]))
		}
	}
	return a.Limit[i] - min(a.Limit[i], used)
}

// comesBack tells whether it would be enough if others gave back what they did not spend.
func (a *account) comesBack(proxy string, of *holder, want amounts) bool {
	for i, limit := range a.Limit {
		free := a.free(i, of)
		for name, h := range a.Holders {
			if name != proxy {
				free = sum(free, h.Granted[i]-min(h.Granted[i], h.Spent[i]))
			}
		}
		if limit > 0 && free < want[i] {
			return false
		}
	}
	return true
}

// Show calls fn with what is used of a budget in windows that are not over, of one person or of everybody.
func (l *Ledger) Show(ctx context.Context, budget, person string, fn func(*adminv1.BudgetUse)) error {
	return l.each(ctx, budget, person, func(_ string, a *account) error {
		use := &adminv1.BudgetUse{
			Subject: &fleetv1.BudgetSubject{Person: a.Person, Group: a.Group, Tool: a.Tool, Connector: a.Of}, Limit: a.Limit.wire(), Proxies: uint32(len(a.Holders)),
			EndsAt: timestamppb.New(time.UnixMilli(a.Ends)),
		}
		used, held := a.Gone, amounts{}
		for _, h := range a.Holders {
			for i := range used {
				used[i] = sum(used[i], h.Spent[i])
				held[i] = sum(held[i], h.Granted[i]-min(h.Granted[i], h.Spent[i]))
			}
		}
		use.Used, use.Held = used.wire(), held.wire()
		fn(use)
		return nil
	})
}

// Reset ends windows of a budget, of one person or of everybody, and says how many.
func (l *Ledger) Reset(ctx context.Context, budget, person string) (windows int, err error) {
	err = l.each(ctx, budget, person, func(key string, _ *account) error {
		windows++
		return l.Store.Purge(ctx, key)
	})
	return windows, err
}

func (l *Ledger) each(ctx context.Context, budget, person string, fn func(key string, a *account) error) error {
	accounts := map[string]*account{}
	err := l.Store.Each(ctx, budget+".", func(e kv.Entry) error {
		a, err := read(e.Value)
		if err != nil {
			return err
		}
		accounts[e.Key] = a
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading a budget: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(accounts)) {
		a := accounts[key]
		if l.Now().UnixMilli() >= a.Ends || person != "" && a.Person != person {
			continue
		}
		if err := fn(key, a); err != nil {
			return err
		}
	}
	return nil
}

func read(value []byte) (*account, error) {
	if len(value) == 0 {
		return nil, nil
	}
	a := &account{}
	if err := json.Unmarshal(value, a); err != nil {
		return nil, fmt.Errorf("a budget's account cannot be read: %w", err)
	}
	if a.Holders == nil {
		a.Holders = map[string]*holder{}
	}
	return a, nil
}

// key is that of a subject's account over windows of one length: what a proxy says of the length ends no window of another. Nothing of
// the subject stands in it.
func key(budget string, window time.Duration, s *fleetv1.BudgetSubject) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d ", window)
	for _, part := range []string{s.GetPerson(), s.GetGroup(), s.GetTool(), s.GetConnector()} {
		_, _ = fmt.Fprintf(h, "%d %s", len(part), part) // a hash does not fail
	}
	return budget + "." + hex.EncodeToString(h.Sum(nil)[:16])
}
