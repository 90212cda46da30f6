package scim_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

var update = flag.Bool("update", false, "write what the state is after each form into the golden files")

// form is something that an identity provider sends, as it sends it, and the state after it. {{name}} stands for the id
// of a user or group of that name.
type form struct {
	Name string `json:"name"`
	// Users and groups with their members that are there before, as Okta would have made them.
	Users    []string            `json:"users,omitempty"`
	Groups   map[string][]string `json:"groups,omitempty"`
	Requests []formRequest       `json:"requests"`
	// After is what there is then: users by userName, groups by displayName, without meta.
	After map[string]json.RawMessage `json:"after"`
}

type formRequest struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
	Status int             `json:"status"`
	// Total is what totalResults must be, where it is given.
	Total *int `json:"total,omitempty"`
}

// TestFormsOfIdentityProviders sends each form to a real server and compares the state after it with the golden one.
func TestFormsOfIdentityProviders(t *testing.T) {
	files, err := filepath.Glob("testdata/forms/*.json")
	enginetest.Must(t, err)
	if len(files) < 4 {
		t.Fatalf("golden files: %v", files)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		enginetest.Must(t, err)
		var forms []*form
		enginetest.Must(t, json.Unmarshal(data, &forms))
		for _, f := range forms {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json")+"/"+f.Name, func(t *testing.T) {
				got := f.run(t, newSite(t))
				if *update {
					f.After = got
				}
				for name, want := range f.After {
					if !sameJSON(want, got[name]) {
						t.Errorf("%s is\n%s, want\n%s", name, got[name], want)
					}
				}
				if len(got) != len(f.After) {
					t.Errorf("%d resources are there, want %d", len(got), len(f.After))
				}
			})
		}
		if *update {
			data, err := json.MarshalIndent(forms, "", "  ")
			enginetest.Must(t, err)
			enginetest.Must(t, os.WriteFile(file, append(data, '\n'), 0o600))
		}
	}
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && x.String() == y.String()
}

func (f *form) run(t *testing.T, s *site) map[string]json.RawMessage {
	ids := map[string]string{}
	for _, name := range f.Users {
		ids[name] = s.createUser(name)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Groups)) {
		var list []string
		for _, m := range f.Groups[name] {
			list = append(list, ids[m])
		}
		ids[name] = s.createGroup(name, list...)
	}
	fill := func(text string) string {
		for name, id := range ids {
			text = strings.ReplaceAll(text, "{{"+name+"}}", id)
		}
		return text
	}
	for _, r := range f.Requests {
		var body any
		if len(r.Body) > 0 {
			body = fill(string(r.Body))
		}
		a := s.do(r.Method, strings.ReplaceAll(fill(r.Path), " ", "%20"), body).status(r.Status)
		if r.Total != nil {
			a.is("totalResults", *r.Total)
		}
		if strings.Contains(a.raw, "password") {
			t.Errorf("%s %s answers with a password: %s", r.Method, r.Path, a.raw)
		}
		if r.Method == "POST" && r.Status == 201 {
			name, _ := a.get("userName").(string)
			if name == "" {
				name, _ = a.get("displayName").(string)
			}
			ids[name] = a.id()
		}
	}
	after := map[string]json.RawMessage{}
	for path, key := range map[string]string{"/Users": "userName", "/Groups": "displayName"} {
		resources, _ := s.do("GET", path+"?excludedAttributes=meta,members.$ref,groups.$ref", nil).status(200).get("Resources").([]any)
		for _, o := range resources {
			data, err := json.Marshal(o)
			enginetest.Must(t, err)
			text := string(data)
			for name, id := range ids {
				text = strings.ReplaceAll(text, id, "{{"+name+"}}")
			}
			after[follow(o, key).(string)] = json.RawMessage(text)
		}
	}
	return after
}
