package gateway_test

import (
	"bufio"
	"cmp"
	"net/http"
	"strings"
	"testing"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
)

// hangUp opens a call of "wait" in a session, reads its first event's id, and closes the connection.
func (a *agent) hangUp() (lastID string) {
	a.w.t.Helper()
	r, err := http.NewRequestWithContext(a.w.t.Context(), http.MethodPost, a.w.url+a.path, strings.NewReader(a.message("7", "tools/call", `{"name":"`+cmp.Or(a.tool, "wait")+`","arguments":{}}`)))
	if err != nil {
		a.w.t.Fatal(err)
	}
	r.Header = a.header("tools/call", "wait")
	transport := &http.Transport{}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		a.w.t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lastID == "" {
		lastID, _ = strings.CutPrefix(lines.Text(), "id: ")
	}
	receive(a.w.t, a.w.demo.waiting, "the upstream was not called")
	_ = resp.Body.Close()
	transport.CloseIdleConnections()
	if lastID == "" {
		a.w.t.Fatal("the stream cannot be continued: its events have no ids")
	}
	return lastID
}

func TestACallGoesOnForAnAgentThatComesBackForItsAnswer(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.opened(ada, "/mcp/demo", mcp.LatestSession)
	last := a.hangUp()
	h := a.header("", "")
	h.Set("Last-Event-ID", last)
	// Another's stream is not continued, whoever knows its events' ids.
	other := w.opened(bob, "/mcp/demo", mcp.LatestSession)
	stolen := other.header("", "")
	stolen.Set("Last-Event-ID", last)
	theirs := other.open(http.MethodGet, stolen, "")

	s := a.open(http.MethodGet, h, "")
	s.wants("waiting")
	close(w.demo.release)
	s.wants(`"done"`)
	if rest := s.ends(); rest != "" {
		t.Errorf("the stream went on with %q", rest)
	}
	select {
	case said := <-theirs.events:
		t.Errorf("another's stream said %q", said)
	default:
	}
	// Once more, as if the answer had been lost too.
	s = a.open(http.MethodGet, h, "")
	s.wants("waiting")
	s.wants(`"done"`)
	if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_OK {
		t.Errorf("recorded %v", r)
	}
}

func TestACallEndsForAnAgentThatDoesNotComeBack(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.ResumeFor = 10 * time.Millisecond }})
	a := w.opened(ada, "/mcp/demo", mcp.LatestSession)
	a.hangUp()
	receive(t, w.demo.cancelled, "the call was not cancelled")
	if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_CANCELLED {
		t.Errorf("recorded %v", r)
	}
}
