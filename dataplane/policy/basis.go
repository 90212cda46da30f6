package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"

	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Basis is what the verdict on a call rested on: the rule that allowed it, and whatever else has a say on the tool. By it is
// decided later, when the arguments are gone, whether the result of that call may still be had. It is the same at every proxy. The
// zero value is of no call.
type Basis [16]byte

// Basis returns what an allowed decision on a request rested on; zero: it was not allowed, or the table is another by now.
func (t *Table) Basis(r Request, d Decision) Basis {
	s := t.state()
	p, c := s.person(r.Person), s.connector(r.Connector)
	tool := c.tool(r.Tool)
	if !d.Allowed || d.Version != s.version || p == nil || tool == nil {
		return Basis{}
	}
	for b, rule := range s.bases(p, c, tool) {
		if rule.group == d.Group && rule.place == d.Rule {
			return b
		}
	}
	return Basis{}
}

// stand decides by what an earlier verdict rested on: it holds while the rule that allowed is there for the person, word for word, and
// what could deny is the same. Any doubt denies.
func (s *state) stand(p *person, c *connector, tool *pinnedTool, b Basis) ruling {
	for have, rule := range s.bases(p, c, tool) {
		if have == b {
			return rule.ruling(auditv1.Reason_REASON_RULE_ALLOWED)
		}
	}
	return nothingAllows
}

// bases goes through the rules that may allow a tool to a person, each with the basis that a verdict by it has.
func (s *state) bases(p *person, c *connector, tool *pinnedTool) func(func(Basis, ruleOf) bool) {
	return func(yield func(Basis, ruleOf) bool) {
		set := s.resolve(p.members)
		var others [][]byte
		for r := range rulesOf(set, c) {
			if (r.deny || len(r.wire.GetAllow()) == 0) && r.globs.match(tool.name) {
				others = append(others, r.digest(c))
			}
		}
		slices.SortFunc(others, bytes.Compare)
		for r := range rulesOf(set, c) {
			if r.deny || len(r.wire.GetAllow()) == 0 || !r.globs.match(tool.name) {
				continue
			}
			h := sha256.New()
			h.Write(r.digest(c))
			for _, other := range others {
				h.Write(other)
			}
			var b Basis
			copy(b[:], h.Sum(nil))
			if !yield(b, r) {
				return
			}
		}
	}
}

// digest is that of a rule's own words, and of the group that it is granted to: not of its place among others.
func (r *ruleOf) digest(c *connector) []byte {
	h := sha256.New()
	writeText(h, c.id)
	writeText(h, r.group)
	words, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.wire)
	if err != nil { // it came by the wire
		return nil
	}
	h.Write(words)
	return h.Sum(nil)
}

func writeText(h hash.Hash, s string) {
	h.Write(binary.AppendUvarint(nil, uint64(len(s))))
	h.Write([]byte(s))
}
