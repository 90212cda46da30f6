package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/klauspost/compress/gzip"
	gosyslog "github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/rfc5424"
	collectorv1 "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit/audittest"
	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/vault"
)

// TestNothingThatIsSentActsOnWhoReadsIt sends hostile records to a receiver of every target in every format, and looks at what came: the
// bytes, and what a reader of that protocol makes of them. A target or a format that is new has to join.
func TestNothingThatIsSentActsOnWhoReadsIt(t *testing.T) {
	t.Parallel()
	hostile := func(write func(format.Record) []byte) (all []Item) {
		for i, text := range audittest.Hostile {
			kind, phase := auditv1.Kind(i%len(auditv1.Kind_name)), auditv1.Phase(i%len(auditv1.Phase_name))
			r := format.Record{AuditRecord: audittest.HostileRecord(text, kind, phase), Sequence: uint64(len(all) + 1), Person: text}
			all = append(all, Item{Record: r, Line: write(r)})
		}
		return all
	}
	for number, name := range policyv1.ExportTarget_name {
		target := policyv1.ExportTarget(number)
		for formatNumber, formatName := range policyv1.ExportFormat_name {
			t.Run(name+" "+formatName, func(t *testing.T) {
				e := &policyv1.AuditExporter{Name: "x", Target: target, Format: policyv1.ExportFormat(formatNumber), AllowedRanges: loopback}
				_, write := formatOf(e)
				batch := hostile(write)
				lines, err := sentBy(t, e, batch)
				if err != nil {
					t.Fatal(err)
				}
				if target == policyv1.ExportTarget_EXPORT_TARGET_UNSPECIFIED {
					return
				}
				if len(lines) != len(batch) {
					t.Fatalf("%d records became %d", len(batch), len(lines))
				}
				for i, line := range lines {
					if err := audittest.Acts(line, false); err != nil {
						t.Fatalf("record %d: %v", i, err)
					}
					isCEF := e.GetFormat() == policyv1.ExportFormat_EXPORT_FORMAT_CEF
					if !isCEF && !json.Valid(line) {
						t.Fatalf("record %d is no JSON any more: %.300q", i, line)
					}
					if isCEF && !bytes.HasPrefix(line, []byte("CEF:0|Sallyport|")) {
						t.Fatalf("record %d is no CEF any more: %.300q", i, line)
					}
				}
			})
		}
	}
}

