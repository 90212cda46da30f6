package upstream

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// wire is the seam to HTTP: all that a call needs of it, so that another implementation can take net/http's place.
type wire interface {
	// send sends one request and returns when the answer's head is in. It never sends a request twice once a byte of it may
	// have been taken, and follows no redirect. When ctx ends, send and reads of the body return soon, and the connection
	// is not used again. The caller closes the body; reading it to its end first lets the connection be used again.
	send(ctx context.Context, r *request) (reply, error)
	// close ends connections that are not in use.
	close()
}

// request is one HTTP request to the target. Header names are in net/http's form; values hold no control characters.
type request struct {
	method string
	fields []field
	body   []byte
	// begun: its body is being sent, so that the server may have taken it whatever is heard then.
	begun atomic.Bool
}

type field struct{ name, value string }

// queryField stands among fields for what is added to the URL's query.
const queryField = ":query"

// withQuery returns a URL with what fields add to its query, and the fields that are headers.
func withQuery(to *url.URL, fields []field) (*url.URL, []field) {
	for i, f := range fields {
		if f.name != queryField {
			continue
		}
		added := *to
		if added.RawQuery != "" {
			added.RawQuery += "&"
		}
		added.RawQuery += f.value
		return &added, append(fields[:i:i], fields[i+1:]...)
	}
	return to, fields
}

// reply is the head of an answer, as far as it matters, and its body.
type reply struct {
	status      int
	contentType []string
	encoded     bool // it has a content encoding, which was not asked for
	session     string
	challenge   []string // WWW-Authenticate
	length      int64    // of the body; -1 if unknown
	body        io.ReadCloser
}

// netWire is net/http's transport.
type netWire struct {
	transport *http.Transport
	url       *url.URL
	userAgent []string
	http1     atomic.Bool // what the server spoke last
}

// aliveEvery is how often a quiet connection of HTTP/2 is asked whether it is alive, and how long it may take to say so.
const aliveEvery = 15 * time.Second

func newNetWire(c Config, t Target, to *url.URL) *netWire {
	// Without that, calls would be sent on a connection of which the other side is gone for as long as TCP tries.
	alive := min(aliveEvery, t.Timeout)
	transport := &http.Transport{
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: alive, PingTimeout: alive},
		Proxy:                  c.Proxy,
		DialContext:            c.Dial,
		TLSHandshakeTimeout:    t.ConnectTimeout,
		MaxIdleConns:           t.MaxIdle,
		MaxIdleConnsPerHost:    t.MaxIdle,
		MaxConnsPerHost:        t.MaxConns,
		IdleConnTimeout:        t.IdleTimeout,
		MaxResponseHeaderBytes: t.MaxHeader,
		DisableCompression:     true, // a compressed answer could be far larger than it looks
		ForceAttemptHTTP2:      true,
		WriteBufferSize:        8 << 10,
		ReadBufferSize:         8 << 10,
	}
	if c.TLS != nil {
		transport.TLSClientConfig = c.TLS.Clone()
	}
	return &netWire{transport: transport, url: to, userAgent: []string{c.Client.Name + "/" + c.Client.Version}}
}

func (w *netWire) send(ctx context.Context, r *request) (reply, error) {
	to, fields := withQuery(w.url, r.fields)
	header := make(http.Header, len(fields)+1)
	values := make([]string, len(fields))
	for i, f := range fields {
		values[i] = f.value
		header[f.name] = values[i : i+1 : i+1]
	}
	header["User-Agent"] = w.userAgent
	req := (&http.Request{
		Method: r.method, URL: to, Host: to.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(r.body)),
	}).WithContext(ctx)
	var resp *http.Response
	var err error
	for tries := maxNotTaken; ; tries-- {
		if len(r.body) > 0 {
			req.Body = newBody(r)
			if w.http1.Load() { // in HTTP/1.1 it is used only where not one byte was written, in HTTP/2 also where nobody knows
				req.GetBody = func() (io.ReadCloser, error) { return newBody(r), nil }
			}
		}
		resp, err = w.transport.RoundTrip(req) //nolint:bodyclose // the reply's body, which the caller of send closes
		if err == nil {
			break
		}
		if tries == 0 || ctx.Err() != nil || !notTaken(err) {
			return reply{}, err
		}
		again := *req
		req = &again
	}
	if http1 := resp.ProtoMajor == 1; http1 != w.http1.Load() {
		w.http1.Store(http1)
	}
	rep := reply{
		status: resp.StatusCode, contentType: resp.Header["Content-Type"], length: resp.ContentLength, body: resp.Body,
		encoded: resp.Header.Get("Content-Encoding") != "", challenge: resp.Header["Www-Authenticate"],
	}
	if ids := resp.Header["Mcp-Session-Id"]; len(ids) == 1 {
		rep.session = ids[0]
	}
	return rep, nil
}

func (w *netWire) close() { w.transport.CloseIdleConnections() }

// maxNotTaken is how often a request is sent again that the server said it did not take.
const maxNotTaken = 3

// notTaken tells whether a server of HTTP/2 said that it took nothing of a request (RFC 9113, sections 6.8 and 8.7). net/http has no
// type for it. It would send a request again itself had it the body, but also one that was reset as a violation of the protocol, of
// which nobody knows whether it was taken.
func notTaken(err error) bool {
	text := err.Error()
	return strings.Contains(text, "cannot retry err") && (strings.Contains(text, "graceful shutdown GOAWAY") || strings.Contains(text, "REFUSED_STREAM"))
}

// body is a reader of a request's bytes that can be closed, in one allocation.
type body struct {
	bytes.Reader
	of *request
}

func newBody(of *request) *body {
	b := &body{of: of}
	b.Reset(of.body)
	of.begun.Store(false)
	return b
}

// Read is called once there is a connection.
func (b *body) Read(p []byte) (int, error) {
	b.of.begun.Store(true)
	return b.Reader.Read(p)
}

// WriteTo is another way to read.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	b.of.begun.Store(true)
	return b.Reader.WriteTo(w)
}

// Close has nothing to close.
func (*body) Close() error { return nil }
