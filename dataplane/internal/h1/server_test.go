package h1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve serves a handler, and tells by a header which server answered: this one or net/http.
func serve(t *testing.T, h http.HandlerFunc, encrypted bool) (s *Server, address string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ours := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		by := "net/http"
		if _, here := w.(*response); here {
			by = "h1"
		}
		w.Header().Set("By", by)
		h(w, r)
	})
	s = New(ours, &http.Server{Handler: ours, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute})
	if encrypted {
		pair := httptest.NewUnstartedServer(nil)
		pair.StartTLS()
		s.TLS = &tls.Config{Certificates: pair.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}
		pair.Close()
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(Patient(l)) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
	})
	return s, l.Addr().String()
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
}

func dial(t *testing.T, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func post(body string) string {
	return fmt.Sprintf("POST /mcp/demo HTTP/1.1\r\nHost: mcp.example\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// answer reads one answer: who gave it, and its body.
func answer(t *testing.T, in *bufio.Reader) (by, body string, resp *http.Response) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.Header.Get("By"), string(b), resp
}

func TestRequestsComeInAnyPieces(t *testing.T) {
	_, address := serve(t, echo, false)
	c, in := dial(t, address)
	for _, at := range []int{0, 1, 10, 40, len(post("")), len(post("hello")) - 1} {
		text := post("hello")
		for _, part := range []string{text[:at], text[at:]} {
			if _, err := io.WriteString(c, part); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // so that they come apart; if they don't, there is less to see
		}
		if by, body, _ := answer(t, in); by != "h1" || body != "POST /mcp/demo hello" {
			t.Fatalf("cut at %d: %s said %q", at, by, body)
		}
	}
	if _, err := io.WriteString(c, strings.Repeat(post("one"), 300)+post("two")); err != nil { // all at once
		t.Fatal(err)
	}
	for i := range 301 {
		want := "POST /mcp/demo one"
		if i == 300 {
			want = "POST /mcp/demo two"
		}
		if by, body, _ := answer(t, in); by != "h1" || body != want {
			t.Fatalf("%s said %q", by, body)
		}
	}
}

func TestWhatIsNotOrdinaryIsForNetHTTP(t *testing.T) {
	_, address := serve(t, echo, false)
	for _, c := range []struct{ send, say string }{
		{"GET /mcp/demo HTTP/1.1\r\nHost: a\r\n\r\n", "GET /mcp/demo "},
		{"POST /mcp/demo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "POST /mcp/demo abc"},
		{"POST /mcp/a%62 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "POST /mcp/ab x"},
		{"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000), "POST /mcp " + strings.Repeat("x", 20000)},
		{"POST /mcp HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 20000) + "\r\nContent-Length: 1\r\n\r\nx", "POST /mcp x"},
		{"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "POST /mcp x"},
	} {
		conn, in := dial(t, address)
		if _, err := io.WriteString(conn, post("before")+c.send); err != nil {
			t.Fatal(err)
		}
		if by, body, _ := answer(t, in); by != "h1" || body != "POST /mcp/demo before" {
			t.Fatalf("%s said %q", by, body)
		}
		if by, body, _ := answer(t, in); by != "net/http" || body != c.say {
			t.Errorf("%.80q: %s said %q", c.send, by, body)
		}
		if _, err := io.WriteString(conn, post("after")); err != nil { // and there it stays
			t.Fatal(err)
		}
		if by, body, _ := answer(t, in); by != "net/http" || body != "POST /mcp/demo after" {
			t.Errorf("behind %.80q: %s said %q", c.send, by, body)
		}
	}
	for _, bad := range []string{
		"POST /mcp HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
		"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", "POST /mcp HTTP/1.1\r\nHost: a\r\nX y: z\r\nContent-Length: 0\r\n\r\n",
		"POST /mcp HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
	} {
		conn, in := dial(t, address)
		if _, err := io.WriteString(conn, bad); err != nil {
			t.Fatal(err)
		}
		if _, _, resp := answer(t, in); resp.StatusCode < 400 {
			t.Errorf("%q is answered with %d", bad, resp.StatusCode)
		}
	}
}

func TestASlowRequestIsForNetHTTP(t *testing.T) {
	_, address := serve(t, echo, false)
	for _, at := range []int{3, 60, len(post("hello")) - 2} {
		conn, in := dial(t, address)
		if _, err := io.WriteString(conn, post("hello")[:at]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(whole + 100*time.Millisecond) // that it is slow is what is tested
		if _, err := io.WriteString(conn, post("hello")[at:]); err != nil {
			t.Fatal(err)
		}
		if by, body, _ := answer(t, in); by != "net/http" || body != "POST /mcp/demo hello" {
			t.Errorf("cut at %d: %s said %q", at, by, body)
		}
	}
}

func TestItWorksOverTLS(t *testing.T) {
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			t.Error("the request does not say that it came encrypted")
		}
		echo(w, r)
	}, true)
	for _, version2 := range []bool{false, true} {
		var p http.Protocols
		p.SetHTTP1(!version2)
		p.SetHTTP2(version2)
		client := &http.Client{Transport: &http.Transport{Protocols: &p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a certificate made for the test
		for range 3 {
			resp, err := client.Post("https://"+address+"/mcp/demo", "application/json", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			by := "h1"
			if version2 {
				by = "net/http"
			}
			if resp.Header.Get("By") != by || string(body) != "POST /mcp/demo hello" {
				t.Errorf("HTTP/2 %v: %s said %q", version2, resp.Header.Get("By"), body)
			}
		}
		client.CloseIdleConnections()
	}
}

// TestAnswersAreFramedAsNetHTTPFramesThem, for an agent that reads them with another parser.
func TestAnswersAreFramedAsNetHTTPFramesThem(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"nothing":        func(http.ResponseWriter, *http.Request) {},
		"a status alone": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
		"no content": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			_, _ = w.Write([]byte("x"))
		},
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) },
		"a short body": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<html>")
			_, _ = io.WriteString(w, "more")
		},
		"a declared body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		},
		"a large body": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
		"a body in pieces": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = w.Write(make([]byte, 1000))
			}
		},
		"events": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for range 3 {
				_, _ = io.WriteString(w, "data: x\n\n")
				_ = http.NewResponseController(w).Flush()
			}
		},
		"a flush alone": func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() },
		"line ends in a field": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["X-Bad"] = []string{" a\r\nSet-Cookie: b\nc\r"}
			w.Header()["X Bad\r\nSet-Cookie"] = []string{"b"}
		},
		"the last": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "bye")
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, address := serve(t, h, false)
			var got [2]string
			for i, ask := range []string{post("x"), strings.Replace(post("x"), "HTTP/1.1", "HTTP/1.1\r\nPragma: x", 1)} {
				conn, in := dial(t, address)
				if _, err := io.WriteString(conn, ask); err != nil {
					t.Fatal(err)
				}
				by, body, resp := answer(t, in)
				if want := []string{"h1", "net/http"}[i]; by != want {
					t.Fatalf("%s answered, not %s", by, want)
				}
				resp.Header.Del("By")
				resp.Header.Del("Date")
				got[i] = fmt.Sprint(resp.Status, resp.Header, resp.ContentLength, resp.TransferEncoding, resp.Close, len(body), body[:min(len(body), 100)])
				if !resp.Close {
					if _, err := io.WriteString(conn, ask); err != nil {
						t.Fatal(err)
					}
					if again, _, _ := answer(t, in); again != by {
						t.Errorf("the next is answered by %q", again)
					}
				} else if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection goes on: %v", err)
				}
			}
			if got[0] != got[1] {
				t.Errorf("here:     %s\nnet/http: %s", got[0], got[1])
			}
		})
	}
}

