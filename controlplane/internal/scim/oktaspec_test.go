package scim_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// specStep is a step of the specification test that Okta publishes for providers to import.
type specStep struct {
	Type       string              `json:"step_type"`
	Note       string              `json:"note"`
	Method     string              `json:"method"`
	URL        string              `json:"url"`
	Body       string              `json:"body"`
	Headers    map[string][]string `json:"headers"`
	Assertions []specAssertion     `json:"assertions"`
	Variables  []struct {
		Name     string `json:"name"`
		Property string `json:"property"`
	} `json:"variables"`
}

type specAssertion struct {
	Comparison string `json:"comparison"`
	Source     string `json:"source"`
	Property   string `json:"property"`
	Value      any    `json:"value"`
}

// TestOktasOwnSpecificationTest runs every request and assertion of Okta's published test. Only its limit on
// the time of an answer is left out: how fast a loaded test machine is says nothing.
func TestOktasOwnSpecificationTest(t *testing.T) {
	data, err := os.ReadFile("testdata/Okta-SCIM-20-SPEC-Test.json")
	enginetest.Must(t, err)
	var spec struct{ Steps []specStep }
	enginetest.Must(t, json.Unmarshal(data, &spec))
	s := newSite(t)
	s.createUser("in.place@example.com")
	variables := map[string]string{
		"SCIMBaseURL": s.server.URL + "/scim/v2", "auth": "Bearer " + s.token, "InvalidUserEmail": "nobody@example.com",
		"UserIdThatDoesNotExist": uuid.NewString(), "randomEmail": "new.mail@example.com", "randomUsername": "new.user@example.com",
		"randomUsernameCaps": "NEW.USER@EXAMPLE.COM", "randomGivenName": "Grace", "randomFamilyName": "Hopper",
	}
	fill := func(text string) string {
		for name, value := range variables {
			text = strings.ReplaceAll(text, "{{"+name+"}}", value)
		}
		return text
	}
	requests := 0
	for _, step := range spec.Steps {
		if step.Type != "request" {
			continue
		}
		requests++
		t.Run(fmt.Sprintf("%d %s", requests, step.Note), func(t *testing.T) {
			s := s.as(t, s.token)
			path := strings.ReplaceAll(strings.TrimPrefix(fill(step.URL), variables["SCIMBaseURL"]), " ", "%20")
			var body any
			if step.Body != "" {
				body = fill(step.Body)
			}
			headers := []string{"Authorization", ""}
			for name, all := range step.Headers {
				headers = append(headers, name, fill(all[0]))
			}
			a := s.do(step.Method, path, body, headers...)
			for _, assertion := range step.Assertions {
				assertion.check(t, a, fill)
			}
			for _, v := range step.Variables {
				variables[v.Name] = fmt.Sprint(a.get(v.Property))
			}
		})
	}
	if requests != 12 {
		t.Errorf("the test had %d requests, want 12", requests)
	}
}

func (s specAssertion) check(t *testing.T, a answer, fill func(string) string) {
	t.Helper()
	var got any
	switch s.Source {
	case "response_status":
		got = float64(a.StatusCode)
	case "response_json":
		got = a.get(s.Property)
	case "response_time":
		return
	default:
		t.Fatalf("a source of a kind that the test does not know: %q", s.Source)
	}
	want := ""
	if s.Value != nil {
		want = fill(fmt.Sprint(s.Value))
	}
	ok := false
	switch s.Comparison {
	case "equal":
		ok = got != nil && fmt.Sprint(got) == want
	case "equal_number":
		number, err := strconv.ParseFloat(want, 64)
		ok = err == nil && got == number
	case "is_a_number":
		_, ok = got.(float64)
	case "not_empty":
		ok = got != nil && got != "" && (reflect.ValueOf(got).Kind() != reflect.Slice || reflect.ValueOf(got).Len() != 0)
	case "has_value", "contains":
		list, _ := got.([]any)
		for _, v := range list {
			ok = ok || v == want
		}
	default:
		t.Fatalf("a comparison of a kind that the test does not know: %q", s.Comparison)
	}
	if !ok {
		t.Errorf("%s %s %s: got %v, want %q; status %d, %.300s", s.Source, s.Property, s.Comparison, got, want, a.StatusCode, a.raw)
	}
}
