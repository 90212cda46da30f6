package bundle_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/net/html"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/bundle"
	"sallyport.dev/controlplane/internal/audit/proof"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// hostile is what an agent, an upstream or an IdP may put wherever text is kept.
const hostile = "<script>fetch('//x')</script>\"'><img src=x onerror=alert(1)>\u202ereversed\u2066\x1b[2J\r\nSet-Cookie: a=b\u200b{{.}}=cmd|' /C calc'!A0"

// exported is an export of a call, a refusal and a call without an end of ann's, and of a call of somebody else.
func exported(t *testing.T, ann uuid.UUID) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.Open(ctx, natstest.Embedded(t).Conn, audit.Config{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	at := timestamppb.New(time.Date(2026, 11, 3, 14, 0, 0, 0, time.UTC))
	call := func(id string, phase auditv1.Phase, person uuid.UUID, r *auditv1.AuditRecord) *auditv1.AuditRecord {
		r.CallId, r.Phase, r.PersonId, r.At, r.Method, r.Connector = id, phase, person.String(), at, "tools/call", "github"
		return r
	}
	allowed := &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED, Group: "okta/Engineers", Rule: 2}
	records := []*auditv1.AuditRecord{
		call("1", auditv1.Phase_PHASE_AUTHORIZED, ann, &auditv1.AuditRecord{Tool: "get_issue", Decision: allowed, Arguments: &auditv1.Payload{Head: []byte(hostile)}, Client: &auditv1.Client{Name: hostile}}),
		call("1", auditv1.Phase_PHASE_COMPLETED, ann, &auditv1.AuditRecord{Tool: "get_issue", Outcome: auditv1.Outcome_OUTCOME_OK, Duration: durationpb.New(time.Second), Result: &auditv1.Payload{Head: []byte("first page"), Truncated: true, Size: 9000}}),
		call("2", auditv1.Phase_PHASE_REFUSED, ann, &auditv1.AuditRecord{Tool: hostile, Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: auditv1.Reason_REASON_NOTHING_ALLOWS}}),
		call("3", auditv1.Phase_PHASE_AUTHORIZED, uuid.New(), &auditv1.AuditRecord{Tool: "of somebody else", Decision: allowed}),
		call("4", auditv1.Phase_PHASE_AUTHORIZED, ann, &auditv1.AuditRecord{Tool: "get_issue", Decision: allowed}),
	}
	for i, r := range records {
		r.Number = uint64(i + 1)
	}
	if _, err := s.Append(ctx, "p", "eu", "g", records); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Checkpoint(ctx, true); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.Export(ctx, time.Time{}, time.Time{}, &adminv1.AuditFilter{Person: ann.String()}, func(i *auditv1.ExportItem) error { return proof.Write(&out, i) }); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func bundled(t *testing.T) []byte {
	t.Helper()
	ann := uuid.New()
	var out bytes.Buffer
	in := &bundle.Investigation{
		Asked: "person ann " + hostile, MadeAt: time.Now(), Names: map[string]string{ann.String(): "ann@example.com"}, Missing: []string{"policy-from.yaml: " + hostile},
		Files: []bundle.File{{Name: "policy-to.yaml", About: "The policy at the end", Data: []byte("# " + hostile)}},
	}
	if err := bundle.Write(&out, in, bytes.NewReader(exported(t, ann))); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func verify(b []byte) (proof.Report, error) {
	v := &proof.Verifier{}
	err := bundle.Verify(bytes.NewReader(b), int64(len(b)), v)
	if err == nil {
		err = v.Finish(time.Time{}, time.Time{})
	}
	return v.Report, err
}

// files are a bundle's, by name.
func files(t *testing.T, b []byte) (names []string, all map[string][]byte) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	all = map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if all[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		names = append(names, f.Name)
	}
	return names, all
}

