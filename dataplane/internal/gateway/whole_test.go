package gateway_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/spool"
)

// keeping is the connector demo, whose values are kept whole.
func (w *world) keeping(most uint32) *fleetv1.Entry {
	e := connectorEntry("demo", w.demo.URL, "")
	e.GetConnector().Audit = &policyv1.AuditSettings{Whole: true, MaxBytes: most}
	return e
}

func isWhole(t *testing.T, p *auditv1.Payload, what string) {
	t.Helper()
	sum := sha256.Sum256(p.GetWhole())
	if len(p.GetWhole()) == 0 || uint64(len(p.GetWhole())) != p.GetSize() || !bytes.Equal(sum[:], p.GetSha256()) || !p.GetTruncated() || p.GetNotKept() != "" {
		t.Errorf("of the %s %d bytes are sent whole, size %d, not kept because %q", what, len(p.GetWhole()), p.GetSize(), p.GetNotKept())
	}
}

func TestWhereAConnectorAsksForItValuesAreSentWholeAndMaskedFromEndToEnd(t *testing.T) {
	w := newWorld(t, &options{})
	w.set(w.keeping(0))
	a := w.stateless(ada, "/mcp/demo")
	token := "ghp_" + strings.Repeat("a1B2", 9)
	for _, size := range []int{5_000, 100_000, 400_000} {
		if got := a.call("echo", `{"text":"`+strings.Repeat("word ", size/5)+token+`"}`); !strings.Contains(got.body, "said word") {
			t.Fatalf("%.300s", got.body)
		}
		records := w.settled(2)
		for what, p := range map[string]*auditv1.Payload{"arguments": records[0].GetArguments(), "result": records[1].GetResult()} {
			isWhole(t, p, what)
			if bytes.Contains(p.GetWhole(), []byte(token)) || !bytes.Contains(p.GetWhole(), []byte("[masked]")) || !p.GetMasked() {
				t.Errorf("of the %s with %d bytes the secret at the end is not masked", what, size)
			}
		}
	}
	a.call("echo", `{"text":"short"}`)
	for _, r := range w.settled(2) {
		if r.GetArguments().GetWhole() != nil || r.GetResult().GetWhole() != nil || r.GetArguments().GetNotKept() != "" {
			t.Errorf("what the record has whole is sent twice: %v", r)
		}
	}
}

func TestWhatIsNotKeptWholeIsSaidSo(t *testing.T) {
	const noRoom = "the proxy's spool is more than half full"
	long := strings.Repeat("word ", 20_000)
	for _, c := range []struct {
		name  string
		spool spool.Config
		entry func(*world) *fleetv1.Entry
		why   string
	}{
		{name: "larger than the connector keeps", entry: func(w *world) *fleetv1.Entry { return w.keeping(50_000) }, why: "it has more than 50000 bytes"},
		{name: "the spool fills up", entry: func(w *world) *fleetv1.Entry { return w.keeping(0) }, spool: spool.Config{MaxBytes: 1 << 20}, why: noRoom},
		{name: "not asked for", entry: func(w *world) *fleetv1.Entry { return connectorEntry("demo", w.demo.URL, "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, &options{spool: c.spool, undelivered: c.why == noRoom})
			w.set(c.entry(w))
			a := w.stateless(ada, "/mcp/demo")
			if c.why == noRoom {
				for w.spool.Roomy() {
					if err := w.spool.Append(&auditv1.AuditRecord{Method: "filler", Error: long}); err != nil {
						t.Fatal(err)
					}
				}
				before := w.spool.Stats().Bytes
				if got := a.call("echo", `{"text":"`+long+`"}`); !strings.Contains(got.body, "said word") {
					t.Fatalf("the call was held up: %.300s", got.body)
				}
				w.eventually("both records are in the spool", func() bool { return w.spool.Stats().OpenCalls == 0 })
				if grown := w.spool.Stats().Bytes - before; grown > 20_000 {
					t.Errorf("the records took %d bytes of a spool that fills up", grown)
				}
				return
			}
			if got := a.call("echo", `{"text":"`+long+`"}`); !strings.Contains(got.body, "said word") {
				t.Fatalf("%.300s", got.body)
			}
			records := w.settled(2)
			for what, p := range map[string]*auditv1.Payload{"arguments": records[0].GetArguments(), "result": records[1].GetResult()} {
				if p.GetWhole() != nil || p.GetNotKept() != c.why {
					t.Errorf("of the %s %d bytes are sent, not kept because %q", what, len(p.GetWhole()), p.GetNotKept())
				}
			}
		})
	}
}
