package reporting

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/controlplane/internal/core"
)

// tables are what docs/reporting.md describes. Raise format with them.
const tables = `
CREATE SCHEMA $S;
CREATE TABLE $S.position (
	one boolean PRIMARY KEY DEFAULT true CHECK (one), sequence bigint NOT NULL, at timestamptz, epoch text NOT NULL, fold int NOT NULL, format int NOT NULL
);
CREATE TABLE $S.directories (id text PRIMARY KEY, issuers text[] NOT NULL, sign_in_issuer text);
CREATE TABLE $S.users (
	id uuid NOT NULL, directory text NOT NULL, user_name text NOT NULL, display_name text NOT NULL, email text NOT NULL, external_id text NOT NULL,
	active boolean NOT NULL, service boolean NOT NULL, generation bigint NOT NULL, created_at timestamptz, updated_at timestamptz, version bigint NOT NULL
);
CREATE TABLE $S.groups (
	id uuid NOT NULL, directory text NOT NULL, name text NOT NULL, external_id text NOT NULL, role text, created_at timestamptz, updated_at timestamptz, version bigint NOT NULL
);
CREATE TABLE $S.members (group_id uuid NOT NULL, user_id uuid NOT NULL, held boolean NOT NULL);
CREATE TABLE $S.nesting (parent_id uuid NOT NULL, child_id uuid NOT NULL);
CREATE TABLE $S.ancestors (group_id uuid NOT NULL, ancestor_id uuid NOT NULL);
CREATE TABLE $S.connectors (id text NOT NULL, title text NOT NULL, url text NOT NULL, regions text[] NOT NULL, auth text NOT NULL, pinned boolean NOT NULL, tools int NOT NULL);
CREATE TABLE $S.tools (connector text NOT NULL, tool text NOT NULL, kind text NOT NULL, withheld boolean NOT NULL);
CREATE TABLE $S.grants (
	id text NOT NULL, connector text NOT NULL, group_id uuid, person_id uuid, directory text, rule_sets text[] NOT NULL, until timestamptz, dangling boolean NOT NULL
);
CREATE TABLE $S.rules (
	grant_id text NOT NULL, rule int NOT NULL, connector text NOT NULL, rule_set text, effect text NOT NULL, tools text[] NOT NULL, condition text NOT NULL, duty text, sign_in boolean NOT NULL, until timestamptz,
	definition jsonb NOT NULL
);
CREATE TABLE $S.rule_tools (grant_id text NOT NULL, rule int NOT NULL, connector text NOT NULL, tool text NOT NULL);
CREATE TABLE $S.blocks (id text NOT NULL, person_id uuid, client_id text, connector text, tool text, region text, reason text NOT NULL, until timestamptz);
CREATE TABLE $S.changes (
	sequence bigint NOT NULL, at timestamptz, action text NOT NULL, target text NOT NULL, actor_kind text NOT NULL, actor_id text NOT NULL, role text, user_id uuid, group_id uuid, connector text, users int, groups int
);

CREATE VIEW $S.effective_membership AS
	SELECT DISTINCT m.user_id, a.ancestor_id AS group_id
	FROM $S.members m JOIN $S.ancestors a ON a.group_id = m.group_id JOIN $S.users u ON u.id = m.user_id
	WHERE NOT m.held AND u.active;

CREATE VIEW $S.grant_users AS
	SELECT g.id AS grant_id, e.user_id FROM $S.grants g JOIN $S.effective_membership e ON e.group_id = g.group_id
	UNION ALL
	SELECT g.id, u.id FROM $S.grants g JOIN $S.users u ON u.id = g.person_id WHERE u.active
	UNION ALL
	SELECT g.id, u.id FROM $S.grants g JOIN $S.users u ON g.directory = u.directory OR g.directory = '*' AND NOT u.service WHERE u.active;

CREATE VIEW $S.grant_access AS
	SELECT r.grant_id, r.rule, g.group_id, g.person_id, g.directory, r.connector, t.tool, r.effect, r.condition, r.duty,
		r.condition = '' AND NOT r.sign_in AS certain, least(g.until, r.until) AS until
	FROM $S.grants g JOIN $S.rules r ON r.grant_id = g.id
	JOIN $S.rule_tools x ON x.grant_id = r.grant_id AND x.rule = r.rule
	JOIN $S.tools t ON t.connector = x.connector AND t.tool = x.tool
	WHERE NOT t.withheld AND (g.until IS NULL OR g.until > now()) AND (r.until IS NULL OR r.until > now());

CREATE VIEW $S.effective_access AS
	SELECT user_id, connector, tool, access, after FROM (
		SELECT p.user_id, a.connector, a.tool,
			CASE
				WHEN bool_or(a.effect = 'deny' AND a.certain) OR NOT bool_or(a.effect = 'allow') THEN 'never'
				WHEN bool_or(a.effect = 'deny') OR bool_or(a.effect = 'require' AND a.duty = 'sign_in') THEN 'depends'
				WHEN bool_or(a.effect = 'allow' AND a.certain) THEN 'always'
				ELSE 'depends'
			END AS access,
			CASE greatest(
				min(CASE a.duty WHEN 'review' THEN 2 WHEN 'confirm' THEN 1 ELSE 0 END) FILTER (WHERE a.effect = 'allow'),
				max(CASE a.duty WHEN 'review' THEN 2 WHEN 'confirm' THEN 1 ELSE 0 END) FILTER (WHERE a.effect = 'require' AND a.certain))
				WHEN 2 THEN 'review' WHEN 1 THEN 'confirm' ELSE '' END AS after
		FROM $S.grant_users p JOIN $S.grant_access a ON a.grant_id = p.grant_id
		GROUP BY p.user_id, a.connector, a.tool
	) e
	WHERE access <> 'never' AND NOT EXISTS (
		SELECT FROM $S.blocks b WHERE (b.until IS NULL OR b.until > now()) AND
			(b.person_id = e.user_id OR b.connector = e.connector AND b.tool IS NULL OR b.connector = e.connector AND b.tool = e.tool));
`

