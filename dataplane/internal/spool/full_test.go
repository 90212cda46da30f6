package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

func TestAFullSpoolDropsItsOldestWhereItMayAndSaysHowMany(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes, cfg.DropOldest = 256<<10, true
	s := open(t, cfg)
	const all = 8000
	for i := range all {
		if i%3 == 0 {
			if err := s.AppendLater(refused(i)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mustAppend(t, s, refused(i))
	}
	if st := s.Stats(); st.Bytes > cfg.MaxBytes || st.Pending >= all {
		t.Fatalf("there are %+v", st)
	}
	var onDisk int64
	if err := filepath.WalkDir(cfg.Dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				onDisk += info.Size()
			}
		}
		return err
	}); err != nil || onDisk > cfg.MaxBytes*5/4 {
		t.Errorf("%d bytes are on disk (%v)", onDisk, err)
	}
	// A crash changes nothing of it.
	crash(s)
	s = open(t, cfg)
	c := newCentral(t)
	drain(t, s, c.send)
	lost, came, newest := uint64(0), 0, ""
	for _, r := range c.all() {
		if r.GetMethod() == GapMethod {
			if r.GetKind() != auditv1.Kind_KIND_GAP || r.GetLost() == 0 || !strings.Contains(r.GetError(), "dropped because the spool was full") {
				t.Errorf("a gap says %v", r)
			}
			lost += r.GetLost()
			continue
		}
		came++
		newest = r.GetCallId()
	}
	// Gap records that were dropped themselves are counted among those that were.
	if sum := uint64(came) + lost; sum < all || sum > all+100 || came < 500 || newest != fmt.Sprint("call-", all-1) {
		t.Errorf("%d records came and %d were dropped, of %d; the newest is %s", came, lost, all, newest)
	}
	t.Logf("%d records came and %d were counted as dropped, of %d", came, lost, all)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsDroppedDuringItsDeliveryIsNoRolledBackFolder: the control plane then has what is counted as dropped, and more is not made of it.
func TestWhatIsDroppedDuringItsDeliveryIsNoRolledBackFolder(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes, cfg.DropOldest = 128<<10, true
	s := open(t, cfg)
	for i := range 200 {
		mustAppend(t, s, refused(i))
	}
	c := newCentral(t)
	var once sync.Once
	drain(t, s, func(ctx context.Context, generation string, records []Record) (uint64, error) {
		once.Do(func() {
			for i := 200; s.Stats().Generation == generation; i++ {
				mustAppend(t, s, refused(i))
			}
		})
		return c.send(ctx, generation, records)
	})
	gaps := 0
	for _, r := range c.all() {
		if r.GetMethod() == GapMethod {
			gaps++
			if strings.Contains(r.GetError(), "rolled back") {
				t.Errorf("a gap says %q", r.GetError())
			}
		}
	}
	if gaps != 1 {
		t.Errorf("there are %d gaps", gaps)
	}
}

func TestACallsRecordIsKeptCentrallyOnlyOnceTheControlPlaneHasIt(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(dir)
		cfg.Durability, cfg.ConfirmWithin = Central, 3*time.Second
		s := open(t, cfg)
		defer s.Close() //nolint:errcheck // the test is over
		call := func(n int) *auditv1.AuditRecord {
			return record(fmt.Sprint("call-", n), auditv1.Phase_PHASE_AUTHORIZED)
		}
		// While nobody takes records no call's is kept, and others are.
		began := time.Now()
		if err := s.Append(call(1)); !errors.Is(err, ErrUnconfirmed) || time.Since(began) < cfg.ConfirmWithin {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		mustAppend(t, s, refused(1))
		c := newCentral(t)
		ctx, cancel := context.WithCancel(t.Context())
		delivered, away := make(chan struct{}), false
		var mu sync.Mutex
		go func() {
			defer close(delivered)
			_ = s.Deliver(ctx, func(ctx context.Context, generation string, records []Record) (uint64, error) {
				mu.Lock()
				defer mu.Unlock()
				if away {
					return 0, errors.New("away")
				}
				time.Sleep(time.Millisecond) // on its way
				return c.send(ctx, generation, records)
			})
		}()
		for n := 2; n < 20; n++ {
			began := time.Now()
			mustAppend(t, s, call(n))
			have := c.all()
			if time.Since(began) > time.Second || have[len(have)-1].GetCallId() != fmt.Sprint("call-", n) {
				t.Fatalf("call %d was kept after %v, when the control plane had %d records", n, time.Since(began), len(have))
			}
		}
		mu.Lock()
		away = true
		mu.Unlock()
		if err := s.Append(call(20)); !errors.Is(err, ErrUnconfirmed) {
			t.Fatalf("while it is away: %v", err)
		}
		cancel()
		<-delivered
	})
}
