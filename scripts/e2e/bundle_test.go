package e2e

import (
	"archive/zip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// TestAnInvestigationIsOneFile: what one person's agents did, what proves it and the policy as it was lie in one file, which is checked
// without the control plane.
func TestAnInvestigationIsOneFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	east := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	adas, bobs := w.session(east, ada), w.session(east, bob)
	from := time.Now()
	for range 2 {
		if err := works(t.Context(), adas); err != nil {
			t.Fatal(err)
		}
		if err := works(t.Context(), bobs); err != nil {
			t.Fatal(err)
		}
	}
	w.cp.apply("kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n  - allow: [\"nothing_*\"]\n")
	w.cp.enforced()
	if err := works(t.Context(), adas); err == nil {
		t.Fatal("a call that nothing allows was made")
	}
	eventually(t, func() error {
		out, err := w.cp.Run(t.Context(), "audit", "search", "--person", ada, "--decision", "denied", "-o", "json")
		if err == nil && !strings.Contains(string(out), "REASON_NOTHING_ALLOWS") && !strings.Contains(string(out), "REASON_TOOL_UNKNOWN") {
			err = fmt.Errorf("the refusal is not stored yet: %s", out)
		}
		return err
	})
	path := filepath.Join(t.TempDir(), "ada.zip")
	w.cp.must("audit", "bundle", "--person", ada, "--from", from.Format(time.RFC3339Nano), path)
	out, err := w.cp.Run(t.Context(), "audit", "checkpoint", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := &adminv1.GetAuditCheckpointResponse{}
	if err := protojson.Unmarshal(out, checkpoint); err != nil {
		t.Fatal(err)
	}
	w.cp.Kill()

	key := base64.StdEncoding.EncodeToString(checkpoint.GetPublicKeys()[0])
	out, err = w.cp.Run(t.Context(), "audit", "verify", path, "--key", key, "--from", from.Format(time.RFC3339Nano), "-o", "json")
	report := struct {
		Records     int `json:"records"`
		DigestsOnly int `json:"digests_only"`
	}{}
	if err == nil {
		err = json.Unmarshal(out, &report)
	}
	if err != nil || report.Records < 5 || report.DigestsOnly < 4 {
		t.Errorf("%v: %s", err, out)
	}
	files := map[string]string{}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close() //nolint:errcheck // it was read
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(data)
	}
	for name, want := range map[string]string{
		"policy-from.yaml": "*", "policy-to.yaml": "nothing_*", "report.html": ada, "records.jsonl": ada, "access.json": `"tools"`, "manifest.json": "records.audit",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q: %s", name, want, files[name])
		}
	}
	if strings.Contains(files["records.jsonl"]+files["report.html"], bob) {
		t.Error("it tells of somebody who was not asked for")
	}
}
