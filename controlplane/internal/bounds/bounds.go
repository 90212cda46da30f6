// Package bounds says whether one more request may come of whoever holds no credential: so many of one network, and so many of
// all. It is for what costs something before anybody is known, such as a registration or the beginning of a sign-in.
package bounds

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxNetworks bounds those that are remembered.
const maxNetworks = 10_000

// all is how many times as much may come of all networks as of one.
const all = 10

// Bounds are those of one kind of request. It is safe for concurrent use.
type Bounds struct {
	each  rate.Limit
	burst int
	total *rate.Limiter

	mu sync.Mutex
	by map[string]*rate.Limiter
}

// New returns bounds: of one network so many on average, and so many at once.
func New(each rate.Limit, burst int) *Bounds {
	return &Bounds{each: each, burst: burst, total: rate.NewLimiter(all*each, all*burst), by: map[string]*rate.Limiter{}}
}

// Allow takes one more request from an address. False: it is one too many.
func (b *Bounds) Allow(address string, now time.Time) bool {
	network := Network(address)
	b.mu.Lock()
	if len(b.by) >= maxNetworks { // whoever comes from so many is held by what holds for all
		clear(b.by)
	}
	own := b.by[network]
	if own == nil {
		own = rate.NewLimiter(b.each, b.burst)
		b.by[network] = own
	}
	b.mu.Unlock()
	return own.AllowN(now, 1) && b.total.AllowN(now, 1)
}

// Network is the network that an address is of: a /64 of IPv6, whose hosts change their addresses, and an address of IPv4 itself.
func Network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap(); a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().String()
}
