package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	yaml "go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// outputs are fields that Apply does not take.
var outputs = []protoreflect.Name{"credentials", "rule_set", "group_id", "person_id", "dangling"}

// anything draws a message with any of its fields set: one that YAML cannot say is found by its not coming back.
func anything(t *rapid.T, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if slices.Contains(outputs, f.Name()) || f.ContainingOneof() != nil && !f.ContainingOneof().IsSynthetic() {
			continue
		}
		always := f.Name() == "name" || f.Name() == "id"
		if always || rapid.Bool().Draw(t, string(f.Name())) {
			set(t, m, f)
		}
	}
	for i := range m.Descriptor().Oneofs().Len() {
		if o := m.Descriptor().Oneofs().Get(i); !o.IsSynthetic() {
			set(t, m, o.Fields().Get(rapid.IntRange(0, o.Fields().Len()-1).Draw(t, "one of")))
		}
	}
}

func set(t *rapid.T, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	if f.IsList() {
		list := m.Mutable(f).List()
		for range rapid.IntRange(1, 3).Draw(t, "items") {
			list.Append(value(t, f, list.NewElement))
		}
		return
	}
	m.Set(f, value(t, f, func() protoreflect.Value { return m.NewField(f) }))
}

func value(t *rapid.T, f protoreflect.FieldDescriptor, empty func() protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.SampledFrom([]string{"x", "2027-01-01", "yes", "null", "- a: 'b'", "zwei\nZeilen ", "ü\u2028", "~", "1e3", "*"}).Draw(t, "text"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "number"))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "number"))
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		n := values.Get(rapid.IntRange(1, values.Len()-1).Draw(t, "enum")).Number()
		if f.Name() == "after" {
			n = min(n, 2) // a sign-in is no duty after which a rule allows
		}
		return protoreflect.ValueOfEnum(n)
	case protoreflect.MessageKind:
		switch v := empty(); f.Message().FullName() {
		case "google.protobuf.Duration":
			return protoreflect.ValueOfMessage(durationpb.New(time.Duration(rapid.Int64Range(0, 1e18).Draw(t, "duration"))).ProtoReflect())
		case "google.protobuf.Timestamp":
			return protoreflect.ValueOfMessage(timestamppb.New(time.Unix(rapid.Int64Range(0, 1e10).Draw(t, "time"), rapid.Int64Range(0, 999999999).Draw(t, "nanos"))).ProtoReflect())
		default:
			anything(t, v.Message())
			if consent, ok := v.Message().Interface().(*policyv1.Consent); ok && proto.Equal(consent, &policyv1.Consent{}) {
				consent.Roots = true // the API keeps none that allows nothing
			}
			return v
		}
	}
	t.Fatalf("field %s is of kind %s, which nothing here draws", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

func TestWhatIsExportedIsReadAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &adminv1.ExportPolicyResponse{Version: 7}
		c, set, g, e := &policyv1.Connector{}, &policyv1.RuleSet{}, &adminv1.Grant{}, &policyv1.AuditExporter{}
		for _, m := range []proto.Message{c, set, g, e} {
			anything(t, m.ProtoReflect())
		}
		if e.GetTarget() == 0 {
			e.Target = policyv1.ExportTarget_EXPORT_TARGET_FILE // it always has one
		}
		if e.Kinds = rapid.SampledFrom([][]string{nil, {"call"}, {"sign_in", "audit_read"}}).Draw(t, "kinds"); e.GetFromBeginning() {
			e.Since = nil // the API takes one of both
		}
		r.Connectors, r.RuleSets, r.Grants = append(r.Connectors, c), append(r.RuleSets, set), append(r.Grants, g)
		r.AuditExporters = append(r.AuditExporters, e)
		var b strings.Builder
		if err := writeExport(&b, r); err != nil {
			t.Fatal(err)
		}
		read := &adminv1.ApplyRequest{}
		if err := readDocuments("export", strings.NewReader(b.String()), read); err != nil {
			t.Fatalf("%v, of\n%s", err, b.String())
		}
		want := &adminv1.ApplyRequest{Connectors: r.GetConnectors(), RuleSets: r.GetRuleSets(), Grants: r.GetGrants(), AuditExporters: r.GetAuditExporters()}
		if !proto.Equal(read, want) {
			t.Fatalf("read as\n%s\nwas\n%s\nwritten as\n%s", prototext.Format(read), prototext.Format(want), b.String())
		}
	})
}

