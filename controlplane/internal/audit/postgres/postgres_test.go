package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/audittest"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/pgtest"
	"sallyport.dev/controlplane/internal/vault"
)

// site is a stream and a PostgreSQL beside it.
type site struct {
	nc     *nats.Conn
	store  *audit.Store
	keys   *vault.Vault
	server *pgtest.Server
}

func newSite(t *testing.T) *site {
	t.Helper()
	nc := natstest.Embedded(t).Conn
	secrets, err := kv.Open(t.Context(), nc, kv.Config{Bucket: "VAULT"})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := vault.Open(t.Context(), secrets, vault.Config{Keys: []string{"file:" + filepath.Join(t.TempDir(), "kek.json")}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := audit.Open(t.Context(), nc, audit.Config{Seals: keys, SealPersonal: true})
	if err != nil {
		t.Fatal(err)
	}
	return &site{nc, store, keys, pgtest.New(t)}
}

// open opens the index, as a control plane does. Until the test ends, or end is called, it indexes.
func (s *site) open(t *testing.T) (x *Index, end func()) {
	t.Helper()
	x, err := Open(t.Context(), Config{URL: s.server.URL(), Stream: s.store})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { x.Run(ctx) })
	end = sync.OnceFunc(func() { cancel(); running.Wait(); x.Close() })
	t.Cleanup(end)
	return x, end
}

// caughtUp waits until all that the stream holds is indexed.
func (s *site) caughtUp(t *testing.T, x *Index) {
	t.Helper()
	last, err := s.store.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var position uint64
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if position, err = x.Position(t.Context()); err == nil && position >= last {
			return
		}
	}
	t.Fatalf("indexed up to %d of %d, %v", position, last, err)
}

// onceEach says how many rows there are, of which each sequence must have one.
func (s *site) onceEach(t *testing.T, x *Index) int {
	t.Helper()
	var rows, distinct, last int
	if err := x.pool.QueryRow(t.Context(), in(x.schema, `SELECT count(*), count(DISTINCT sequence), coalesce(max(sequence), 0) FROM $S.records`)).Scan(&rows, &distinct, &last); err != nil {
		t.Fatal(err)
	}
	if rows != distinct || rows != last {
		t.Fatalf("%d rows of %d different records up to %d", rows, distinct, last)
	}
	return rows
}

