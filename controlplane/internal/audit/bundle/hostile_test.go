package bundle

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/audittest"
	"sallyport.dev/controlplane/internal/audit/proof"
)

// TestNothingInARecordActsOnWhoReadsThePage writes hostile records on the page and among the lines of a bundle.
func TestNothingInARecordActsOnWhoReadsThePage(t *testing.T) {
	var records bytes.Buffer
	in := &Investigation{Names: map[string]string{}}
	count := 0
	for i, raw := range audittest.Hostile {
		text := strings.ToValidUTF8(raw, "\uFFFD") // as all text in a record that could be read
		in.Names[text] = text
		for phase := range auditv1.Phase_name {
			r := audittest.HostileRecord(text, auditv1.Kind(i%len(auditv1.Kind_name)), auditv1.Phase(phase))
			r.Arguments.Head, r.Result.Head, r.CallId = []byte(raw), []byte(raw), text+string('a'+phase)
			core, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			count++
			if _, err := protodelim.MarshalTo(&records, &auditv1.ExportItem{Item: &auditv1.ExportItem_Record{Record: &auditv1.ExportedRecord{Sequence: uint64(count), Core: core}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var page, lines bytes.Buffer
	if err := writeReport(&page, in, &proof.Report{}, bytes.NewReader(records.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := audittest.Acts(bytes.ReplaceAll(page.Bytes(), []byte("\t"), []byte(" ")), true); err != nil {
		t.Error(err)
	}
	for _, tag := range []string{"<script", "<img", "<iframe", "href=\"javascript", "<a "} {
		if at := strings.Index(strings.ToLower(page.String()), tag); at >= 0 {
			t.Errorf("the page has %s: %.80q", tag, page.String()[at:])
		}
	}
	if !strings.Contains(page.String(), "&lt;script&gt;alert(1)") || !strings.Contains(page.String(), "⟨202E⟩") {
		t.Error("the page does not show what was there")
	}
	if err := writeLines(&lines, in, bytes.NewReader(records.Bytes())); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n != count {
		t.Errorf("%d records are %d lines", count, n)
	}
	if err := audittest.Acts(lines.Bytes(), true); err != nil {
		t.Error(err)
	}
}
