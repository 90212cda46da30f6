package policy

import (
	"errors"
	"maps"
	"slices"
	"time"
	_ "time/tzdata" // a condition gives the same on machines that lack the database of time zones

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// roots is a set of the variables of conditions.
type roots uint8

const (
	argsRoot roots = 1 << iota
	userRoot
	toolRoot
	connectorRoot
	requestRoot
	allRoots = argsRoot | userRoot | toolRoot | connectorRoot | requestRoot
)

var rootNames = map[string]roots{"args": argsRoot, "user": userRoot, "tool": toolRoot, "connector": connectorRoot, "request": requestRoot}

// unknowns says to CEL that variables are not known.
func unknowns(of roots) []*cel.AttributePatternType {
	var all []*cel.AttributePatternType
	for _, name := range slices.Sorted(maps.Keys(rootNames)) {
		if of&rootNames[name] != 0 {
			all = append(all, cel.AttributePattern(name))
		}
	}
	return all
}

// reading finds what a condition reads.
type reading struct {
	roots      roots
	attributes map[string]bool
	id, groups bool // of the person
	tick       time.Duration
	failed     error
}

func (r *reading) named() []string { return slices.Sorted(maps.Keys(r.attributes)) }

func (r *reading) attribute(name string) {
	if r.attributes == nil {
		r.attributes = map[string]bool{}
	}
	if _, sent := userAttributes[name]; sent || len(name) > len(CustomAttribute) && name[:len(CustomAttribute)] == CustomAttribute {
		r.attributes[name] = true
	}
}

// clock notes that time is read, and how finely.
func (r *reading) clock(every time.Duration) {
	if r.tick == 0 || every < r.tick {
		r.tick = every
	}
}

// expression goes through an expression. Bound are names that stand for something else within a loop.
func (r *reading) expression(e celast.Expr, bound []string) {
	switch e.Kind() {
	case celast.IdentKind:
		if root := rootNames[e.AsIdent()]; root != 0 && !slices.Contains(bound, e.AsIdent()) {
			r.roots |= root
			switch root {
			case requestRoot: // all of it, its time included
				r.clock(time.Second)
			case userRoot:
				r.failed = errors.New("the condition uses user as a whole: read its attributes one by one, as in user.department")
			}
		}
	case celast.SelectKind:
		r.member(e.AsSelect(), bound)
	case celast.CallKind:
		r.call(e.AsCall(), bound)
	case celast.ListKind:
		r.all(e.AsList().Elements(), bound)
	case celast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			r.all([]celast.Expr{entry.AsMapEntry().Key(), entry.AsMapEntry().Value()}, bound)
		}
	case celast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			r.expression(field.AsStructField().Value(), bound)
		}
	case celast.ComprehensionKind:
		c := e.AsComprehension()
		r.all([]celast.Expr{c.IterRange(), c.AccuInit()}, bound)
		r.all([]celast.Expr{c.LoopCondition(), c.LoopStep(), c.Result()}, append(slices.Clone(bound), c.IterVar(), c.IterVar2(), c.AccuVar()))
	}
}

func (r *reading) all(parts []celast.Expr, bound []string) {
	for _, part := range parts {
		r.expression(part, bound)
	}
}

// of tells of which variable an expression is a member, and which.
func of(e celast.Expr, bound []string) (root, member string) {
	if e.Kind() != celast.SelectKind || e.AsSelect().Operand().Kind() != celast.IdentKind {
		return "", ""
	}
	name := e.AsSelect().Operand().AsIdent()
	if rootNames[name] == 0 || slices.Contains(bound, name) {
		return "", ""
	}
	return name, e.AsSelect().FieldName()
}

func (r *reading) member(s celast.SelectExpr, bound []string) {
	if s.Operand().Kind() != celast.IdentKind || slices.Contains(bound, s.Operand().AsIdent()) || rootNames[s.Operand().AsIdent()] == 0 {
		r.expression(s.Operand(), bound)
		return
	}
	name, field := s.Operand().AsIdent(), s.FieldName()
	r.roots |= rootNames[name]
	switch {
	case name == "user" && field == "custom":
		r.failed = errCustom
	case name == "user":
		r.id, r.groups = r.id || field == "id", r.groups || field == "groups"
		r.attribute(field)
	case name == "request" && field == "time":
		r.clock(time.Second)
	}
}

var errCustom = errors.New("the condition reads user.custom without saying what: write user.custom[\"URN:ATTRIBUTE\"], or ask \"URN:ATTRIBUTE\" in user.custom")

// byMinute are functions of a time that give the same for a whole minute.
var byMinute = map[string]bool{
	overloads.TimeGetFullYear: true, overloads.TimeGetMonth: true, overloads.TimeGetDayOfYear: true, overloads.TimeGetDayOfMonth: true,
	overloads.TimeGetDate: true, overloads.TimeGetDayOfWeek: true, overloads.TimeGetHours: true, overloads.TimeGetMinutes: true,
}

func (r *reading) call(c celast.CallExpr, bound []string) {
	args := c.Args()
	if c.IsMemberFunction() {
		if root, member := of(c.Target(), bound); root == "request" && member == "time" && byMinute[c.FunctionName()] {
			r.roots |= requestRoot
			r.clock(time.Minute)
			r.all(args, bound)
			return
		}
		r.expression(c.Target(), bound)
	}
	switch c.FunctionName() {
	case operators.Index:
		if root, member := of(args[0], bound); root == "user" && member == "custom" {
			r.custom(args[1])
			return
		}
	case operators.In:
		if root, member := of(args[1], bound); root == "user" && member == "custom" {
			r.custom(args[0])
			return
		}
	}
	r.all(args, bound)
}

// custom notes an attribute of the company's own, which must be named in the text.
func (r *reading) custom(key celast.Expr) {
	r.roots |= userRoot
	name, ok := "", false
	if key.Kind() == celast.LiteralKind {
		if text, is := key.AsLiteral().(types.String); is {
			name, ok = string(text), true
		}
	}
	if !ok {
		r.failed = errCustom
		return
	}
	if err := customKey(name); err != nil {
		r.failed = err
		return
	}
	r.attribute(CustomAttribute + name)
}
