package h1

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const ordinary = "POST /mcp/demo HTTP/1.1\r\nHost: mcp.example:8080\r\nauthorization: Bearer a.b.c\r\nContent-Type: application/json\r\n" +
	"mcp-protocol-version: 2026-07-28\r\nAccept: application/json, text/event-stream\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"

// heads are seeds: each as agents send it, or nearly.
func heads() []string {
	all := []string{
		ordinary, strings.Replace(ordinary, "/mcp/demo", "/mcp", 1), strings.Replace(ordinary, "Content-Length: 2", "Content-Length: 0", 1),
		strings.Replace(ordinary, "POST", "GET", 1), strings.Replace(ordinary, "1.1", "1.0", 1), strings.Replace(ordinary, "/mcp/demo", "/mcp/../x", 1),
		strings.Replace(ordinary, "/mcp/demo", "http://a/mcp", 1), strings.Replace(ordinary, "/mcp/demo", "/mcp?a=b", 1),
		strings.Replace(ordinary, "Host: mcp.example:8080\r\n", "", 1), strings.Replace(ordinary, "\r\nauth", "\r\nHost: b\r\nauth", 1),
		strings.Replace(ordinary, "\r\n", "\n", 1), strings.Replace(ordinary, "Accept: ", "Accept:", 1), strings.Replace(ordinary, "Accept: ", "Accept : ", 1),
		strings.Replace(ordinary, "Accept: ", "Accept:  ", 1), strings.Replace(ordinary, "Accept: application", "Accept: a\r\n b", 1),
		strings.Replace(ordinary, "stream\r\n", "stream \r\n", 1), strings.Replace(ordinary, "stream\r\n", "st\x00ream\r\n", 1), strings.Replace(ordinary, "stream\r\n", "st\rream\r\n", 1),
		strings.Replace(ordinary, "keep-alive", "close", 1), strings.Replace(ordinary, "keep-alive", "upgrade", 1),
	}
	for _, extra := range []string{
		"Content-Length: 2", "Content-Length: 3", "Transfer-Encoding: chunked", "transfer-encoding: identity", "Expect: 100-continue", "Upgrade: h2c", "TE: trailers", "Trailer: X",
		"Pragma: no-cache", "X_Y: z", "X-: y", "-x: y", "x-Y-z1: \xff", "Accept: again", "Proxy-Connection: close", "HTTP2-Settings: AA", ": x", "Mcp-Name: a b",
	} {
		all = append(all, strings.Replace(ordinary, "Accept: ", extra+"\r\nAccept: ", 1))
	}
	for _, length := range []string{"+2", "-2", "02", "2,2", "2 ", " 2", "0x2", "2\t", "99999999999999999999", "16385", "", "٢"} {
		all = append(all, strings.Replace(ordinary, "Content-Length: 2", "Content-Length: "+length, 1))
	}
	return all
}

// same fails where a head that is read here does not mean to net/http just what it means here.
func same(t *testing.T, h *head, b []byte) verdict {
	t.Helper()
	size, v := h.read(b)
	if v != plain || len(b) < size+h.length {
		return v
	}
	in := bufio.NewReader(bytes.NewReader(b))
	r, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", b, err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("net/http refuses the body of %q: %v", b, err)
	}
	rest, _ := io.ReadAll(in)
	switch {
	case r.Method != http.MethodPost, r.Proto != "HTTP/1.1", r.RequestURI != h.target, r.URL.String() != h.target, r.URL.Path != h.target, r.Host != h.host,
		r.ContentLength != int64(h.length), len(r.TransferEncoding) != 0, r.Close, !bytes.Equal(body, b[size:size+h.length]), !bytes.Equal(rest, b[size+h.length:]):
		t.Fatalf("%q: net/http reads %s %s at %s, %d bytes, %q and then %q; here it is %s at %s, %d bytes", b, r.Method, r.RequestURI, r.Host, r.ContentLength, body, rest, h.target, h.host, h.length)
	case !maps.EqualFunc(r.Header, h.header, slices.Equal):
		t.Fatalf("%q: net/http reads the header %v, here it is %v", b, r.Header, h.header)
	}
	return v
}

func TestOnlyOrdinaryRequestsAreReadHere(t *testing.T) {
	for i, text := range heads() {
		want := other
		if i < 3 || strings.Contains(text, "Mcp-Name: a b") || strings.Contains(text, "\r\nX-: y") || strings.Contains(text, "\r\n-x: y") {
			want = plain
		}
		if v := same(t, &head{}, []byte(text)); v != want {
			t.Errorf("%q is %d, not %d", text, v, want)
		}
	}
}

func TestAHeadIsReadTheSameInPieces(t *testing.T) {
	var h head
	for n := range len(ordinary) - len("{}") {
		if size, v := h.read([]byte(ordinary[:n])); v != short {
			t.Fatalf("%q is %d of %d bytes", ordinary[:n], v, size)
		}
	}
	if v := same(t, &h, []byte(ordinary)); v != plain {
		t.Fatalf("the whole is %d", v)
	}
	next := strings.Replace(ordinary, "a.b.c", "d.e.f", 1) // of somebody else, and just as long
	for n := range len(next) - len("{}") {
		h.read([]byte(next[:n]))
	}
	if v := same(t, &h, []byte(next)); v != plain {
		t.Fatalf("the next is %d", v)
	}
}

// TestAHeadIsNotTakenForTheOneBefore, which it is compared with line by line.
func TestAHeadIsNotTakenForTheOneBefore(t *testing.T) {
	for _, one := range heads() {
		for _, next := range heads() {
			var h head
			h.read([]byte(one))
			fresh := head{}
			if was, now := same(t, &fresh, []byte(next)), same(t, &h, []byte(next)); was != now {
				t.Fatalf("%q is %d behind %q, and %d alone", next, now, one, was)
			}
		}
	}
}

func TestTheHeaderOfARequestIsNotChangedByTheNext(t *testing.T) {
	var h head
	h.read([]byte(ordinary))
	before := h.header
	was := before.Clone()
	h.read([]byte(strings.Replace(ordinary, "a.b.c", "d.e.f", 1)))
	if !maps.EqualFunc(before, was, slices.Equal) || h.header.Get("Authorization") != "Bearer d.e.f" {
		t.Errorf("it was %v and is %v; the next is %v", was, before, h.header)
	}
}

// FuzzHead: what is read here, means the same to net/http. Two follow each other on a connection.
func FuzzHead(f *testing.F) {
	for _, text := range heads() {
		f.Add([]byte(ordinary), []byte(text))
		f.Add([]byte(text), []byte(ordinary+"POST"))
	}
	f.Fuzz(func(t *testing.T, one, next []byte) {
		var h head
		same(t, &h, one)
		same(t, &h, next)
	})
}
