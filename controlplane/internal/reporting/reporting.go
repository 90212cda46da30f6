// Package reporting keeps tables in PostgreSQL that say what the event log comes to: who there is, who is in which groups, what is granted,
// and who may therefore use what. They are for people who ask in SQL, and nothing in Sallyport reads them.
//
// The tables follow the log: each transaction writes what some events changed, and with it the position up to which they are written, so
// that each event counts once. What a table has is what the state has of it; a table that another build made is made anew, beside
// the old one. Nobody's access is written tool by tool: rules are, for each grant, and views join them with who has the grant.
package reporting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sallyport.dev/controlplane/internal/core"
)

// Log is what is followed: the engine.
type Log interface {
	State() *core.State
	Follow(ctx context.Context, after uint64, fn func(before *core.State, records []core.Record) error) error
}

// Config is how the tables are kept.
type Config struct {
	// URL is how to reach PostgreSQL: postgres://user:password@host:5432/database. The user may create schemas.
	URL string
	// Schema is where the tables are. Default reporting.
	Schema string
	// Reader is the role that may read them. It is made where it is missing and that is permitted. Default sallyport_reporting.
	Reader string
	Log    Log
	Slog   *slog.Logger
}

// Tables are the open tables. They are safe for concurrent use.
type Tables struct {
	Config
	pool *pgxpool.Pool
}

const (
	// format is that of the tables and of what is written to them: raise it with either. Of the log it is core.FoldVersion.
	format = 1
	// keeper is the advisory lock of who writes a schema's tables, with the schema's name.
	keeper = "sallyport reporting "
	// every is how often is written, at most.
	every = 100 * time.Millisecond
)

// Errors of following.
var (
	// errOther: the tables are of another log, another build, or were marked to be made anew.
	errOther = errors.New("the tables are not of this log and this build")
	// errBehind: another writes too, or the tables were swapped.
	errBehind = errors.New("the tables are not where they were left")
	errDone   = errors.New("done")
)

// Open connects. PostgreSQL need not be there.
func Open(c Config) (*Tables, error) {
	if c.Schema == "" {
		c.Schema = "reporting"
	}
	if c.Reader == "" {
		c.Reader = "sallyport_reporting"
	}
	if c.Slog == nil {
		c.Slog = slog.New(slog.DiscardHandler)
	}
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		// What pgx says may hold the password.
		return nil, errors.New("the PostgreSQL URL cannot be read: write postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	config.MaxConns = 3
	config.ConnConfig.RuntimeParams["application_name"] = "sallyport reporting"
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	return &Tables{c, pool}, nil
}

// Close ends the connections.
func (t *Tables) Close() { t.pool.Close() }

// in writes a statement for a schema.
func in(schema, sql string) string {
	return strings.ReplaceAll(sql, "$S", pgx.Identifier{schema}.Sanitize())
}

// Run keeps the tables until ctx ends. Of several control planes one does at a time, and all may try.
func (t *Tables) Run(ctx context.Context) {
	failing := ""
	for ctx.Err() == nil {
		err := t.keep(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, errBehind) && err.Error() != failing {
			t.Slog.WarnContext(ctx, "the reporting tables do not follow the log at the moment; it is tried again", "error", err)
			failing = err.Error()
		}
		if err == nil {
			failing = ""
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// keep writes as long as this is the one that does. Nil: another is.
func (t *Tables) keep(ctx context.Context) error {
	conn, err := t.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer conn.Release()
	var mine bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext($1))`, keeper+t.Schema).Scan(&mine); err != nil || !mine {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock(hashtext($1))`, keeper+t.Schema); err != nil {
			_ = conn.Conn().Close(ctx) // gives the lock up too
		}
	}()
	err = t.unmarked(ctx, conn.Conn())
	if errors.Is(err, errOther) {
		if err := t.rebuild(ctx, conn.Conn()); err != nil {
			return fmt.Errorf("making the tables anew: %w", err)
		}
		err = t.unmarked(ctx, conn.Conn())
	}
	return err
}

// unmarked follows the log until the tables are marked to be made anew, which Run then does.
func (t *Tables) unmarked(ctx context.Context, conn *pgx.Conn) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if _, current, err := t.Position(ctx); err == nil && !current {
				cancel()
			}
		}
	})
	return t.follow(ctx, conn, 0)
}

