package spool

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// segments returns the paths of all segments in a spool folder, in order.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*", "*"+segmentExt))
	if err != nil || len(all) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	return all
}

func gaps(c *central) []string {
	var texts []string
	for _, r := range c.all() {
		if r.GetMethod() == GapMethod {
			texts = append(texts, r.GetError())
		}
	}
	return texts
}

func TestATailTornAtAnyByteIsCutAndTheNumbersGoOn(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	s := open(t, cfg)
	mustAppend(t, s, refused(1), refused(2))
	path := segments(t, dir)[0]
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, refused(3))
	crash(s)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, cfg)
		mustAppend(t, s, refused(9))
		c := newCentral(t)
		drain(t, s, c.send)
		want := "call-9"
		switch {
		case cut == len(whole):
			want = "call-1 call-2 call-3 call-9"
		case cut >= len(before):
			want = "call-1 call-2 call-9"
		case cut >= len(before)/2:
			want = "call-1 call-9"
		}
		if c.calls() != want {
			t.Fatalf("cut at %d: %s, want %s", cut, c.calls(), want)
		}
		crash(s)
		if s = open(t, cfg); s.Stats().Pending != 0 {
			t.Fatalf("cut at %d: %d records pending after delivery and restart", cut, s.Stats().Pending)
		}
		crash(s)
		for _, g := range s.generations {
			if err := os.Remove(filepath.Join(g.dir, ackedFile)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestADamagedRecordIsReportedAndTheOthersAreDelivered(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	s := open(t, cfg)
	for i := 1; i <= 5; i++ {
		mustAppend(t, s, refused(i))
	}
	generation := s.Stats().Generation
	crash(s)
	path := segments(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := len(whole) / 5
	for at := size; at < 3*size; at += 7 { // records 2 and 3
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x40
		if err := os.WriteFile(segments(t, copied)[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		lost := 1 + at/size
		cfg.Dir = copied
		s := open(t, cfg)
		mustAppend(t, s, refused(6))
		crash(s) // once more, before anything was delivered
		s = open(t, cfg)
		c := newCentral(t)
		drain(t, s, c.send)
		want := "call-1 GAP call-3 call-4 call-5 call-6"
		if lost == 3 {
			want = "call-1 call-2 GAP call-4 call-5 call-6"
		}
		if c.calls() != want {
			t.Fatalf("damage at %d: %s", at, c.calls())
		}
		text := fmt.Sprintf("records %d to %d of spool generation %s", lost, lost, generation)
		if !strings.Contains(gaps(c)[0], text) {
			t.Errorf("the gap says %q", gaps(c)[0])
		}
		crash(s)
	}
}

func TestDamageFoundWhileDeliveringIsReportedToo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	for i := 1; i <= 5; i++ {
		mustAppend(t, s, refused(i))
	}
	path := segments(t, dir)[0]
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), s.Stats().Bytes/5*2+40); err != nil { // in the third
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c := newCentral(t)
	drain(t, s, c.send)
	mustAppend(t, s, refused(6))
	drain(t, s, c.send)
	if c.calls() != "call-1 call-2 GAP call-4 call-5 call-6" {
		t.Errorf("got %s", c.calls())
	}
}

func TestWhatAnAgentSendsIsNeverTakenForARecord(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	mustAppend(t, s, refused(1))
	whole, err := os.ReadFile(segments(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	// The best an agent can do without the generation's id: a frame that is right but for the magic.
	forged := bytes.Clone(whole)
	sealFrame(forged, magicOf("guess"), 3, 0)
	carrier := refused(2)
	carrier.Arguments = &auditv1.Payload{Head: forged}
	mustAppend(t, s, carrier)
	crash(s)
	damaged, err := os.ReadFile(segments(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(whole)+frameHeader] ^= 1 // the carrier no longer reads
	if err := os.WriteFile(segments(t, dir)[0], damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, testConfig(dir))
	c := newCentral(t)
	drain(t, s, c.send)
	if c.calls() != "call-1" {
		t.Errorf("got %s", c.calls())
	}
}

func TestACrashOfTheMachineIsToldUnlessEachRecordWasSynced(t *testing.T) {
	for _, tc := range []struct {
		name       string
		durability Durability
		clean      bool
		want       string
	}{
		{"process", Process, false, "call-1 GAP call-2"},
		{"disk", Disk, false, "call-1 call-2"},
		{"clean stop", Process, true, "call-1 call-2"},
	} {
		cfg := testConfig(t.TempDir())
		cfg.Durability = tc.durability
		s := open(t, cfg)
		mustAppend(t, s, refused(1))
		if tc.clean {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			crash(s)
		}
		cfg.BootID = "boot-2"
		s = open(t, cfg)
		mustAppend(t, s, refused(2))
		c := newCentral(t)
		drain(t, s, c.send)
		if c.calls() != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, c.calls(), tc.want)
		}
		crash(s)
	}
}

func TestALostFolderIsANewGeneration(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "spool"))
	s := open(t, cfg)
	mustAppend(t, s, refused(1))
	before := s.Stats().Generation
	crash(s)
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	mustAppend(t, s, refused(2))
	if st := s.Stats(); st.Generation == before || st.Last != 1 {
		t.Errorf("%+v after generation %s", st, before)
	}
}

func TestARolledBackFolderDoesNotReuseNumbers(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := open(t, cfg)
	mustAppend(t, s, refused(1))
	crash(s)
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	c := newCentral(t)
	mustAppend(t, s, refused(2), refused(3))
	drain(t, s, c.send)
	crash(s)

	cfg.Dir = backup
	s = open(t, cfg)
	mustAppend(t, s, refused(4))
	drain(t, s, c.send)
	mustAppend(t, s, refused(5))
	drain(t, s, c.send)
	got := c.calls()
	if !strings.HasPrefix(got, "call-1 call-2 call-3 GAP") || !strings.HasSuffix(got, "call-4 call-5") {
		t.Errorf("got %s", got)
	}
}

func TestCallsInFlightAtACrashAreCompletedAsUnknown(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 4096
	s := open(t, cfg)
	long := record("long", auditv1.Phase_PHASE_AUTHORIZED)
	long.Arguments = &auditv1.Payload{Head: []byte(`{"a":1}`)}
	long.PersonId = "person"
	mustAppend(t, s, long, record("done", auditv1.Phase_PHASE_AUTHORIZED))
	for i := range 100 { // so that the segment of both is delivered and deleted
		mustAppend(t, s, refused(i))
	}
	c := newCentral(t)
	drain(t, s, c.send)
	mustAppend(t, s, record("done", auditv1.Phase_PHASE_COMPLETED))
	mustAppend(t, s, record("late", auditv1.Phase_PHASE_AUTHORIZED))
	drain(t, s, c.send)
	crash(s)

	s = open(t, cfg)
	drain(t, s, c.send)
	var unknown []string
	for _, r := range c.all() {
		if r.GetOutcome() == auditv1.Outcome_OUTCOME_UNKNOWN {
			unknown = append(unknown, r.GetCallId())
			if r.GetPhase() != auditv1.Phase_PHASE_COMPLETED || r.GetArguments() != nil || r.GetTool() != "list_branches" {
				t.Errorf("the completion of %s is %v", r.GetCallId(), r)
			}
		}
	}
	if got := strings.Join(unknown, " "); got != "late long" {
		t.Errorf("completed as unknown: %q", got)
	}
	if s.Stats().OpenCalls != 0 {
		t.Errorf("%d calls are open after the start", s.Stats().OpenCalls)
	}
	before := len(c.all())
	crash(s)
	s = open(t, cfg)
	drain(t, s, c.send)
	if len(c.all()) != before {
		t.Error("a second start completed them again")
	}
}

const childEnv = "SALLYPORT_SPOOL_TEST_CHILD"

// TestMain lets the test binary be the process that is killed or kept from writing.
func TestMain(m *testing.M) {
	switch mode, dir, _ := strings.Cut(os.Getenv(childEnv), ":"); mode {
	case "append":
		s, err := Open(testConfig(dir))
		for i := 0; err == nil; i++ {
			if err = s.Append(refused(i)); err == nil {
				fmt.Println(i)
			}
		}
		fmt.Println(err)
		os.Exit(1)
	case "limit":
		os.Exit(appendOverALimit(dir))
	}
	os.Exit(m.Run())
}

func TestWhatAppendReportedSurvivesSIGKILL(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=append:"+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported := 0
	for lines := bufio.NewScanner(out); lines.Scan(); reported++ {
		if lines.Text() != fmt.Sprint(reported) {
			t.Fatalf("the child says %s", lines.Text())
		}
		if reported == 2000 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	s := open(t, testConfig(dir))
	if got := s.Stats().Last; got < uint64(reported) || got > uint64(reported)+1 {
		t.Errorf("%d records are there, %d were reported", got, reported)
	}
	c := newCentral(t)
	drain(t, s, c.send)
	if len(c.all()) < reported || len(gaps(c)) != 0 {
		t.Errorf("%d came of %d, gaps %v", len(c.all()), reported, gaps(c))
	}
}

// appendOverALimit has the kernel refuse to let the segment grow, in the middle of a record, and then allow it.
func appendOverALimit(dir string) int {
	signal.Ignore(syscall.SIGXFSZ)
	s, err := Open(testConfig(dir))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 2000, Max: old.Max}); err != nil {
		fmt.Println(err)
		return 1
	}
	kept := 0
	for err == nil && kept < 1000 {
		if err = s.Append(refused(kept)); err == nil {
			kept++
		}
	}
	fmt.Println("refused:", err)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 0, Max: old.Max}); err != nil { // another segment does not help either
		fmt.Println(err)
		return 1
	}
	if again := s.Append(refused(kept)); again == nil || s.Writable() == nil {
		fmt.Println("the second was kept, or the spool is told to be writable")
		return 1
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := s.Writable(); err != nil {
		fmt.Println("with space again it is not writable:", err)
		return 1
	}
	if err := s.Append(refused(kept)); err != nil {
		fmt.Println("with space again:", err)
		return 1
	}
	if n := len(s.current().segments); n != 2 {
		fmt.Println("what the disk refused did not end its segment:", n)
		return 1
	}
	fmt.Println("kept:", kept+1)
	return 0
}

