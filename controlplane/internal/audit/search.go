package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
)

// bounds are what bounds the work of one search: it then answers with what it found and a cursor to go on.
type bounds struct {
	records int           // found
	bytes   int           // of the records found
	read    int           // records looked at
	steps   int           // windows
	time    time.Duration // after which no other window is looked at

	minSpan   uint64 // the least and the first width of a window, in positions of the stream
	maxWindow uint64 // the most records of one window, as far as can be told beforehand
	fetch     uint64 // how many are asked for at a time
}

var defaultBounds = bounds{
	records: 1000, bytes: 16 << 20, read: 100_000, steps: 64, time: 3 * time.Second,
	minSpan: 256, maxWindow: 4096, fetch: 256,
}

// maxSpan is the greatest width of a window: of any stream, all.
const maxSpan = 1 << 40

// fetchWait is how long the stream may take to answer.
const fetchWait = 3 * time.Second

// unheardTries bounds how often a new consumer is asked again that nobody seems to know.
const unheardTries = 25

// Search returns matching records, newest first, at most limit of them, and the cursor with which to go on;
// empty: nothing older matches. Fewer than limit with a cursor are right too: one call does bounded work.
// Records that are stored meanwhile are newer than all cursors, and move none.
func (s *Store) Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error) {
	if limit <= 0 || limit > s.bounds.records {
		limit = s.bounds.records
	}
	read, err := NewFilter(filter)
	if err != nil {
		return nil, "", err
	}
	below, err := Cursor(cursor)
	if err != nil {
		return nil, "", err
	}
	found, next, err := s.Newer(ctx, read, 0, limit, below)
	if next == 0 {
		return found, "", err
	}
	return found, strconv.FormatUint(next, 10), err
}

// Cursor reads what Search returned: the sequence below which to go on, 0 for from the end on.
func Cursor(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	below, err := strconv.ParseUint(text, 10, 64)
	if err != nil || below == 0 {
		return 0, &core.Error{Code: core.InvalidArgument, Field: "page_token", Message: "the page token is not one that this server gave"}
	}
	return below, nil
}

// Newer searches what was stored after a sequence and, unless below is 0, before another, newest first, and returns the
// sequence below which to go on; 0: there is nothing more.
func (s *Store) Newer(ctx context.Context, filter *Filter, after uint64, limit int, below uint64) ([]*adminv1.StoredRecord, uint64, error) {
	sc, err := s.scan(ctx, filter, after, limit, below)
	if err == nil {
		err = sc.run(ctx)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("searching audit: %w", err)
	}
	return sc.found, sc.cursor, nil
}

func (s *Store) scan(ctx context.Context, filter *Filter, after uint64, limit int, below uint64) (*scan, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	sc := &scan{Store: s, apart: s.clocks.known(), bounds: s.bounds, filter: filter, limit: limit, below: info.State.LastSeq + 1, floor: max(info.State.FirstSeq, 1, after+1), span: s.bounds.minSpan, head: true}
	if below > 0 && below < sc.below {
		sc.below, sc.head = below, false
	}
	return sc, nil
}

// scan is one search on its way back through the stream.
type scan struct {
	*Store
	bounds bounds
	filter *Filter
	limit  int
	// each, if not nil, is called with what matches, in no order, and nothing is kept.
	each func(*adminv1.StoredRecord)

	apart        time.Duration // clocks were seen to be
	below, floor uint64        // what is left to look at is [floor, below)
	// beyond is how many records with the picked subject are known to be at below or later.
	beyond uint64
	span   uint64
	head   bool // nothing was looked at yet, and the search began at the stream's end
	read   int

	found  []*adminv1.StoredRecord
	bytes  int
	cursor uint64
}

func (s *scan) run(ctx context.Context) error {
	if since := s.filter.Since().Add(-s.apart); since.After(time.Unix(0, 0)) {
		first, err := s.firstSince(ctx, since)
		if err != nil {
			return err
		}
		s.floor = max(s.floor, first)
	}
	end := time.Now().Add(s.bounds.time)
	for range s.bounds.steps {
		if s.below <= s.floor {
			return nil
		}
		if s.read >= s.bounds.read || time.Now().After(end) {
			break
		}
		if err := s.step(ctx); err != nil || s.cursor != 0 {
			return err
		}
	}
	if s.below > s.floor {
		s.cursor = s.below
	}
	return nil
}

// step looks at the window below what was looked at, or finds that it holds too much and narrows it.
func (s *scan) step(ctx context.Context) error {
	from := s.floor
	if s.below-s.floor > s.span {
		from = s.below - s.span
	}
	subject := s.filter.pick()
	if s.head {
		// The server that reads may be a moment behind the one that acknowledged. The newest window is read
		// whole, until the last record comes, whatever it is.
		subject = subjects
	}
	consumer, err := s.consumer(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, FilterSubject: subject})
	if err != nil {
		return err
	}
	defer s.release(consumer)
	pending := consumer.CachedInfo().NumPending
	count := pending - min(pending, s.beyond)
	if width := s.below - from; count > s.bounds.maxWindow && width > s.bounds.minSpan {
		s.span = max(width*s.bounds.maxWindow/(2*count), s.bounds.minSpan)
		return nil
	}
	matched, err := s.window(ctx, consumer, count, pending)
	if err != nil {
		return err
	}
	if full, err := s.take(ctx, matched); full || err != nil {
		return err
	}
	if !s.head {
		s.beyond = pending
	}
	if count < s.bounds.maxWindow/4 {
		s.span = min(8*s.span, maxSpan)
	}
	s.below, s.head = from, false
	return nil
}

