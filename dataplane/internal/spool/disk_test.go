package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// refuseOnce has the disk refuse the write of one record, as when it is full.
func refuseOnce(t *testing.T, s *Spool, r *auditv1.AuditRecord, appended func(*auditv1.AuditRecord) error) {
	t.Helper()
	if err := s.exclusive(func() {
		if s.file == nil {
			t.Fatal("there is no segment")
		}
		shut, err := os.Open(s.file.Name()) // read only: it takes no writes, and cannot be cut
		if err != nil {
			t.Fatal(err)
		}
		_ = s.file.Close()
		s.file = shut
	}); err != nil {
		t.Fatal(err)
	}
	_ = appended(r)
}

// TestWhatIsAcknowledgedMakesRoomOnAFullDisk: the newest segment goes too, though it is not of full size, and a crash makes no loss of it.
func TestWhatIsAcknowledgedMakesRoomOnAFullDisk(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := open(t, cfg)
	c := newCentral(t)
	for i := range 100 {
		mustAppend(t, s, refused(i))
	}
	drain(t, s, c.send)
	before := s.Stats().Bytes
	refuseOnce(t, s, refused(100), s.Append)
	drain(t, s, c.send)
	if after := s.Stats().Bytes; before == 0 || after != 0 {
		t.Errorf("%d bytes are on disk, %d were before", after, before)
	}
	for range 2 {
		crash(s)
		s = open(t, cfg)
	}
	mustAppend(t, s, refused(101))
	drain(t, s, c.send)
	if got := c.calls(); strings.Contains(got, "GAP") || !strings.HasSuffix(got, "call-99 call-101") || s.Stats().Last != 101 {
		t.Errorf("%+v: %s", s.Stats(), got)
	}
}

// TestACompletionForWhichThereIsNoRoomIsKeptOnceThereIs, and the call is not of unknown outcome.
func TestACompletionForWhichThereIsNoRoomIsKeptOnceThereIs(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes = 32 << 10
	s := open(t, cfg)
	c := newCentral(t)
	completed := func(call string) *auditv1.AuditRecord {
		r := record(call, auditv1.Phase_PHASE_COMPLETED)
		r.Outcome = auditv1.Outcome_OUTCOME_OK
		return r
	}
	mustAppend(t, s, record("disk", auditv1.Phase_PHASE_AUTHORIZED), record("full", auditv1.Phase_PHASE_AUTHORIZED))
	refuseOnce(t, s, completed("disk"), func(r *auditv1.AuditRecord) error {
		if err := s.AppendLater(r); err != nil {
			return err
		}
		return s.exclusive(func() {}) // it was tried
	})
	for i := 0; s.Append(record(fmt.Sprint("last-", i), auditv1.Phase_PHASE_COMPLETED)) == nil; i++ { // into the reserve
	}
	if s.Writable() == nil {
		t.Error("it is full, and says that it takes calls")
	}
	if err := s.AppendLater(completed("full")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Deliver(ctx, func(ctx context.Context, generation string, records []Record) (uint64, error) {
		if s.Stats().OpenCalls == 0 {
			cancel() // after this one
		}
		return c.send(ctx, generation, records)
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	outcomes := map[string]auditv1.Outcome{}
	for _, r := range c.all() {
		if r.GetPhase() == auditv1.Phase_PHASE_COMPLETED {
			outcomes[r.GetCallId()] = r.GetOutcome()
		}
	}
	if outcomes["disk"] != auditv1.Outcome_OUTCOME_OK || outcomes["full"] != auditv1.Outcome_OUTCOME_OK || s.Stats().OpenCalls != 0 {
		t.Errorf("disk: %v, full: %v, %+v", outcomes["disk"], outcomes["full"], s.Stats())
	}
}
