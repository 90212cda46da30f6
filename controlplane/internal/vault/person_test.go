package vault

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func people(n int) []uuid.UUID {
	all := make([]uuid.UUID, n)
	for i := range all {
		all[i] = uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i))
	}
	return all
}

func ensure(t testing.TB, v *Vault, ids ...uuid.UUID) {
	t.Helper()
	if err := v.EnsureKeys(within(t), ids); err != nil {
		t.Fatal(err)
	}
}

func seal(t testing.TB, v *Vault, id uuid.UUID, plain string) []byte {
	t.Helper()
	sealed, err := v.Seal(within(t), id, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func wantOpen(t testing.TB, v *Vault, id uuid.UUID, sealed []byte, want string) {
	t.Helper()
	plain, erased, err := v.Open(within(t), id, sealed)
	if err != nil || erased || string(plain) != want {
		t.Fatalf("got %q, erased %v, %v", plain, erased, err)
	}
}

func wantErased(t testing.TB, v *Vault, id uuid.UUID, sealed []byte) {
	t.Helper()
	if plain, erased, err := v.Open(within(t), id, sealed); err != nil || !erased || plain != nil {
		t.Fatalf("got %q, erased %v, %v", plain, erased, err)
	}
}

func TestWhatIsSealedForAPersonOpensForThatPersonAtEveryControlPlane(t *testing.T) {
	s, ids := newSite(t), people(3)
	a := s.open(t)
	ensure(t, a, ids[0], ids[1], ids[0])
	sealed := seal(t, a, ids[0], "ada@corp.example")
	wantOpen(t, a, ids[0], sealed, "ada@corp.example")
	wantOpen(t, s.open(t), ids[0], sealed, "ada@corp.example")
	if _, _, err := a.Open(within(t), ids[1], sealed); err == nil {
		t.Fatal("it opened for another person")
	}
	if _, err := a.Seal(within(t), ids[2], []byte("x")); err == nil {
		t.Fatal("something was sealed for a person without a key")
	}
	sealed[len(sealed)-1] ^= 1
	if _, _, err := a.Open(within(t), ids[0], sealed); err == nil {
		t.Fatal("a changed seal opened")
	}
}

// TestOfTwoThatMakeKeysAtOnceTheFirstCounts has batches that overlap in part, in several orders.
func TestOfTwoThatMakeKeysAtOnceTheFirstCounts(t *testing.T) {
	s, ids := newSite(t), people(2500)
	planes := []*Vault{s.open(t), s.open(t), s.open(t)}
	var racers sync.WaitGroup
	for i, v := range planes {
		racers.Go(func() {
			for from := i * 100; from < len(ids); from += 300 + 50*i {
				if err := v.EnsureKeys(within(t), ids[from:min(from+1100, len(ids))]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	racers.Wait()
	for _, v := range planes {
		ensure(t, v, ids...)
	}
	late := s.open(t)
	for n, id := range ids {
		v := planes[n%len(planes)]
		sealed := seal(t, v, id, "x")
		for _, other := range planes {
			wantOpen(t, other, id, sealed, "x")
		}
		if n%100 == 0 {
			wantOpen(t, late, id, sealed, "x")
		}
	}
}

func TestADestroyedKeyOpensNothingAnywhere(t *testing.T) {
	s, ids := newSite(t), people(3)
	a, b := s.open(t), s.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	defer running.Wait()
	defer cancel()
	ensure(t, a, ids...)
	sealed, kept := seal(t, a, ids[0], "x"), seal(t, a, ids[1], "y")
	wantOpen(t, b, ids[0], sealed, "x")
	if err := a.DestroyKey(within(t), ids[0]); err != nil {
		t.Fatal(err)
	}
	wantErased(t, a, ids[0], sealed)
	wantErased(t, s.open(t), ids[0], sealed)
	// The other control plane, which had it in memory, hears of it.
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, erased, err := b.Open(within(t), ids[0], sealed)
		if err != nil {
			t.Fatal(err)
		}
		if erased {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the other control plane still opens what was erased")
		}
	}
	wantOpen(t, b, ids[1], kept, "y")
	if err := a.DestroyKey(within(t), ids[0]); err != nil {
		t.Fatalf("destroying it again: %v", err)
	}
}

func TestAKeyThatWasReadBeforeItWasDestroyedIsNotKept(t *testing.T) {
	v, id := newSite(t).open(t), people(1)[0]
	ensure(t, v, id)
	era := v.people.now()
	e, err := v.store.Get(within(t), personName(id))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.DestroyKey(within(t), id); err != nil {
		t.Fatal(err)
	}
	if err := v.keep(within(t), e, era); err != nil { // the reader is slow
		t.Fatal(err)
	}
	if _, ok := v.people.get(id); ok {
		t.Fatal("a destroyed key came back into memory")
	}
}

func TestTheCacheIsBoundedAndWhatItLacksIsRead(t *testing.T) {
	s, ids := newSite(t), people(1000)
	v, err := Open(within(t), s.store, Config{Keys: []string{"file:" + s.keyFile}, CachedKeys: 100})
	if err != nil {
		t.Fatal(err)
	}
	ensure(t, v, ids...)
	sealed := seal(t, v, ids[0], "x")
	for _, id := range ids[1:] {
		seal(t, v, id, "y")
		wantOpen(t, v, ids[0], sealed, "x") // used all the time, it stays
		if n := v.people.size(); n > 100 {
			t.Fatalf("%d keys are cached, at most 100 may be", n)
		}
	}
	if _, ok := v.people.get(ids[0]); !ok {
		t.Fatal("the key that was used most of late was dropped")
	}
}

func TestPreloadReadsAllKeysAtOnce(t *testing.T) {
	s, ids := newSite(t), people(3000)
	a := s.open(t)
	ensure(t, a, ids...)
	b := s.open(t)
	if err := b.Preload(within(t)); err != nil {
		t.Fatal(err)
	}
	if n := b.people.size(); n != len(ids) {
		t.Fatalf("%d keys are there, want %d", n, len(ids))
	}
	wantOpen(t, b, ids[7], seal(t, a, ids[7], "x"), "x")
}

func BenchmarkSeal(b *testing.B) {
	v, ids := newSite(b).open(b), people(1000)
	ensure(b, v, ids...)
	plain := make([]byte, 200)
	ctx := b.Context()
	b.ResetTimer()
	for i := range b.N {
		if _, err := v.Seal(ctx, ids[i%len(ids)], plain); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "seals/s")
}

func BenchmarkOpen(b *testing.B) {
	v, ids := newSite(b).open(b), people(1)
	ensure(b, v, ids...)
	sealed := seal(b, v, ids[0], string(make([]byte, 200)))
	ctx := b.Context()
	b.ResetTimer()
	for range b.N {
		if _, _, err := v.Open(ctx, ids[0], sealed); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "opens/s")
}

// BenchmarkEnsureAndPreload makes keys for 20,000 people and reads them at a cold start.
func BenchmarkEnsureAndPreload(b *testing.B) {
	for range b.N {
		s, ids := newSite(b), people(20_000)
		a, began := s.open(b), time.Now()
		ensure(b, a, ids...)
		b.ReportMetric(float64(len(ids))/time.Since(began).Seconds(), "made/s")
		c := s.open(b)
		began = time.Now()
		if err := c.Preload(within(b)); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(ids))/time.Since(began).Seconds(), "preloaded/s")
	}
}

// TestThatSomebodyHasNoKeyIsProvedOnce: on several servers, one that leads no more does not know of the newest keys.
func TestThatSomebodyHasNoKeyIsProvedOnce(t *testing.T) {
	nc := natstest.Open(t, natsconn.Config{URL: natstest.NewCluster(t).URL()}).Conn
	store, err := kv.Open(within(t), nc, kv.Config{Bucket: "VAULT", Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	s := site{nc, store, filepath.Join(t.TempDir(), "kek.json")}
	v, id := s.open(t), people(1)[0]
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(within(t), "KV_VAULT")
	if err != nil {
		t.Fatal(err)
	}
	var proofs []uint64
	for range 2 {
		wantErased(t, v, id, []byte("sealed"))
		m, err := stream.GetLastMsgForSubject(within(t), "$KV.VAULT."+personName(id))
		if err != nil {
			t.Fatalf("nothing proves it: %v", err)
		}
		proofs = append(proofs, m.Sequence)
	}
	if proofs[0] != proofs[1] {
		t.Errorf("proved twice: %v", proofs)
	}
	ensure(t, v, id)
	wantOpen(t, s.open(t), id, seal(t, v, id, "x"), "x")
}
