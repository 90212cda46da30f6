// Package egress decides which addresses Sallyport connects to when others name the host: an upstream's URL, what its metadata
// points to, the document that a client names itself by.
//
// A Guard looks at the address that a connection is about to be made to, so that neither a name that resolves to something else
// than before, nor a redirect, leads past it. What is not of the public internet is refused, unless an admin allowed its range.
// Connections that are kept were looked at when they were made. It is shared with the control plane, so that both refuse the same.
package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// ErrRefused is what dialing an address that is not allowed comes to.
var ErrRefused = errors.New("its address is private, loopback, link-local or reserved")

// Limits of what is fetched through a Client.
const (
	connectTimeout = 5 * time.Second
	fetchTimeout   = 10 * time.Second
	maxDocument    = 1 << 20
)

// Guard refuses addresses. Its zero value is not usable; it is safe for concurrent use.
type Guard struct{ guardian *ssrf.Guardian }

// New returns a guard that lets through what is of the public internet, and these ranges in CIDR notation.
func New(allowed ...string) (*Guard, error) {
	var v4, v6 []netip.Prefix
	for _, text := range allowed {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("an allowed range is no address range such as 10.1.0.0/16: %w", err)
		}
		if prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	return &Guard{guardian: ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))}, nil
}

// Public returns a guard that lets through nothing but the public internet.
func Public() *Guard {
	g, err := New()
	if err != nil {
		panic(err) // no range, no error
	}
	return g
}

// Dialer makes connections to addresses that are let through.
func (g *Guard) Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second, Control: g.control}
}

// control is asked when a socket is there and before it connects. The address is resolved by then.
func (g *Guard) control(network, address string, c syscall.RawConn) error {
	if err := g.guardian.Safe(network, address, c); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// Transport connects to addresses that are let through, and through no HTTP proxy: that would choose the address instead.
func (g *Guard) Transport() *http.Transport {
	return &http.Transport{
		DialContext: g.Dialer(connectTimeout).DialContext, TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: fetchTimeout,
		ForceAttemptHTTP2: true, MaxIdleConns: 64, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
}

// Client fetches documents that others name, such as metadata: of at most 1 MiB, within 10 s. It follows so many redirects, none of them away from https;
// each is looked at as the first address was.
func (g *Guard) Client(redirects int) *http.Client {
	return &http.Client{
		Transport: bounded{g.Transport()}, Timeout: fetchTimeout,
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			switch {
			case len(via) > redirects:
				return errors.New("the redirect is not followed")
			case next.URL.Scheme != "https" && via[0].URL.Scheme == "https":
				return errors.New("a redirect away from https is not followed")
			}
			return nil
		},
	}
}

// bounded ends answers that are too long with an error.
type bounded struct{ next http.RoundTripper }

// RoundTrip sends a request.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{http.MaxBytesReader(nil, res.Body, maxDocument), res.Body}
	return res, nil
}
