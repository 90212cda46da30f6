package policy

import (
	"maps"
	"slices"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// parts are those of a call's arguments that a condition reads: of the arguments, and of what only these parts are left of, it says the
// same. Nil: it reads none.
type parts struct {
	whole  bool              // all that is there
	fields map[string]*parts // of an object
	items  *parts            // of each element of an array; nil: none is looked at
}

// partsOf finds the parts of `args` that an expression reads.
func partsOf(e celast.Expr) *parts {
	root := &parts{}
	root.expression(e, map[string]*parts{"args": root})
	if root.none() {
		return nil
	}
	return root
}

func (p *parts) none() bool { return !p.whole && p.fields == nil && p.items == nil }

func (p *parts) field(name string) *parts {
	if p.fields == nil {
		p.fields = map[string]*parts{}
	}
	if p.fields[name] == nil {
		p.fields[name] = &parts{}
	}
	return p.fields[name]
}

func (p *parts) elements() *parts {
	if p.items == nil {
		p.items = &parts{}
	}
	return p.items
}

// stands returns the part that an expression stands for, or nil. Named are the variables that stand for one, each as nil that stands
// for something else.
func (p *parts) stands(e celast.Expr, named map[string]*parts) *parts {
	switch e.Kind() {
	case celast.IdentKind:
		return named[e.AsIdent()]
	case celast.SelectKind:
		if of := p.stands(e.AsSelect().Operand(), named); of != nil && !e.AsSelect().IsTestOnly() {
			return of.field(e.AsSelect().FieldName())
		}
	case celast.CallKind:
		c := e.AsCall()
		if c.FunctionName() != operators.Index || c.Args()[1].Kind() != celast.LiteralKind {
			return nil
		}
		of := p.stands(c.Args()[0], named)
		if of == nil {
			return nil
		}
		switch key := c.Args()[1].AsLiteral().(type) {
		case types.String:
			return of.field(string(key))
		case types.Int:
			return of.elements()
		}
	}
	return nil
}

// expression notes what an expression reads.
func (p *parts) expression(e celast.Expr, named map[string]*parts) {
	if part := p.stands(e, named); part != nil {
		part.whole = true
		return
	}
	switch e.Kind() {
	case celast.SelectKind:
		s := e.AsSelect()
		if of := p.stands(s.Operand(), named); of != nil { // has(…): whether it is there
			of.field(s.FieldName())
			return
		}
		p.expression(s.Operand(), named)
	case celast.CallKind:
		c := e.AsCall()
		if c.IsMemberFunction() {
			p.expression(c.Target(), named)
		}
		if c.FunctionName() == operators.In && p.stands(c.Args()[1], named) == p && c.Args()[0].Kind() == celast.LiteralKind {
			if name, ok := c.Args()[0].AsLiteral().(types.String); ok { // whether there is such an argument
				p.field(string(name))
				return
			}
		}
		p.all(c.Args(), named)
	case celast.ListKind:
		p.all(e.AsList().Elements(), named)
	case celast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			p.all([]celast.Expr{entry.AsMapEntry().Key(), entry.AsMapEntry().Value()}, named)
		}
	case celast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			p.expression(field.AsStructField().Value(), named)
		}
	case celast.ComprehensionKind:
		p.comprehension(e.AsComprehension(), named)
	}
}

func (p *parts) all(each []celast.Expr, named map[string]*parts) {
	for _, e := range each {
		p.expression(e, named)
	}
}

// comprehension notes what a loop reads: of what it goes through, what it reads of each element.
func (p *parts) comprehension(c celast.ComprehensionExpr, named map[string]*parts) {
	var element *parts
	if over := p.stands(c.IterRange(), named); over != nil {
		element = over.elements()
	} else {
		p.expression(c.IterRange(), named)
	}
	p.expression(c.AccuInit(), named)
	within := maps.Clone(named)
	within[c.IterVar()], within[c.AccuVar()] = element, nil
	if c.HasIterVar2() { // the first is a place or a name
		within[c.IterVar()], within[c.IterVar2()] = nil, element
	}
	p.all([]celast.Expr{c.LoopCondition(), c.LoopStep()}, within)
	delete(within, c.IterVar())
	delete(within, c.IterVar2())
	p.expression(c.Result(), within)
}

// add makes parts those of another as well.
func (p *parts) add(other *parts) {
	if other == nil {
		return
	}
	p.whole = p.whole || other.whole
	for name, part := range other.fields {
		p.field(name).add(part)
	}
	if other.items != nil {
		p.elements().add(other.items)
	}
}

// cover tells whether another reads nothing else.
func (p *parts) cover(other *parts) bool {
	switch {
	case other == nil || p.whole:
		return true
	case other.whole || other.items != nil && (p.items == nil || !p.items.cover(other.items)):
		return false
	}
	for name, part := range other.fields {
		if p.fields[name] == nil || !p.fields[name].cover(part) {
			return false
		}
	}
	return true
}

// of is what of a value is read.
func (p *parts) of(v any) any {
	if p.whole {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		if p.items != nil { // its names are gone through
			return v
		}
		out := map[string]any{}
		for name, part := range p.fields {
			if member, ok := v[name]; ok {
				out[name] = part.of(member)
			}
		}
		return out
	case []any:
		if p.items == nil {
			return []any{}
		}
		out := make([]any, len(v))
		for i, element := range v {
			out[i] = p.items.of(element)
		}
		return out
	case string:
		if p.items == nil {
			return "" // it is there, and has no members
		}
	}
	return v
}

// wire is how a record says which parts it has.
func (p *parts) wire() *auditv1.ArgumentParts {
	if p == nil {
		return nil
	}
	out := &auditv1.ArgumentParts{Whole: p.whole, Items: p.items.wire()}
	for _, name := range slices.Sorted(maps.Keys(p.fields)) {
		out.Fields = append(out.Fields, &auditv1.ArgumentField{Name: name, Parts: p.fields[name].wire()})
	}
	return out
}

// partsFrom reads that, no deeper than arguments may be.
func partsFrom(wire *auditv1.ArgumentParts, depth int) *parts {
	if wire == nil || depth == 0 {
		return nil
	}
	out := &parts{whole: wire.GetWhole(), items: partsFrom(wire.GetItems(), depth-1)}
	for _, field := range wire.GetFields() {
		if part := partsFrom(field.GetParts(), depth-1); part != nil {
			if out.fields == nil {
				out.fields = map[string]*parts{}
			}
			out.fields[field.GetName()] = part
		}
	}
	return out
}
