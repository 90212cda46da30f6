package reporting

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// writer writes within one transaction, until something fails.
type writer struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the transaction
	tx     pgx.Tx
	schema string
	err    error
}

func (w *writer) exec(sql string, args ...any) {
	if w.err == nil {
		_, w.err = w.tx.Exec(w.ctx, sql, args...)
	}
}

// copy adds rows to a table.
func (w *writer) copy(table string, all rows) {
	if w.err != nil {
		return
	}
	next, stop := iter.Pull(all)
	defer stop()
	_, err := w.tx.CopyFrom(w.ctx, pgx.Identifier{w.schema, table}, columns[table], pgx.CopyFromFunc(func() ([]any, error) {
		row, more := next()
		if !more {
			return nil, nil
		}
		return row, nil
	}))
	if err != nil {
		w.err = fmt.Errorf("writing %s: %w", table, err)
	}
}

// remove takes away what a table has of keys.
func remove[K any](w *writer, table, column string, keys []K) {
	if len(keys) > 0 {
		w.exec(in(w.schema, fmt.Sprintf(`DELETE FROM $S.%s WHERE %s = ANY($1)`, table, column)), keys)
	}
}

// touched writes what was touched as it is in a state.
func (w *writer) touched(s *core.State, t *touched) {
	remove(w, "directories", "id", slices.Collect(maps.Keys(t.directories)))
	w.copy("directories", func(yield func([]any) bool) {
		for id := range t.directories {
			if d := s.Directory(id); d != nil && !yield(directoryRow(d)) {
				return
			}
		}
	})
	remove(w, "users", "id", idsOf(t.users))
	w.copy("users", func(yield func([]any) bool) {
		for id := range t.users {
			if u := s.User(id); u != nil && !yield(userRow(u)) {
				return
			}
		}
	})
	remove(w, "groups", "id", idsOf(t.groups))
	w.copy("groups", func(yield func([]any) bool) {
		for id := range t.groups {
			if g := s.Group(id); g != nil && !yield(groupRow(s, g)) {
				return
			}
		}
	})
	w.members(s, t)
	remove(w, "nesting", "parent_id", idsOf(t.nesting))
	w.copy("nesting", func(yield func([]any) bool) {
		for id := range t.nesting {
			if g := s.Group(id); g != nil && !nestingRows(s, g, yield) {
				return
			}
		}
	})
	remove(w, "ancestors", "group_id", idsOf(t.ancestors))
	w.copy("ancestors", func(yield func([]any) bool) {
		for id := range t.ancestors {
			if g := s.Group(id); g != nil && !ancestorRows(s, g, yield) {
				return
			}
		}
	})
	w.policy(s, t)
}

// members writes the memberships that were touched.
func (w *writer) members(s *core.State, t *touched) {
	remove(w, "members", "user_id", idsOf(t.membersOf))
	remove(w, "members", "group_id", idsOf(t.membersIn))
	var groups, users []pgtype.UUID
	for p := range t.members {
		groups, users = append(groups, id(p.group)), append(users, id(p.user))
	}
	if len(groups) > 0 {
		w.exec(in(w.schema, `DELETE FROM $S.members m USING unnest($1::uuid[], $2::uuid[]) AS x (group_id, user_id) WHERE m.group_id = x.group_id AND m.user_id = x.user_id`), groups, users)
	}
	w.copy("members", func(yield func([]any) bool) {
		for id := range t.membersOf {
			u := s.User(id)
			if u == nil {
				continue
			}
			for g := range s.GroupsOf(u) {
				if !yield(memberRow(s, g, u)) {
					return
				}
			}
		}
		for p := range t.members {
			if _, all := t.membersOf[p.user]; all {
				continue
			}
			u, g := s.User(p.user), s.Group(p.group)
			if u != nil && g != nil && s.IsMember(g, u) && !yield(memberRow(s, g, u)) {
				return
			}
		}
	})
}

