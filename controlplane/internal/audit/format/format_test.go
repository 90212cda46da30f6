package format

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// call is a record with something in each place.
func call() Record {
	at := time.Date(2026, 11, 3, 9, 30, 0, 123_000_000, time.UTC)
	return Record{Sequence: 42, Stored: at.Add(time.Second), Person: "ann@example.com", AuditRecord: &auditv1.AuditRecord{
		Proxy: "eu-west-1", SpoolGeneration: "9c5b", Number: 7, Region: "eu-west", At: timestamppb.New(at), CallId: "0199-call",
		Phase: auditv1.Phase_PHASE_COMPLETED, Method: "tools/call", PersonId: "0199-ann", Groups: []string{"okta/Engineers", "okta/On call"},
		Client:    &auditv1.Client{Id: "client-1", Name: "Claude Code", Version: "2.1", Address: "192.0.2.7"},
		Connector: "github", Tool: "push_files", Arguments: &auditv1.Payload{Head: []byte(`{"branch":"main"}`), Size: 17, Sha256: []byte{1, 2, 255}},
		Result:   &auditv1.Payload{Head: []byte(`{"ok":true}`), Size: 11, Truncated: true},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED, Group: "okta/Engineers", Rule: 2, Text: "rule 2 of okta/Engineers allows it"},
		Outcome:  auditv1.Outcome_OUTCOME_OK, Duration: durationpb.New(1500 * time.Microsecond), UpstreamDuration: durationpb.New(time.Millisecond),
		TraceId: strings.Repeat("a", 32), Revision: "2026-07-28", Session: "s-1", SnapshotVersion: 99, RequestBytes: 100, ResponseBytes: 200,
		Authentication: &auditv1.Authentication{Acr: "phr", Amr: []string{"pwd", "mfa"}, At: timestamppb.New(at)},
		Details:        []*auditv1.Detail{{Key: "reuse", Value: "yes"}}, Latency: &auditv1.Latency{Decision: durationpb.New(time.Microsecond)},
	}}
}

// hostile are texts that would do something where they are shown or read.
var hostile = []string{
	"a\r\nCEF:0|forged|forged|1|x|y|9|", "\x1b[2J\x1b]0;title\x07", "abc\u202Egnp.exe\u2066\u2069", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "a|b=c\\d\\|e\\=f",
	"\xff\xfe broken \xc3", "nul\x00tab\tdel\x7fnel\u0085", "line\u2028paragraph\u2029", "tag\U000E0041bom\uFEFF", strings.Repeat("ü=|", 400), `","id":"forged`, "msg=forged act=allowed", " ", "",
}

// filled returns a record of a kind with a text in each field that takes one.
func filled(text string, kind auditv1.Kind, phase auditv1.Phase) Record {
	r := call()
	r.Person = text
	var fill func(protoreflect.Message)
	fill = func(m protoreflect.Message) {
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			switch {
			case f.Kind() == protoreflect.StringKind && f.IsList():
				l := m.NewField(f).List()
				for range maxGroups + 4 {
					l.Append(protoreflect.ValueOfString(text))
				}
				m.Set(f, protoreflect.ValueOfList(l))
			case f.Kind() == protoreflect.StringKind:
				m.Set(f, protoreflect.ValueOfString(text))
			case f.Kind() == protoreflect.BytesKind:
				m.Set(f, protoreflect.ValueOfBytes([]byte(text)))
			case f.Kind() == protoreflect.MessageKind && f.IsList():
				l := m.NewField(f).List()
				e := l.NewElement()
				fill(e.Message())
				l.Append(e)
				m.Set(f, protoreflect.ValueOfList(l))
			case f.Kind() == protoreflect.MessageKind && !strings.HasPrefix(string(f.Message().FullName()), "google."):
				fill(m.Mutable(f).Message())
			}
		}
	}
	fill(r.ProtoReflect())
	r.Kind, r.Phase = kind, phase
	return r
}

