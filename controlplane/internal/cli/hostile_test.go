package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v4"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/audittest"
	"sallyport.dev/controlplane/internal/audit/format"
)

// TestNothingInARecordActsOnATerminalOrASpreadsheet shows hostile records in every form that the command line has.
func TestNothingInARecordActsOnATerminalOrASpreadsheet(t *testing.T) {
	for i, raw := range audittest.Hostile {
		text := strings.ToValidUTF8(raw, "\uFFFD") // as all that comes by the API
		for phase := range auditv1.Phase_name {
			if int(phase) != i%len(auditv1.Phase_name) {
				continue
			}
			rec := &adminv1.StoredRecord{Sequence: 1, PersonName: text, Record: audittest.HostileRecord(text, auditv1.Kind(i%len(auditv1.Kind_name)), auditv1.Phase(phase))}
			rec.Record.Arguments.Head, rec.Record.Result.Head = []byte(raw), []byte(raw)
			show := func(output string) []byte {
				var out bytes.Buffer
				o := &options{output: output, out: &out}
				if err := o.print(&adminv1.SearchAuditResponse{Records: []*adminv1.StoredRecord{rec}}, func() table { return table{head: auditHead, rows: [][]string{auditRow(rec)}} }); err != nil {
					t.Fatalf("%s of %q: %v", output, raw, err)
				}
				if err := audittest.Acts(out.Bytes(), true); err != nil {
					t.Errorf("%s of %.60q: %v", output, raw, err)
				}
				return out.Bytes()
			}
			if got := show("table"); bytes.Count(got, []byte("\n")) != 2 {
				t.Errorf("the table of %.60q has other than two lines: %q", raw, got)
			}
			var back, same struct {
				Records []struct {
					PersonName string `json:"person_name" yaml:"person_name"`
				}
			}
			if err := json.Unmarshal(show("json"), &back); err != nil || back.Records[0].PersonName != text {
				t.Errorf("JSON of %.60q is read as %.60q, %v", text, back.Records, err)
			}
			if err := yaml.Unmarshal(show("yaml"), &same); err != nil || same.Records[0].PersonName != text {
				t.Errorf("YAML of %.60q is read as %.60q, %v", text, same.Records, err)
			}
			if err := audittest.Acts([]byte(strings.Join(clean(auditRow(rec)), "  ")), false); err != nil {
				t.Errorf("a line of tail, of %.60q: %v", raw, err)
			}
			for _, name := range slices.Sorted(maps.Keys(format.Formats)) {
				var out bytes.Buffer
				if _, err := lineFormat(name).print(&options{out: &out}, rec); err != nil {
					t.Fatal(err)
				}
				if err := audittest.Acts(bytes.TrimSuffix(out.Bytes(), []byte("\n")), false); err != nil {
					t.Errorf("%s of %.60q: %v", name, raw, err)
				}
			}
		}
		var out bytes.Buffer
		report := &reportCSV{w: csv.NewWriter(&out)}
		if err := report.person(person{User: text, Email: text, FirstUsed: text, Used: map[string]string{text: text}, Unused: []string{text}, OnLaptops: []string{text}}); err != nil {
			t.Fatal(err)
		}
		report.w.Flush()
		if err := audittest.Acts(out.Bytes(), true); err != nil {
			t.Errorf("CSV of %.60q: %v", raw, err)
		}
		rows, err := csv.NewReader(&out).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Fatalf("CSV of %.60q has %d rows, %v", raw, len(rows), err)
		}
		for _, cell := range rows[1] {
			if strings.IndexAny(strings.TrimLeft(cell, " "), "=+-@|%") == 0 {
				t.Errorf("a spreadsheet would calculate %.60q", cell)
			}
		}
	}
}