// window returns the matching ones of a window's records, oldest first, and of those the newest that one
// search may return.
func (s *scan) window(ctx context.Context, consumer jetstream.Consumer, count, pending uint64) (*shelf, error) {
	kept := &shelf{records: s.limit - len(s.found), bytes: s.bounds.bytes - s.bytes}
	unheard := 0
	for got := uint64(0); s.head || pending > 0 && got < count; {
		ask := max(min(pending, s.bounds.fetch), 1)
		if !s.head {
			ask = min(ask, count-got)
		}
		batch, err := consumer.Fetch(int(ask), jetstream.FetchMaxWait(fetchWait))
		if err != nil {
			return nil, err
		}
		before, over := got, false
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			got, pending = got+1, meta.NumPending
			over = over || meta.Sequence.Stream >= s.below
			if over {
				continue // to the end of the batch, which nobody else reads
			}
			s.read++
			r := Decode(m.Data(), meta.Sequence.Stream)
			switch match, err := s.matches(ctx, s.filter, r.GetRecord()); {
			case err != nil:
				return nil, err
			case match && s.each != nil:
				s.each(r)
			case match:
				kept.add(r, len(m.Data()))
			}
			over = s.head && meta.Sequence.Stream == s.below-1
		}
		switch err := batch.Error(); {
		case err == nil:
			unheard = 0
		case errors.Is(err, nats.ErrNoResponders) && got == before && unheard < unheardTries:
			// The server that is asked does not know of a consumer yet that another made a moment ago.
			unheard++
			time.Sleep(time.Duration(unheard) * 5 * time.Millisecond)
			continue
		default:
			return nil, err
		}
		if over {
			break
		}
		if got == before {
			if _, err := s.at(ctx, s.below-1); s.head && errors.Is(err, jetstream.ErrMsgNotFound) {
				break // somebody deleted the last record
			}
			return nil, fmt.Errorf("the stream did not answer in %v", fetchWait)
		}
	}
	return kept, context.Cause(ctx)
}

// take takes over what a window had, newest first. True: it is all that one search returns.
func (s *scan) take(ctx context.Context, w *shelf) (bool, error) {
	for i := len(w.kept) - 1; i >= 0; i-- {
		if err := s.openPersonal(ctx, w.kept[i].record.GetRecord()); err != nil {
			return false, err
		}
		s.found = append(s.found, w.kept[i].record)
		s.bytes += w.kept[i].bytes
	}
	if !w.full && len(s.found) < s.limit {
		return false, nil
	}
	// The cursor is the oldest record taken. Where that is the oldest of all, the next page is empty.
	if n := len(s.found); n > 0 {
		s.cursor = s.found[n-1].GetSequence()
	}
	return true, nil
}

// shelf keeps the newest records of a window that have room.
type shelf struct {
	records, bytes int // room
	kept           []shelved
	full           bool // older ones were dropped
}

type shelved struct {
	record *adminv1.StoredRecord
	bytes  int
}

func (s *shelf) add(r *adminv1.StoredRecord, bytes int) {
	s.kept = append(s.kept, shelved{r, bytes})
	s.bytes -= bytes
	for len(s.kept) > s.records || s.bytes < 0 && len(s.kept) > 1 {
		s.bytes += s.kept[0].bytes
		s.kept[0] = shelved{}
		s.kept = s.kept[1:]
		s.full = true
	}
}

// firstSince returns the position of the first record that was stored at a time or later.
func (s *Store) firstSince(ctx context.Context, since time.Time) (uint64, error) {
	c, err := s.consumer(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since})
	if err != nil {
		return 0, err
	}
	defer s.release(c)
	return c.CachedInfo().Delivered.Stream + 1, nil
}

// consumer makes one that reads, acknowledges nothing and leaves nothing behind.
func (s *Store) consumer(ctx context.Context, c jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	c.AckPolicy, c.MemoryStorage, c.Replicas, c.InactiveThreshold = jetstream.AckNonePolicy, true, 1, 30*time.Second
	consumer, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) { return s.stream.CreateConsumer(ctx, c) })
	if err != nil {
		return nil, fmt.Errorf("asking for records: %w", err)
	}
	return consumer, nil
}

// release removes a consumer that has done its work, so that it need not time out.
func (s *Store) release(c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if info := c.CachedInfo(); info != nil {
		if err := s.stream.DeleteConsumer(ctx, info.Name); err != nil {
			s.log.Debug("a consumer of audit could not be removed; it times out", "error", err)
		}
	}
}