// indexes are made when what was there is written, which is sooner than row by row.
const indexes = `
ALTER TABLE $S.users ADD PRIMARY KEY (id);
CREATE INDEX users_name ON $S.users (lower(user_name));
CREATE INDEX users_directory ON $S.users (directory);
ALTER TABLE $S.groups ADD PRIMARY KEY (id);
CREATE INDEX groups_name ON $S.groups (directory, name);
ALTER TABLE $S.members ADD PRIMARY KEY (group_id, user_id);
CREATE INDEX members_user ON $S.members (user_id);
ALTER TABLE $S.nesting ADD PRIMARY KEY (parent_id, child_id);
CREATE INDEX nesting_child ON $S.nesting (child_id);
ALTER TABLE $S.ancestors ADD PRIMARY KEY (group_id, ancestor_id);
CREATE INDEX ancestors_ancestor ON $S.ancestors (ancestor_id);
ALTER TABLE $S.connectors ADD PRIMARY KEY (id);
ALTER TABLE $S.tools ADD PRIMARY KEY (connector, tool);
ALTER TABLE $S.grants ADD PRIMARY KEY (id);
CREATE INDEX grants_group ON $S.grants (group_id);
CREATE INDEX grants_person ON $S.grants (person_id);
CREATE INDEX grants_connector ON $S.grants (connector);
ALTER TABLE $S.rules ADD PRIMARY KEY (grant_id, rule);
ALTER TABLE $S.rule_tools ADD PRIMARY KEY (grant_id, rule, tool);
CREATE INDEX rule_tools_tool ON $S.rule_tools (connector, tool);
ALTER TABLE $S.blocks ADD PRIMARY KEY (id);
ALTER TABLE $S.changes ADD PRIMARY KEY (sequence);
CREATE INDEX changes_at ON $S.changes USING brin (at);
CREATE INDEX changes_user ON $S.changes (user_id, sequence) WHERE user_id IS NOT NULL;
CREATE INDEX changes_group ON $S.changes (group_id, sequence) WHERE group_id IS NOT NULL;
`

// rebuild makes the tables anew beside those that are there, and takes their place.
func (t *Tables) rebuild(ctx context.Context, conn *pgx.Conn) error {
	next := t.Schema + "_next"
	state := t.Log.State()
	t.Slog.InfoContext(ctx, "the reporting tables are made anew", "events", state.Seq())
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to roll back
	if _, err := tx.Exec(ctx, in(next, `DROP SCHEMA IF EXISTS $S CASCADE;`+tables)); err != nil {
		return err
	}
	w := &writer{ctx: ctx, tx: tx, schema: next}
	// What changed when is on the log alone.
	upTo := state.Seq()
	err = t.Log.Follow(ctx, 0, func(_ *core.State, records []core.Record) error {
		for len(records) > 0 && records[len(records)-1].Seq > upTo {
			records = records[:len(records)-1]
		}
		if len(records) > 0 {
			w.copy("changes", changesOf(records))
		}
		if w.err == nil && (len(records) == 0 || records[len(records)-1].Seq >= upTo) {
			return errDone
		}
		return w.err
	})
	if err != nil && !errors.Is(err, errDone) {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.everything(state)
	w.exec(in(next, indexes))
	w.exec(in(next, `INSERT INTO $S.position (sequence, epoch, fold, format) VALUES ($1, $2, $3, $4)`), int64(state.Seq()), state.Epoch(), core.FoldVersion, format)
	w.exec(in(t.Schema, `DROP SCHEMA IF EXISTS $S CASCADE`))
	w.exec(in(next, `ALTER SCHEMA $S RENAME TO `) + pgx.Identifier{t.Schema}.Sanitize())
	if w.err != nil {
		return w.err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if err := t.permit(ctx, conn); err != nil {
		t.Slog.WarnContext(ctx, "nobody but their owner may read the reporting tables: make the role, and make the tables anew", "role", t.Reader, "error", err)
	}
	_, err = conn.Exec(ctx, in(t.Schema, `ANALYZE $S.users, $S.groups, $S.members, $S.ancestors, $S.grants, $S.rules, $S.rule_tools, $S.tools`))
	return err
}

// permit lets the role for readers read, and no more.
func (t *Tables) permit(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, t.Reader).Scan(&there); err != nil {
		return err
	}
	role := pgx.Identifier{t.Reader}.Sanitize()
	if !there {
		if _, err := conn.Exec(ctx, `CREATE ROLE `+role+` NOLOGIN`); err != nil {
			return fmt.Errorf("making the role: %w", err)
		}
	}
	_, err := conn.Exec(ctx, in(t.Schema, `GRANT USAGE ON SCHEMA $S TO `+role+`; GRANT SELECT ON ALL TABLES IN SCHEMA $S TO `+role))
	return err
}
