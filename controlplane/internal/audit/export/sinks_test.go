package export

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gosyslog "github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/octetcounting"
	"github.com/leodido/go-syslog/v4/rfc5424"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	collectorv1 "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/vault"
)

// items are records on their way, in a format.
func items(from, to int, write func(format.Record) []byte) []Item {
	var all []Item
	for n := from; n <= to; n++ {
		r := format.Record{Sequence: uint64(n), Stored: time.Unix(1_790_000_000, 0), AuditRecord: &auditv1.AuditRecord{
			Proxy: "eu west]1", SpoolGeneration: "g\"", Number: uint64(n), At: timestamppb.New(time.Unix(1_790_000_000, 5e8)), Phase: auditv1.Phase_PHASE_REFUSED, Connector: "github", Tool: "grüße\n<1>1 forged", TraceId: strings.Repeat("0a", 16),
		}}
		all = append(all, Item{Record: r, Line: write(r)})
	}
	return all
}

var loopback = []string{"127.0.0.0/8", "::1/128"}

// certificate is what vouches for a test server.
func certificate(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestAWebhookIsSignedAndABatchKeepsItsID(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))
	verify, err := standardwebhooks.NewWebhook("whsec_" + key)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var ids []string
	fail := true
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if err := verify.Verify(body, r.Header); err != nil {
			t.Errorf("the signature is not good: %v", err)
		}
		changed := bytes.Replace(body, []byte("github"), []byte("gitlab"), 1)
		if verify.Verify(changed, r.Header) == nil {
			t.Error("the signature is good for another body")
		}
		var m struct {
			Type string
			Data struct {
				Exporter string
				Records  []struct{ ID, Tool string }
			}
		}
		if err := json.Unmarshal(body, &m); err != nil || m.Type != "audit.records" || m.Data.Exporter != "hook" || len(m.Data.Records) != 3 || m.Data.Records[0].Tool != "grüße\n<1>1 forged" {
			t.Errorf("the body is %s, %v", body, err)
		}
		ids = append(ids, r.Header.Get("Webhook-Id"))
		if fail {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fail = false
	}))
	defer server.Close()
	e := &policyv1.AuditExporter{Name: "hook", Target: policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK, Url: server.URL, AllowedRanges: loopback, Ca: certificate(server)}
	sink, err := open(e, vault.NewSecret([]byte(key)), "")
	if err != nil {
		t.Fatal(err)
	}
	batch := items(1, 3, format.JSON)
	if err := sink.Send(t.Context(), batch); err == nil {
		t.Error("a 503 passes for taken")
	} else if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		t.Error("a 503 passes for a refusal of the records")
	}
	if err := sink.Send(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(t.Context(), items(4, 6, format.JSON)); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 || ids[0] != ids[1] || ids[1] == ids[2] {
		t.Errorf("the ids are %q", ids)
	}
	// What is not allowed is not reached.
	guarded := proto.CloneOf(e)
	guarded.AllowedRanges = nil
	sink, err = open(guarded, vault.NewSecret([]byte(key)), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(t.Context(), batch); err == nil || !strings.Contains(err.Error(), "allowedRanges") {
		t.Errorf("loopback was reached though nobody allowed it: %v", err)
	}
	for _, bad := range []string{"", "short", base64.StdEncoding.EncodeToString([]byte("short"))} {
		if _, err := open(e, vault.NewSecret([]byte(bad)), ""); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the key %q: %v", bad, err)
		}
	}
}

func TestAnswersSayWhetherToSendAgain(t *testing.T) {
	t.Parallel()
	code := 200
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "because \x1b[31mof\r\nthis")
	}))
	defer server.Close()
	sink, err := open(&policyv1.AuditExporter{Target: policyv1.ExportTarget_EXPORT_TARGET_OTLP, Url: server.URL, AllowedRanges: loopback}, vault.Secret{}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code    int
		refusal bool
		certain bool
	}{{302, false, false}, {400, true, true}, {401, false, false}, {403, false, false}, {404, false, false}, {408, false, false}, {413, true, true}, {422, true, true}, {429, false, false}, {500, true, false}, {502, false, false}, {503, false, false}, {504, false, false}} {
		code = c.code
		err := sink.Send(t.Context(), items(1, 1, format.JSON))
		var refusal *Refusal
		if is := errors.As(err, &refusal); err == nil || is != c.refusal || is && refusal.Certain != c.certain {
			t.Errorf("%d: %v, a refusal: %v", c.code, err, is)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\r\n\x1b") {
			t.Errorf("%d: what the receiver said stands there as it came: %q", c.code, err)
		}
	}
}

