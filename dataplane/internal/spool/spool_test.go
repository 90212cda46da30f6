package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func testConfig(dir string) Config {
	return Config{Dir: dir, Proxy: "p1", Region: "eu-west", BootID: "boot-1", Logger: quiet}
}

func open(t *testing.T, cfg Config) *Spool {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

// crash leaves the folder as a SIGKILL would: nothing is flushed, closed cleanly or written.
func crash(s *Spool) {
	_ = s.exclusive(func() {
		s.endSegment()
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		_ = s.lock.Close()
	})
}

func record(call string, phase auditv1.Phase) *auditv1.AuditRecord {
	return &auditv1.AuditRecord{CallId: call, Phase: phase, Method: "tools/call", Connector: "github", Tool: "list_branches"}
}

func refused(i int) *auditv1.AuditRecord {
	return record(fmt.Sprintf("call-%d", i), auditv1.Phase_PHASE_REFUSED)
}

func mustAppend(t *testing.T, s *Spool, recs ...*auditv1.AuditRecord) {
	t.Helper()
	for _, r := range recs {
		if err := s.Append(r); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
}

// central receives as the control plane does: by generation and number, each record once, no gaps.
type central struct {
	t       *testing.T
	mu      sync.Mutex
	order   []string
	records map[string][]*auditv1.AuditRecord
	batches int
}

func newCentral(t *testing.T) *central {
	return &central{t: t, records: map[string][]*auditv1.AuditRecord{}}
}

func (c *central) send(_ context.Context, generation string, records []Record) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches++
	have, known := c.records[generation]
	if !known {
		c.order = append(c.order, generation)
	}
	for _, record := range records {
		r := new(auditv1.AuditRecord)
		if err := proto.Unmarshal(record.Data, r); err != nil || r.GetNumber() != record.Number {
			c.t.Errorf("record %d comes as %d: %v", record.Number, r.GetNumber(), err)
		}
		if r.GetSpoolGeneration() != generation {
			c.t.Errorf("record of generation %q came under %q", r.GetSpoolGeneration(), generation)
		}
		switch n := uint64(len(have)) + 1; {
		case r.GetNumber() < n:
		case r.GetNumber() == n:
			have = append(have, r)
		default:
			c.t.Errorf("record %d came where %d was due", r.GetNumber(), n)
		}
	}
	c.records[generation] = have
	return uint64(len(have)), nil
}

func (c *central) all() []*auditv1.AuditRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*auditv1.AuditRecord
	for _, g := range c.order {
		all = append(all, c.records[g]...)
	}
	return all
}

func (c *central) calls() string {
	var ids []string
	for _, r := range c.all() {
		if r.GetMethod() == GapMethod {
			ids = append(ids, "GAP")
			continue
		}
		ids = append(ids, r.GetCallId())
	}
	return strings.Join(ids, " ")
}

// drain delivers until nothing is pending.
func drain(t *testing.T, s *Spool, send Send) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Deliver(ctx, send) }()
	for s.Stats().Pending > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Errorf("not all was delivered: %+v", s.Stats())
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Deliver: %v", err)
	}
}

