package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/audit"
)

// What bounds one search: it then answers with what it found and a cursor to go on.
const (
	maxPage   = 1000
	maxBytes  = 16 << 20
	firstSpan = 1 << 14 // of the stream's sequence, each eight times the one before
	growSpan  = 8
	within    = 3 * time.Second
	// patience is how long PostgreSQL may take for one question.
	patience = 30 * time.Second
	// behind is how far the index may lag for its part to be worth asking for.
	fallbackWait = 5 * time.Second
)

// Search answers as the stream's does. What is not indexed yet is searched on the stream first.
func (x *Index) Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error) {
	f, err := audit.NewFilter(filter)
	if err != nil {
		return nil, "", err
	}
	below, err := audit.Cursor(cursor)
	if err != nil {
		return nil, "", err
	}
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	position, err := x.reach(ctx)
	if err != nil {
		x.log.Warn("audit is searched on the stream: PostgreSQL does not answer", "error", err)
		return x.stream.Search(ctx, filter, limit, cursor)
	}
	var found []*adminv1.StoredRecord
	if below == 0 || below > position+1 {
		newer, next, err := x.stream.Newer(ctx, f, position, limit, below)
		if err != nil {
			return nil, "", err
		}
		if next != 0 || len(newer) == limit {
			if next == 0 {
				next = newer[limit-1].GetSequence()
			}
			return newer, strconv.FormatUint(next, 10), nil
		}
		found, below = newer, position+1
	}
	s := &search{x: x, f: f, limit: limit, found: found, below: below}
	if err := s.run(ctx); err != nil {
		return nil, "", fmt.Errorf("searching audit in PostgreSQL: %w", err)
	}
	if s.cursor == 0 {
		return s.found, "", nil
	}
	return s.found, strconv.FormatUint(s.cursor, 10), nil
}

// reach returns how far the index is, or an error soon where PostgreSQL is not there.
func (x *Index) reach(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, fallbackWait)
	defer cancel()
	return x.Position(ctx)
}

// search is one on its way back through the index.
type search struct {
	x     *Index
	f     *audit.Filter
	limit int

	floor, below uint64 // what is left is [floor, below)
	found        []*adminv1.StoredRecord
	bytes        int
	cursor       uint64
}

func (s *search) run(ctx context.Context) error {
	if err := s.bound(ctx); err != nil {
		return err
	}
	end := time.Now().Add(within)
	for span := uint64(firstSpan); s.below > s.floor; span *= growSpan {
		from := s.floor
		if s.below-s.floor > span {
			from = s.below - span
		}
		for {
			more, err := s.page(ctx, from)
			if err != nil {
				return err
			}
			if len(s.found) >= s.limit || s.bytes >= maxBytes {
				if s.below > s.floor {
					s.cursor = s.below
				}
				return nil
			}
			if !more {
				break
			}
		}
		s.below = from
		if time.Now().After(end) && s.below > s.floor {
			s.cursor = s.below
			return nil
		}
	}
	return nil
}

// bound leaves out what is too old or too new by the bounds of blocks.
func (s *search) bound(ctx context.Context) error {
	asked, until := time.Unix(0, 0), endOfTime
	if s.f.GetSince() != nil {
		asked = earlier(s.f.GetSince().AsTime())
	}
	if s.f.GetUntil() != nil {
		until = earlier(ceil(s.f.GetUntil().AsTime()))
	}
	if s.f.GetSince() == nil && s.f.GetUntil() == nil {
		return nil
	}
	var first, last *int64
	err := s.x.pool.QueryRow(ctx, in(s.x.schema, `SELECT min(first), max(last) FROM $S.blocks WHERE max_at >= $1 AND min_at < $2`),
		asked, until).Scan(&first, &last)
	if err != nil {
		return err
	}
	if first == nil {
		s.floor = s.below
		return nil
	}
	s.floor, s.below = uint64(*first), min(s.below, uint64(*last)+1)
	return nil
}

