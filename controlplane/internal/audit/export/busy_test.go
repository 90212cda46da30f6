package export

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/vault"
)

func TestRetryAfterIsReadWithinBounds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 9, 21, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "86400": maxRetryAfter, "99999999999999999999999": maxRetryAfter, "18446744073709551615": maxRetryAfter, "-5": 0, "1.5": 0, "soon": 0,
		"Mon, 21 Sep 2026 10:00:30 GMT": 30 * time.Second, "Monday, 21-Sep-26 10:00:30 GMT": 30 * time.Second, "Mon Sep 21 10:00:30 2026": 30 * time.Second,
		"Mon, 21 Sep 2026 09:00:00 GMT": 0, "Fri, 31 Dec 9999 23:59:59 GMT": maxRetryAfter,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, not %s", value, got, want)
		}
	}
}

// TestEveryReceiverOverHTTPCanAskToBeLeftAlone has one of each target say that it is busy.
func TestEveryReceiverOverHTTPCanAskToBeLeftAlone(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var code int
	var value string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		if value != "" {
			w.Header().Set("Retry-After", value)
		}
		w.WriteHeader(code)
	}))
	defer server.Close()
	for target, secret := range map[policyv1.ExportTarget]string{
		policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK: "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", policyv1.ExportTarget_EXPORT_TARGET_OTLP: "", policyv1.ExportTarget_EXPORT_TARGET_SPLUNK: "t0ken",
		policyv1.ExportTarget_EXPORT_TARGET_S3: "access:s3cr3t",
	} {
		sink, err := open(&policyv1.AuditExporter{Name: "x", Target: target, Url: server.URL, Bucket: "audit", AllowedRanges: loopback}, vault.NewSecret([]byte(secret)), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			code  int
			value string
			want  time.Duration
		}{{429, "17", 17 * time.Second}, {503, "18", 18 * time.Second}, {503, "100000", maxRetryAfter}, {503, "", 0}, {504, "19", 0}, {403, "19", 0}} {
			mu.Lock()
			code, value = c.code, c.value
			mu.Unlock()
			err := sink.Send(t.Context(), items(1, 2, format.JSON))
			var refusal *Refusal
			if err == nil || errors.As(err, &refusal) || asked(err) != c.want {
				t.Errorf("%s, %d with %q: it is waited for %s, %v", target, c.code, c.value, asked(err), err)
			}
		}
	}
}

// TestABusyReceiverIsLeftAlone: what comes before the time is over is early.
func TestABusyReceiverIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := s.append(5)
	const after = 1500 * time.Millisecond // longer than the longest wait here
	var mu sync.Mutex
	var tries []time.Time
	k := &sink{answer: func([]Item) error {
		mu.Lock()
		defer mu.Unlock()
		if tries = append(tries, time.Now()); len(tries) == 1 {
			return &Busy{After: after, Text: "the receiver answered 503"}
		}
		return nil
	}}
	s.state.set(hookTo("hook"))
	s.run("cp-1", k.only)
	eventually(t, func() error { return k.has(all) })
	mu.Lock()
	defer mu.Unlock()
	if waited := tries[1].Sub(tries[0]); waited < after {
		t.Errorf("it was asked again after %s", waited)
	}
}

// TestWhatSplunksCodesSay has a collector answer as its documentation lists them.
func TestWhatSplunksCodesSay(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var status int
	var answer string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	sink, err := open(&policyv1.AuditExporter{Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_SPLUNK, Url: server.URL, AllowedRanges: loopback}, vault.NewSecret([]byte("t0ken")), "")
	if err != nil {
		t.Fatal(err)
	}
	const again, refused, uncertain = 1, 2, 3
	for _, c := range []struct {
		status int
		answer string
		what   int
		says   string
	}{
		{403, `{"text":"Token disabled","code":1}`, again, "disabled"},
		{401, `{"text":"Token is required","code":2}`, again, "required"},
		{401, `{"text":"Invalid authorization","code":3}`, again, "authorization"},
		{403, `{"text":"Invalid token","code":4}`, again, "its token is invalid (code 4)"},
		{400, `{"text":"No data","code":5}`, refused, "No data"},
		{400, `{"text":"Invalid data format","code":6,"invalid-event-number":1}`, refused, "Invalid data format"},
		{400, `{"text":"Incorrect index","code":7,"invalid-event-number":1}`, again, "index"},
		{500, `{"text":"Internal server error","code":8}`, uncertain, "Internal"},
		{503, `{"text":"Server is busy","code":9}`, again, "503"},
		{400, `{"text":"Data channel is missing","code":10}`, again, "indexerAck"},
		{400, `{"text":"Invalid data channel","code":11}`, again, "indexerAck"},
		{400, `{"text":"Event field is required","code":12}`, refused, "Event field"},
		{400, `{"text":"Event field cannot be blank","code":13}`, refused, "blank"},
		{400, `{"text":"ACK is disabled","code":14}`, again, "indexerAck"},
		{400, `{"text":"Error in handling indexed fields","code":15}`, refused, "indexed fields"},
		{400, `no JSON`, refused, "no JSON"},
	} {
		mu.Lock()
		status, answer = c.status, c.answer
		mu.Unlock()
		err := sink.Send(t.Context(), items(1, 1, format.JSON))
		got := again
		if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
			if got = uncertain; refusal.Certain {
				got = refused
			}
		}
		if err == nil || got != c.what || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%d %s: %v, which is %d, not %d", c.status, c.answer, err, got, c.what)
		}
	}
}
