package egress_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sallyport.dev/dataplane/egress"
)

func TestOnlyThePublicInternetAndAllowedRangesAreReached(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allowed []string
		address string
		refused bool
	}{
		{nil, "127.0.0.1:9", true},
		{nil, "localhost:9", true},
		{nil, "[::1]:9", true},
		{nil, "[::ffff:127.0.0.1]:9", true},
		{nil, "0.0.0.0:9", true},
		{nil, "10.0.0.1:9", true},
		{nil, "172.16.0.1:9", true},
		{nil, "192.168.1.1:9", true},
		{nil, "169.254.169.254:80", true},
		{nil, "[fe80::1%1]:9", true},
		{nil, "[fd00::1]:9", true},
		{nil, "[64:ff9b::7f00:1]:9", true},
		{[]string{"10.0.0.0/8"}, "127.0.0.1:9", true},
		{[]string{"127.0.0.0/8"}, "[::1]:9", true},
		{[]string{"127.0.0.0/8"}, "127.0.0.1:9", false},
		{[]string{"127.0.0.0/8"}, "[::ffff:127.0.0.1]:9", false},
		{[]string{"10.0.0.0/8", "::1/128"}, "[::1]:9", false},
	} {
		guard, err := egress.New(c.allowed...)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := guard.Dialer(5*time.Second).DialContext(t.Context(), "tcp", c.address)
		if err == nil {
			_ = conn.Close()
		}
		if errors.Is(err, egress.ErrRefused) != c.refused {
			t.Errorf("%s with %q allowed: %v", c.address, c.allowed, err)
		}
	}
	if _, err := egress.New("10.0.0.1"); err == nil {
		t.Error("an address was taken for a range")
	}
}

func TestEachRedirectIsLookedAt(t *testing.T) {
	t.Parallel()
	inner := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	inner.Listener = listen(t, "[::1]:0")
	inner.Start()
	defer inner.Close()
	outer := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusFound))
	defer outer.Close()
	guard, err := egress.New("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	for redirects, want := range []error{nil, egress.ErrRefused} {
		_, err := fetch(t, guard.Client(redirects), outer.URL)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("with %d redirects: %v", redirects, err)
		}
	}
}

func TestADocumentIsBounded(t *testing.T) {
	t.Parallel()
	size := 1 << 20
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", size)) }))
	defer s.Close()
	guard, err := egress.New("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := fetch(t, guard.Client(0), s.URL); err != nil || n != size {
		t.Errorf("%d bytes: %v", n, err)
	}
	size++
	if n, err := fetch(t, guard.Client(0), s.URL); err == nil {
		t.Errorf("%d bytes were read", n)
	}
}

func fetch(t *testing.T, c *http.Client, url string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return len(data), err
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