// syslogServer takes RFC 5425 with a parser that is not ours, and ends each connection when it has read all, or, where it is told to, before.
func syslogServer(t *testing.T, took func(gosyslog.Message)) (address, ca string, rude func(bool)) {
	web := httptest.NewTLSServer(http.NotFoundHandler())
	web.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var mu sync.Mutex
	cut := false
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			cutting := cut
			mu.Unlock()
			go func() {
				defer conn.Close()
				if conn.(*tls.Conn).Handshake() != nil {
					return
				}
				if cutting {
					_, _ = conn.Read(make([]byte, 10))
					_ = conn.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0) // as a process that is killed with something unread
					_ = conn.(*tls.Conn).NetConn().Close()
					return
				}
				octetcounting.NewParser(gosyslog.WithMaxMessageLength(1<<20), gosyslog.WithListener(func(r *gosyslog.Result) {
					if r.Error != nil {
						if !strings.Contains(r.Error.Error(), "EOF") { // which ends each connection
							t.Errorf("a message cannot be read: %v", r.Error)
						}
						return
					}
					took(r.Message)
				})).Parse(bufio.NewReader(conn))
			}()
		}
	}()
	return listener.Addr().String(), certificate(web), func(on bool) { mu.Lock(); defer mu.Unlock(); cut = on }
}

func TestSyslogIsReadByOthersAndKnowsWhetherItWasRead(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []*rfc5424.SyslogMessage
	address, ca, rude := syslogServer(t, func(m gosyslog.Message) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, m.(*rfc5424.SyslogMessage))
	})
	for name, f := range map[string]policyv1.ExportFormat{"json": policyv1.ExportFormat_EXPORT_FORMAT_JSON, "cef": policyv1.ExportFormat_EXPORT_FORMAT_CEF} {
		e := &policyv1.AuditExporter{Target: policyv1.ExportTarget_EXPORT_TARGET_SYSLOG, Url: "tls://" + address, Format: f, AllowedRanges: loopback, Ca: ca}
		sink, err := open(e, vault.Secret{}, "")
		if err != nil {
			t.Fatal(err)
		}
		_, write := formatOf(e)
		batch := items(1, 200, write)
		rude(true)
		if sink.Send(t.Context(), batch) == nil {
			t.Fatal("what was not read passes for taken")
		}
		rude(false)
		mu.Lock()
		got = nil
		mu.Unlock()
		if err := sink.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(got) != len(batch) {
				return fmt.Errorf("%d of %d were read", len(got), len(batch))
			}
			return nil
		})
		m := got[4]
		id := (*m.StructuredData)["sallyport@"+enterprise]["id"]
		if *m.Facility != auditFacility || *m.Severity != 4 || *m.Hostname != "eu_west]1" || *m.MsgID != "call_refused" || id == "" || !m.Timestamp.Equal(time.Unix(1_790_000_000, 5e8)) {
			t.Errorf("%s: it is read as %+v, id %q", name, m, id)
		}
		text := strings.TrimPrefix(*m.Message, "\xef\xbb\xbf")
		if name == "cef" && (text != string(batch[4].Line) || text == *m.Message) {
			t.Errorf("the message is %q", *m.Message)
		}
		if name == "json" {
			var r struct{ ID, Tool string }
			if err := json.Unmarshal([]byte(text), &r); err != nil || r.ID != batch[4].ID() || r.Tool != "grüße\n<1>1 forged" || !isASCII([]byte(text)) {
				t.Errorf("the message is %q, %v", text, err)
			}
		}
	}
	// A certificate that nobody vouches for is not talked to.
	sink, err := open(&policyv1.AuditExporter{Target: policyv1.ExportTarget_EXPORT_TARGET_SYSLOG, Url: "tls://" + address, AllowedRanges: loopback}, vault.Secret{}, "")
	if err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if err := sink.Send(t.Context(), items(1, 1, format.JSON)); !errors.As(err, &unknown) {
		t.Errorf("the certificate: %v", err)
	}
}

