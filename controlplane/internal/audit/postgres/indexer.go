package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/audit"
)

const (
	// batchRecords and batchBytes bound one transaction, and gather is how long records wait for others.
	batchRecords = 5000
	batchBytes   = 16 << 20
	gather       = 100 * time.Millisecond
	// blockRecords is how many records a block tells the bounds of.
	blockRecords = 4096
	// keeper is the advisory lock of who indexes a schema, with the schema's name.
	keeper = "sallyport audit index "
)

// endOfTime is later than all records.
var endOfTime = time.Date(2201, 1, 1, 0, 0, 0, 0, time.UTC)

// errOvertaken: another indexes too, or the index was swapped.
var errOvertaken = errors.New("the index is not where it was left")

// Run indexes what the stream stores until ctx ends. Of several control planes one does at a time, and all may try.
func (x *Index) Run(ctx context.Context) {
	failing := ""
	for ctx.Err() == nil {
		err := x.keep(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != failing {
			x.log.Warn("audit is not indexed in PostgreSQL at the moment; it is searched on the stream, and tried again", "error", err)
			failing = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// keep indexes as long as this is the one that does. Nil: another is.
func (x *Index) keep(ctx context.Context) error {
	if err := x.make(ctx); err != nil {
		return err
	}
	conn, err := x.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var mine bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext($1))`, keeper+x.schema).Scan(&mine); err != nil || !mine {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock(hashtext($1))`, keeper+x.schema); err != nil {
			_ = conn.Conn().Close(ctx) // gives the lock up too
		}
	}()
	return x.follow(ctx, conn.Conn(), x.schema, nil)
}

// follow indexes from where a schema's index stands, on one connection, until ctx ends, or done says after a batch that it
// is enough.
func (x *Index) follow(ctx context.Context, conn *pgx.Conn, schema string, done func(position uint64) (bool, error)) error {
	var sequence int64
	var stream string
	if err := conn.QueryRow(ctx, in(schema, `SELECT sequence, stream FROM $S.position`)).Scan(&sequence, &stream); err != nil {
		return err
	}
	position := uint64(sequence)
	identity, err := x.stream.Identity(ctx)
	if err != nil {
		return err
	}
	last, err := x.stream.Last(ctx)
	if err != nil {
		return err
	}
	if stream != identity || position > last {
		return errors.New("the index is of another audit stream: build it again with sallyport audit rebuild")
	}
	if done != nil {
		if stop, err := done(position); stop || err != nil {
			return err
		}
	}
	// The reader goes ahead while the batch before is written. It ends before this function does.
	ctx, cancel := context.WithCancel(ctx)
	messages, failed := make(chan audit.Message, batchRecords), make(chan error, 1)
	defer func() {
		cancel()
		for range failed { // until the reader has ended
		}
	}()
	go func() {
		err := x.stream.Read(ctx, position, func(m audit.Message) error {
			select {
			case messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		failed <- err
		close(failed)
	}()
	for {
		batch, err := take(ctx, messages, failed)
		if err != nil {
			return err
		}
		if err := x.write(ctx, conn, schema, position, batch); err != nil {
			return err
		}
		position = batch[len(batch)-1].Sequence
		if done != nil {
			if stop, err := done(position); stop || err != nil {
				return err
			}
		}
	}
}

// take waits for a message, and gathers those that come soon after.
func take(ctx context.Context, messages <-chan audit.Message, failed <-chan error) ([]audit.Message, error) {
	var batch []audit.Message
	select {
	case m := <-messages:
		batch = append(batch, m)
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	bytes, soon := len(batch[0].Data), time.After(gather)
	for len(batch) < batchRecords && bytes < batchBytes {
		select {
		case m := <-messages:
			batch = append(batch, m)
			bytes += len(m.Data)
		case <-soon:
			return batch, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return batch, nil
}

var columns = []string{"sequence", "stored", "at", "kind", "verdict", "reason", "person", "connector", "tool", "region", "proxy", "call_id", "terms", "data"}

// row is a record as the table has it.
func (x *Index) row(ctx context.Context, m audit.Message) ([]any, month, time.Time, error) {
	stored := audit.Decode(m.Data, m.Sequence)
	r := stored.GetRecord()
	at := r.GetAt().AsTime()
	switch {
	case r.GetAt() == nil || at.Before(time.Unix(0, 0)):
		at = time.Unix(0, 0)
	case at.After(endOfTime):
		at = endOfTime
	}
	if err := x.stream.Open(ctx, stored); err != nil {
		return nil, month{}, at, fmt.Errorf("record %d: %w", m.Sequence, err)
	}
	return []any{
		int64(m.Sequence), m.Stored, at, int16(r.GetKind()), int16(r.GetDecision().GetVerdict()), int16(r.GetDecision().GetReason()),
		plain(r.GetPersonId()), plain(r.GetConnector()), plain(r.GetTool()), plain(r.GetRegion()), plain(r.GetProxy()), plain(r.GetCallId()),
		audit.Terms(r), m.Data,
	}, monthOf(int32(r.GetKind()), m.Stored), at, nil
}

// plain is a text as PostgreSQL takes it: without NUL.
func plain(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }

// write indexes consecutive messages in one transaction with the position that they lead to.
func (x *Index) write(ctx context.Context, conn *pgx.Conn, schema string, position uint64, batch []audit.Message) error {
	rows := make([][]any, len(batch))
	months := map[month]bool{}
	minAt, maxAt := time.Time{}, time.Time{}
	minStored, maxStored := batch[0].Stored, batch[0].Stored // the stream's clock may have gone back
	for i, m := range batch {
		row, in, at, err := x.row(ctx, m)
		if err != nil {
			return err
		}
		rows[i], months[in] = row, true
		if m.Stored.Before(minStored) {
			minStored = m.Stored
		}
		if m.Stored.After(maxStored) {
			maxStored = m.Stored
		}
		if i == 0 || at.Before(minAt) {
			minAt = at
		}
		if i == 0 || at.After(maxAt) {
			maxAt = at
		}
	}
	first, last := batch[0], batch[len(batch)-1]
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to roll back
	moved, err := tx.Exec(ctx, in(schema, `UPDATE $S.position SET sequence = $1 WHERE sequence = $2`), int64(last.Sequence), int64(position))
	if err != nil {
		return err
	}
	if moved.RowsAffected() != 1 {
		return errOvertaken
	}
	for m := range months {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, pgx.Identifier{schema, m.table()}.Sanitize()).Scan(&there); err != nil {
			return err
		}
		if !there {
			if err := partition(ctx, tx, schema, m); err != nil {
				return err
			}
		}
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{schema, "records"}, columns, pgx.CopyFromRows(rows)); err != nil {
		return err
	}
	grown, err := tx.Exec(ctx, in(schema, `
		UPDATE $S.blocks SET last = $1, records = records + $2, first_stored = least(first_stored, $7), last_stored = greatest(last_stored, $3), min_at = least(min_at, $4), max_at = greatest(max_at, $5)
		WHERE first = (SELECT max(first) FROM $S.blocks) AND records + $2 <= $6`),
		int64(last.Sequence), len(batch), maxStored, minAt, maxAt, blockRecords, minStored)
	if err != nil {
		return err
	}
	if grown.RowsAffected() == 0 {
		if _, err := tx.Exec(ctx, in(schema, `INSERT INTO $S.blocks VALUES ($1, $2, $3, $4, $5, $6, $7)`),
			int64(first.Sequence), int64(last.Sequence), len(batch), minStored, maxStored, minAt, maxAt); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

var _ Stream = (*audit.Store)(nil)

// opened reads a row's record, with what is sealed for its person.
func (x *Index) opened(ctx context.Context, sequence int64, data []byte) (*adminv1.StoredRecord, error) {
	r := audit.Decode(data, uint64(sequence))
	return r, x.stream.Open(ctx, r)
}
