package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func TestAToolIsRenamedInItsDefinitionOnly(t *testing.T) {
	got, err := rename([]byte(`{"title":"x","name" : "push","inputSchema":{"properties":{"name":{"type":"string"}}}}`), "name", "github__push")
	if want := `{"title":"x","name" : "github__push","inputSchema":{"properties":{"name":{"type":"string"}}}}`; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{`{}`, `[]`, `{"name":"a","name":"b"}`} {
		if got, err := rename([]byte(bad), "name", "x"); err == nil {
			t.Errorf("%s became %s", bad, got)
		}
	}
}

func connectorWith(id string, tools ...string) []*fleetv1.Entry {
	c := &fleetv1.Catalogue{Connector: id}
	for _, name := range tools {
		c.Tools = append(c.Tools, tool(name, "", ""))
	}
	return []*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: id, Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: c}},
		{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: 1, Connector: id, Rules: []*policyv1.Rule{allow("*")}}}},
	}
}

var taken = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

func TestEachNameThatIsShownMeansTheToolThatItIsShownFor(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9]{1,8}(-[a-z0-9]{1,12}){0,2}`), 1, 4, rapid.ID).Draw(r, "connectors")
		entries := []*fleetv1.Entry{user(ann, 1), groupEntry(1, "okta/Staff")}
		count := 0
		for _, id := range ids {
			names := rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Za-z0-9_.-]{1,20}(long_){0,20}[a-z]{0,3}`), 1, 8, rapid.ID).Draw(r, "tools of "+id)
			count += len(names)
			entries = append(entries, connectorWith(id, names...)...)
		}
		table, err := Compile(1, slices.Values(entries))
		if err != nil {
			r.Fatal(err)
		}
		all := table.List(Request{Person: ann, Now: now})
		if len(all) != count {
			r.Fatalf("%d tools of %d are shown", len(all), count)
		}
		seen := map[string]bool{}
		for _, one := range all {
			name := one.Exposed()
			if !taken.MatchString(name) || seen[name] || !strings.HasPrefix(name, clipTo(one.Connector+"__", min(len(one.Connector)+2, 51))) {
				r.Fatalf("%s of %s is shown as %q", one.Name, one.Connector, name)
			}
			seen[name] = true
			if connector, own, ok := table.Named(policyv1.Kind_KIND_TOOL, name); !ok || connector != one.Connector || own != one.Name {
				r.Fatalf("%q means %s of %s", name, own, connector)
			}
			if !strings.Contains(string(one.ExposedDefinition()), fmt.Sprintf(`"name":%q`, name)) {
				r.Fatalf("the definition is %s", one.ExposedDefinition())
			}
		}
		if _, _, ok := table.Named(policyv1.Kind_KIND_PROMPT, all[0].Exposed()); ok {
			r.Fatal("a tool's name means a prompt")
		}
	})
}

func TestWhatWouldShareANameIsHiddenUntilItDoesNot(t *testing.T) {
	table, err := Compile(1, slices.Values(slices.Concat([]*fleetv1.Entry{user(ann, 1), groupEntry(1, "okta/Staff")}, connectorWith("one", "a", "b"), connectorWith("two", "a"))))
	if err != nil {
		t.Fatal(err)
	}
	// Connectors' own names are told apart by what they begin with: 48 bits of a digest would have to be the same.
	clash := func(e *edit) {
		for _, id := range []string{"one", "two"} {
			p := e.state.connector(id).tool("a")
			e.conceal(p)
			label := Label(p.kind, "same")
			p.exposed = "same"
			now := &exposed{label: label, of: []*pinnedTool{p}}
			if was := e.state.exposed(label); was != nil {
				now.of = append(now.of, was.of...)
				e.state.collisions++
			}
			e.state.names.put(e.owner, now, func(x *exposed) bool { return x.label == label })
		}
	}
	e := table.edit(table.state())
	clash(e)
	if _, _, ok := table.Named(policyv1.Kind_KIND_TOOL, "one__a"); !ok {
		t.Fatal("an edit that nobody sees yet changed what is seen")
	}
	shown := func(s *state) (names []string) {
		for _, id := range []string{"one", "two"} {
			for _, one := range s.list(nil, &Request{Person: ann, Connector: id, Now: now}, policyv1.Kind_KIND_TOOL, false) {
				if s.shown(one.pinned) {
					names = append(names, one.Exposed())
				}
			}
		}
		return names
	}
	if got := shown(&e.state); !slices.Equal(got, []string{"one__b"}) {
		t.Errorf("shown: %q", got)
	}
	if e.state.collisions != 1 {
		t.Errorf("%d collisions", e.state.collisions)
	}
	e.removeCatalogue("two")
	if got := shown(&e.state); !slices.Equal(got, []string{"same", "one__b"}) || e.state.collisions != 0 {
		t.Errorf("shown afterwards: %q, %d collisions", got, e.state.collisions)
	}
}

func TestAToolThatIsNamedAsAnothersShortFormHidesBoth(t *testing.T) {
	long := strings.Repeat("long_", 20)
	short := exposedName("one", long)
	posing := strings.TrimPrefix(short, "one__")
	table, err := Compile(1, slices.Values(slices.Concat([]*fleetv1.Entry{user(ann, 1), groupEntry(1, "okta/Staff")}, connectorWith("one", long, posing, "b"), connectorWith("one-long", long))))
	if err != nil {
		t.Fatal(err)
	}
	exposed := func() (all []string) {
		for _, one := range table.List(Request{Person: ann, Now: now}) {
			all = append(all, one.Exposed())
		}
		return all
	}
	if got := exposed(); !slices.Equal(got, []string{"one__b", exposedName("one-long", long)}) {
		t.Errorf("shown: %q", got)
	}
	if got := table.Collisions(); !slices.Equal(got, []string{short}) {
		t.Errorf("told of: %q", got)
	}
	if connector, own, ok := table.Named(policyv1.Kind_KIND_TOOL, short); ok {
		t.Errorf("%q means %s of %s", short, own, connector)
	}
	// At the connector's own endpoint each has its name.
	if got := table.List(Request{Person: ann, Connector: "one", Now: now}); len(got) != 3 {
		t.Errorf("%d tools of the connector", len(got))
	}
	e := table.edit(table.state())
	for _, entry := range connectorWith("one", long, "b")[1:2] {
		if err := e.put(entry); err != nil {
			t.Fatal(err)
		}
	}
	e.settle()
	table.now.Store(&e.state)
	if got := exposed(); len(got) != 3 || !slices.Contains(got, short) || len(table.Collisions()) != 0 {
		t.Errorf("shown without the one that posed: %q", got)
	}
	if _, own, ok := table.Named(policyv1.Kind_KIND_TOOL, short); !ok || own != long {
		t.Errorf("%q means %q", short, own)
	}
}
