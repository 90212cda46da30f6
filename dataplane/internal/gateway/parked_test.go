package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

// interviewer is a server of the session era that asks for a colour in each call, and tells what it was answered: with "ok" or "refused".
type interviewer struct {
	*httptest.Server
	cancelled chan struct{} // a call was
	deaf      bool          // takes no answers

	mu       sync.Mutex
	answered chan string // to the question of the call that came last
}

func newInterviewer(t *testing.T) *interviewer {
	i := &interviewer{cancelled: make(chan struct{}, 10)}
	i.Server = httptest.NewServer(http.HandlerFunc(i.serve))
	t.Cleanup(func() { i.CloseClientConnections(); i.Close() })
	return i
}

func (i *interviewer) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // an empty one is no message
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Error  json.RawMessage `json:"error"`
	}
	_ = json.Unmarshal(body, &m) // see above
	i.mu.Lock()
	answered := i.answered
	if m.Method == "tools/call" {
		answered = make(chan string, 10)
		i.answered = answered
	}
	i.mu.Unlock()
	switch {
	case m.Method == "notifications/cancelled":
		i.cancelled <- struct{}{}
		w.WriteHeader(http.StatusAccepted)
	case m.Method == "" && i.deaf:
		w.WriteHeader(http.StatusInternalServerError)
	case m.Method == "" && m.Error != nil:
		answered <- "refused"
		w.WriteHeader(http.StatusAccepted)
	case m.Method == "" && m.ID != nil:
		answered <- "ok " + string(body)
		w.WriteHeader(http.StatusAccepted)
	case m.ID == nil:
		w.WriteHeader(http.StatusAccepted)
	case m.Method == "initialize":
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Mcp-Session-Id", "s")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"i","version":"1"}}}`, m.ID)
	case m.Method == "tools/call":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"elicitation/create\",\"params\":{\"message\":\"Which colour?\",\"requestedSchema\":{\"type\":\"object\",\"properties\":{}}}}\n\n")
		_ = http.NewResponseController(w).Flush() // whoever is gone hears nothing
		select {
		case said := <-answered:
			fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":%q}]}}\n\n", m.ID, said)
		case <-r.Context().Done():
		}
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, m.ID)
	}
}

// asksAda is a world with an interviewer behind the connector demo, and its entry with a consent.
func asksAda(t *testing.T) (w *world, i *interviewer, consents func(bool)) {
	i = newInterviewer(t)
	w = newWorld(t, &options{})
	return w, i, consenting(w, i.URL)
}

// consenting puts a server behind the connector demo, with consent, and returns what changes that.
func consenting(w *world, url string) (consents func(bool)) {
	consents = func(yes bool) {
		connector := connectorEntry("demo", url, "")
		connector.GetConnector().Consent = &policyv1.Consent{Elicitation: yes}
		w.set(connector)
	}
	consents(true)
	return consents
}

const (
	echoes = `{"name":"echo","arguments":{}}`
	blue   = `{"action":"accept","content":{"colour":"blue"}}`
)

// parks has an agent of the stateless era make a call that asks, and returns what makes it again.
func parks(t *testing.T, w *world) (again func() answer) {
	t.Helper()
	a := w.stateless(ada, "/mcp/demo")
	a.capabilities = `{"elicitation":{}}`
	got := lastOf(a.w.request(http.MethodPost, a.path, a.header("tools/call", "echo"), a.message("7", "tools/call", echoes)))
	state, _ := got.field("result", "requestState").(string)
	if state == "" {
		t.Fatalf("it is not asked: %+v", got)
	}
	params := strings.TrimSuffix(echoes, "}") + fmt.Sprintf(`,"requestState":%q,"inputResponses":{"input":%s}}`, state, blue)
	return func() answer {
		return lastOf(a.w.request(http.MethodPost, a.path, a.header("tools/call", "echo"), a.message("8", "tools/call", params)))
	}
}