// policy writes the connectors, grants and blocks that were touched.
func (w *writer) policy(s *core.State, t *touched) {
	connectors := slices.Collect(maps.Keys(t.connectors))
	remove(w, "connectors", "id", connectors)
	remove(w, "tools", "connector", connectors)
	var grants []string
	for key := range t.grants {
		grants = append(grants, key.id())
	}
	remove(w, "grants", "id", grants)
	remove(w, "rules", "grant_id", grants)
	remove(w, "rule_tools", "grant_id", grants)
	remove(w, "blocks", "id", slices.Collect(maps.Keys(t.blocks)))
	var blocks []*policyv1.Block
	if len(t.blocks) > 0 {
		for b := range s.Blocks() {
			if _, is := t.blocks[b.GetId()]; is {
				blocks = append(blocks, b)
			}
		}
	}
	w.policyOf(s, func(yield func(*core.Connector) bool) {
		for id := range t.connectors {
			if c := s.Connector(id); c != nil && !yield(c) {
				return
			}
		}
	}, func(yield func(*core.Grant) bool) {
		for key := range t.grants {
			if g := s.Grant(key.to, key.connector); g != nil && !yield(g) {
				return
			}
		}
	}, slices.Values(blocks))
}

func (w *writer) policyOf(s *core.State, connectors iter.Seq[*core.Connector], grants iter.Seq[*core.Grant], blocks iter.Seq[*policyv1.Block]) {
	w.copy("connectors", func(yield func([]any) bool) {
		for c := range connectors {
			if !yield(connectorRow(c)) {
				return
			}
		}
	})
	w.copy("tools", func(yield func([]any) bool) {
		for c := range connectors {
			if !toolRows(c, yield) {
				return
			}
		}
	})
	w.copy("grants", func(yield func([]any) bool) {
		for g := range grants {
			if !yield(grantRow(s, g)) {
				return
			}
		}
	})
	w.copy("rules", func(yield func([]any) bool) {
		for g := range grants {
			if !ruleRows(s, g, yield) {
				return
			}
		}
	})
	w.copy("rule_tools", func(yield func([]any) bool) {
		for g := range grants {
			if !ruleToolRows(s, g, yield) {
				return
			}
		}
	})
	w.copy("blocks", func(yield func([]any) bool) {
		for b := range blocks {
			if !yield(blockRow(b)) {
				return
			}
		}
	})
}

// everything writes all of a state to empty tables.
func (w *writer) everything(s *core.State) {
	users := func(yield func(*core.User) bool) {
		for d := range s.Directories() {
			for u := range s.AllUsersAfter(d.GetId(), 0) {
				if !yield(u) {
					return
				}
			}
		}
	}
	groups := func(yield func(*core.Group) bool) {
		for d := range s.Directories() {
			for g := range s.AllGroupsAfter(d.GetId(), 0) {
				if !yield(g) {
					return
				}
			}
		}
	}
	w.copy("directories", func(yield func([]any) bool) {
		for d := range s.Directories() {
			if !yield(directoryRow(d)) {
				return
			}
		}
	})
	w.copy("users", func(yield func([]any) bool) {
		for u := range users {
			if !yield(userRow(u)) {
				return
			}
		}
	})
	w.copy("groups", func(yield func([]any) bool) {
		for g := range groups {
			if !yield(groupRow(s, g)) {
				return
			}
		}
	})
	w.copy("members", func(yield func([]any) bool) {
		for g := range groups {
			for u := range s.Members(g, 0) {
				if !yield(memberRow(s, g, u)) {
					return
				}
			}
		}
	})
	w.copy("nesting", func(yield func([]any) bool) {
		for g := range groups {
			if !nestingRows(s, g, yield) {
				return
			}
		}
	})
	w.copy("ancestors", func(yield func([]any) bool) {
		for g := range groups {
			if !ancestorRows(s, g, yield) {
				return
			}
		}
	})
	w.policyOf(s, s.Connectors(), s.Grants(), s.Blocks())
}
