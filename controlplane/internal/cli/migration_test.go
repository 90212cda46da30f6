package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/clientconfig"
)

func scansOf(t *testing.T, reports ...string) *clientconfig.Left {
	t.Helper()
	dir := t.TempDir()
	for i, r := range reports {
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))+".json"), []byte(r), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	left, err := clientconfig.ReadReports(dir)
	if err != nil {
		t.Fatal(err)
	}
	return left
}

const laptop = `{"device": "l1", "scanned": "2026-11-20T12:00:00Z", "servers": [
	{"user": "Ann", "client": "cursor", "name": "a", "transport": "http", "host": "mcp.vendor.example", "in_the_clear": true},
	{"user": "Ann", "client": "cursor", "name": "b", "transport": "http", "host": "mcp.example.com", "gateway": true},
	{"user": "zoe", "client": "cursor", "name": "c", "transport": "stdio", "program": "npx", "package": "=cmd"}]}`

func TestAReportIsSafeInASpreadsheetAndWholeAsJSON(t *testing.T) {
	people := []person{
		{User: "okta/ann@example.com", Email: "=HYPERLINK(\"http://evil\")", LastUsed: "2026-11-20T12:00:00Z", Used: map[string]string{"github": "2026-11-20T12:00:00Z"}, Unused: []string{"jira"}, OnLaptops: []string{"+1", "b"}},
		{User: "-2+3", Email: " @SUM(1)", Used: map[string]string{}},
		{User: "a,\"b\nc\x1b[31m", Email: "\t=1", Used: map[string]string{}},
	}
	summary := &adminv1.MigrationSummary{All: &adminv1.MigrationCount{People: 3, Used: 1, Never: 2}}
	left := scansOf(t, laptop)

	var out bytes.Buffer
	var w reportWriter = &reportCSV{w: csv.NewWriter(&out)}
	for _, p := range people {
		if err := w.person(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.end(&out, summary, left); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%v: %v", err, rows)
	}
	for _, row := range rows {
		for _, field := range row {
			if strings.ContainsAny(strings.TrimSpace(field + "x")[:1], "=+-@\t\r") || strings.ContainsAny(field, "\n\x1b") {
				t.Errorf("a spreadsheet, or a terminal, would act on %q", field)
			}
		}
	}
	if rows[1][1] != "'=HYPERLINK(\"http://evil\")" || rows[1][4] != "github" || rows[1][5] != "jira" {
		t.Errorf("the first row is %q", rows[1])
	}

	for _, some := range [][]person{people, nil} {
		out.Reset()
		w = &reportJSON{w: &out}
		for _, p := range some {
			if err := w.person(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.end(&out, summary, left); err != nil {
			t.Fatal(err)
		}
		var got struct {
			People  []person
			Summary struct{ All struct{ Never string } }
			Laptops struct{ Unmatched []string }
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.People) != len(some) || got.Summary.All.Never != "2" || len(got.Laptops.Unmatched) != 2 {
			t.Errorf("%v: %s", err, out.String())
		}
	}
}

func TestATableHasWhereMostAreToBeMovedFirstAndWhatIsStillOnLaptops(t *testing.T) {
	left := scansOf(t, laptop, strings.ReplaceAll(laptop, `"l1"`, `"l2"`))
	w := &reportTable{listed: true}
	p := person{User: "okta/ann@example.com", Used: map[string]string{}, LastUsed: "", OnLaptops: left.Of("okta/ann@example.com", "ann@example.com")}
	if err := w.person(p); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	summary := &adminv1.MigrationSummary{
		All:    &adminv1.MigrationCount{People: 9, Used: 3, UsedLately: 2, Never: 6},
		Groups: []*adminv1.MigrationCount{{Name: "okta/A", People: 3, Never: 1}, {Name: "okta/B", People: 9, Never: 6}},
	}
	if err := w.end(&out, summary, left); err != nil {
		t.Fatal(err)
	}
	said := out.String()
	for _, want := range []string{"9 active people: 3 used the gateway, 2 of them within 30 days; 6 never did", "okta/ann@example.com  never", "mcp.vendor.example  2         1       2", "zoe"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
	if strings.Index(said, "okta/B") > strings.Index(said, "okta/A") {
		t.Errorf("where most are to be moved does not come first:\n%s", said)
	}
	if strings.Contains(said, "mcp.example.com") {
		t.Errorf("the gateway is told as something to be moved:\n%s", said)
	}
}

func TestAFolderWithSomethingElseThanReportsIsRefused(t *testing.T) {
	for name, data := range map[string]string{"nothing": "", "something else": `{"servers": []}`, "torn": `{"scanned": "x`} {
		dir := t.TempDir()
		if data != "" {
			if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := clientconfig.ReadReports(dir); err == nil {
			t.Errorf("%s was taken for reports", name)
		}
	}
}

func TestMomentsAreInUTC(t *testing.T) {
	if got := stamp(timestamppb.New(timestamppb.Now().AsTime())); !strings.HasSuffix(got, "Z") || stamp(nil) != "" {
		t.Errorf("it is %s", got)
	}
}
