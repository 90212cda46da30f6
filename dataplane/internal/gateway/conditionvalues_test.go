package gateway_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica/fleettest"
	"sallyport.dev/dataplane/internal/spool"
	"sallyport.dev/dataplane/sealing"
)

// TestWhatConditionsReadIsRecordedSealedWhereAuditDoesNotKeepItWhole: and nowhere else, and nothing that looks like a secret.
func TestWhatConditionsReadIsRecordedSealedWhereAuditDoesNotKeepItWhole(t *testing.T) {
	key, err := sealing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	folder := ""
	o := &options{plane: fleettest.ControlPlane{ConditionValuesKey: key.Public()}, demo: registry(t, true), undelivered: false, spool: spool.Config{}}
	w := newWorld(t, o)
	folder = o.spool.Dir
	w.set(catalogueEntry("demo", registryTools...), grantEntry(1, "demo",
		&policyv1.Rule{Allow: []string{"*"}, When: `has(args.text) && !args.text.contains("no")`},
		&policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"prose"}, Redact: &policyv1.Redaction{Arguments: []string{"text"}}}))
	a := w.stateless(ada, "/mcp/demo")
	long := strings.Repeat("long ", 1000)
	for name, c := range map[string]struct {
		tool, text string
		refused    bool
		recorded   bool
		known      bool // and the value is among it
	}{
		"whole":                          {"text", "short", false, false, false},
		"cut":                            {"text", long, false, true, true},
		"cut, of a call that is refused": {"text", long + "no", true, true, true},
		"taken out by the policy":        {"prose", "a private number", false, true, true},
		"a secret":                       {"text", "Authorization: Bearer ghp_zyxwvutsrqplkjihgfedcba9876543210 " + long, false, true, false},
		"too much":                       {"text", strings.Repeat(long, 4), false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a.about(mcp.MethodCallTool, c.tool, fmt.Sprintf(`{"name":%q,"arguments":{"text":%q}}`, c.tool, c.text))
			records := 2
			if c.refused {
				records = 1
			}
			first := w.settled(records)[0]
			if (len(first.GetConditionValues()) > 0) != c.recorded {
				t.Fatalf("recorded: %v", first)
			}
			if !c.recorded {
				return
			}
			if bytes.Contains(first.GetConditionValues(), []byte("long long")) || bytes.Contains(first.GetConditionValues(), []byte("private")) {
				t.Error("they are not sealed")
			}
			plain, err := key.OpenSent(first.GetConditionValues(), ada.String(), first.GetCallId())
			if err != nil {
				t.Fatal(err)
			}
			values := &auditv1.ConditionValues{}
			if err := proto.Unmarshal(plain, values); err != nil {
				t.Fatal(err)
			}
			want := []string{fmt.Sprintf(`{"text":%q}`, c.text)}
			if !c.known {
				want = nil
			}
			var got []string
			for _, v := range values.GetValues() {
				got = append(got, string(v.GetObject()))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%.300q, want %.300q", got, want)
			}
			if _, err := key.OpenSent(first.GetConditionValues(), ada.String(), "another call"); err == nil {
				t.Error("it is good for another call")
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(folder, "*", "*"))
	if more, _ := filepath.Glob(filepath.Join(folder, "*")); err == nil {
		files = append(files, more...)
	}
	read := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // a folder
		}
		read += len(data)
		if bytes.Contains(data, []byte("a private number")) || bytes.Contains(data, []byte("ghp_zyxwvu")) {
			t.Errorf("it lies in %s", file)
		}
	}
	if read == 0 {
		t.Error("nothing of the spool was read")
	}
}
