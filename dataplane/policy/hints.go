package policy

import policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

// annotations are what a pinned definition says of a tool, with MCP's defaults for what it leaves out. They are the upstream's
// word, approved by an admin.
type annotations struct {
	readOnly, destructive, idempotent, openWorld bool
	// unknown: the definition cannot be read.
	unknown bool
}

// annotated reads a tool's annotations, once.
func (p *pinnedTool) annotated() *annotations {
	p.annotationsOnce.Do(func() {
		values, err := decodeObject(p.definition)
		if err != nil || p.kind != policyv1.Kind_KIND_TOOL {
			p.annotations = annotations{unknown: true, destructive: true, openWorld: true}
			return
		}
		hints, _ := values["annotations"].(map[string]any)
		hint := func(name string, otherwise bool) bool {
			if value, ok := hints[name].(bool); ok {
				return value
			}
			return otherwise
		}
		a := annotations{readOnly: hint("readOnlyHint", false), openWorld: hint("openWorldHint", true)}
		// Of a tool that only reads the other two mean nothing (MCP, ToolAnnotations).
		a.destructive = !a.readOnly && hint("destructiveHint", true)
		a.idempotent = a.readOnly || hint("idempotentHint", false)
		p.annotations = a
	})
	return &p.annotations
}

// facts is `tool` in conditions.
func (p *pinnedTool) facts() map[string]any {
	a := p.annotated()
	return map[string]any{"name": p.name, "readOnly": a.readOnly, "destructive": a.destructive, "idempotent": a.idempotent, "openWorld": a.openWorld}
}

// Repeatable tells whether a tool's pinned definition says that a call of it changes nothing. One that says that it is idempotent is not:
// made again, it undoes what others did in between, and its second answer is another (there is nothing left to delete).
func (t *Table) Repeatable(connector, tool string) bool {
	p := t.state().connector(connector).tool(tool)
	return p != nil && !p.annotated().unknown && p.annotated().readOnly
}

// fits tells whether a tool has the annotations that a rule names. Known is false where that cannot be told.
func fits(h *policyv1.Hints, p *pinnedTool) (fits, known bool) {
	if h == nil {
		return true, true
	}
	if p.kind != policyv1.Kind_KIND_TOOL { // only tools have them
		return false, true
	}
	a := p.annotated()
	if a.unknown {
		return false, false
	}
	same := func(want *bool, is bool) bool { return want == nil || *want == is }
	return same(h.ReadOnly, a.readOnly) && same(h.Destructive, a.destructive) && same(h.Idempotent, a.idempotent) && same(h.OpenWorld, a.openWorld), true
}