func TestRecordsAreStampedNumberedAndDeliveredInOrder(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	forged := refused(1)
	forged.Proxy, forged.SpoolGeneration, forged.Number, forged.Region = "other", "other", 99, "other"
	mustAppend(t, s, forged, refused(2))
	s.Identify("p1", "us-east")
	mustAppend(t, s, refused(3))

	c := newCentral(t)
	drain(t, s, c.send)
	all := c.all()
	if len(all) != 3 {
		t.Fatalf("%d records came", len(all))
	}
	for i, r := range all {
		region := "eu-west"
		if i == 2 {
			region = "us-east"
		}
		if r.GetProxy() != "p1" || r.GetRegion() != region || r.GetNumber() != uint64(i+1) || r.GetSpoolGeneration() == "other" {
			t.Errorf("record %d has identity %q %q %q %d", i, r.GetProxy(), r.GetSpoolGeneration(), r.GetRegion(), r.GetNumber())
		}
	}
	if forged.GetNumber() != 99 {
		t.Error("the caller's record was changed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(refused(4)); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
}

func TestConcurrentAppendsAreAllKeptOnceWithConsecutiveNumbers(t *testing.T) {
	for _, durability := range []Durability{Process, Disk} {
		cfg := testConfig(t.TempDir())
		cfg.Durability, cfg.SegmentBytes = durability, 8192
		s := open(t, cfg)
		const goroutines, each = 16, 40
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range each {
					if err := s.Append(refused(g*each + i)); err != nil {
						t.Errorf("Append: %v", err)
					}
				}
			})
		}
		wg.Wait()
		crash(s)
		s = open(t, cfg)
		c := newCentral(t)
		drain(t, s, c.send)
		seen := map[string]bool{}
		for _, r := range c.all() {
			seen[r.GetCallId()] = true
		}
		if len(c.all()) != goroutines*each || len(seen) != goroutines*each {
			t.Errorf("durability %d: %d records of %d calls came", durability, len(c.all()), len(seen))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeliveryGoesOnWhereItWasAfterARestart(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := open(t, cfg)
	c := newCentral(t)
	mustAppend(t, s, refused(1), refused(2))
	drain(t, s, c.send)
	mustAppend(t, s, refused(3))
	crash(s)
	s = open(t, cfg)
	var first uint64
	drain(t, s, func(ctx context.Context, g string, r []Record) (uint64, error) {
		if first == 0 {
			first = r[0].Number
		}
		return c.send(ctx, g, r)
	})
	if first != 3 || c.calls() != "call-1 call-2 call-3" {
		t.Errorf("went on with %d: %s", first, c.calls())
	}
}

func TestDeliveryTriesAgainUntilAcknowledgedAndKeepsBatchesSmall(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	const small, large = batchRecords + 500, batchBytes/(900<<10) + 2
	for i := range small {
		mustAppend(t, s, refused(i))
	}
	big := refused(small)
	big.Error = strings.Repeat("x", 900<<10)
	for range large {
		mustAppend(t, s, proto.CloneOf(big))
	}
	c := newCentral(t)
	failed := 0
	drain(t, s, func(ctx context.Context, g string, r []Record) (uint64, error) {
		size := 0
		for _, rec := range r {
			size += len(rec.Data)
		}
		if len(r) > batchRecords || size > batchBytes {
			t.Errorf("a batch of %d records and %d bytes", len(r), size)
		}
		if failed < 2 {
			failed++
			return 0, errors.New("away")
		}
		if len(r) > 10 { // only a part is acknowledged
			r = r[:len(r)-3]
		}
		return c.send(ctx, g, r)
	})
	if len(c.all()) != small+large {
		t.Errorf("%d records came", len(c.all()))
	}
}

func TestAFullSpoolRefusesCallsButCompletesThoseUnderWayAndRecovers(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes = 64 << 10
	s := open(t, cfg)
	var err error
	n := 0
	for ; err == nil && n < 10000; n++ {
		err = s.Append(record(fmt.Sprintf("call-%d", n), auditv1.Phase_PHASE_AUTHORIZED))
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("after %d records: %v", n, err)
	}
	if err := s.Append(record("call-0", auditv1.Phase_PHASE_COMPLETED)); err != nil {
		t.Errorf("the completion of a call under way: %v", err)
	}
	if err := s.Append(refused(0)); !errors.Is(err, ErrFull) {
		t.Errorf("a refusal: %v", err)
	}
	drain(t, s, newCentral(t).send)
	if err := s.Append(record("later", auditv1.Phase_PHASE_AUTHORIZED)); err != nil {
		t.Errorf("after delivery: %v", err)
	}
	if left := s.Stats().Bytes; left > cfg.MaxBytes/4 {
		t.Errorf("%d bytes are left after delivery", left)
	}
}

func TestARecordThatIsTooLargeIsRefused(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	r := refused(1)
	r.Error = strings.Repeat("x", maxRecord)
	if err := s.Append(r); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	mustAppend(t, s, refused(2))
}

func TestTheFolderBelongsToOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	if _, err := Open(testConfig(dir)); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, testConfig(dir))
}

func TestAFolderThatCannotBeUsedSaysSo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(filepath.Join(file, "spool"))); err == nil || !strings.Contains(err.Error(), "audit spool") {
		t.Errorf("got %v", err)
	}
}

func TestAppendAllocatesLittle(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	r := refused(1)
	if n := testing.AllocsPerRun(200, func() { mustAppend(t, s, r) }); n > 2 {
		t.Errorf("%v allocations per record", n)
	}
}

func TestRecordsGatherUntilABatchIsFull(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Gather = time.Hour
	s := open(t, cfg)
	c := newCentral(t)
	ctx, cancel := context.WithCancel(t.Context())
	sent, done := make(chan int, 16), make(chan error, 1)
	go func() {
		done <- s.Deliver(ctx, func(ctx context.Context, g string, r []Record) (uint64, error) {
			n, err := c.send(ctx, g, r)
			sent <- len(r)
			return n, err
		})
	}()
	mustAppend(t, s, refused(0))
	if n := <-sent; n != 1 { // after a quiet time it leaves at once
		t.Errorf("first came %d records", n)
	}
	for i := range batchRecords + 1 { // the last waits for others
		mustAppend(t, s, refused(1+i))
	}
	if n := <-sent; n != batchRecords {
		t.Errorf("then came %d records", n)
	}
	for i := range batchRecords - 1 {
		mustAppend(t, s, refused(batchRecords+2+i))
	}
	if n := <-sent; n != batchRecords {
		t.Errorf("at last came %d records", n)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(sent) > 0 || s.Stats().Pending > 0 {
		t.Errorf("%d more batches, %d records pending", len(sent), s.Stats().Pending)
	}
}
