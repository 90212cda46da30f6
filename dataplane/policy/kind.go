package policy

import (
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// What a server offers beside tools is named, wherever a tool's name stands (Request.Tool, blocks, rules, audit), with a
// word before it that no tool's name can hold.
const (
	promptWord   = "prompt:"
	resourceWord = "resource:"
	templateWord = "template:"
)

// Label is the name by which the policy knows what a server offers.
func Label(kind policyv1.Kind, name string) string {
	switch kind {
	case policyv1.Kind_KIND_PROMPT:
		return promptWord + name
	case policyv1.Kind_KIND_RESOURCE:
		return resourceWord + name
	case policyv1.Kind_KIND_RESOURCE_TEMPLATE:
		return templateWord + name
	}
	return name
}

// KindOf is what a label names, and the name.
func KindOf(label string) (policyv1.Kind, string) {
	if name, ok := strings.CutPrefix(label, promptWord); ok {
		return policyv1.Kind_KIND_PROMPT, name
	}
	if name, ok := strings.CutPrefix(label, resourceWord); ok {
		return policyv1.Kind_KIND_RESOURCE, name
	}
	if name, ok := strings.CutPrefix(label, templateWord); ok {
		return policyv1.Kind_KIND_RESOURCE_TEMPLATE, name
	}
	return policyv1.Kind_KIND_TOOL, label
}

// labelled tells whether a label or a glob is of something else than tools.
func labelled(label string) bool {
	return strings.HasPrefix(label, promptWord) || strings.HasPrefix(label, resourceWord) || strings.HasPrefix(label, templateWord)
}

// globs are a rule's: those of tools, and those of all else with their words.
type globs struct{ tools, others []string }

func newGlobs(all []string) globs {
	var g globs
	for _, one := range all {
		if labelled(one) {
			g.others = append(g.others, one)
		} else {
			g.tools = append(g.tools, one)
		}
	}
	return g
}

// everything matches whatever a server offers.
var everything = globs{tools: []string{"*"}, others: []string{"*"}}

// match tells whether one of them matches. A template is what its text would be as a URI: what may be read in the end is
// decided by the URI that is made of it.
func (g *globs) match(label string) bool {
	if !strings.Contains(label, ":") { // as no tool's name does
		return matchAny(g.tools, label)
	}
	if uri, ok := strings.CutPrefix(label, templateWord); ok {
		label = resourceWord + uri
	}
	return matchAny(g.others, label)
}

// dotted tells whether a URI has a segment that a server may take for a step up, or for none: a rule would judge another
// place than the one that is read.
func dotted(uri string) bool {
	if strings.ContainsAny(uri, "\\\x00") {
		return true
	}
	lower := strings.ToLower(uri)
	// Encoded twice, or a slash that is encoded, says only that somebody hides something.
	if strings.Contains(lower, "%25") || strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c") || strings.Contains(lower, "%00") {
		return true
	}
	path, _, _ := strings.Cut(strings.ReplaceAll(lower, "%2e", "."), "?")
	path, _, _ = strings.Cut(path, "#")
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
