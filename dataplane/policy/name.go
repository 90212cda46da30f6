package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/strictjson"
)

// At the endpoint of all connectors a tool or prompt is named by its connector too. Such a name is found in a table, and never
// taken apart.

// NameSeparator stands between a connector and what it offers, in names at the endpoint of all connectors.
const NameSeparator = "__"

const (
	// maxExposed is what clients take of a name.
	maxExposed = 64
	// shortDigits are hexadecimal digits at the end of a name that had to be cut.
	shortDigits = 12
)

// exposedName is the name at the endpoint of all connectors: the same at every proxy, and after every restart.
func exposedName(connector, name string) string {
	whole := connector + NameSeparator + name
	if len(whole) <= maxExposed {
		return whole
	}
	sum := sha256.Sum256([]byte(whole))
	return clipTo(whole, maxExposed-1-shortDigits) + "_" + hex.EncodeToString(sum[:])[:shortDigits]
}

// clipTo cuts a text to so many bytes at most, between characters.
func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xc0 == 0x80 {
		most--
	}
	return s[:most]
}

// exposed is a name, and what bears it. What shares a name is hidden, all of it: a name never means one thing now and another later.
type exposed struct {
	label string // with the word of its kind
	of    []*pinnedTool
}

func (x *exposed) hash() uint64 { return hashOf(x.label) }

func (s *state) exposed(label string) *exposed {
	x, _ := s.names.find(hashOf(label), func(x *exposed) bool { return x.label == label })
	return x
}

// hasName tells what is named: tools and prompts. A resource is told by its URI.
func (p *pinnedTool) hasName() bool {
	return p.kind == policyv1.Kind_KIND_TOOL || p.kind == policyv1.Kind_KIND_PROMPT
}

// expose gives a pin its name.
func (e *edit) expose(p *pinnedTool) {
	if !p.hasName() {
		return
	}
	_, name := KindOf(p.name)
	p.exposed = exposedName(p.connector, name)
	label := Label(p.kind, p.exposed)
	now := &exposed{label: label, of: []*pinnedTool{p}}
	if was := e.state.exposed(label); was != nil {
		now.of = append(append([]*pinnedTool{}, was.of...), p)
		e.state.collisions++
	}
	e.state.names.put(e.owner, now, func(x *exposed) bool { return x.label == label })
}

// conceal takes a pin's name back.
func (e *edit) conceal(p *pinnedTool) {
	if !p.hasName() {
		return
	}
	label := Label(p.kind, p.exposed)
	was := e.state.exposed(label)
	is := func(x *exposed) bool { return x.label == label }
	if len(was.of) == 1 {
		e.state.names.remove(e.owner, was.hash(), is)
		return
	}
	e.state.collisions--
	now := &exposed{label: label}
	for _, other := range was.of {
		if other != p {
			now.of = append(now.of, other)
		}
	}
	e.state.names.put(e.owner, now, is)
}

// Named returns what a name at the endpoint of all connectors stands for: the connector, and its own name for it.
func (t *Table) Named(kind policyv1.Kind, name string) (connector, own string, ok bool) {
	x := t.state().exposed(Label(kind, name))
	if x == nil || len(x.of) != 1 {
		return "", "", false
	}
	_, own = KindOf(x.of[0].name)
	return x.of[0].connector, own, true
}

// Collisions returns the names at the endpoint of all connectors that several tools or prompts would have, so that it has none of
// them.
func (t *Table) Collisions() []string {
	s := t.state()
	if s.collisions == 0 {
		return nil
	}
	var all []string
	s.names.each(func(x *exposed) bool {
		if len(x.of) > 1 {
			all = append(all, x.label)
		}
		return true
	})
	return all
}

// shown tells whether a pin is to be seen at the endpoint of all connectors.
func (s *state) shown(p *pinnedTool) bool {
	return s.collisions == 0 || !p.hasName() || len(s.exposed(Label(p.kind, p.exposed)).of) == 1
}

// Exposed is the name at the endpoint of all connectors: for a resource or template, its URI behind the connector and a plus.
func (t Tool) Exposed() string {
	if !t.pinned.hasName() {
		return t.Connector + URISeparator + t.Name
	}
	return t.pinned.exposed
}

// URISeparator stands between a connector and a URI, at the endpoint of all connectors. No connector's id has one.
const URISeparator = "+"

// ExposedDefinition is the pinned definition under the exposed name. It is the table's: do not change it.
func (t Tool) ExposedDefinition() []byte {
	t.pinned.renameOnce.Do(func() {
		key := "name"
		switch t.pinned.kind {
		case policyv1.Kind_KIND_RESOURCE:
			key = "uri"
		case policyv1.Kind_KIND_RESOURCE_TEMPLATE:
			key = "uriTemplate"
		}
		renamed, err := rename(t.Definition, key, t.Exposed())
		if err != nil {
			return // what cannot be read was never pinned; it is left out
		}
		t.pinned.renamed = renamed
	})
	return t.pinned.renamed
}

// rename returns a definition in which a member has another value.
func rename(definition []byte, member, name string) ([]byte, error) {
	var r strictjson.Reader
	r.Reset(definition, strictjson.Limits{MaxDepth: maxSchemaDepth * 4, MaxKeys: maxDefinition})
	start, end := 0, 0
	for r.Enter(); r.Next(); {
		wanted := string(r.Key()) == member
		raw := r.Value()
		if wanted {
			start, end = r.Offset()-len(raw), r.Offset()
		}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("reading a definition: %w", err)
	}
	if end == 0 {
		return nil, fmt.Errorf("a definition has no %s", member)
	}
	out := append(make([]byte, 0, len(definition)+len(name)), definition[:start]...)
	return append(strictjson.Quote(out, name), definition[end:]...), nil
}
