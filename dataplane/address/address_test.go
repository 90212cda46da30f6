package address_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"sallyport.dev/dataplane/address"
)

// seen is the address that a handler behind load balancers sees.
func seen(b *address.Balancers, peer string, header http.Header) (got string) {
	r := httptest.NewRequest(http.MethodPost, "/mcp", nil)
	r.RemoteAddr = peer
	for name, lines := range header {
		r.Header[name] = lines
	}
	b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = address.Of(r) })).ServeHTTP(httptest.NewRecorder(), r)
	if r.RemoteAddr != peer {
		return "the connection's own request was changed"
	}
	return got
}

func balancers(t *testing.T, header string, ranges ...string) *address.Balancers {
	t.Helper()
	b, err := address.NewBalancers(ranges, header)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheAddressIsThatOfWhoeverSentItToTheLoadBalancers(t *testing.T) {
	const peer = "10.0.0.1:443"
	b := balancers(t, "", "10.0.0.0/8", "fd00::/8")
	for name, test := range map[string]struct {
		peer string
		xff  []string
		want string
	}{
		"one load balancer":                      {peer, []string{"198.51.100.7"}, "198.51.100.7"},
		"several":                                {peer, []string{"198.51.100.7, 10.2.3.4, fd00::5"}, "198.51.100.7"},
		"several, in several lines":              {peer, []string{"198.51.100.7", "10.2.3.4"}, "198.51.100.7"},
		"with a port":                            {peer, []string{"198.51.100.7:5123"}, "198.51.100.7"},
		"IPv6":                                   {peer, []string{"2001:db8::7"}, "2001:db8::7"},
		"IPv6 with a port":                       {peer, []string{"[2001:db8::7]:5123"}, "2001:db8::7"},
		"IPv6 in brackets":                       {peer, []string{"[2001:db8::7]"}, "2001:db8::7"},
		"IPv4 within IPv6":                       {peer, []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		"the peer's IPv4 within IPv6":            {"[::ffff:10.0.0.1]:443", []string{"198.51.100.7"}, "198.51.100.7"},
		"an IPv6 peer":                           {"[fd00::1]:443", []string{"198.51.100.7"}, "198.51.100.7"},
		"all are load balancers":                 {peer, []string{"10.9.9.9, 10.2.3.4"}, "10.9.9.9"},
		"no header":                              {peer, nil, "10.0.0.1"},
		"an untrusted peer":                      {"203.0.113.9:99", []string{"198.51.100.7"}, "203.0.113.9"},
		"an untrusted peer as a load balancer":   {"203.0.113.9:99", []string{"10.0.0.1"}, "203.0.113.9"},
		"what the sender wrote before":           {peer, []string{"127.0.0.1, 10.1.1.1, 198.51.100.7"}, "198.51.100.7"},
		"what the sender wrote, in its own line": {peer, []string{"127.0.0.1", "198.51.100.7, 10.2.2.2"}, "198.51.100.7"},
		"garbage":                                {peer, []string{"x"}, "10.0.0.1"},
		"garbage before a load balancer":         {peer, []string{"unknown, 10.2.3.4"}, "10.2.3.4"},
		"garbage before the sender":              {peer, []string{"'; drop, 198.51.100.7"}, "198.51.100.7"},
		"nothing between commas":                 {peer, []string{"198.51.100.7,,10.2.3.4"}, "10.2.3.4"},
		"an empty header":                        {peer, []string{""}, "10.0.0.1"},
		"a name":                                 {peer, []string{"localhost"}, "10.0.0.1"},
		"no address at all":                      {peer, []string{"0.0.0.0"}, "10.0.0.1"},
		"a port out of range":                    {peer, []string{"198.51.100.7:99999"}, "10.0.0.1"},
		"a zone":                                 {peer, []string{"fe80::1%eth0"}, "fe80::1"},
		"very long":                              {peer, []string{strings.Repeat("1", 60_000)}, "10.0.0.1"},
		"very many":                              {peer, []string{"198.51.100.7" + strings.Repeat(", 10.0.0.2", 5_000)}, "198.51.100.7"},
		"a peer without an address":              {"@", []string{"198.51.100.7"}, "@"},
	} {
		header := http.Header{}
		if test.xff != nil {
			header["X-Forwarded-For"] = test.xff
		}
		header["Forwarded"] = []string{"for=192.0.2.66"} // not the header that these write
		header["X-Real-Ip"] = []string{"192.0.2.66"}
		if got := seen(b, test.peer, header); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestForwardedIsReadWhereTheLoadBalancersWriteIt(t *testing.T) {
	b := balancers(t, "forwarded", "10.0.0.1")
	for name, test := range map[string]struct{ forwarded, want string }{
		"plain":                        {"for=198.51.100.7", "198.51.100.7"},
		"with other parameters":        {"by=10.0.0.1;FOR=198.51.100.7;proto=https", "198.51.100.7"},
		"quoted IPv6 with a port":      {`for="[2001:db8::7]:5123"`, "2001:db8::7"},
		"several":                      {"for=192.0.2.66, for=198.51.100.7;proto=https", "198.51.100.7"},
		"through another":              {"for=198.51.100.7, for=10.0.0.1", "198.51.100.7"},
		"hidden":                       {"for=_hidden", "10.0.0.1"},
		"unknown":                      {"for=unknown, for=198.51.100.7", "198.51.100.7"},
		"without":                      {"proto=https", "10.0.0.1"},
		"twice":                        {"for=198.51.100.7;for=192.0.2.66", "10.0.0.1"},
		"a comma in quotes":            {`for="192.0.2.66, 10.0.0.1"`, "10.0.0.1"},
		"quotes that do not end":       {`for="198.51.100.7`, "10.0.0.1"},
		"brackets around IPv4":         {`for="[198.51.100.7]"`, "10.0.0.1"},
		"what X-Forwarded-For says":    {"", "10.0.0.1"},
		"an address without parameter": {"198.51.100.7", "10.0.0.1"},
	} {
		header := http.Header{"X-Forwarded-For": {"192.0.2.99"}}
		if test.forwarded != "" {
			header["Forwarded"] = []string{test.forwarded}
		}
		if got := seen(b, "10.0.0.1:1", header); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestWithoutLoadBalancersNoHeaderIsBelieved(t *testing.T) {
	for _, b := range []*address.Balancers{{}, balancers(t, ""), balancers(t, "Forwarded")} {
		if got := seen(b, "10.0.0.1:1", http.Header{"X-Forwarded-For": {"198.51.100.7"}, "Forwarded": {"for=198.51.100.7"}}); got != "10.0.0.1" {
			t.Errorf("%s", got)
		}
	}
}

func TestWhatIsNoRangeOrNoHeaderOfTheirsIsRefused(t *testing.T) {
	for _, one := range []string{"", "10.0.0.0/33", "balancer.example", "10.0.0.1:80", "fe80::1%eth0", "*"} {
		if _, err := address.NewBalancers([]string{one}, ""); err == nil {
			t.Errorf("%q is taken as a range", one)
		}
	}
	if _, err := address.NewBalancers(nil, "X-Real-IP"); err == nil {
		t.Error("a header of one value is taken")
	}
}

func FuzzFrom(f *testing.F) {
	f.Add("198.51.100.7, 10.0.0.2", true)
	f.Add(`for="[2001:db8::7]:1";proto=https,for=10.0.0.2`, false)
	f.Fuzz(func(t *testing.T, value string, xff bool) {
		name := address.Forwarded
		if xff {
			name = address.XForwardedFor
		}
		b, err := address.NewBalancers([]string{"10.0.0.0/8"}, name)
		if err != nil {
			t.Fatal(err)
		}
		if got := seen(b, "10.0.0.1:1", http.Header{name: {value}}); !netip.MustParseAddr(got).IsValid() {
			t.Errorf("%q", got)
		}
		// What the sender writes before what the load balancer writes changes nothing.
		written := "198.51.100.7"
		if !xff {
			written = "for=" + written
		}
		if got := seen(b, "10.0.0.1:1", http.Header{name: {value + ", " + written}}); got != "198.51.100.7" {
			t.Errorf("behind %q: %s", value, got)
		}
		if got := seen(b, "10.0.0.1:1", http.Header{name: {value, written}}); got != "198.51.100.7" {
			t.Errorf("in a line after %q: %s", value, got)
		}
	})
}
