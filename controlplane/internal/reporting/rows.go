package reporting

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"google.golang.org/protobuf/encoding/protojson"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// columns are the tables', in the order of their rows.
var columns = map[string][]string{
	"directories": {"id", "issuers", "sign_in_issuer"},
	"users":       {"id", "directory", "user_name", "display_name", "email", "external_id", "active", "service", "generation", "created_at", "updated_at", "version"},
	"groups":      {"id", "directory", "name", "external_id", "role", "created_at", "updated_at", "version"},
	"members":     {"group_id", "user_id", "held"},
	"nesting":     {"parent_id", "child_id"},
	"ancestors":   {"group_id", "ancestor_id"},
	"connectors":  {"id", "title", "url", "regions", "auth", "pinned", "tools"},
	"tools":       {"connector", "tool", "kind", "withheld"},
	"grants":      {"id", "connector", "group_id", "person_id", "directory", "rule_sets", "until", "dangling"},
	"rules":       {"grant_id", "rule", "connector", "rule_set", "effect", "tools", "condition", "duty", "sign_in", "until", "definition"},
	"rule_tools":  {"grant_id", "rule", "connector", "tool"},
	"blocks":      {"id", "person_id", "client_id", "connector", "tool", "region", "reason", "until"},
	"changes":     {"sequence", "at", "action", "target", "actor_kind", "actor_id", "role", "user_id", "group_id", "connector", "users", "groups"},
}

// rows are a table's.
type rows = iter.Seq[[]any]

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

func id(of uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: of, Valid: of != uuid.Nil} }

func idsOf(ids set[uuid.UUID]) []pgtype.UUID {
	all := make([]pgtype.UUID, 0, len(ids))
	for one := range ids {
		all = append(all, id(one))
	}
	return all
}

// text is a text as PostgreSQL takes it: without NUL.
func text(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }

// some is a text that may be missing.
func some(s string) any {
	if s == "" {
		return nil
	}
	return text(s)
}

func moment(t time.Time) any {
	if t.IsZero() || t.Year() > 9999 || t.Year() < 1 {
		return nil
	}
	return t
}

func word(prefix string, of fmt.Stringer) string {
	return strings.ToLower(strings.TrimPrefix(of.String(), prefix))
}

func directoryRow(d *policyv1.Directory) []any {
	issuers := []string{}
	for _, i := range d.GetIssuers() {
		issuers = append(issuers, text(i.GetUrl()))
	}
	return []any{d.GetId(), issuers, some(d.GetSignIn().GetIssuer())}
}

func userRow(u *core.User) []any {
	return []any{
		id(u.ID), u.Directory, text(u.UserName), text(u.DisplayName), text(u.Email), text(u.ExternalID), u.Active, u.Service(), int64(u.Generation),
		moment(u.CreatedAt.Time()), moment(u.UpdatedAt.Time()), int64(u.Version),
	}
}

func groupRow(s *core.State, g *core.Group) []any {
	var role any
	if r := s.GroupRole(g.ID); r != 0 {
		role = word("ROLE_", r)
	}
	return []any{id(g.ID), g.Directory, text(g.DisplayName), text(g.ExternalID), role, moment(g.CreatedAt.Time()), moment(g.UpdatedAt.Time()), int64(g.Version)}
}

func memberRow(s *core.State, g *core.Group, u *core.User) []any {
	return []any{id(g.ID), id(u.ID), !s.CountsIn(u, g)}
}

func nestingRows(s *core.State, g *core.Group, yield func([]any) bool) bool {
	for child := range s.MemberGroups(g) {
		if !yield([]any{id(g.ID), id(child.ID)}) {
			return false
		}
	}
	return true
}

// ancestorRows are the groups in which the members of a group are too, itself among them.
func ancestorRows(s *core.State, g *core.Group, yield func([]any) bool) bool {
	seen := map[uint32]bool{g.No: true}
	todo := []*core.Group{g}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if !yield([]any{id(g.ID), id(next.ID)}) {
			return false
		}
		for parent := range s.ParentGroups(next) {
			if !seen[parent.No] {
				seen[parent.No] = true
				todo = append(todo, parent)
			}
		}
	}
	return true
}

func connectorRow(c *core.Connector) []any {
	auth := "none"
	if m := c.Settings.GetAuth().ProtoReflect(); m.IsValid() {
		if field := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); field != nil {
			auth = string(field.Name())
		}
	}
	title := c.Settings.GetTitle()
	if title == "" {
		title = c.Settings.GetId()
	}
	regions := c.Settings.GetRegions()
	if regions == nil {
		regions = []string{}
	}
	return []any{c.Settings.GetId(), text(title), text(c.Settings.GetUrl()), regions, auth, c.Tools != nil, len(c.Tools)}
}

func toolRows(c *core.Connector, yield func([]any) bool) bool {
	withheld := map[string]bool{}
	for _, w := range c.Withheld {
		withheld[w.GetLabel()] = true
	}
	for _, t := range c.Tools {
		label := policy.Label(t.GetKind(), t.GetName())
		if !yield([]any{c.Settings.GetId(), text(label), word("KIND_", max(t.GetKind(), policyv1.Kind_KIND_TOOL)), withheld[label]}) {
			return false
		}
	}
	return true
}

