package policy

import (
	"slices"
	"testing"

	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// A list that is kept under its key must be the one that would be made: whatever changes a list changes its key.
func TestAListsKeyChangesWithTheList(t *testing.T) {
	table := compile(t, user(ann, 1), user(bob, 1), groupEntry(1, "okta/A"), groupEntry(2, "okta/B"), grantOf(1, allow("read_file")))
	key := func() ListKey {
		t.Helper()
		k, ok := table.ListKey(ann, now)
		if !ok {
			t.Fatal("there is no key")
		}
		return k
	}
	version := table.Version()
	apply := func(entries ...*fleetv1.Entry) {
		t.Helper()
		next, err := Compile(version+1, slices.Values(slices.Concat(github(), []*fleetv1.Entry{user(ann, 1), user(bob, 1), groupEntry(1, "okta/A"), groupEntry(2, "okta/B"), grantOf(1, allow("read_file"))}, entries)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Apply(&fleetv1.Delta{FromVersion: version, Version: version + 1, Changed: entries, Digest: next.Digest()}); err != nil {
			t.Fatal(err)
		}
		version++
	}
	first := key()
	if other, ok := table.ListKey(bob, now); !ok || other != first {
		t.Error("who is in the same groups has another key")
	}
	apply(user(bob, 1, 2))
	if key() != first {
		t.Error("another person's groups changed the key")
	}
	apply(user(ann, 1, 2), user(bob, 1, 2))
	if key() == first {
		t.Error("the person's groups changed, and not the key")
	}
	e := table.edit(table.state())
	e.putGrant(&fleetv1.Grant{Group: 1, Connector: "github", Rules: []*policyv1.Rule{allow("*")}}, Digest{})
	if e.state.connectorsAt == table.state().connectorsAt {
		t.Error("a grant changed, and not the key")
	}
	e = table.edit(table.state())
	e.putGroup(&fleetv1.Group{Number: 2, Name: "okta/B", Parents: []uint32{1}}, Digest{})
	if e.state.groupsAt == table.state().groupsAt {
		t.Error("a group's parents changed, and not the key")
	}
	e = table.edit(table.state())
	if err := e.putBlock(&policyv1.Block{Id: "b", Reason: "r", Target: &policyv1.Block_Connector{Connector: "github"}}, Digest{}); err != nil {
		t.Fatal(err)
	}
	table.now.Store(&e.state)
	if _, ok := table.ListKey(ann, now); ok {
		t.Error("there is a key while a block stands")
	}
}
