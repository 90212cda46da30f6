// Package postgres is an index of the audit stream in PostgreSQL: the same answers as the stream gives, sooner.
//
// It holds nothing that the stream does not: it can be dropped and built again, beside the old one, and swapped in. The
// sequence up to which it has indexed lies in the transaction that writes the rows, so that each record is indexed once.
// What is newer than that is searched on the stream, and so is everything while PostgreSQL cannot be reached.
//
// Rows lie in partitions by kind and month, so that retention drops tables. They are indexed by B-trees for pages by person,
// by connector and tool and by call; one GIN over terms, which
// are numbers that stand for words, argument values, groups and the like; one BRIN over the time. Whatever an index finds is
// decided again on the record, by the code that decides on the stream.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/audit"
)

// Stream is what the index needs of the audit stream.
type Stream interface {
	Read(ctx context.Context, after uint64, fn func(audit.Message) error) error
	Last(ctx context.Context) (uint64, error)
	Identity(ctx context.Context) (string, error)
	// Open puts back what is sealed for a record's person.
	Open(ctx context.Context, r *adminv1.StoredRecord) error
	Newer(ctx context.Context, f *audit.Filter, after uint64, limit int, below uint64) ([]*adminv1.StoredRecord, uint64, error)
	CountNewer(ctx context.Context, f *audit.Filter, after uint64, t *audit.Tally) (uint64, error)
	Search(ctx context.Context, f *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error)
	Count(ctx context.Context, r *adminv1.CountAuditRequest) (*adminv1.CountAuditResponse, error)
}

// Config is how an index is kept.
type Config struct {
	// URL is how to reach PostgreSQL: postgres://user:password@host:5432/database. The user may create schemas.
	URL    string
	Stream Stream
	// Schema is where the index lies. Default sallyport_audit.
	Schema string
	// Connections bounds those to PostgreSQL. Default 8.
	Connections int32
	Log         *slog.Logger
}

// Index is the open index. It is safe for concurrent use.
type Index struct {
	pool   *pgxpool.Pool
	stream Stream
	schema string
	log    *slog.Logger
	made   atomic.Bool // the tables are there
}