// all calls fn with records of all kinds and phases, whole, empty and hostile.
func all(fn func(name string, r Record)) {
	for k := range auditv1.Kind_name {
		for p := range auditv1.Phase_name {
			kind, phase := auditv1.Kind(k), auditv1.Phase(p)
			r := call()
			r.Kind, r.Phase = kind, phase
			fn("whole "+kind.String()+" "+phase.String(), r)
			fn("empty "+kind.String(), Record{AuditRecord: &auditv1.AuditRecord{Kind: kind, Phase: phase}})
			for i, text := range hostile {
				if int32(i)%int32(len(auditv1.Phase_name)) != p { // each text of each kind once
					continue
				}
				fn("hostile "+kind.String(), filled(text, kind, phase))
			}
		}
	}
	unknown := call()
	unknown.Kind, unknown.Phase, unknown.Outcome, unknown.Actor = 77, 78, 79, &auditv1.Actor{Kind: 80}
	fn("of a later build", unknown)
	far := call()
	far.At, far.Duration = &timestamppb.Timestamp{Seconds: 1 << 50}, &durationpb.Duration{Seconds: -1 << 40}
	fn("at no time", far)
}

func TestALineIsOneLineThatNothingInItActsOn(t *testing.T) {
	all(func(name string, r Record) {
		for format, write := range Formats {
			line := write(r)
			if !utf8.Valid(line) {
				t.Fatalf("%s, %s: it is no UTF-8: %q", format, name, line)
			}
			if i := bytes.IndexFunc(line, hidden); i >= 0 {
				t.Fatalf("%s, %s: at %d stands what may act: %q", format, name, i, line[i:min(i+20, len(line))])
			}
			if again := write(r); !bytes.Equal(line, again) {
				t.Fatalf("%s, %s: it is written otherwise again", format, name)
			}
		}
	})
}

func TestJSONHasAllThatARecordSays(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal(JSON(call()), &got); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"id": "eu-west-1/9c5b/7", "sequence": 42.0, "stored": "2026-11-03T09:30:01.123Z", "person": "ann@example.com", "kind": "call", "phase": "completed", "at": "2026-11-03T09:30:00.123Z",
		"connector": "github", "arguments.head": `{"branch":"main"}`, "arguments.sha256": "0102ff", "result.truncated": true, "decision.verdict": "allowed", "decision.reason": "rule_allowed", "decision.rule": 2.0,
		"outcome": "ok", "duration": 1.5, "upstream_duration": 1.0, "client.address": "192.0.2.7", "latency.decision": 0.001, "authentication.acr": "phr",
	} {
		at := any(got)
		for _, part := range strings.Split(path, ".") {
			m, _ := at.(map[string]any)
			at = m[part]
		}
		if at != want {
			t.Errorf("%s is %v, not %v", path, at, want)
		}
	}
	// Each field that is set is a member, whatever is added to the contract.
	all(func(name string, r Record) {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(JSON(r), &members); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if members[string(f.Name())] == nil {
				t.Fatalf("%s: %s is missing", name, f.Name())
			}
			return true
		})
		if id := string(appendString(nil, r.ID())); string(harden(members["id"])) != string(harden([]byte(id))) {
			t.Fatalf("%s: the id is %s, not %s", name, members["id"], id)
		}
	})
}

