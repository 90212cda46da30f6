package policy

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/vault"
)

const (
	// callers are the people whose calls are recorded, and perCaller how many of each a full run has.
	callers   = 5000
	perCaller = 100
	// batch is how many records a proxy delivers at a time.
	batch = 5000
)

// measureBacktest stores calls as proxies deliver them, sealed for their people, and decides them again under the policy that stands.
func measureBacktest(ctx context.Context, scale float64, say func(figure) error) (err error) {
	w, err := newWorld(max(int(callers*scale), 100))
	if err != nil {
		return fmt.Errorf("making the load: %w", err)
	}
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	conn, err := natsconn.Open(ctx, natsconn.Config{DataDir: dir, Name: "bench"})
	if err != nil {
		return err
	}
	defer conn.Close()
	calls := int(callers * perCaller * scale)
	store, err := w.record(ctx, conn, dir, calls)
	if err != nil {
		return fmt.Errorf("recording calls: %w", err)
	}
	var stored [][]byte
	if err := store.Since(ctx, time.Time{}, func(data []byte) error { stored = append(stored, data); return nil }); err != nil {
		return err
	}
	fromMemory := func(_ context.Context, fn func([]byte) error) error {
		for _, data := range stored {
			if err := fn(data); err != nil {
				return err
			}
		}
		return nil
	}
	fromStream := func(ctx context.Context, fn func([]byte) error) error { return store.Since(ctx, time.Time{}, fn) }
	load := fmt.Sprintf("%d calls of %d people, of which audit has %d records, sealed for their person; the arguments of a fifth have a say; median of %d; ", calls, len(w.people), len(stored), rounds)
	for _, from := range []struct {
		name, load, reference string
		records               func(context.Context, func([]byte) error) error
		beside                func([]byte) error
	}{
		{"policy_backtest", "records in memory", "to read each record as the message that it is", fromMemory, func(data []byte) error { return proto.Unmarshal(data, &auditv1.AuditRecord{}) }},
		{"policy_backtest_stream", "records from the stream of an embedded server", "to read these records from it", fromStream, func([]byte) error { return nil }},
	} {
		read, err := median(ctx, func(ctx context.Context) error { return from.records(ctx, from.beside) })
		if err != nil {
			return err
		}
		took, err := median(ctx, func(ctx context.Context) error {
			t, err := access.Backtest(ctx, w.state, uint64(calls), store.Unseal, func(add func([]byte) error) error { return from.records(ctx, add) })
			if err == nil && (t.Calls != uint64(calls) || t.Unchanged != t.Calls) {
				err = fmt.Errorf("of %d calls %d come out as they did, and %v are unknown", t.Calls, t.Unchanged, t.Unknown)
			}
			return err
		})
		if err != nil {
			return err
		}
		err = say(figure{Name: from.name, Value: float64(calls) / took, Unit: "calls/s", Reference: float64(calls) / read, Load: load + from.load + "; reference: " + from.reference})
		if err != nil {
			return err
		}
	}
	return nil
}

// record stores so many calls, in two records each.
func (w *world) record(ctx context.Context, conn *natsconn.Conn, dir string, calls int) (*audit.Store, error) {
	bucket, err := kv.Open(ctx, conn.Conn, kv.Config{Bucket: "BENCH"})
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, bucket, vault.Config{Keys: []string{"file:" + filepath.Join(dir, "key")}})
	if err != nil {
		return nil, err
	}
	if err := v.EnsureKeys(ctx, w.people); err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	store, err := audit.Open(ctx, conn.Conn, audit.Config{Key: key, Seals: v, SealPersonal: true})
	if err != nil {
		return nil, err
	}
	for number := uint64(1); number <= uint64(2*calls); {
		records := make([]*auditv1.AuditRecord, 0, batch)
		for len(records) < batch && number <= uint64(2*calls) {
			records = append(records, w.call(number)...)
			number += 2
		}
		if _, err := store.Append(ctx, "proxy", "eu-west", "g", records); err != nil {
			return nil, err
		}
	}
	return store, nil
}

// call is what is recorded of one: about 800 bytes each time.
func (w *world) call(number uint64) []*auditv1.AuditRecord {
	n := rand.IntN(len(w.people)) //nolint:gosec // a load
	person := w.state.User(w.people[n])
	var groups []string
	for g := range w.state.GroupsOf(person) {
		groups = append(groups, directory+"/"+g.DisplayName)
	}
	id, at := uuid.Must(uuid.NewV7()).String(), time.Now()
	first := func(phase auditv1.Phase, number uint64) *auditv1.AuditRecord {
		return &auditv1.AuditRecord{
			Number: number, At: timestamppb.New(at), CallId: id, Phase: phase, Method: "tools/call", PersonId: person.ID.String(), Connector: connector, Tool: []string{"tool_0", "tool_1", "tool_2", "tool_0", "tool_1"}[n%5], Groups: groups,
			Client:   &auditv1.Client{Id: "https://agent.example/client", Name: "Claude Code", Version: "2.1", Address: "192.0.2.7"},
			Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED, Group: "everyone of okta", Rule: 1, Text: "rule 1 of everyone of okta allows it"}, SnapshotVersion: 1234, Revision: "2026-07-28",
		}
	}
	began, ended := first(auditv1.Phase_PHASE_AUTHORIZED, number), first(auditv1.Phase_PHASE_COMPLETED, number+1)
	began.Authentication = &auditv1.Authentication{Acr: "urn:okta:loa:2fa:any", Amr: []string{"pwd", "mfa"}}
	began.Arguments = &auditv1.Payload{Head: fmt.Appendf(nil, `{"owner":"example","repository":"service-%d","branch":"agent/fix-%d","message":"Correct the total of invoices whose currency differs"}`, n%500, n), Size: 130, Sha256: make([]byte, 32)}
	ended.Result = &auditv1.Payload{Head: fmt.Appendf(nil, `{"content":[{"type":"text","text":"Commit %x was pushed to the branch; three checks run, and a reviewer was asked."}]}`, rand.Uint64()), Size: 120, Sha256: make([]byte, 32)} //nolint:gosec // a load
	ended.Outcome, ended.Duration = auditv1.Outcome_OUTCOME_OK, durationpb.New(42*time.Millisecond)
	return []*auditv1.AuditRecord{began, ended}
}
