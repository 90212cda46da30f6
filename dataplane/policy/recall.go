package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"

	"sallyport.dev/dataplane/internal/strictjson"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// What conditions read of a call's arguments is enough to decide the call again. Where audit does not keep arguments whole, these parts
// of them are recorded beside, sealed, and recalled when a proposed policy is tested on what was called.

// read is what conditions of a connector's rules read of arguments, found when it is first asked for.
type read struct {
	once  sync.Once
	parts *parts // nil: nothing
}

// partsRead are the parts of arguments that any condition of the connector reads.
func (c *connector) partsRead() *parts {
	c.read.once.Do(func() {
		all := &parts{}
		c.grants.each(func(g *grant) bool {
			for _, r := range g.rules {
				if r.when != nil && r.when.mayMention("args") {
					all.add(r.when.compiled().parts)
				}
			}
			return true
		})
		if !all.none() {
			c.read.parts = all
		}
	})
	return c.read.parts
}

// ConditionValues are the parts of a request's arguments that any condition of its connector reads; nil: there are none, or nobody reads them.
// Keep is asked whether the value of an argument may be kept, and gets it as an object of that one member.
func (t *Table) ConditionValues(r Request, keep func(object []byte) bool) *auditv1.ConditionValues {
	c := t.state().connector(r.Connector)
	tool := c.tool(r.Tool)
	if tool == nil || r.Arguments.any || r.Arguments.known != nil || !r.Arguments.of(r.Connector, r.Tool) {
		return nil
	}
	read := c.partsRead()
	if read == nil {
		return nil
	}
	all := read.whole || read.items != nil // or their names are gone through
	out := &auditv1.ConditionValues{Definition: bytes.Clone(tool.digest()), All: all}
	names := slices.Sorted(maps.Keys(read.fields))
	if all {
		names = slices.Sorted(maps.Keys(r.Arguments.values))
	}
	for _, name := range names {
		part := read.fields[name]
		if all {
			part = &parts{whole: true}
		}
		value := &auditv1.ConditionValue{Name: name, Parts: part.wire()}
		if v, given := r.Arguments.values[name]; given {
			object, err := json.Marshal(map[string]any{name: part.of(v)})
			if err != nil || !keep(object) {
				out.All = false
				continue
			}
			value.Object = object
		}
		out.Values = append(out.Values, value)
	}
	return out
}

// MarshalJSON refuses: such a number is not kept, and who asks for it does not know.
func (unreadable) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a number that a float64 does not hold")
}

// Recalled are arguments of which the parts are known that were recorded, for a tool whose definition is still what they were held against. A
// verdict on them is one only if it has nothing Missed.
func (t *Table) Recalled(connector, tool string, v *auditv1.ConditionValues) (Arguments, error) {
	p := t.state().connector(connector).tool(tool)
	if p == nil || p.kind != policyv1.Kind_KIND_TOOL || !bytes.Equal(p.digest(), v.GetDefinition()) {
		return Arguments{}, errors.New("the tool's definition is another since")
	}
	schema, err := p.compiled()
	if err != nil {
		return Arguments{}, err
	}
	out := Arguments{values: values{}, known: &parts{whole: v.GetAll(), fields: map[string]*parts{}}, connector: connector, tool: tool}
	for _, value := range v.GetValues() {
		part := partsFrom(value.GetParts(), maxSchemaDepth)
		if part == nil {
			continue
		}
		if len(value.GetObject()) > 0 {
			object, err := strictjson.Decode(value.GetObject(), strictjson.Limits{})
			if err != nil {
				return Arguments{}, err
			}
			member, ok := object.(map[string]any)[value.GetName()]
			if !ok {
				return Arguments{}, errors.New("a recorded value is of another name")
			}
			out.values[value.GetName()] = member
		}
		out.known.fields[value.GetName()] = part
	}
	schema.shape.convert(map[string]any(out.values))
	return out, nil
}

var errNotRecalled = errors.New("the condition reads what was not recorded")

// digest is the SHA-256 of the tool's definition.
func (p *pinnedTool) digest() []byte {
	p.digestOnce.Do(func() {
		sum := sha256.Sum256(p.definition)
		p.sum = sum[:]
	})
	return p.sum
}