func TestTheIndexConforms(t *testing.T) {
	s := newSite(t)
	at := time.Now().Add(-time.Hour).Truncate(10 * time.Minute)
	audittest.Fill(t, s.store, 600, at)
	all := audittest.All(t, s.store)
	x, end := s.open(t)
	s.caughtUp(t, x)
	t.Run("indexed", func(t *testing.T) { audittest.Conform(t, x, all, at) })

	// Half of it is on the stream alone, as while PostgreSQL lags.
	end()
	half, err := Open(t.Context(), Config{URL: s.server.URL(), Stream: s.store, Schema: "half"})
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	conn, err := half.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var batch []audit.Message
	if err := s.store.Read(t.Context(), 0, func(m audit.Message) error {
		if batch = append(batch, m); len(batch) == len(all)/2 {
			return audit.ErrStop
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := half.write(t.Context(), conn.Conn(), "half", 0, batch); err != nil {
		t.Fatal(err)
	}
	if err := half.write(t.Context(), conn.Conn(), "half", 0, batch); !errors.Is(err, errOvertaken) {
		t.Fatalf("the same was indexed again: %v", err)
	}
	conn.Release()
	t.Run("lagging", func(t *testing.T) { audittest.Conform(t, half, all, at) })
}

func TestWithoutPostgresTheStreamAnswers(t *testing.T) {
	s := newSite(t)
	audittest.Fill(t, s.store, 50, time.Now())
	x, _ := s.open(t)
	s.caughtUp(t, x)
	s.server.Kill()
	records, _, err := x.Search(t.Context(), nil, 1000, "")
	if err != nil || len(records) < 50 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	counted, err := x.Count(t.Context(), &adminv1.CountAuditRequest{})
	if err != nil || counted.GetTotal() != uint64(len(records)) {
		t.Fatalf("%v, %v", counted, err)
	}
}

func TestAnIndexOpensWhilePostgresIsAwayAndIsMadeOnceItIsThere(t *testing.T) {
	s := newSite(t)
	audittest.Fill(t, s.store, 50, time.Now())
	s.server.Kill()
	x, _ := s.open(t)
	if records, _, err := x.Search(t.Context(), nil, 1000, ""); err != nil || len(records) < 50 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if err := s.server.Run(); err != nil {
		t.Fatal(err)
	}
	s.caughtUp(t, x)
	s.onceEach(t, x)
	// What PostgreSQL refuses is told at once.
	if _, err := Open(t.Context(), Config{URL: strings.Replace(s.server.URL(), "/postgres?", "/nowhere?", 1), Stream: s.store}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("opened in a database that is not there: %v", err)
	}
}

// TestEachRecordIsIndexedOnceWhateverIsKilled lets two control planes index while PostgreSQL is killed at random points.
func TestEachRecordIsIndexedOnceWhateverIsKilled(t *testing.T) {
	s := newSite(t)
	x, _ := s.open(t)
	s.open(t)
	const kills = 6
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for n := uint64(1); ; n += 50 {
			select {
			case <-stop:
				return
			default:
			}
			var batch []*auditv1.AuditRecord
			for i := range uint64(50) {
				batch = append(batch, &auditv1.AuditRecord{Number: n + i, At: timestamppb.Now(), PersonId: fmt.Sprint(i % 7), Connector: "github"})
			}
			if _, err := s.store.Append(t.Context(), "p", "eu", "g", batch); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range kills {
		time.Sleep(time.Duration(50+rand.IntN(400)) * time.Millisecond) // a random point, which is what is tested
		s.server.Kill()
		if err := s.server.Run(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	load.Wait()
	s.caughtUp(t, x)
	t.Logf("%d kills of PostgreSQL: %d records, each indexed once", kills, s.onceEach(t, x))
}

func TestARebuildStandsInForTheOldAndLosesNothing(t *testing.T) {
	s := newSite(t)
	audittest.Fill(t, s.store, 300, time.Now())
	x, _ := s.open(t)
	s.caughtUp(t, x)
	if _, err := x.pool.Exec(t.Context(), in(x.schema, `DELETE FROM $S.records WHERE sequence % 3 = 0`)); err != nil {
		t.Fatal(err)
	}
	var told uint64
	if err := x.Rebuild(t.Context(), func(done, _ uint64) error { told = done; return nil }); err != nil {
		t.Fatal(err)
	}
	if rows := s.onceEach(t, x); rows < 300 || told != uint64(rows) {
		t.Fatalf("%d rows, and told %d", rows, told)
	}
	var indexes int
	if err := x.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'records'`, x.schema).Scan(&indexes); err != nil || indexes != 6 {
		t.Fatalf("%d indexes, %v", indexes, err)
	}
	audittest.Fill(t, openAgain(t, s), 100, time.Now()) // the one that indexes goes on in the new
	s.caughtUp(t, x)
	s.onceEach(t, x)
}

// openAgain is a store whose proxies begin anew.
func openAgain(t *testing.T, s *site) *audit.Store {
	t.Helper()
	store, err := audit.Open(t.Context(), s.nc, audit.Config{Seals: s.keys, SealPersonal: true})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestAMessageThatIsNoRecordIsShownAndStopsNothing(t *testing.T) {
	s := newSite(t)
	audittest.Fill(t, s.store, 20, time.Now())
	if err := s.nc.Publish("sallyport.audit.eu.p9.github.allowed", []byte("\xff\xffnot a record")); err != nil {
		t.Fatal(err)
	}
	if err := s.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	x, _ := s.open(t)
	s.caughtUp(t, x)
	for _, searcher := range []audittest.Searcher{s.store, x} {
		gap := &adminv1.AuditFilter{Kinds: []auditv1.Kind{auditv1.Kind_KIND_GAP}}
		if records, _, err := searcher.Search(t.Context(), gap, 10, ""); err != nil || len(records) != 1 {
			t.Fatalf("%v, %v", records, err)
		}
	}
}

func TestWhatAnErasedPersonsRecordsSaidIsNotFound(t *testing.T) {
	s := newSite(t)
	ann := uuid.New()
	if err := s.keys.EnsureKeys(t.Context(), []uuid.UUID{ann}); err != nil {
		t.Fatal(err)
	}
	record := &auditv1.AuditRecord{Number: 1, At: timestamppb.Now(), PersonId: ann.String(), Tool: "get_issue", Arguments: &auditv1.Payload{Head: []byte(`{"of":"planted"}`)}}
	if _, err := s.store.Append(t.Context(), "p", "eu", "g", []*auditv1.AuditRecord{record}); err != nil {
		t.Fatal(err)
	}
	x, _ := s.open(t)
	s.caughtUp(t, x)
	find := func(text string) int {
		t.Helper()
		records, _, err := x.Search(t.Context(), &adminv1.AuditFilter{Text: text}, 10, "")
		if err != nil {
			t.Fatal(err)
		}
		return len(records)
	}
	if find("planted") != 1 || find("issue") != 1 {
		t.Fatal("the record is not found")
	}
	if err := s.keys.DestroyKey(t.Context(), ann); err != nil {
		t.Fatal(err)
	}
	if err := x.Forget(t.Context(), ann.String()); err != nil {
		t.Fatal(err)
	}
	if find("planted") != 0 || find("issue") != 1 {
		t.Fatal("what was personal is found still, or the facts are not")
	}
	var left int
	planted, err := audit.NewFilter(&adminv1.AuditFilter{Text: "planted"})
	if err != nil || len(planted.Terms()) != 1 {
		t.Fatalf("%v, %v", planted, err)
	}
	if err := x.pool.QueryRow(t.Context(), in(x.schema, `SELECT count(*) FROM $S.records WHERE terms @> $1`), planted.Terms()).Scan(&left); err != nil || left != 0 {
		t.Fatalf("%d rows have the term still, %v", left, err)
	}
}

func TestRetentionDropsWholeMonthsOfAKind(t *testing.T) {
	s := newSite(t)
	x, err := Open(t.Context(), Config{URL: s.server.URL(), Stream: s.store})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	conn, err := x.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var position uint64
	for i := range 12 { // two kinds in six months
		stored := time.Date(2026, time.Month(1+i/2), 15, 0, 0, 0, 0, time.UTC)
		kind := []auditv1.Kind{auditv1.Kind_KIND_UNSPECIFIED, auditv1.Kind_KIND_CHANGE}[i%2]
		data := encode(t, &auditv1.AuditRecord{Kind: kind, At: timestamppb.New(stored)})
		if err := x.write(t.Context(), conn.Conn(), x.schema, position, []audit.Message{{Sequence: position + 1, Stored: stored, Data: data}}); err != nil {
			t.Fatal(err)
		}
		position++
	}
	dropped, err := x.Retire(t.Context(), int32(auditv1.Kind_KIND_UNSPECIFIED), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC))
	if err != nil || len(dropped) != 3 {
		t.Fatalf("dropped %v, %v", dropped, err)
	}
	counts := map[int16]int{}
	rows, err := x.pool.Query(t.Context(), in(x.schema, `SELECT kind, count(*) FROM $S.records GROUP BY 1`))
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var kind int16
		var n int
		if err := rows.Scan(&kind, &n); err != nil {
			t.Fatal(err)
		}
		counts[kind] = n
	}
	if counts[0] != 3 || counts[int16(auditv1.Kind_KIND_CHANGE)] != 6 {
		t.Fatalf("left: %v", counts)
	}
	if again, err := x.Retire(t.Context(), 0, time.Date(2026, 4, 30, 0, 0, 0, 0, time.UTC)); err != nil || len(again) != 0 {
		t.Fatalf("of a month that is not over %v was dropped, %v", again, err)
	}
}

func encode(t *testing.T, r *auditv1.AuditRecord) []byte {
	t.Helper()
	data, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestWhatWasStoredByAClockThatJumpedIsFound: the times at which records were stored go to and fro by a day.
func TestWhatWasStoredByAClockThatJumpedIsFound(t *testing.T) {
	s := newSite(t)
	at := time.Now().Add(-time.Hour)
	audittest.Fill(t, s.store, 300, at)
	x, err := Open(t.Context(), Config{URL: s.server.URL(), Stream: s.store})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var all []audit.Message
	last, err := s.store.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jumps := []time.Duration{0, 24 * time.Hour, -24 * time.Hour, -40 * 24 * time.Hour}
	if err := s.store.Read(t.Context(), 0, func(m audit.Message) error {
		m.Stored = m.Stored.Add(jumps[len(all)/7%len(jumps)])
		if all = append(all, m); m.Sequence == last {
			return audit.ErrStop
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	conn, err := x.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for position, rest := uint64(0), all; len(rest) > 0; {
		batch := rest[:min(50, len(rest))]
		if err := x.write(t.Context(), conn.Conn(), x.schema, position, batch); err != nil {
			t.Fatal(err)
		}
		position, rest = batch[len(batch)-1].Sequence, rest[len(batch):]
	}
	for what, f := range map[string]*adminv1.AuditFilter{"all": nil, "by time": {Since: timestamppb.New(time.Unix(0, 0)), Until: timestamppb.New(time.Now().Add(time.Hour))}} {
		found, _, err := x.Search(t.Context(), f, 1000, "")
		want, _, err2 := s.store.Search(t.Context(), f, 1000, "")
		if err := errors.Join(err, err2); err != nil || len(found) != len(want) || len(found) < 250 {
			t.Errorf("%s: %d of %d are found, %v", what, len(found), len(want), err)
		}
	}
}