// Open connects, and makes the index's tables where they are missing. PostgreSQL need not be there, now or later: until it is, all is
// searched on the stream.
func Open(ctx context.Context, c Config) (*Index, error) {
	if c.Schema == "" {
		c.Schema = "sallyport_audit"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		// What pgx says may hold the password.
		return nil, errors.New("the PostgreSQL URL cannot be read: write postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	config.MaxConns = max(c.Connections, 8)
	config.ConnConfig.RuntimeParams["application_name"] = "sallyport"
	// Plans depend on how much of a table a value picks, and partitions are left out by their bounds: a plan for all values
	// knows neither.
	config.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_custom_plan"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	x := &Index{pool: pool, stream: c.Stream, schema: c.Schema, log: c.Log}
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := x.make(soon); err != nil && !away(err) {
		pool.Close()
		return nil, err
	}
	return x, nil
}

// make makes the tables, unless they are known to be there.
func (x *Index) make(ctx context.Context) error {
	if x.made.Load() {
		return nil
	}
	if err := x.create(ctx, x.schema, true); err != nil {
		return fmt.Errorf("making the audit index in PostgreSQL: %w", err)
	}
	x.made.Store(true)
	return nil
}

// away tells that PostgreSQL is not there at the moment from that it refuses.
func away(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		var network *net.OpError
		return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
	}
	// Operator intervention: it starts or stops. Insufficient resources: too many connections, a full disk.
	return strings.HasPrefix(refused.Code, "57P") || strings.HasPrefix(refused.Code, "53")
}

// Close ends the connections.
func (x *Index) Close() { x.pool.Close() }

// in writes a statement for a schema.
func in(schema, sql string) string {
	return strings.ReplaceAll(sql, "$S", pgx.Identifier{schema}.Sanitize())
}

// tables are made empty, and indexed apart, since an index over rows that are there is made sooner than row by row.
const tables = `
CREATE SCHEMA IF NOT EXISTS $S;
CREATE TABLE IF NOT EXISTS $S.position (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	sequence bigint NOT NULL,
	stream text NOT NULL
);
CREATE TABLE IF NOT EXISTS $S.blocks (
	first bigint PRIMARY KEY,
	last bigint NOT NULL,
	records bigint NOT NULL,
	first_stored timestamptz NOT NULL,
	last_stored timestamptz NOT NULL,
	min_at timestamptz NOT NULL,
	max_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS $S.records (
	sequence bigint NOT NULL,
	stored timestamptz NOT NULL,
	at timestamptz NOT NULL,
	kind smallint NOT NULL,
	verdict smallint NOT NULL,
	reason smallint NOT NULL,
	person text COLLATE "C" NOT NULL,
	connector text COLLATE "C" NOT NULL,
	tool text COLLATE "C" NOT NULL,
	region text COLLATE "C" NOT NULL,
	proxy text COLLATE "C" NOT NULL,
	call_id text COLLATE "C" NOT NULL,
	terms bigint[] NOT NULL,
	data bytea NOT NULL
) PARTITION BY LIST (kind);
`

const indexes = `
CREATE INDEX IF NOT EXISTS records_sequence ON $S.records (sequence);
CREATE INDEX IF NOT EXISTS records_person ON $S.records (person, sequence);
CREATE INDEX IF NOT EXISTS records_tool ON $S.records (connector, tool, sequence);
CREATE INDEX IF NOT EXISTS records_call ON $S.records (call_id);
CREATE INDEX IF NOT EXISTS records_terms ON $S.records USING gin (terms);
CREATE INDEX IF NOT EXISTS records_at ON $S.records USING brin (at) WITH (pages_per_range = 32);
`

// create makes the tables of a schema.
func (x *Index) create(ctx context.Context, schema string, indexed bool) error {
	tx, err := x.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to roll back
	// Of several that begin at once one goes first.
	sql := tables
	if indexed {
		sql += indexes
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('sallyport audit schema'))`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, in(schema, sql)); err != nil {
		return err
	}
	identity, err := x.stream.Identity(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, in(schema, `INSERT INTO $S.position (sequence, stream) VALUES (0, $1) ON CONFLICT DO NOTHING`), identity); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Position returns the sequence up to which the stream is indexed.
func (x *Index) Position(ctx context.Context) (uint64, error) {
	var sequence int64
	err := x.pool.QueryRow(ctx, in(x.schema, `SELECT sequence FROM $S.position`)).Scan(&sequence)
	if err != nil {
		return 0, fmt.Errorf("asking how far audit is indexed: %w", err)
	}
	return uint64(sequence), nil
}

// month is the partition of a kind in which what was stored at a time lies.
type month struct {
	kind int32
	from time.Time
}

func monthOf(kind int32, stored time.Time) month {
	stored = stored.UTC()
	return month{kind, time.Date(stored.Year(), stored.Month(), 1, 0, 0, 0, 0, time.UTC)}
}

func (m month) until() time.Time { return m.from.AddDate(0, 1, 0) }

func (m month) table() string { return fmt.Sprintf("records_%d_%s", m.kind, m.from.Format("2006_01")) }

// partition makes a month's table, within a transaction that then fills it.
func partition(ctx context.Context, tx pgx.Tx, schema string, m month) error {
	kind := fmt.Sprintf("records_%d", m.kind)
	_, err := tx.Exec(ctx, in(schema, fmt.Sprintf(`
		CREATE TABLE IF NOT EXISTS $S.%[1]s PARTITION OF $S.records FOR VALUES IN (%[2]d) PARTITION BY RANGE (stored);
		CREATE TABLE IF NOT EXISTS $S.%[3]s PARTITION OF $S.%[1]s FOR VALUES FROM ('%[4]s') TO ('%[5]s');
		ALTER TABLE $S.%[3]s ALTER COLUMN data SET COMPRESSION lz4;`,
		kind, m.kind, m.table(), m.from.Format(time.RFC3339), m.until().Format(time.RFC3339))))
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "0A000" { // built without lz4
		return errors.New("this PostgreSQL was built without lz4: use one of the distribution's packages")
	}
	return err
}
