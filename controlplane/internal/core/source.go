package core

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Drift is the difference between what files said when they were last applied and what stands: somebody changed it by another way. It is
// known by a three-way comparison, of what was applied last, what stands and what the files say now, for each resource. Only what would be
// overwritten counts: a change that the files have followed is none.

const (
	// appliedPerEvent keeps an event well below the size of a message.
	appliedPerEvent = 2000
	// driftNamed is how many resources a refusal names.
	driftNamed = 10
)

// appliedKey is where the digest of what a source said of a resource lies.
func appliedKey(source, resource string) string { return source + "\x00" + resource }

// resource is something that a policy says, beside what stands.
type resource struct {
	key, name  string
	said, live string // digests; live is empty where there is none
}

// source refuses to overwrite what was changed since the files were applied, and remembers what they say now.
func (a *applying) source(c ApplyPolicy) error {
	if c.Source == "" {
		return nil
	}
	all, err := a.resources(c)
	if err != nil {
		return err
	}
	var drifted []string
	var changed []*eventv1.AppliedResource
	for _, r := range all {
		last, _ := a.state.applied.Get(appliedKey(c.Source, r.key))
		if last != "" && r.live != last && r.live != r.said {
			what := "was changed"
			if r.live == "" {
				what = "was removed"
			}
			drifted = append(drifted, r.name+" "+what)
		}
		if last != r.said {
			changed = append(changed, &eventv1.AppliedResource{Key: r.key, Sha256: []byte(r.said)})
		}
	}
	if len(drifted) > 0 && !c.ForceDrift {
		more := ""
		if n := len(drifted) - driftNamed; n > 0 {
			drifted, more = drifted[:driftNamed], fmt.Sprintf(" and %d more", n)
		}
		return refuse(FailedPrecondition, "since the files of %q were last applied, %s%s by another way, and to apply them would undo that; take it over into the files (sallyport export says what stands), or apply with --force-drift if the files are right",
			c.Source, strings.Join(drifted, ", "), more)
	}
	for some := range slices.Chunk(changed, appliedPerEvent) {
		a.events = append(a.events, &eventv1.Event{Body: &eventv1.Event_PolicyApplied{PolicyApplied: &eventv1.PolicyApplied{Source: c.Source, Resources: some}}})
	}
	return nil
}

// resources are what a policy says, each with what stands.
func (a *applying) resources(c ApplyPolicy) ([]resource, error) {
	var all []resource
	add := func(key, name string, said, live proto.Message) error {
		r := resource{key: key, name: name}
		var err error
		if r.said, err = digestOf(said); err == nil && live.ProtoReflect().IsValid() {
			r.live, err = digestOf(live)
		}
		all = append(all, r)
		return err
	}
	for _, settings := range unwrap(c.Connectors) {
		live := (*eventv1.ConnectorSet)(nil)
		if old := a.state.Connector(settings.GetId()); old != nil {
			live = &eventv1.ConnectorSet{Connector: old.Settings}
		}
		if err := add("connector "+settings.GetId(), "connector "+settings.GetId(), &eventv1.ConnectorSet{Connector: settings}, live); err != nil {
			return nil, err
		}
	}
	for _, set := range unwrap(c.RuleSets) {
		if err := add("rule-set "+set.GetName(), "rule set "+set.GetName(), set, a.state.RuleSet(set.GetName())); err != nil {
			return nil, err
		}
	}
	for _, spec := range c.Grants {
		g := spec.grant()
		live := (*eventv1.GrantApplied)(nil)
		if old := a.state.Grant(g.To, g.Connector); old != nil {
			live = old.event()
		}
		group, person, everyone := g.To.wire()
		if err := add("grant "+group+person+everyone+"/"+g.Connector, "the grant of "+a.state.GranteeName(g.To)+" on "+g.Connector, g.event(), live); err != nil {
			return nil, err
		}
	}
	for _, e := range unwrap(c.AuditExporters) {
		live := (*policyv1.AuditExporter)(nil)
		if old := a.state.AuditExporter(e.GetName()); old != nil {
			live = old.Settings
		}
		if err := add("audit-exporter "+e.GetName(), "audit exporter "+e.GetName(), e, live); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// digestOf is compared with digests of the same build's or another's: were they to differ, something that did not change would be called changed, and nothing
// would be overwritten unasked.
func digestOf(m proto.Message) (string, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encoding what is applied: %w", err)
	}
	sum := sha256.Sum256(data)
	return string(sum[:]), nil
}

func (s *State) applyPolicyApplied(b *eventv1.PolicyApplied) {
	for _, r := range b.GetResources() {
		s.applied.Set(appliedKey(b.GetSource(), r.GetKey()), string(r.GetSha256()))
	}
}