func zipped(t *testing.T, names []string, all map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, name := range names {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(all[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestABundleVerifiesAndNoneOfItsFilesCanBeChanged(t *testing.T) {
	b := bundled(t)
	if r, err := verify(b); err != nil || r.Records != 4 || r.DigestsOnly != 1 || r.Tail != 0 || r.Checkpoints == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	names, all := files(t, b)
	if got := strings.Join(names, " "); got != "README.txt report.html records.jsonl policy-to.yaml records.audit manifest.json" {
		t.Fatalf("it has %s", got)
	}
	for _, name := range names {
		if name == "manifest.json" {
			continue
		}
		kept := all[name]
		all[name] = append(bytes.Clone(kept[:len(kept)-1]), kept[len(kept)-1]^1)
		if _, err := verify(zipped(t, names, all)); err == nil {
			t.Errorf("%s was changed", name)
		}
		all[name] = append(bytes.Clone(kept), ' ')
		if _, err := verify(zipped(t, names, all)); err == nil {
			t.Errorf("%s is longer", name)
		}
		all[name] = kept
		if _, err := verify(zipped(t, without(names, name), all)); err == nil {
			t.Errorf("%s is gone", name)
		}
	}
	all["added.txt"] = []byte("x")
	if _, err := verify(zipped(t, append(names, "added.txt"), all)); err == nil {
		t.Error("a file was added")
	}
	if _, err := verify(zipped(t, append(names, "report.html"), all)); err == nil {
		t.Error("a file is there twice")
	}
	if _, err := verify(zipped(t, without(names, "manifest.json"), all)); err == nil {
		t.Error("the manifest is gone")
	}
	m := map[string]any{}
	if err := json.Unmarshal(all["manifest.json"], &m); err != nil {
		t.Fatal(err)
	}
	m["files"] = m["files"].([]any)[:4]
	var err error
	if all["manifest.json"], err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(zipped(t, without(names, "records.audit"), all)); err == nil {
		t.Error("the records are gone, from the manifest too")
	}
	if _, err := verify([]byte("PK\x03\x04")); err == nil {
		t.Error("it is no archive")
	}
}

func TestItsLinesAreTheRecordsThatWereAskedFor(t *testing.T) {
	_, all := files(t, bundled(t))
	lines := strings.Split(strings.TrimSuffix(string(all["records.jsonl"]), "\n"), "\n")
	if len(lines) != 4 {
		t.Fatalf("there are %d", len(lines))
	}
	for i, text := range lines {
		one := struct{ Person, Connector string }{}
		if err := json.Unmarshal([]byte(text), &one); err != nil || one.Person != "ann@example.com" || one.Connector != "github" {
			t.Errorf("line %d: %v: %s", i+1, err, text)
		}
	}
}

func without(names []string, name string) (left []string) {
	for _, n := range names {
		if n != name {
			left = append(left, n)
		}
	}
	return left
}

func TestThePageShowsWhatHappenedAndRunsNothing(t *testing.T) {
	_, all := files(t, bundled(t))
	page := string(all["report.html"])
	for _, want := range []string{"ann@example.com", "first page … of 9000 bytes", "nothing allows", "rule allowed, okta/Engineers rule 2", "no end is recorded", "⟨202E⟩", "⟨001B⟩", "⟨200B⟩", "&lt;script&gt;"} {
		if !strings.Contains(page, want) {
			t.Errorf("it does not show %q", want)
		}
	}
	if strings.Contains(page, "somebody else") {
		t.Error("it shows what was not asked for")
	}
	if strings.ContainsAny(page, "\u202e\u2066\x1b\r\u200b") {
		t.Error("it has what steers a reader's eye")
	}
	tags := map[string]int{}
	for z := html.NewTokenizer(strings.NewReader(page)); ; {
		kind := z.Next()
		if kind == html.ErrorToken {
			break
		}
		if kind != html.StartTagToken && kind != html.SelfClosingTagToken {
			continue
		}
		tag := z.Token()
		tags[tag.Data]++
		for _, a := range tag.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" {
				t.Errorf("<%s %s=%q>", tag.Data, a.Key, a.Val)
			}
		}
	}
	for _, tag := range []string{"script", "img", "iframe", "object", "link", "form", "base"} {
		if tags[tag] > 0 {
			t.Errorf("it has a <%s>", tag)
		}
	}
	if tags["tr"] != 1+2+1+3 { // two tools; a call, a refusal and a call without an end
		t.Errorf("it has %d rows", tags["tr"])
	}
	if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline'"`) {
		t.Error("a browser may load what it names")
	}
}

func TestRecordsThatDoNotVerifyMakeNoBundle(t *testing.T) {
	records := exported(t, uuid.New())
	if err := bundle.Write(io.Discard, &bundle.Investigation{}, bytes.NewReader(records[:len(records)-3])); err == nil {
		t.Error("the records were cut off")
	}
}
