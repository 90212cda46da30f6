package policy

import policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

// Covers tells which of a connector's pinned definitions a rule is about, by their labels in the order in which they come. Whether it
// has a say in a call of them its conditions tell.
func Covers(wire *policyv1.Rule, tools []*policyv1.Tool) []string {
	s := newShared()
	r := s.rule(wire, 1)
	var all []string
	for _, t := range tools {
		if tool := newTool("", t); r.covers(tool) {
			all = append(all, tool.name)
		}
	}
	return all
}