// id names a grant, for as long as it is to the same on the same connector.
func (k grantKey) id() string {
	switch {
	case k.to.Group != uuid.Nil:
		return "group/" + k.to.Group.String() + "/" + k.connector
	case k.to.Person != uuid.Nil:
		return "person/" + k.to.Person.String() + "/" + k.connector
	}
	return "everyone/" + k.to.Everyone + "/" + k.connector
}

func grantRow(s *core.State, g *core.Grant) []any {
	sets := g.RuleSets
	if sets == nil {
		sets = []string{}
	}
	return []any{grantKey{g.To, g.Connector}.id(), g.Connector, id(g.To.Group), id(g.To.Person), some(g.To.Everyone), sets, moment(g.Until), s.Dangling(g.To)}
}

func ruleRows(s *core.State, g *core.Grant, yield func([]any) bool) bool {
	grant, place := grantKey{g.To, g.Connector}.id(), 0
	own := len(g.Rules)
	sets := setOf(s, g)
	for r := range s.RulesOf(g) {
		place++
		effect, globs, duty := "require", r.GetTools(), ""
		switch {
		case len(r.GetAllow()) > 0:
			effect, globs = "allow", r.GetAllow()
		case len(r.GetDeny()) > 0:
			effect, globs = "deny", r.GetDeny()
		}
		if d := r.GetAfter() + r.GetRequire(); d != 0 { // one of them is not set
			duty = word("DUTY_", d)
		}
		set := ""
		if place > own {
			set = sets[place-own-1]
		}
		definition, err := protojson.Marshal(r)
		if err != nil {
			definition = []byte("{}")
		}
		all := make([]string, len(globs))
		for i := range globs {
			all[i] = text(globs[i])
		}
		var until any
		if r.GetUntil() != nil {
			until = moment(r.GetUntil().AsTime())
		}
		if !yield([]any{grant, place, g.Connector, some(set), effect, all, text(r.GetWhen()), some(duty), r.GetSignIn() != nil, until, json.RawMessage(strings.ReplaceAll(string(definition), `\u0000`, `\ufffd`))}) {
			return false
		}
	}
	return true
}

// setOf are the names of the rule sets that the rules behind a grant's own are from, rule by rule.
func setOf(s *core.State, g *core.Grant) []string {
	var all []string
	for _, name := range g.RuleSets {
		for range s.RuleSet(name).GetRules() {
			all = append(all, name)
		}
	}
	return all
}

// ruleToolRows are the tools that a grant's rules are about.
func ruleToolRows(s *core.State, g *core.Grant, yield func([]any) bool) bool {
	c := s.Connector(g.Connector)
	if c == nil {
		return true
	}
	grant, place := grantKey{g.To, g.Connector}.id(), 0
	for r := range s.RulesOf(g) {
		place++
		for _, label := range policy.Covers(r, c.Tools) {
			if !yield([]any{grant, place, g.Connector, text(label)}) {
				return false
			}
		}
	}
	return true
}

func blockRow(b *policyv1.Block) []any {
	var person any
	if parsed, err := uuid.Parse(b.GetPersonId()); err == nil {
		person = id(parsed)
	}
	connector, until := b.GetConnector(), any(nil)
	if t := b.GetTool(); t != nil {
		connector = t.GetConnector()
	}
	if b.GetUntil() != nil {
		until = moment(b.GetUntil().AsTime())
	}
	return []any{b.GetId(), person, some(b.GetClientId()), some(connector), some(b.GetTool().GetTool()), some(b.GetRegion()), text(b.GetReason()), until}
}

// changesOf are what events changed, without anything of what is personal.
func changesOf(records []core.Record) rows {
	return func(yield func([]any) bool) {
		for _, rec := range records {
			ev := rec.Event
			if ev.GetBarrier() != nil {
				continue
			}
			body := core.Body(ev)
			var user, group pgtype.UUID
			connector := ev.GetConnectorSet().GetConnector().GetId()
			for _, of := range []any{body, ev.GetCredentialSet().GetCredential()} {
				if b, ok := of.(interface{ GetUserId() string }); ok {
					user = parsedID(b.GetUserId(), user)
				}
				if b, ok := of.(interface{ GetPersonId() string }); ok {
					user = parsedID(b.GetPersonId(), user)
				}
				if b, ok := of.(interface{ GetGroupId() string }); ok {
					group = parsedID(b.GetGroupId(), group)
				}
				if b, ok := of.(interface{ GetConnectorId() string }); ok && b.GetConnectorId() != "" {
					connector = b.GetConnectorId()
				}
			}
			var users, groups any
			if b, ok := body.(interface {
				GetUserIds() []byte
				GetGroupIds() []byte
			}); ok {
				users, groups = len(b.GetUserIds())/16, len(b.GetGroupIds())/16
			}
			var role any
			if r := ev.GetActor().GetRole(); r != 0 {
				role = word("ROLE_", r)
			}
			at := moment(ev.GetAt().AsTime())
			if !yield([]any{
				int64(rec.Seq), at, core.EventName(ev), text(core.Target(ev)), word("ACTOR_KIND_", ev.GetActor().GetKind()), text(ev.GetActor().GetId()), role,
				user, group, some(connector), users, groups,
			}) {
				return
			}
		}
	}
}

func parsedID(text string, otherwise pgtype.UUID) pgtype.UUID {
	if parsed, err := uuid.Parse(text); err == nil {
		return id(parsed)
	}
	return otherwise
}
