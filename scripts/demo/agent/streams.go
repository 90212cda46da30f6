package agent

import (
	"io"
	"mime"
	"net/http"
	"sync"
	"time"
)

// Stream is one event stream that ended.
type Stream struct {
	// Method of the request that it answered: POST for a call, GET for the session's own stream.
	Method string
	Opened time.Time
	Ended  time.Time
	// Clean says that the server finished it; otherwise the connection broke or the agent let go.
	Clean bool
}

// streams watches the bodies of event streams.
type streams struct {
	ended chan Stream

	mu   sync.Mutex // guards open
	open int
}

func newStreams() *streams { return &streams{ended: make(chan Stream, 1024)} }

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *streams) watch(method string, body io.ReadCloser) io.ReadCloser {
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return &watched{ReadCloser: body, streams: s, stream: Stream{Method: method, Opened: time.Now()}}
}

type watched struct {
	io.ReadCloser
	streams *streams
	stream  Stream
	once    sync.Once
}

// Read notices the end.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if err != nil {
		w.end(err == io.EOF)
	}
	return n, err
}

// Close lets go of the stream.
func (w *watched) Close() error {
	w.end(false)
	return w.ReadCloser.Close()
}

func (w *watched) end(clean bool) {
	w.once.Do(func() {
		w.stream.Ended, w.stream.Clean = time.Now(), clean
		w.streams.mu.Lock()
		w.streams.open--
		w.streams.mu.Unlock()
		select {
		case w.streams.ended <- w.stream:
		default: // nobody reads: the count is still right
		}
	})
}

// bearer adds the token and watches event streams.
type bearer struct {
	token   string
	next    http.RoundTripper
	streams *streams
}

// RoundTrip sends one request.
func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && media == "text/event-stream" {
		resp.Body = b.streams.watch(r.Method, resp.Body)
	}
	return resp, nil
}
