package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/controlplane/internal/audit"
)

// Rebuild builds the index again from the stream, beside the one that is there and goes on to be searched and kept, and then
// puts it in its place in one transaction. tell is called now and then with how far it is, and of how many.
func (x *Index) Rebuild(ctx context.Context, tell func(done, of uint64) error) error {
	conn, err := x.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("building the audit index again: %w", err)
	}
	defer conn.Release()
	if err := x.rebuild(ctx, conn.Conn(), x.schema+"_next", tell); err != nil {
		return fmt.Errorf("building the audit index again: %w", err)
	}
	return nil
}

func (x *Index) rebuild(ctx context.Context, conn *pgx.Conn, next string, tell func(done, of uint64) error) error {
	var mine bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext($1))`, keeper+next).Scan(&mine); err != nil {
		return err
	}
	if !mine {
		return errors.New("somebody does so already")
	}
	defer func() {
		// The connection goes, and the lock with it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	// What one that was cut off left is thrown away.
	if _, err := conn.Exec(ctx, in(next, `DROP SCHEMA IF EXISTS $S CASCADE`)); err != nil {
		return err
	}
	if err := x.create(ctx, next, false); err != nil {
		return err
	}
	last, err := x.stream.Last(ctx)
	if err != nil {
		return err
	}
	indexed := false
	return x.follow(ctx, conn, next, func(position uint64) (bool, error) {
		if err := tell(position, max(last, position)); err != nil {
			return false, err
		}
		if position < last {
			return false, nil
		}
		if !indexed { // all at once: much sooner than row by row
			if _, err := conn.Exec(ctx, in(next, indexes)); err != nil {
				return false, err
			}
			if _, err := conn.Exec(ctx, in(next, `ANALYZE $S.records`)); err != nil {
				return false, err
			}
			indexed = true
			// Meanwhile others were stored.
			if last, err = x.stream.Last(ctx); err != nil || position < last {
				return false, err
			}
		}
		return x.swap(ctx, conn, next)
	})
}

// swap puts an index in the place of the one that is searched, unless that is ahead of it.
func (x *Index) swap(ctx context.Context, conn *pgx.Conn, next string) (bool, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to roll back
	var there, here int64
	var stream, nextStream string
	if err := tx.QueryRow(ctx, in(x.schema, `SELECT sequence, stream FROM $S.position FOR UPDATE`)).Scan(&there, &stream); err != nil {
		return false, err
	}
	if err := tx.QueryRow(ctx, in(next, `SELECT sequence, stream FROM $S.position`)).Scan(&here, &nextStream); err != nil {
		return false, err
	}
	if stream == nextStream && here < there {
		return false, nil
	}
	old := x.schema + "_old"
	for _, sql := range []string{
		in(x.schema, `ALTER SCHEMA $S RENAME TO `) + pgx.Identifier{old}.Sanitize(),
		in(next, `ALTER SCHEMA $S RENAME TO `) + pgx.Identifier{x.schema}.Sanitize(),
		in(old, `DROP SCHEMA $S CASCADE`),
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return false, err
		}
	}
	return true, tx.Commit(ctx)
}

// Forget takes out of the index what it has of a person beyond the facts: the terms of what was sealed for the person,
// whose key is destroyed.
func (x *Index) Forget(ctx context.Context, person string) error {
	after := int64(0)
	for {
		rows, err := x.query(ctx, in(x.schema, `SELECT sequence, data FROM $S.records WHERE person = $1 AND sequence > $2 ORDER BY sequence LIMIT 500`), plain(person), after)
		if err != nil {
			return fmt.Errorf("erasing a person from the audit index: %w", err)
		}
		var sequences []int64
		var all [][]byte
		for rows.Next() {
			var sequence int64
			var data []byte
			if err = rows.Scan(&sequence, &data); err != nil {
				break
			}
			sequences, all = append(sequences, sequence), append(all, data)
		}
		rows.Close()
		if err = errors.Join(err, rows.Err()); err != nil {
			return fmt.Errorf("erasing a person from the audit index: %w", err)
		}
		if len(sequences) == 0 {
			return nil
		}
		batch := &pgx.Batch{}
		for i, sequence := range sequences {
			r, err := x.opened(ctx, sequence, all[i])
			if err != nil {
				return fmt.Errorf("erasing a person from the audit index: %w", err)
			}
			if r.GetRecord().GetErased() { // what lies open is not the index's to forget
				batch.Queue(in(x.schema, `UPDATE $S.records SET terms = $1 WHERE sequence = $2`), audit.Terms(r.GetRecord()), sequence)
			}
		}
		if err := x.pool.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("erasing a person from the audit index: %w", err)
		}
		after = sequences[len(sequences)-1]
	}
}

// Retire drops the partitions of a kind whose records were all stored before a time, and returns their names.
func (x *Index) Retire(ctx context.Context, kind int32, before time.Time) ([]string, error) {
	rows, err := x.pool.Query(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = to_regclass($1)`, pgx.Identifier{x.schema, fmt.Sprintf("records_%d", kind)}.Sanitize())
	if err != nil {
		return nil, fmt.Errorf("asking for what audit is past its time: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("asking for what audit is past its time: %w", err)
	}
	var dropped []string
	for _, table := range tables {
		var year, number int
		if _, err := fmt.Sscanf(table, fmt.Sprintf("records_%d_%%d_%%d", kind), &year, &number); err != nil {
			continue
		}
		m := month{kind, time.Date(year, time.Month(number), 1, 0, 0, 0, 0, time.UTC)}
		if m.table() != table || m.until().After(before) {
			continue
		}
		if _, err := x.pool.Exec(ctx, in(x.schema, `DROP TABLE IF EXISTS $S.`+table)); err != nil {
			return dropped, fmt.Errorf("dropping audit that is past its time: %w", err)
		}
		dropped = append(dropped, table)
	}
	return dropped, nil
}
