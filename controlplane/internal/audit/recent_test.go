package audit

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
)

// Where two control planes store at once, what each remembers is of its own records, and what either signs is what lies on the stream.
func TestACheckpointFromMemoryIsThatOfTheStream(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		key := testKey(t)
		one, two := open(), open()
		one.key, two.key = key, key
		for round := range 3 {
			var senders sync.WaitGroup
			for i := range 6 {
				senders.Go(func() {
					s, proxy := []*Store{one, two}[i%2], fmt.Sprint("p", i)
					for part := range uint64(3) {
						from := uint64(round)*60 + part*20 + 1
						if _, err := s.Append(within(t), proxy, "eu", "g", run(from, from+19)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			senders.Wait()
			for _, s := range []*Store{one, two} {
				for i, leaf := range s.recent.leaves {
					if leaf == (proof.Digest{}) {
						continue
					}
					m, err := s.at(within(t), s.recent.after+uint64(i)+1)
					if err != nil {
						t.Fatal(err)
					}
					core, err := proof.Core(m.Data, m.Header.Get(coreHeader))
					if err != nil || !bytes.Equal(leaf[:], proof.Leaf(core)) {
						t.Fatalf("the leaf of record %d is not the one that is remembered: %v", m.Sequence, err)
					}
				}
			}
			if _, err := []*Store{one, two, one}[round].Checkpoint(within(t), false); err != nil {
				t.Fatal(err)
			}
		}
		mustAppend(t, one, "p0", "g", 181, 200, 200) // these it knows all
		if got := len(one.recent.next(1080, 100)); got != 20 {
			t.Fatalf("of 20 records %d are remembered", got)
		}
		verifier := &proof.Verifier{}
		err := two.Export(within(t), time.Time{}, time.Time{}, (*adminv1.AuditFilter)(nil), func(i *auditv1.ExportItem) error { return verifier.Add(i) })
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Finish(time.Time{}, time.Time{}); err != nil || verifier.Report.Records != 1100 || verifier.Report.Checkpoints != 4 || verifier.Report.Tail != 0 {
			t.Fatalf("%+v, %v", verifier.Report, err)
		}
	})
}

func TestWhatIsRememberedForACheckpointIsBoundedAndHasGaps(t *testing.T) {
	var r recent
	leaf := func(n int) proof.Digest { return proof.Digest{1, byte(n)} }
	r.stored(12, []proof.Digest{leaf(11), leaf(12)})
	r.stored(16, []proof.Digest{leaf(15), leaf(16)})
	for _, want := range []struct{ after, most, leaves int }{{9, 9, 0}, {10, 9, 2}, {10, 1, 1}, {12, 9, 0}, {14, 9, 2}} {
		got := r.next(uint64(want.after), want.most)
		if len(got) != want.leaves || want.leaves > 0 && got[0] != leaf(want.after+1) {
			t.Fatalf("after %d: %v", want.after, got)
		}
	}
	r.stored(14, []proof.Digest{leaf(13), leaf(14)}) // signed already
	if got := r.next(14, 9); len(got) != 2 || got[0] != leaf(15) {
		t.Fatalf("%v", got)
	}
	r.stored(14+recentMost+1, []proof.Digest{leaf(1)})
	if got := r.next(14, 9); len(got) != 2 || len(r.leaves) != 2 {
		t.Fatalf("%d are kept", len(r.leaves))
	}
	if r.next(14+recentMost, 9); len(r.leaves) != 0 {
		t.Fatalf("%d are kept that were signed", len(r.leaves))
	}
}
