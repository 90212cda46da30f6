package upstream

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func plainHeads() []string {
	ordinary := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ndate: x\r\nContent-Length: 2\r\n\r\n{}"
	all := []string{
		ordinary, strings.Replace(ordinary, "200 OK", "404 Not Found", 1), strings.Replace(ordinary, "date: x", "mcp-session-id: abc\r\nConnection: Keep-Alive", 1),
		strings.Replace(ordinary, "200 OK", "204 No Content", 1), strings.Replace(ordinary, "200 OK", "100 Continue", 1), strings.Replace(ordinary, "200 OK", "200", 1),
		strings.Replace(ordinary, "1.1", "1.0", 1), strings.Replace(ordinary, "\r\n", "\n", 1), strings.Replace(ordinary, "date: x", "date: x\r\n y", 1), strings.Replace(ordinary, "date: x", "date : x", 1),
	}
	for _, line := range []string{
		"Transfer-Encoding: chunked", "Content-Encoding: gzip", "Connection: close", "Content-Length: 2", "Content-Length: 3", "Content-Type: text/html", "Trailer: x", "Mcp-Session-Id: a\r\nMcp-Session-Id: b",
		"x: \x00", "x: \xff", "X:y", "X:  y", "X: y ", "X_Y: z", "Content-Type: text/event-stream; charset=utf-8", "X: a\rb", "Set-Cookie: a\r\nSet-Cookie: b",
	} {
		all = append(all, strings.Replace(ordinary, "date: x", line, 1))
	}
	for _, length := range []string{"0", "02", "+2", "-1", "2 ", "", "2, 2", "9999999999999", "0x2"} {
		all = append(all, strings.Replace(ordinary, "Content-Length: 2", "Content-Length: "+length, 1))
	}
	return all
}

// meansTheSame fails where a head that is read here means something else to net/http.
func meansTheSame(t *testing.T, b []byte) bool {
	var h plainHead
	size := h.read(b)
	if size == 0 {
		return false
	}
	in := bufio.NewReader(bytes.NewReader(b))
	resp, err := http.ReadResponse(in, postRequest)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", b, err)
	}
	defer resp.Body.Close()
	session := ""
	if ids := resp.Header["Mcp-Session-Id"]; len(ids) == 1 {
		session = ids[0]
	}
	if resp.StatusCode != h.status || resp.ContentLength != h.length || !slices.Equal(resp.Header["Content-Type"], h.contentType) || session != h.session || resp.Close ||
		resp.Header.Get("Content-Encoding") != "" || len(resp.TransferEncoding) > 0 {
		t.Fatalf("%q is %+v, and to net/http %+v", b, h, resp)
	}
	want, wantErr := io.ReadAll(resp.Body)
	rest := bufio.NewReader(bytes.NewReader(b[size:]))
	got, gotErr := io.ReadAll(&sized{rest, h.length})
	if !bytes.Equal(got, want) || (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("%q: the body is %q, %v, and to net/http %q, %v", b, got, gotErr, want, wantErr)
	}
	left, _ := io.ReadAll(rest)
	theirs, _ := io.ReadAll(in)
	if gotErr == nil && !bytes.Equal(left, theirs) {
		t.Fatalf("%q: %q is left, and to net/http %q", b, left, theirs)
	}
	return true
}

func TestOnlyOrdinaryAnswersAreReadWithoutNetHTTP(t *testing.T) {
	taken := 0
	for _, text := range plainHeads() {
		if meansTheSame(t, []byte(text)) {
			taken++
		}
		for n := range strings.Index(text, "\r\n\r\n") + 4 {
			if meansTheSame(t, []byte(text[:n])) {
				t.Errorf("%q is taken for whole", text[:n])
			}
		}
	}
	// The first three, the two cookies, and no bytes.
	if taken != 5 {
		t.Errorf("%d are taken", taken)
	}
}

// FuzzPlainHead: what is read without net/http means the same to it.
func FuzzPlainHead(f *testing.F) {
	for _, text := range plainHeads() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) { meansTheSame(t, b) })
}