// page looks at what is at from or later, below what was looked at, and says whether there may be more of that.
func (s *search) page(ctx context.Context, from uint64) (bool, error) {
	var oldest, newest *time.Time
	err := s.x.pool.QueryRow(ctx, in(s.x.schema, `SELECT min(first_stored), max(last_stored) FROM $S.blocks
		WHERE first < $2 AND first >= coalesce((SELECT max(first) FROM $S.blocks WHERE first <= $1), 0)`), int64(from), int64(s.below)).Scan(&oldest, &newest)
	if err != nil || oldest == nil {
		return false, err
	}
	w := where(s.f)
	w.add("sequence >= ?", int64(from))
	w.add("sequence < ?", int64(s.below))
	w.add("stored >= ?", *oldest)
	w.add("stored <= ?", *newest)
	want := s.limit - len(s.found)
	rows, err := s.x.query(ctx, in(s.x.schema, "SELECT sequence, data FROM $S.records"+w.sql()+" ORDER BY sequence DESC LIMIT "+strconv.Itoa(want)), w.args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	got := 0
	for rows.Next() {
		var sequence int64
		var data []byte
		if err := rows.Scan(&sequence, &data); err != nil {
			return false, err
		}
		got++
		r, err := s.x.opened(ctx, sequence, data)
		if err != nil {
			return false, err
		}
		s.below = uint64(sequence)
		if s.f.Facts(r.GetRecord()) && s.f.Personal(r.GetRecord()) {
			s.found = append(s.found, r)
			if s.bytes += len(data); s.bytes >= maxBytes {
				return true, nil
			}
		}
	}
	return got == want, rows.Err()
}

// query asks with a bound on how long PostgreSQL works on it.
func (x *Index) query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	rows, err := x.pool.Query(ctx, sql, args...)
	if err != nil {
		cancel()
		return nil, err
	}
	return &bounded{rows, cancel}, nil
}

// bounded are rows whose time ends when they are closed.
type bounded struct {
	pgx.Rows
	cancel context.CancelFunc
}

func (b *bounded) Close() { b.Rows.Close(); b.cancel() }

// conditions are those of a statement, with their arguments.
type conditions struct {
	parts []string
	args  []any
}

func (c *conditions) add(sql string, arg any) {
	c.args = append(c.args, arg)
	c.parts = append(c.parts, strings.Replace(sql, "?", "$"+strconv.Itoa(len(c.args)), 1))
}

func (c *conditions) sql() string {
	if len(c.parts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.parts, " AND ")
}

// where is what an index can tell of a filter.
func where(f *audit.Filter) *conditions {
	w := &conditions{}
	text := func(column, value string) {
		if value != "" {
			w.add(column+" = ?", plain(value))
		}
	}
	text("person", f.GetPerson())
	text("connector", f.GetConnector())
	text("tool", f.GetTool())
	text("region", f.GetRegion())
	text("proxy", f.GetProxy())
	text("call_id", f.GetCallId())
	if f.GetVerdict() != 0 {
		w.add("verdict = ?", int16(f.GetVerdict()))
	}
	if f.GetReason() != 0 {
		w.add("reason = ?", int16(f.GetReason()))
	}
	if len(f.GetKinds()) > 0 {
		var kinds []int16
		for _, k := range f.GetKinds() {
			kinds = append(kinds, int16(k))
		}
		w.add("kind = ANY(?)", kinds)
	}
	if f.GetSince() != nil {
		w.add("at >= ?", earlier(f.GetSince().AsTime()))
	}
	if f.GetUntil() != nil {
		w.add("at < ?", ceil(f.GetUntil().AsTime()))
	}
	if terms := f.Terms(); len(terms) > 0 {
		w.add("terms @> ?", terms)
	}
	return w
}

// earlier is a time that PostgreSQL takes, or the end of time.
func earlier(t time.Time) time.Time {
	if t.After(endOfTime) {
		return endOfTime
	}
	return t
}

// ceil is a time or what follows in whole microseconds, to which the table's times are cut.
func ceil(t time.Time) time.Time {
	if t.After(endOfTime) {
		return endOfTime.Add(time.Second)
	}
	return t.Add(999 * time.Nanosecond).Truncate(time.Microsecond)
}
