// Package address tells from which address a request came. That is the peer's, unless load balancers stand between: they say in
// a header from whom they had the request, and whoever sends it may have written that header before them.
//
// So it is believed only where an admin named the load balancers, only of a peer that is one of them, and only in the one header
// that they are known to write. It is read from the right, where the nearest one wrote, and up to the first address that is not
// a load balancer's: what stands before that is the sender's own word. Shared with the control plane.
package address

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Headers in which load balancers say from whom they had a request.
const (
	XForwardedFor = "X-Forwarded-For"
	Forwarded     = "Forwarded" // RFC 7239
)

// Of returns the address that a request came from, without the port.
func Of(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Balancers are the load balancers whose word is taken. The zero value is none.
type Balancers struct {
	ranges []netip.Prefix
	header string
}

// NewBalancers returns those with these addresses or ranges, which write that header (X-Forwarded-For where it is empty).
func NewBalancers(ranges []string, header string) (*Balancers, error) {
	b := &Balancers{header: http.CanonicalHeaderKey(header)}
	switch b.header {
	case "":
		b.header = XForwardedFor
	case XForwardedFor, Forwarded:
	default:
		return nil, fmt.Errorf("load balancers say in %s or in %s from whom they had a request, not in %q", XForwardedFor, Forwarded, header)
	}
	for _, text := range ranges {
		one, err := netip.ParsePrefix(text)
		if err != nil {
			alone, failed := netip.ParseAddr(text)
			if failed != nil || alone.Zone() != "" {
				return nil, fmt.Errorf("%q is no address or range of addresses, such as 10.1.0.0/16", text)
			}
			one = netip.PrefixFrom(alone, alone.BitLen())
		}
		if a := one.Addr(); a.Is4In6() && one.Bits() >= 96 {
			one = netip.PrefixFrom(a.Unmap(), one.Bits()-96)
		}
		b.ranges = append(b.ranges, one.Masked())
	}
	return b, nil
}

// Handler serves h with requests whose RemoteAddr is the address that they came from.
func (b *Balancers) Handler(h http.Handler) http.Handler {
	if len(b.ranges) == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, other := b.from(r); other {
			again := *r // a shallow copy: whoever serves the connection keeps its own
			again.RemoteAddr = netip.AddrPortFrom(from, 0).String()
			r = &again
		}
		h.ServeHTTP(w, r)
	})
}

func (b *Balancers) trusts(a netip.Addr) bool {
	for _, one := range b.ranges {
		if one.Contains(a) {
			return true
		}
	}
	return false
}

// from returns the address that a request came from, where it is another than the peer's.
func (b *Balancers) from(r *http.Request) (from netip.Addr, other bool) {
	peer, err := netip.ParseAddr(Of(r))
	if err != nil {
		return peer, false
	}
	if from = peer.Unmap().WithZone(""); !b.trusts(from) {
		return from, false
	}
	lines := r.Header[b.header]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			var hop string
			rest, hop, more = lastHop(rest)
			if b.header == Forwarded {
				hop = forParameter(hop)
			}
			before, ok := parse(hop)
			if !ok { // whoever is before that cannot be told: the last that is known counts
				return from, other
			}
			if from, other = before, true; !b.trusts(from) {
				return from, other
			}
		}
	}
	return from, other
}

// lastHop cuts the last element of a list off. A quoted string has no commas in it that count, and nobody writes one.
func lastHop(list string) (rest, hop string, more bool) {
	i := strings.LastIndexByte(list, ',')
	if i < 0 {
		return "", strings.TrimSpace(list), false
	}
	return list[:i], strings.TrimSpace(list[i+1:]), true
}

// forParameter is what an element of Forwarded has as for=. Two of them are none.
func forParameter(element string) (value string) {
	found := false
	for pair := range strings.SplitSeq(element, ";") {
		name, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || !strings.EqualFold(name, "for") {
			continue
		}
		if found {
			return ""
		}
		found = true
		if len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
			v = v[1 : len(v)-1]
		}
		value = v
	}
	return value
}

// parse reads an address as load balancers write it: with a port or without, IPv6 in brackets or without.
func parse(text string) (netip.Addr, bool) {
	if text == "" || len(text) > 64 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		if with, failed := netip.ParseAddrPort(text); failed == nil {
			a, err = with.Addr(), nil
		} else if text[0] == '[' && text[len(text)-1] == ']' {
			if a, err = netip.ParseAddr(text[1 : len(text)-1]); err == nil && a.Is4() {
				return netip.Addr{}, false
			}
		}
	}
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}
