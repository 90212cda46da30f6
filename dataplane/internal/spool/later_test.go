package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// TestWhatIsKeptLaterIsWrittenWithTheNextOrSoon, in the order in which it came.
func TestWhatIsKeptLaterIsWrittenWithTheNextOrSoon(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, testConfig(dir))
		defer s.Close() //nolint:errcheck // the test is over
		if err := s.AppendLater(refused(1)); err != nil {
			t.Fatal(err)
		}
		if last := s.Stats().Last; last != 0 {
			t.Fatalf("it was written at once: %d", last)
		}
		mustAppend(t, s, refused(2))
		if last := s.Stats().Last; last != 2 {
			t.Fatalf("%d are written with the next", last)
		}
		if err := s.AppendLater(refused(3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon) // of the bubble's clock
		synctest.Wait()
		if last := s.Stats().Last; last != 3 {
			t.Fatalf("%d are written after that time", last)
		}
	})
	crashed := open(t, testConfig(dir))
	defer crashed.Close() //nolint:errcheck // as above
	if st := crashed.Stats(); st.Pending < 3 {
		t.Fatalf("%+v", st)
	}
}

func TestACompletionThatACrashTookIsOfUnknownOutcome(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	mustAppend(t, s, record("call", auditv1.Phase_PHASE_AUTHORIZED))
	s.mu.Lock()
	s.writing = true // nobody writes any more
	s.mu.Unlock()
	if err := s.AppendLater(record("call", auditv1.Phase_PHASE_COMPLETED)); err != nil {
		t.Fatal(err)
	}
	_ = s.lock.Close() // as the end of its process would
	again := open(t, testConfig(dir))
	defer again.Close() //nolint:errcheck // the test is over
	if st := again.Stats(); st.Last != 2 || st.OpenCalls != 0 {
		t.Errorf("after the crash: %+v", st)
	}
}

func TestWhatIsKeptLaterIsThereAfterClose(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	for i := range 10 {
		if err := s.AppendLater(refused(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendLater(refused(11)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	again := open(t, testConfig(dir))
	defer again.Close() //nolint:errcheck // the test is over
	if st := again.Stats(); st.Pending < 10 {
		t.Errorf("%+v", st)
	}
}

// TestAppendsOfBothKindsMix: none is lost, none is there twice, and nobody waits for ever.
func TestAppendsOfBothKindsMix(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	defer s.Close() //nolint:errcheck // the test is over
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 200 {
				id := fmt.Sprintf("%d-%d", worker, i)
				mustAppend(t, s, record(id, auditv1.Phase_PHASE_AUTHORIZED))
				if err := s.AppendLater(record(id, auditv1.Phase_PHASE_COMPLETED)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if err := s.exclusive(func() {}); err != nil { // what waits is written before
		t.Fatal(err)
	}
	if st := s.Stats(); st.Last != 8*200*2 || st.OpenCalls != 0 {
		t.Errorf("%+v", st)
	}
}

// TestWhatIsKeptLaterDuringAWriteWaitsForNobody, and nobody for it.
func TestWhatIsKeptLaterDuringAWriteWaitsForNobody(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	defer s.Close() //nolint:errcheck // the test is over
	if err := s.exclusive(func() {
		if err := s.AppendLater(refused(1)); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, refused(2))
	if last := s.Stats().Last; last != 2 {
		t.Errorf("%d are written", last)
	}
}

func TestWhatTheDiskDoesNotTakeLaterIsLogged(t *testing.T) {
	var log strings.Builder
	cfg := testConfig(t.TempDir())
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, cfg)
	if err := s.exclusive(func() {
		s.endSegment()
		if err := os.RemoveAll(s.current().dir); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendLater(refused(7)); err != nil {
		t.Fatal(err)
	}
	_ = s.Close() // which finds its folder gone
	if !strings.Contains(log.String(), "call-7") {
		t.Errorf("logged: %s", log.String())
	}
}