// relays has an agent of the session era make a call that asks, and returns its stream and the answer to the question.
func relays(t *testing.T, w *world) (a *agent, s *stream, answer string) {
	t.Helper()
	a = w.openedWith(ada, "/mcp/demo", mcp.LatestSession, `{"elicitation":{}}`)
	s = a.open(http.MethodPost, a.header("", ""), a.message("7", "tools/call", echoes))
	said, _ := s.next()
	var question struct {
		ID json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal([]byte(said), &question); err != nil || !strings.Contains(said, "Which colour?") {
		t.Fatalf("it is not asked: %s", said)
	}
	return a, s, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, question.ID, blue)
}

func TestAParkedCallEndsWithItsRule(t *testing.T) {
	w, i, _ := asksAda(t)
	if got := parks(t, w)(); !strings.Contains(got.body, "blue") {
		t.Fatalf("it does not go on: %+v", got)
	}
	again := parks(t, w)
	w.set(grantEntry(1, "demo", allow("unrelated")))
	receive(t, i.cancelled, "the upstream was not told")
	if got := again(); strings.Contains(got.body, "blue") || got.field("error") == nil && got.field("result", "isError") != true {
		t.Errorf("it went on: %+v", got)
	}
	w.set(grantEntry(1, "demo", allow("*")))
	if got := again(); strings.Contains(got.body, "blue") || !strings.Contains(got.body, "not waiting any more") {
		t.Errorf("with its rule again: %+v", got)
	}
}

func TestAParkedCallWhoseAnswerIsNotTakenIsCancelled(t *testing.T) {
	w, i, _ := asksAda(t)
	i.deaf = true
	if got := parks(t, w)(); got.field("result", "isError") != true {
		t.Errorf("it went on: %+v", got)
	}
	receive(t, i.cancelled, "the upstream was not told")
}

func TestACallThatAsksOnAStreamEndsWithItsRuleOrIsCancelled(t *testing.T) {
	w, i, _ := asksAda(t)
	a, s, said := relays(t, w)
	w.set(grantEntry(1, "demo", allow("unrelated")))
	if last := s.ends(); !strings.Contains(last, "access was taken away") {
		t.Errorf("the stream ends by %s", last)
	}
	receive(t, i.cancelled, "the upstream was not told")
	if got := a.post("", said); got.status != http.StatusBadRequest {
		t.Errorf("an answer too late: %+v", got)
	}
	w.set(grantEntry(1, "demo", allow("*")))
	a, s, said = relays(t, w)
	a.post("", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
	if last := s.ends(); !strings.Contains(last, "cancelled") {
		t.Errorf("the stream ends by %s", last)
	}
	receive(t, i.cancelled, "the upstream was not told")
	if got := a.post("", said); got.status != http.StatusBadRequest {
		t.Errorf("an answer too late: %+v", got)
	}
}

// TestWhatAPersonAnswersIsNotHandedOnWithoutConsent: the setting may change while they are asked.
func TestWhatAPersonAnswersIsNotHandedOnWithoutConsent(t *testing.T) {
	w, _, consents := asksAda(t)
	again := parks(t, w)
	consents(false)
	if got := again(); strings.Contains(got.body, "blue") || !strings.Contains(got.body, "refused") {
		t.Errorf("parked: %+v", got)
	}
	consents(true)
	a, s, said := relays(t, w)
	consents(false)
	a.post("", said)
	if last := s.ends(); strings.Contains(last, "blue") || !strings.Contains(last, "refused") {
		t.Errorf("on a stream: %s", last)
	}
	w = newWorld(t, &options{})
	consents = consenting(w, oracle(t, `"result":{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Which colour?","requestedSchema":{"type":"object","properties":{}}}}}}`, true).URL)
	a, s, said = relays(t, w)
	consents(false)
	a.post("", said)
	if last := s.ends(); !strings.Contains(last, "does not let this be asked") {
		t.Errorf("of a server of the stateless era: %s", last)
	}
}
