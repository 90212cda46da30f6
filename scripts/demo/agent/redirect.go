package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Answer is the agent's listener on loopback for an authorization response (RFC 8252, section 7.3). Close it.
type Answer struct {
	// URL is the redirect URI.
	URL    string
	server *http.Server
	got    chan url.Values
	done   chan struct{}
}

// ListenForAnswer listens at a free port, for one answer at a path.
func ListenForAnswer(ctx context.Context, path string) (*Answer, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the redirect: %w", err)
	}
	r := &Answer{URL: "http://" + listener.Addr().String() + path, got: make(chan url.Values, 1), done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) {
		select {
		case r.got <- req.URL.Query():
		default: // only the first answer counts
		}
		_, _ = io.WriteString(w, "The program has its answer. You may close this window.\n")
	})
	r.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(listener) // ends by Close
	}()
	return r, nil
}

// Close stops listening.
func (r *Answer) Close() {
	_ = r.server.Close()
	<-r.done
}

// Opener is a browser with a person at it.
type Opener interface {
	// Open opens a URL and answers pages as the person would who wants to get in, until one asks for nothing more.
	Open(ctx context.Context, target string) (Page, error)
}

// Fetch has a browser open an authorization request and returns the answer to it. A browser that is left with another page, and an
// answer that is an error, are a Refusal.
func (r *Answer) Fetch(ctx context.Context, b Opener, start string) (url.Values, error) {
	page, err := b.Open(ctx, start)
	if err != nil {
		return nil, err
	}
	select {
	case q := <-r.got:
		if q.Get("error") != "" {
			return nil, &Refusal{Page: page, Code: q.Get("error"), Text: q.Get("error_description")}
		}
		return q, nil
	default:
		return nil, &Refusal{Page: page, Text: page.Text}
	}
}

// ErrRefused says that somebody was not let in.
var ErrRefused = errors.New("the sign-in was refused")

// Refusal is how somebody was not let in.
type Refusal struct {
	// Page is what the browser showed at last.
	Page Page
	// Code is OAuth's, where the agent was answered. Empty: the browser was left with the page.
	Code string
	Text string
}

func (e *Refusal) Error() string {
	text := e.Text
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	if e.Code != "" {
		return fmt.Sprintf("%v: %s: %s", ErrRefused, e.Code, text)
	}
	return fmt.Sprintf("%v: status %d: %s", ErrRefused, e.Page.Status, text)
}

// Is lets a Refusal be known by ErrRefused.
func (e *Refusal) Is(target error) bool { return target == ErrRefused }