// validated checks the documents of a file against the schema.
func validated(t *testing.T, text string) error {
	t.Helper()
	s, err := policySchema()
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	var docs []any
	if err := yaml.Load([]byte(text), &docs, yaml.WithAllDocuments()); err != nil {
		t.Fatalf("%v, of %s", err, text)
	}
	for _, doc := range docs {
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		var plain any
		if err := json.Unmarshal(data, &plain); err != nil {
			t.Fatal(err)
		}
		if err := resolved.Validate(plain); err != nil {
			return err
		}
	}
	return nil
}

func TestTheSchemaTakesWhatApplyTakes(t *testing.T) {
	files, err := filepath.Glob("../../../scripts/demo/policy/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("the demo's policy: %v %v", files, err)
	}
	valid := []string{
		"kind: Connector\nid: github\nurl: https://mcp.example/mcp\nauth: {type: oauth, kit: github, client: {id: x}}\ntimeout: 1m30s\nconsent: [roots]\nbreaker: {failures: 5}",
		"kind: Grant\nperson: ann@example.com\nconnector: github\nuntil: '2027-01-31T18:00:00Z'\nrules: [{allow: ['*'], after: review, review: {approvers: [okta/Leads], wait: 30s}}]",
		"kind: Grant\neveryone: '*'\nconnector: github\nruleSets: [readers]",
		"kind: AuditExporter\nname: siem\ntarget: splunk\nurl: https://splunk.example:8088\nformat: ocsf\nkinds: [call, sign_in]\nstart: 2026-01-01\nbatchWait: 5s\nindexerAck: true",
		"kind: RuleSet\nname: readers\nrules: [{require: sign-in, tools: ['delete_*'], signIn: {maxAge: 5m}}, {deny: ['*'], hints: {readOnly: false}}]",
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		valid = append(valid, os.Expand(string(data), func(string) string { return "https://mcp.example/mcp" }))
	}
	for _, text := range valid {
		if err := readDocuments("it", strings.NewReader(text), &adminv1.ApplyRequest{}); err != nil {
			t.Errorf("%v: %s", err, text)
		}
		if err := validated(t, text); err != nil {
			t.Errorf("%v: %s", err, text)
		}
	}
}

func TestTheSchemaRefusesWhatApplyRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no kind":                   "id: github",
		"another kind":              "kind: Connectr\nid: github\nurl: https://x.example",
		"a key that nobody knows":   "kind: Connector\nid: github\nurl: https://x.example\ncolour: red",
		"a key of another kind":     "kind: RuleSet\nname: x\nconnector: github\nrules: [{allow: ['*']}]",
		"no id":                     "kind: Connector\nurl: https://x.example",
		"an id that is none":        "kind: Connector\nid: Git Hub\nurl: https://x.example",
		"a URL that is none":        "kind: Connector\nid: github\nurl: ftp://x.example",
		"too many retries":          "kind: Connector\nid: github\nurl: https://x.example\nretries: 6",
		"a region twice":            "kind: Connector\nid: github\nurl: https://x.example\nregions: [eu, eu]",
		"a length that is none":     "kind: Connector\nid: github\nurl: https://x.example\ntimeout: soon",
		"an auth that is none":      "kind: Connector\nid: github\nurl: https://x.example\nauth: {type: magic}",
		"a rule of two effects":     "kind: Grant\ngroup: okta/A\nconnector: c\nrules: [{allow: ['*'], deny: ['*']}]",
		"a rule of none":            "kind: Grant\ngroup: okta/A\nconnector: c\nrules: [{when: 'true'}]",
		"a requirement of no tools": "kind: Grant\ngroup: okta/A\nconnector: c\nrules: [{require: review}]",
		"a word that is none":       "kind: Grant\ngroup: okta/A\nconnector: c\nrules: [{allow: ['*'], after: thought}]",
		"a grant to two":            "kind: Grant\ngroup: okta/A\nperson: ann\nconnector: c\nrules: [{allow: ['*']}]",
		"a grant to nobody":         "kind: Grant\nconnector: c\nrules: [{allow: ['*']}]",
		"a grant of nothing":        "kind: Grant\ngroup: okta/A\nconnector: c",
		"a day that is none":        "kind: Grant\ngroup: okta/A\nconnector: c\nuntil: tomorrow\nrules: [{allow: ['*']}]",
		"an exporter to nowhere":    "kind: AuditExporter\nname: x\ntarget: fax",
		"a rule set without rules":  "kind: RuleSet\nname: x\nrules: []",
		"a list where text belongs": "kind: RuleSet\nname: [x]\nrules: [{allow: ['*']}]",
	} {
		if err := validated(t, text); err == nil {
			t.Errorf("%s is valid by the schema", name)
		}
	}
}