// sentBy sends a batch to a receiver of its target, and returns the lines as that has them.
func sentBy(t *testing.T, e *policyv1.AuditExporter, batch []Item) (lines [][]byte, err error) {
	t.Helper()
	var mu sync.Mutex
	folder, secret := t.TempDir(), "t0ken"
	var stored func() ([]byte, error) // what lies somewhere when all was sent
	web := func(take func(header http.Header, body []byte) ([]byte, error)) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			body, err := io.ReadAll(r.Body)
			var answer []byte
			if err == nil {
				answer, err = take(r.Header, body)
			}
			for key, values := range r.Header {
				for _, value := range values {
					if bad := audittest.Acts([]byte(key+value), false); bad != nil {
						t.Errorf("header %q: %v", key, bad)
					}
				}
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_, _ = w.Write(answer)
		}))
		t.Cleanup(s.Close)
		e.Url = s.URL
	}
	// asLine is a record in JSON that may be a text, if the format is no JSON.
	asLine := func(raw json.RawMessage) []byte {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return []byte(text)
		}
		return raw
	}
	switch e.GetTarget() {
	case policyv1.ExportTarget_EXPORT_TARGET_UNSPECIFIED:
		if sink, err := open(e, vault.Secret{}, folder); err == nil {
			t.Errorf("nowhere is somewhere: %T", sink)
		}
		return nil, nil
	case policyv1.ExportTarget_EXPORT_TARGET_FILE:
		stored = func() ([]byte, error) {
			read, _, err := linesOf(filepath.Join(folder, "x"))
			return []byte(strings.Join(read, "")), err
		}
	case policyv1.ExportTarget_EXPORT_TARGET_S3:
		secret, e.Bucket = "access:s3cr3t", "audit"
		objects := s3mem.New()
		if err := objects.CreateBucket("audit"); err != nil {
			return nil, err
		}
		server := httptest.NewServer(gofakes3.New(objects).Server())
		t.Cleanup(server.Close)
		e.Url = server.URL
		stored = func() ([]byte, error) {
			list, err := objects.ListBucket("audit", nil, gofakes3.ListBucketPage{})
			if err != nil {
				return nil, err
			}
			if len(list.Contents) != 1 || audittest.Acts([]byte(list.Contents[0].Key), false) != nil {
				return nil, fmt.Errorf("the objects are %v", list.Contents)
			}
			object, err := objects.GetObject("audit", list.Contents[0].Key, nil)
			if err != nil {
				return nil, err
			}
			z, err := gzip.NewReader(object.Contents)
			if err != nil {
				return nil, err
			}
			return io.ReadAll(z)
		}
	case policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK:
		secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
		web(func(_ http.Header, body []byte) ([]byte, error) {
			var m struct {
				Data struct{ Records []json.RawMessage }
			}
			if err := audittest.Acts(body, false); err != nil {
				t.Errorf("the body: %v", err)
			}
			err := json.Unmarshal(body, &m)
			for _, r := range m.Data.Records {
				lines = append(lines, asLine(r))
			}
			return nil, err
		})
	case policyv1.ExportTarget_EXPORT_TARGET_OTLP:
		web(func(_ http.Header, body []byte) ([]byte, error) {
			m := &collectorv1.ExportLogsServiceRequest{}
			err := proto.Unmarshal(body, m)
			for _, r := range m.GetResourceLogs() {
				for _, s := range r.GetScopeLogs() {
					for _, l := range s.GetLogRecords() {
						lines = append(lines, []byte(l.GetBody().GetStringValue()))
					}
				}
			}
			return nil, err
		})
	case policyv1.ExportTarget_EXPORT_TARGET_SPLUNK:
		web(func(_ http.Header, body []byte) ([]byte, error) {
			if err := audittest.Acts(body, true); err != nil {
				t.Errorf("the body: %v", err)
			}
			for d := json.NewDecoder(bytes.NewReader(body)); d.More(); {
				var event struct{ Event json.RawMessage }
				if err := d.Decode(&event); err != nil {
					return nil, err
				}
				lines = append(lines, asLine(event.Event))
			}
			return []byte(`{"text":"Success","code":0}`), nil
		})
	case policyv1.ExportTarget_EXPORT_TARGET_SYSLOG:
		address, ca, _ := syslogServer(t, func(m gosyslog.Message) {
			mu.Lock()
			defer mu.Unlock()
			one := m.(*rfc5424.SyslogMessage)
			if data := *one.StructuredData; len(data) != 1 || len(data["sallyport@"+enterprise]) != 2 {
				t.Errorf("the structured data is %v", data)
			}
			lines = append(lines, []byte(strings.TrimPrefix(*one.Message, "\xef\xbb\xbf")))
		})
		e.Url, e.Ca = "tls://"+address, ca
	default:
		return nil, fmt.Errorf("nothing here reads what %s is sent: add it", e.GetTarget())
	}
	sink, err := open(e, vault.NewSecret([]byte(secret)), folder)
	if err != nil {
		return nil, err
	}
	if err := sink.Send(t.Context(), batch); err != nil {
		return nil, err
	}
	if err := sink.Close(); err != nil {
		return nil, err
	}
	if stored != nil {
		data, err := stored()
		return bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")), err
	}
	if e.GetTarget() == policyv1.ExportTarget_EXPORT_TARGET_SYSLOG {
		eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(lines) < len(batch) {
				return fmt.Errorf("%d of %d messages came", len(lines), len(batch))
			}
			return nil
		})
	}
	mu.Lock()
	defer mu.Unlock()
	return lines, nil
}
