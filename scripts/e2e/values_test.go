package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/scripts/demo/servers"
)

// TestWhatACallHandedOverIsReadWholeUntilItsPersonIsErased: arguments of a call that was made while the control plane was away are read
// whole afterwards, masked to the end; that is audited, and an erasure takes them.
func TestWhatACallHandedOverIsReadWholeUntilItsPersonIsErased(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, end, err := servers.NewGitHub().Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	w.connect("forge", url, "audit: {keep: whole, days: 3}\n")
	east := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	s := w.session(east, ada)
	secret := "ghp_" + strings.Repeat("a1B2", 9)
	path := strings.Repeat("a long way to go/", 20_000) + secret
	w.cp.Kill()
	s.Call(t.Context(), "forge__get_file_contents", map[string]any{"owner": "acme", "repo": "payments", "path": path})
	w.cp.start()
	var call *adminv1.StoredRecord
	eventually(t, func() error {
		found, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Connector: "forge"})
		if err != nil {
			return err
		}
		for _, r := range found {
			if r.GetRecord().GetPhase() == auditv1.Phase_PHASE_AUTHORIZED {
				call = r
				return nil
			}
		}
		return errors.New("the call is not recorded")
	})
	of := call.GetRecord().GetArguments()
	if !of.GetTruncated() || of.GetObject() == "" || len(of.GetHead()) > 4096 {
		t.Fatalf("its record has %d bytes of %d, object %q: %s", len(of.GetHead()), of.GetSize(), of.GetObject(), of.GetNotKept())
	}
	file := filepath.Join(t.TempDir(), "arguments.json")
	w.cp.must("audit", "value", call.GetRecord().GetCallId(), "--out", file)
	value, err := os.ReadFile(file)
	if sum := sha256.Sum256(value); err != nil || string(sum[:]) != string(of.GetSha256()) || uint64(len(value)) != of.GetSize() {
		t.Fatalf("%d bytes were written, %v", len(value), err)
	}
	if text := string(value); strings.Contains(text, secret) || !strings.Contains(text, `to go/[masked]"`) {
		t.Errorf("it ends in %s", text[len(text)-60:])
	}
	eventually(t, func() error {
		read, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Action: "audit_value_read"})
		if err == nil && (len(read) != 1 || read[0].GetRecord().GetActor().GetId() == "") {
			err = fmt.Errorf("reading it has %d records: %v", len(read), read)
		}
		return err
	})
	if out, err := w.cp.Run(t.Context(), "audit", "value", call.GetRecord().GetCallId(), "--result"); err != nil { // a short one is in the record whole
		t.Errorf("its result: %v: %s", err, out)
	}
	w.cp.must("users", "erase", ada, "--yes")
	eventually(t, func() error {
		out, err := w.cp.Run(t.Context(), "audit", "value", fmt.Sprint(call.GetSequence()))
		if err == nil || !strings.Contains(err.Error(), "erased") {
			return fmt.Errorf("after the erasure it says %.100s, %w", out, errors.Join(errors.New("want that it is erased"), err))
		}
		return nil
	})
}