// schema reads a published class, which then refuses attributes that it does not have.
func schema(t *testing.T, class string) *jsonschema.Resolved {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "ocsf-"+ocsfVersion, class+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]any
	if err := json.Unmarshal(data, &whole); err != nil {
		t.Fatal(err)
	}
	closed := func(s any) {
		if s := s.(map[string]any); s["properties"] != nil && s["additionalProperties"] == nil {
			s["additionalProperties"] = false
		}
	}
	closed(whole)
	for _, def := range whole["$defs"].(map[string]any) {
		closed(def)
	}
	if data, err = json.Marshal(whole); err != nil {
		t.Fatal(err)
	}
	s := &jsonschema.Schema{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

func TestOCSFIsWhatThePublishedSchemaSays(t *testing.T) {
	classes := map[float64]*jsonschema.Resolved{
		ocsfAPIActivity: schema(t, "api_activity"), ocsfAuthentication: schema(t, "authentication"), ocsfEntityManagement: schema(t, "entity_management"),
	}
	seen := map[float64]int{}
	all(func(name string, r Record) {
		var event map[string]any
		if err := json.Unmarshal(OCSF(r), &event); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		class := event["class_uid"].(float64)
		if classes[class] == nil {
			t.Fatalf("%s: it is of class %v", name, class)
		}
		seen[class]++
		if err := classes[class].Validate(event); err != nil {
			t.Fatalf("%s: %v\n%.2000s", name, err, OCSF(r))
		}
		if event["type_uid"] != class*100+event["activity_id"].(float64) {
			t.Fatalf("%s: type %v is not of class %v and activity %v", name, event["type_uid"], class, event["activity_id"])
		}
	})
	for class := range classes {
		if seen[class] == 0 {
			t.Errorf("no record is of class %v", class)
		}
	}
	// The schema does tell.
	var event map[string]any
	_ = json.Unmarshal(OCSF(call()), &event)
	for _, spoil := range []func(){func() { event["activity_id"] = 50 }, func() { event["odd"] = 1 }, func() { delete(event, "metadata") }} {
		spoil()
		if classes[ocsfAPIActivity].Validate(event) == nil {
			t.Error("a spoiled event passes")
		}
		_ = json.Unmarshal(OCSF(call()), &event)
	}
}

func TestOCSFSaysWhoDidWhatAndWhatBecameOfIt(t *testing.T) {
	get := func(r Record) map[string]any {
		var event map[string]any
		if err := json.Unmarshal(OCSF(r), &event); err != nil {
			t.Fatal(err)
		}
		return event
	}
	denied := call()
	denied.Phase, denied.Decision.Verdict, denied.Decision.Reason = auditv1.Phase_PHASE_REFUSED, auditv1.Verdict_VERDICT_DENIED, auditv1.Reason_REASON_RULE_DENIED
	failed := call()
	failed.Kind = auditv1.Kind_KIND_SIGN_IN_FAILED
	grant := Record{AuditRecord: &auditv1.AuditRecord{Kind: auditv1.Kind_KIND_CHANGE, Action: "grant_removed", Target: "grant/okta/x", Phase: auditv1.Phase_PHASE_COMPLETED}}
	authorized := call()
	authorized.Phase, authorized.Outcome = auditv1.Phase_PHASE_AUTHORIZED, 0
	for _, c := range []struct {
		name                    string
		r                       Record
		class, activity, status float64
	}{
		{"a call", call(), 6003, 99, 1}, {"a refused call", denied, 6003, 99, 2}, {"a call that begins", authorized, 6003, 99, 99}, {"a refused sign-in", failed, 3002, 1, 2}, {"a change", grant, 3004, 4, 1},
	} {
		if e := get(c.r); e["class_uid"] != c.class || e["activity_id"] != c.activity || e["status_id"] != c.status {
			t.Errorf("%s: class %v, activity %v, status %v", c.name, e["class_uid"], e["activity_id"], e["status_id"])
		}
	}
	e := get(call())
	actor := e["actor"].(map[string]any)["user"].(map[string]any)
	if actor["uid"] != "0199-ann" || actor["name"] != "ann@example.com" || e["src_endpoint"].(map[string]any)["ip"] != "192.0.2.7" || e["metadata"].(map[string]any)["uid"] != "eu-west-1/9c5b/7" {
		t.Errorf("who: %v, from %v, %v", actor, e["src_endpoint"], e["metadata"])
	}
}

// readCEF reads a line as CEF's own text says: seven fields divided by bars, then keys and values.
func readCEF(t testing.TB, line string) ([]string, map[string]string) {
	var header []string
	part := strings.Builder{}
	rest := line
	for len(header) < 7 {
		if rest == "" {
			t.Fatalf("the header ends early: %q", line)
		}
		switch {
		case rest[0] == '\\' && len(rest) > 1:
			part.WriteByte(rest[1])
			rest = rest[1:]
		case rest[0] == '|':
			header = append(header, part.String())
			part.Reset()
		default:
			part.WriteByte(rest[0])
		}
		rest = rest[1:]
	}
	key := regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`)
	values := map[string]string{}
	// An equals sign that is no divider has a backslash before it, so that no key ends there.
	at := key.FindAllStringSubmatchIndex(rest, -1)
	for i, m := range at {
		end := len(rest)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		k := rest[m[2]:m[3]]
		if _, twice := values[k]; twice {
			t.Fatalf("key %s is there twice: %q", k, line)
		}
		values[k] = strings.NewReplacer(`\\`, `\`, `\=`, `=`, `\n`, "\n", `\r`, "\r").Replace(rest[m[1]:end])
	}
	return header, values
}

func TestCEFIsReadAsItWasMeant(t *testing.T) {
	header, values := readCEF(t, string(CEF(call())))
	if strings.Join(header, ",") != "CEF:0,Sallyport,Sallyport,1,call_completed,call completed,1" {
		t.Errorf("the header is %q", header)
	}
	for key, want := range map[string]string{
		"rt": "1793698200123", "externalId": "eu-west-1/9c5b/7", "act": "allowed", "outcome": "ok", "reason": "rule_allowed", "suser": "ann@example.com", "src": "192.0.2.7", "cs1": "github", "cs1Label": "connector",
		"cs2": "push_files", "cs3": "okta/Engineers#2", "cs5": "okta/Engineers, okta/On call", "flexString1": `{"branch":"main"}`, "requestClientApplication": "Claude Code 2.1",
	} {
		if values[key] != want {
			t.Errorf("%s is %q, not %q", key, values[key], want)
		}
	}
	all(func(name string, r Record) {
		header, values := readCEF(t, string(CEF(r)))
		if header[0] != "CEF:0" || values["externalId"] == "" {
			t.Fatalf("%s: %q %q", name, header, values)
		}
		for k, v := range values {
			if len(v) > 3*cefMost {
				t.Fatalf("%s: %s has %d bytes", name, k, len(v))
			}
		}
	})
}

func TestNothingInAValueBecomesAnotherKeyOfCEF(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := call()
		r.Tool, r.Action = rapid.String().Draw(rt, "tool"), rapid.String().Draw(rt, "action")
		r.Arguments.Head = rapid.SliceOf(rapid.Byte()).Draw(rt, "arguments")
		want := len(r.Tool)
		header, values := readCEF(t, string(CEF(r)))
		if len(header) != 7 || want > 0 && values["cs2"] == "" && strings.TrimSpace(r.Tool) != "" {
			rt.Fatalf("%q: %q %q", CEF(r), header, values)
		}
		for k := range values {
			if !known[k] {
				rt.Fatalf("key %q was made up: %q", k, CEF(r))
			}
		}
	})
}

var known = func() map[string]bool {
	all := map[string]bool{}
	for _, k := range strings.Fields("rt externalId cat act outcome reason suid suser src c6a2 c6a2Label requestClientApplication requestMethod dvchost cs1 cs1Label cs2 cs2Label cs3 cs3Label cs4 cs4Label cs5 cs5Label cs6 cs6Label flexString1 flexString1Label flexString2 flexString2Label sourceServiceName cn1 cn1Label cnt in out msg") {
		all[k] = true
	}
	return all
}()

func BenchmarkFormats(b *testing.B) {
	for name, write := range Formats {
		b.Run(name, func(b *testing.B) {
			r := call()
			b.ReportAllocs()
			for b.Loop() {
				write(r)
			}
		})
	}
}
