// Package record measures what audit costs in the path of a call: a record appended to the spool with the durability that is the
// default, beside a bare write of the same bytes to a file in the same run, in turns.
package record

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/spool"
)

// The load.
const (
	rounds   = 20
	perRound = 5_000
)

// figure is one line of output.
type figure struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	Load      string  `json:"load"`
}

// Run prints audit_spool_p50.
func Run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return fmt.Errorf("making a folder for the run: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), Proxy: "us-east-1", Region: "us-east"})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	bare, err := os.OpenFile(filepath.Join(dir, "bare"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("making the file beside it: %w", err)
	}
	defer func() { _ = bare.Close() }()
	encoded, err := proto.Marshal(typical())
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	var spooled, written []time.Duration
	for range rounds {
		if spooled, err = timed(ctx, spooled, func() error { return s.Append(typical()) }); err != nil {
			return fmt.Errorf("appending a record: %w", err)
		}
		if written, err = timed(ctx, written, func() error { _, err := bare.Write(encoded); return err }); err != nil {
			return fmt.Errorf("writing to a file: %w", err)
		}
	}
	f := figure{Name: "audit_spool_p50", Value: micros(spooled), Unit: "µs", Reference: micros(written), Load: fmt.Sprintf(
		"%d records of a call, each appended to a proxy's spool before the next (durability process), in %d rounds; reference: a write of the same %d bytes to a file", len(spooled), rounds, len(encoded))}
	f.Ratio = f.Value / f.Reference
	return json.NewEncoder(out).Encode(f)
}

// timed does something many times and notes how long each took.
func timed(ctx context.Context, took []time.Duration, do func() error) ([]time.Duration, error) {
	for range perRound {
		begun := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, ctx.Err()
}

// micros is the median.
func micros(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)/2].Nanoseconds()) / 1000
}

// typical is the record of a call that is about to be made.
func typical() *auditv1.AuditRecord {
	return &auditv1.AuditRecord{
		At: timestamppb.Now(), CallId: "01975f7e-5b8a-7d2e-8f61-0a1b2c3d4e5f", Phase: auditv1.Phase_PHASE_AUTHORIZED, Method: "tools/call", PersonId: "0192f7e1-1111-7222-8333-444455556666",
		Groups: []string{"okta/Senior Engineers", "okta/Everyone", "okta/GitHub Users"}, Connector: "github", Tool: "create_pull_request",
		Client:    &auditv1.Client{Id: "claude-code", Name: "claude-code", Version: "3.1.0", Address: "192.0.2.7"},
		Arguments: &auditv1.Payload{Head: make([]byte, 400), Size: 400, Sha256: make([]byte, 32)},
		Decision:  &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Group: "okta/Senior Engineers", Rule: 1},
	}
}