func TestADiskThatIsFullSaysSoAndAppendsGoOnWhenSpaceReturns(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=limit:"+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("refused: keeping the audit record")) {
		t.Fatalf("%v: %s", err, out)
	}
	s := open(t, testConfig(dir))
	c := newCentral(t)
	drain(t, s, c.send)
	if !bytes.Contains(out, fmt.Appendf(nil, "kept: %d\n", len(c.all()))) || len(gaps(c)) != 0 {
		t.Errorf("%d records came, gaps %v; the child: %s", len(c.all()), gaps(c), out)
	}
}

func TestTheControlPlaneMayAskForRecordsAgainWhileTheyAreThere(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	mustAppend(t, s, refused(1), refused(2), refused(3))
	drain(t, s, newCentral(t).send)
	mustAppend(t, s, refused(4))
	c := newCentral(t) // as restored from an old backup
	drain(t, s, func(ctx context.Context, g string, r []Record) (uint64, error) {
		if len(c.all()) == 0 && r[0].Number == 4 {
			return 0, nil
		}
		return c.send(ctx, g, r)
	})
	if c.calls() != "call-1 call-2 call-3 call-4" {
		t.Errorf("got %s", c.calls())
	}
}

func TestWhatTheControlPlaneLostAfterItAcknowledgedItIsToldAndTheRestGetsThrough(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 4096
	s := open(t, cfg)
	for i := range 100 { // so that the first segments are delivered and deleted
		mustAppend(t, s, refused(i))
	}
	drain(t, s, newCentral(t).send)
	mustAppend(t, s, refused(100))
	c := newCentral(t)
	drain(t, s, func(ctx context.Context, g string, r []Record) (uint64, error) {
		if n := len(c.records[g]); r[0].Number > uint64(n)+1 {
			return uint64(n), nil // as the control plane answers to a gap
		}
		return c.send(ctx, g, r)
	})
	mustAppend(t, s, refused(101))
	drain(t, s, c.send)
	if c.calls() != "GAP call-100 call-101" {
		t.Errorf("got %s", c.calls())
	}
}