// follow writes what the log says from where the tables stand, up to a version; zero: until ctx ends.
func (t *Tables) follow(ctx context.Context, conn *pgx.Conn, upTo uint64) error {
	position, err := t.position(ctx, conn)
	if err != nil {
		return err
	}
	return t.Log.Follow(ctx, position, func(before *core.State, records []core.Record) error {
		after := before.Fork()
		touched := &touched{}
		for _, rec := range records {
			touched.event(after, rec.Event) // in the state before the event
			if err := after.Apply(rec); err != nil {
				return err
			}
		}
		last := records[len(records)-1].Seq
		if err := t.write(ctx, conn, position, after, touched, records); err != nil {
			return err
		}
		if position = last; upTo != 0 && position >= upTo {
			return errDone
		}
		select { // what comes meanwhile is written together
		case <-ctx.Done():
		case <-time.After(every):
		}
		return nil
	})
}

// position is up to where the tables are written.
func (t *Tables) position(ctx context.Context, conn *pgx.Conn) (uint64, error) {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, pgx.Identifier{t.Schema, "position"}.Sanitize()).Scan(&there); err != nil {
		return 0, err
	}
	if !there {
		return 0, errOther
	}
	var sequence int64
	var epoch string
	var fold, form int
	if err := conn.QueryRow(ctx, in(t.Schema, `SELECT sequence, epoch, fold, format FROM $S.position`)).Scan(&sequence, &epoch, &fold, &form); err != nil {
		return 0, err
	}
	if state := t.Log.State(); epoch != state.Epoch() || fold != core.FoldVersion || form != format {
		return 0, errOther
	}
	return uint64(sequence), nil
}

// write writes what was touched, as it is in a state, with the position that it leads to.
func (t *Tables) write(ctx context.Context, conn *pgx.Conn, position uint64, after *core.State, touched *touched, records []core.Record) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to roll back
	last := records[len(records)-1]
	moved, err := tx.Exec(ctx, in(t.Schema, `UPDATE $S.position SET sequence = $1, at = $2 WHERE sequence = $3 AND epoch = $4 AND fold = $5 AND format = $6`),
		int64(last.Seq), last.Event.GetAt().AsTime(), int64(position), after.Epoch(), core.FoldVersion, format)
	if err != nil {
		return err
	}
	if moved.RowsAffected() != 1 {
		return errBehind
	}
	w := &writer{ctx: ctx, tx: tx, schema: t.Schema}
	w.touched(after, touched)
	w.copy("changes", changesOf(records))
	if w.err != nil {
		return w.err
	}
	return tx.Commit(ctx)
}

// Forget returns when the tables have nothing of people who were removed so far.
func (t *Tables) Forget(ctx context.Context) error {
	upTo := t.Log.State().Seq()
	for {
		var sequence int64
		if err := t.pool.QueryRow(ctx, in(t.Schema, `SELECT sequence FROM $S.position`)).Scan(&sequence); err != nil {
			return fmt.Errorf("asking how far the reporting tables are: %w", err)
		}
		if uint64(sequence) >= upTo {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the reporting tables are at %d and the log at %d: %w", sequence, upTo, context.Cause(ctx))
		case <-time.After(every):
		}
	}
}

// Anew marks the tables to be made anew, by whichever control plane keeps them.
func (t *Tables) Anew(ctx context.Context) error {
	done, err := t.pool.Exec(ctx, in(t.Schema, `UPDATE $S.position SET format = 0`))
	if err != nil {
		return fmt.Errorf("marking the reporting tables: %w", err)
	}
	if done.RowsAffected() != 1 {
		return errors.New("there are no reporting tables: is a control plane running with --reporting?")
	}
	return nil
}

// Position tells up to which event the tables are written, and false while they are marked to be made anew.
func (t *Tables) Position(ctx context.Context) (sequence uint64, current bool, err error) {
	var at int64
	var form int
	err = t.pool.QueryRow(ctx, in(t.Schema, `SELECT sequence, format FROM $S.position`)).Scan(&at, &form)
	if err != nil {
		return 0, false, fmt.Errorf("asking how far the reporting tables are: %w", err)
	}
	return uint64(at), form == format, nil
}
