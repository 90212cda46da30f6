package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/controlplane/internal/audit"
)

// CopyRaw is for measurements: it copies the rows of the stream's first records into tables of their own, of the index's
// shape, with nothing beside it, and returns how many a second that were.
func (x *Index) CopyRaw(ctx context.Context, schema string, count int) (float64, error) {
	if err := x.create(ctx, schema, true); err != nil {
		return 0, err
	}
	conn, err := x.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	var rows [][]any
	months := map[month]bool{}
	if err := x.stream.Read(ctx, 0, func(m audit.Message) error {
		row, in, _, err := x.row(ctx, m)
		if err != nil {
			return err
		}
		months[in] = true
		if rows = append(rows, row); len(rows) == count {
			return audit.ErrStop
		}
		return nil
	}); err != nil {
		return 0, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	for m := range months {
		if err := partition(ctx, tx, schema, m); err != nil {
			return 0, err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	for at := 0; at < len(rows); at += batchRecords {
		if _, err := conn.Conn().CopyFrom(ctx, pgx.Identifier{schema, "records"}, columns, pgx.CopyFromRows(rows[at:min(at+batchRecords, len(rows))])); err != nil {
			return 0, err
		}
	}
	rate := float64(len(rows)) / time.Since(began).Seconds()
	_, err = conn.Exec(ctx, in(schema, `DROP SCHEMA $S CASCADE`))
	return rate, err
}
