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
	for b, rule := range s.bases(&facts{person: p, connector: c, tool: tool}) {
		if rule.group == d.Group && rule.place == d.Rule && rule.wire.GetRuleSet() == d.RuleSet {
			return b
		}
	}
	return Basis{}
}

// stand decides by what an earlier verdict rested on: it holds while the rule that allowed is there for the person, word for word, and
// what could deny or require something is the same, and none of these says otherwise whatever the arguments were. Any doubt
// denies.
func (s *state) stand(f facts, r Request) ruling {
	for rule := range rulesOf(s.resolve(f.person.members), f.connector) {
		if rule.effect != denies || !rule.covers(f.tool) {
			continue
		}
		if is := rule.without(&f, &r); is == surely || is == surelyFails {
			return rule.ruling(auditv1.Reason_REASON_RULE_DENIED)
		}
	}
	for have, rule := range s.bases(&f) {
		if is := rule.without(&f, &r); have == r.Basis && (is == surely || is == perhaps) {
			return rule.ruling(auditv1.Reason_REASON_RULE_ALLOWED)
		}
	}
	return nothingAllows
}

// bases goes through the rules that may allow a tool to a person, each with the basis that a verdict by it has.
func (s *state) bases(f *facts) func(func(Basis, ruleOf) bool) {
	return func(yield func(Basis, ruleOf) bool) {
		set := s.resolve(f.person.members)
		var others [][]byte
		for r := range rulesOf(set, f.connector) {
			if r.effect != allows && r.covers(f.tool) {
				others = append(others, r.digest(f.connector))
			}
		}
		slices.SortFunc(others, bytes.Compare)
		for r := range rulesOf(set, f.connector) {
			if r.effect != allows || !r.covers(f.tool) {
				continue
			}
			h := sha256.New()
			h.Write(r.digest(f.connector))
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

// digest is that of a rule's own words, and of the group that it is granted to: not of its place among others, nor of its end.
func (r *ruleOf) digest(c *connector) []byte {
	h := sha256.New()
	writeText(h, c.id)
	writeText(h, r.group)
	wire := r.wire
	if wire.GetUntil() != nil {
		wire = proto.CloneOf(wire)
		wire.Until = nil
	}
	words, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire)
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
