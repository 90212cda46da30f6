package reporting

import (
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"
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