func TestAnAnswerThatBreaksOffEndsTheConnection(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"less than it said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "ok")
		},
		"a panic": func(http.ResponseWriter, *http.Request) { panic("of a test") },
		"an abort": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		_, address := serve(t, h, false)
		conn, in := dial(t, address)
		if _, err := io.WriteString(conn, post("x")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s looks like a whole answer", name)
		}
	}
}

func TestAnAgentThatGoesAwayIsNoticed(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		gone := make(chan struct{})
		_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(gone)
		}, encrypted)
		conn, _ := dial(t, address)
		if encrypted {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as above
		}
		if _, err := io.WriteString(conn, post("x")); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		select {
		case <-gone:
		case <-time.After(20 * time.Second):
			t.Fatal("nobody noticed")
		}
	}
}

// TestTheNextRequestMayComeWhileOneIsAnswered: who looks whether the agent is there reads its first byte.
func TestTheNextRequestMayComeWhileOneIsAnswered(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		let, asked := make(chan struct{}), atomic.Int32{}
		_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			<-let
			echo(w, r)
		}, encrypted)
		conn, in := dial(t, address)
		if encrypted {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as above
			in = bufio.NewReader(conn)
		}
		if _, err := io.WriteString(conn, post("0")); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			time.Sleep(2 * lazily) // so that somebody looks
			if _, err := io.WriteString(conn, post(fmt.Sprint(i+1))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lazily / 2) // so that who looks has read it; if not, the same must come of it
			let <- struct{}{}
			if by, body, _ := answer(t, in); by != "h1" || body != fmt.Sprintf("POST /mcp/demo %d", i) {
				t.Fatalf("%s said %q to the %d", by, body, i)
			}
		}
	}
}

func TestAStopWaitsForAnswersAndForNobodyElse(t *testing.T) {
	let, asked := make(chan struct{}), make(chan struct{}, 2)
	s, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/mcp/demo" {
			asked <- struct{}{}
			<-let
		}
		echo(w, r)
	}, false)
	silent, _ := dial(t, address)
	idler, idlersIn := dial(t, address)
	if _, err := io.WriteString(idler, strings.Replace(post("x"), "demo", "other", 1)); err != nil {
		t.Fatal(err)
	}
	answer(t, idlersIn)
	caller, in := dial(t, address)
	if _, err := io.WriteString(caller, post("x")); err != nil {
		t.Fatal(err)
	}
	other, othersIn := dial(t, address) // net/http's
	if _, err := io.WriteString(other, strings.Replace(post("x"), "POST", "PUT", 1)); err != nil {
		t.Fatal(err)
	}
	<-asked
	<-asked
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	for _, c := range []net.Conn{silent, idler} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a connection on which nothing was asked ends with %v", err)
		}
	}
	select {
	case err := <-stopped:
		t.Fatalf("it stopped before the answer: %v", err)
	default:
	}
	close(let)
	if by, body, resp := answer(t, in); by != "h1" || body != "POST /mcp/demo x" || !resp.Close {
		t.Errorf("%s said %q, and that it is the last: %v", by, body, resp.Close)
	}
	if by, body, _ := answer(t, othersIn); by != "net/http" || body != "PUT /mcp/demo x" {
		t.Errorf("%s said %q", by, body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestAStopDoesNotWaitForEver(t *testing.T) {
	asked := make(chan struct{})
	s, address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}, false)
	caller, _ := dial(t, address)
	if _, err := io.WriteString(caller, post("x")); err != nil {
		t.Fatal(err)
	}
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := caller.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}