func TestOTLPSaysWhatARecordIs(t *testing.T) {
	t.Parallel()
	var got *collectorv1.ExportLogsServiceRequest
	answer := &collectorv1.ExportLogsServiceResponse{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = &collectorv1.ExportLogsServiceRequest{}
		if err := proto.Unmarshal(body, got); err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Authorization") != "Bearer t0ken" || r.URL.Path != "/v1/logs" {
			t.Errorf("the request is not OTLP: %v, %v", err, r.Header)
		}
		out, _ := proto.Marshal(answer)
		_, _ = w.Write(out)
	}))
	defer server.Close()
	sink, err := open(&policyv1.AuditExporter{Target: policyv1.ExportTarget_EXPORT_TARGET_OTLP, Url: server.URL + "/v1/logs", AllowedRanges: loopback}, vault.NewSecret([]byte("Bearer t0ken\n")), "")
	if err != nil {
		t.Fatal(err)
	}
	batch := items(1, 2, format.OCSF)
	if err := sink.Send(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	logs := got.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords()
	if len(logs) != 2 || logs[1].GetBody().GetStringValue() != string(batch[1].Line) || logs[1].GetSeverityText() != "WARN" || len(logs[1].GetTraceId()) != 16 || logs[1].GetTimeUnixNano() != 1_790_000_000_500_000_000 {
		t.Errorf("the logs are %v", logs)
	}
	attributes := map[string]string{}
	for _, kv := range logs[1].GetAttributes() {
		attributes[kv.GetKey()] = kv.GetValue().GetStringValue()
	}
	if attributes["log.record.uid"] != batch[1].ID() || attributes["sallyport.connector"] != "github" {
		t.Errorf("the attributes are %v", attributes)
	}
	answer.PartialSuccess = &collectorv1.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "odd"}
	var refusal *Refusal
	if err := sink.Send(t.Context(), batch); !errors.As(err, &refusal) || !refusal.Certain {
		t.Errorf("a record that was rejected passes: %v", err)
	}
}

// collector is an HTTP Event Collector as Splunk documents it.
type collector struct {
	mu      sync.Mutex
	events  []map[string]any
	asked   int
	indexed bool
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Header.Get("Authorization") != "Splunk t0ken" {
		http.Error(w, `{"text":"Invalid token","code":4}`, http.StatusForbidden)
		return
	}
	switch r.URL.Path {
	case "/services/collector/event":
		for d := json.NewDecoder(r.Body); ; {
			var e map[string]any
			if err := d.Decode(&e); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				http.Error(w, `{"text":"Invalid data format","code":6}`, http.StatusBadRequest)
				return
			}
			c.events = append(c.events, e)
		}
		_, _ = io.WriteString(w, `{"text":"Success","code":0,"ackId":7}`)
	case "/services/collector/ack":
		c.asked++
		_, _ = fmt.Fprintf(w, `{"acks":{"7":%v}}`, c.indexed && r.URL.Query().Get("channel") == r.Header.Get("X-Splunk-Request-Channel"))
		c.indexed = true
	default:
		http.NotFound(w, r)
	}
}

