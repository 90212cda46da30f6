package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// FuzzReadDocuments: whatever is read of a file, an export of it is read as the same, and nothing breaks the reader.
func FuzzReadDocuments(f *testing.F) {
	files, err := filepath.Glob("../../../deploy/policies/*/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("the policies to start with are not there: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, text := range []string{
		"", "---\n---\n", "kind: Grant\ngroup: a\nconnector: b\nrules:\n- {allow: ['*'], when: 'args.x == 1', until: 2027-01-01}\n", "kind: Grant\nkind: Connector\n", "kind: [Grant]\n",
		"kind: Connector\nid: 0x1f\nurl: !!binary aGk=\ntimeout: 1e9h\n", "a: &a [x, x]\nb: &b [*a, *a]\nkind: *b\n", "kind: Grant\n<<: {connector: x}\n", "kind: RuleSet\nname: ~\nrules: [null, {limit: {calls: -1}}]\n",
		"kind: AuditExporter\nname: x\ntarget: file\nsince: 2026-11-01T00:00:00+25:00\n", "kind: Connector\nretries: 99999999999999999999\n", "\xff\xfe", "kind: Grant\nconnector: \"\\u202e\"\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		read := &adminv1.ApplyRequest{}
		if err := readDocuments("a file", strings.NewReader(text), read); err != nil {
			return
		}
		out := &adminv1.ExportPolicyResponse{Connectors: read.GetConnectors(), RuleSets: read.GetRuleSets(), Grants: read.GetGrants(), AuditExporters: read.GetAuditExporters()}
		var written strings.Builder
		if err := writeExport(&written, out); err != nil {
			t.Fatal(err)
		}
		again := &adminv1.ApplyRequest{}
		if err := readDocuments("an export", strings.NewReader(written.String()), again); err != nil {
			t.Fatalf("%v, of\n%s", err, written.String())
		}
		if !proto.Equal(read, again) {
			t.Fatalf("read as\n%s\nand then as\n%s\nwritten as\n%s", prototext.Format(read), prototext.Format(again), written.String())
		}
	})
}
