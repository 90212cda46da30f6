package upstream

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
)

func TestNothingIsSentForWhichNoAnswerCanCome(t *testing.T) {
	var sent atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sent.Add(1)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newLegacyWire(Config{}.orDefaults(), Target{}.orDefaults(), at)
	t.Cleanup(w.close)
	// The server's stream has ended, and is not forgotten yet.
	w.streams["s"] = &legacyStream{id: "s", post: at, cancel: func() {}}
	rep, err := w.send(t.Context(), &request{
		method: http.MethodPost, fields: []field{{mcp.HeaderSession, "s"}}, body: []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`),
	})
	if err != nil || rep.status != http.StatusNotFound || sent.Load() != 0 {
		t.Errorf("sent %d times: status %d, %v", sent.Load(), rep.status, err)
	}
}