func TestSplunkIsWaitedForWhereThatIsAskedFor(t *testing.T) {
	t.Parallel()
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	e := &policyv1.AuditExporter{Target: policyv1.ExportTarget_EXPORT_TARGET_SPLUNK, Url: server.URL + "/", AllowedRanges: loopback, Index: "mcp", IndexerAck: true}
	sink, err := open(e, vault.NewSecret([]byte("t0ken")), "")
	if err != nil {
		t.Fatal(err)
	}
	batch := items(1, 3, format.JSON)
	if err := sink.Send(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if len(c.events) != 3 || c.asked != 2 {
		t.Fatalf("%d events came, and it was asked %d times", len(c.events), c.asked)
	}
	event := c.events[1]
	if event["index"] != "mcp" || event["time"] != "1790000000.500" || event["event"].(map[string]any)["id"] != batch[1].ID() || event["fields"].(map[string]any)["id"] != batch[1].ID() {
		t.Errorf("an event is %v", event)
	}
	sink, err = open(e, vault.NewSecret([]byte("wr0ng")), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(t.Context(), batch); err == nil || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("a wrong token: %v", err)
	}
}

func TestATornLineIsTakenAway(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	e := &policyv1.AuditExporter{Name: "archive", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE}
	sink, err := open(e, vault.Secret{}, folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(t.Context(), items(1, 3, format.JSON)); err != nil {
		t.Fatal(err)
	}
	_ = sink.Close()
	_, names, _ := linesOf(filepath.Join(folder, "archive"))
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for end := range whole {
		if err := os.WriteFile(names[0], whole[:end], 0o600); err != nil {
			t.Fatal(err)
		}
		sink, err := open(e, vault.Secret{}, folder)
		if err != nil {
			t.Fatal(err)
		}
		if err := sink.Send(t.Context(), items(9, 9, format.JSON)); err != nil {
			t.Fatal(err)
		}
		_ = sink.Close()
		lines, _, err := linesOf(filepath.Join(folder, "archive"))
		if want := bytes.Count(whole[:end], []byte("\n")) + 1; err != nil || len(lines) != want {
			t.Fatalf("cut at %d: %d lines, not %d, %v", end, len(lines), want, err)
		}
		for _, line := range lines {
			if !json.Valid([]byte(line)) || !strings.HasSuffix(line, "\n") {
				t.Fatalf("cut at %d: a line is torn: %q", end, line)
			}
		}
	}
}

const childFolder = "SALLYPORT_TEST_EXPORT_FOLDER"

// TestMain is the child that TestFilesSurviveSIGKILL kills, where it is told where to write.
func TestMain(m *testing.M) {
	if folder := os.Getenv(childFolder); folder != "" {
		sink, err := open(&policyv1.AuditExporter{Name: "archive", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, RotateBytes: 20_000}, vault.Secret{}, folder)
		for n := 1; err == nil; n += 7 {
			if err = sink.Send(context.Background(), items(n, n+6, format.JSON)); err == nil {
				fmt.Println(n + 6)
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestFilesSurviveSIGKILL(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	killed, acknowledged := 0, 0
	for round := range 8 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childFolder+"="+folder)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		last := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
				t.Fatal(err)
			}
			if last > 200+70*round {
				_ = child.Process.Kill()
			}
		}
		_ = child.Wait()
		killed++
		acknowledged += last
		// What was acknowledged is there, once and whole, whatever stands at the end.
		lines, _, err := linesOf(filepath.Join(folder, "archive"))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
			lines = lines[:n-1] // torn, and taken away at the next start
		}
		seen := 0
		for _, line := range lines {
			var r struct{ Sequence int }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("round %d: a line is torn: %q", round, line)
			}
			switch r.Sequence {
			case seen + 1, 1: // or the next child's first
				seen = r.Sequence
			default:
				t.Fatalf("round %d: record %d comes after %d", round, r.Sequence, seen)
			}
		}
		if seen < last {
			t.Fatalf("round %d: %d were acknowledged, and the last in the files is %d", round, last, seen)
		}
	}
	t.Logf("killed %d times, %d records acknowledged, none lost, none torn", killed, acknowledged)
}

func TestSecretsShowNowhere(t *testing.T) {
	t.Parallel()
	secret := vault.NewSecret([]byte("AKIA:s3cr3t"))
	for target := range policyv1.ExportTarget_name {
		sink, err := open(&policyv1.AuditExporter{Name: "x", Target: policyv1.ExportTarget(target), Url: "https://127.0.0.1:1", Bucket: "b"}, secret, t.TempDir())
		text := fmt.Sprintf("%v %+v", err, err)
		if err == nil {
			err = sink.Send(t.Context(), items(1, 1, format.JSON))
			text = fmt.Sprintf("%v", err)
		}
		if strings.Contains(text, "s3cr3t") {
			t.Errorf("%v: %s", policyv1.ExportTarget(target), text)
		}
	}
}
