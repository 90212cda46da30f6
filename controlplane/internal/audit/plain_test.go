package audit

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// whole is a record with all that proxies say.
func whole(number uint64) *auditv1.AuditRecord {
	d := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	return &auditv1.AuditRecord{
		Proxy: "said", SpoolGeneration: "said", Number: number, Region: "said", At: timestamppb.Now(), CallId: "c", Phase: auditv1.Phase_PHASE_COMPLETED, Method: "tools/call",
		PersonId: "0191f7a2-0000-7000-8000-000000000001", Groups: []string{"okta/One", "okta/Zwö"}, Client: &auditv1.Client{Id: "i", Name: "n", Version: "v", Address: "192.0.2.7"},
		Connector: "github", Tool: "push", Arguments: &auditv1.Payload{Head: []byte(`{"a":1}`), Size: 7, Sha256: make([]byte, 32), Masked: true},
		Result:   &auditv1.Payload{Head: []byte{0xff}, Size: 1, Truncated: true},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED, Group: "okta/One", Rule: 2, Text: "t"}, SnapshotVersion: 12,
		Outcome: auditv1.Outcome_OUTCOME_OK, Error: "e", Duration: d(3), UpstreamDuration: d(2), TraceId: "t", Revision: "r", Kind: auditv1.Kind_KIND_LIST,
		Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_PROXY, Id: "a"}, Session: "s", Authentication: &auditv1.Authentication{Acr: "a", Amr: []string{"x", "y"}, At: timestamppb.Now()},
		Action: "a", Target: "t", Version: 3, Latency: &auditv1.Latency{Decision: d(1), Upstream: d(2)}, RequestBytes: 4, ResponseBytes: 5, Lost: 6,
		Details: []*auditv1.Detail{{Key: "k", Value: "v"}, {Key: "l"}},
	}
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// same tells how a record that was cut differs from the same one that was decoded, beside the salt.
func same(t *testing.T, s *Store, b []byte) (plain bool) {
	t.Helper()
	c := newCutter("p", "eu", "g", [][]byte{b})
	got, plain, err := s.cut(t.Context(), c, b)
	if err != nil {
		t.Fatalf("cut: %v", err)
	}
	if !plain {
		return false
	}
	r := &auditv1.AuditRecord{}
	if err := proto.Unmarshal(b, r); err != nil {
		t.Fatalf("it was cut, and nobody can decode it: %v", err)
	}
	r.Proxy, r.Region, r.SpoolGeneration = "p", "eu", "g"
	want, err := s.divide(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.number != want.number || got.subject != want.subject {
		t.Errorf("record %d lies at %s, want %d at %s", got.number, got.subject, want.number, want.subject)
	}
	read := func(m message) *auditv1.AuditRecord {
		core, all := &auditv1.AuditRecord{}, &auditv1.AuditRecord{}
		if err := proto.Unmarshal(m.core, core); err != nil {
			t.Fatal(err)
		}
		if core.GetArguments() != nil || core.GetResult() != nil || core.GetSalt() != nil || core.GetClient().GetAddress() != "" {
			t.Errorf("the core says of a person: %v", core)
		}
		if err := proto.Unmarshal(slices.Concat(m.core, m.behind), all); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(m.behind); len(m.behind) > 0 && !bytes.Equal(sum[:], core.GetPersonalSha256()) || len(m.behind) > 0 && len(all.GetSalt()) != saltSize {
			t.Errorf("the digest of what is behind is %x, said %x", sum, core.GetPersonalSha256())
		}
		all.Salt, all.PersonalSha256 = nil, nil
		return all
	}
	if got, want := read(got), read(want); !proto.Equal(got, want) {
		t.Errorf("cut: %v\ndecoded: %v", got, want)
	}
	if (got.behind == nil) != (want.behind == nil) {
		t.Errorf("behind it is %x, want %x", got.behind, want.behind)
	}
	return true
}

func TestARecordThatIsCutIsTheSameAsOneThatIsDecoded(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	for name, r := range map[string]*auditv1.AuditRecord{
		"whole": whole(7), "empty": {}, "a number alone": {Number: 1}, "an address alone": {Client: &auditv1.Client{Address: "::1"}}, "a client alone": {Client: &auditv1.Client{Id: "x"}},
		"no arguments": {Arguments: &auditv1.Payload{}}, "an odd connector": {Connector: "a.b *"}, "denied": {Decision: &auditv1.Decision{Text: "t", Verdict: auditv1.Verdict_VERDICT_DENIED}},
	} {
		if !same(t, s, encoded(t, r)) {
			t.Errorf("%s: it is not of the ordinary form", name)
		}
	}
	// As a spool has it: whose it is lies behind the rest, perhaps once more.
	b := appendField(appendField(encoded(t, whole(7)), fieldProxy, []byte("q")), fieldRegion, []byte("r"))
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldNumber, protowire.VarintType), 8)
	if !same(t, s, b) {
		t.Error("with the spool's stamp it is not of the ordinary form")
	}
	// Two subjects in one delivery.
	c := newCutter("p", "eu", "g", [][]byte{b, b})
	for _, connector := range []string{"github", "jira", "github"} {
		m, _, _ := s.cut(t.Context(), c, encoded(t, &auditv1.AuditRecord{Connector: connector}))
		if want := "sallyport.audit.eu.p." + connector + ".-"; m.subject != want {
			t.Errorf("it lies at %s, want %s", m.subject, want)
		}
	}
}

// TestWhatIsNotOfTheOrdinaryFormIsDecoded has what two readers might read differently, what only the store sets, and what is no record.
func TestWhatIsNotOfTheOrdinaryFormIsDecoded(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	b := encoded(t, whole(1))
	text := func(number protowire.Number, value string) []byte {
		return appendField(slices.Clone(b), number, []byte(value))
	}
	for name, b := range map[string][]byte{
		"a field twice": text(8, "tools/list"), "arguments twice": text(fieldArguments, ""), "a field that nobody knows": text(100, "x"), "a large number": text(1000, "x"),
		"sealed": text(24, "x"), "a digest": text(fieldDigest, "x"), "previous": text(60, "x"), "salt": text(fieldSalt, "x"),
		"erased":             protowire.AppendVarint(protowire.AppendTag(slices.Clone(b), fieldErased, protowire.VarintType), 1),
		"another kind":       protowire.AppendVarint(protowire.AppendTag(nil, 8, protowire.VarintType), 1),
		"a group":            protowire.AppendTag(nil, 8, protowire.StartGroupType),
		"a large bool":       appendField(nil, fieldResult, []byte{0x20, 2}),
		"a large enum":       {0x38, 0xff, 0xff, 0xff, 0xff, 0x1f},
		"a long number":      {0x38, 0x81, 0},
		"a long tag":         {0xb8, 0, 1},
		"a long tag alone":   {0xb8, 0x80, 0},
		"a long length":      {0x42, 0x81, 0, 'x'},
		"conditions' values": encoded(t, &auditv1.AuditRecord{ConditionValues: []byte("x")}),
		"no UTF-8":           appendField(nil, 8, []byte{0xff}),
		"no UTF-8 deep in":   appendField(nil, fieldClient, appendField(nil, 2, []byte{0xff})),
		"an unknown deep":    appendField(nil, fieldClient, appendField(nil, 99, nil)),
		"twice deep in":      appendField(nil, fieldClient, appendField(appendField(nil, 2, nil), 2, nil)),
		"cut off":            b[:len(b)-1],
		"cut off deep in":    appendField(nil, fieldClient, []byte{0x0a, 5}),
		"a whole value":      encoded(t, &auditv1.AuditRecord{Result: &auditv1.Payload{Whole: []byte("x")}}),
		"a place of values":  encoded(t, &auditv1.AuditRecord{Arguments: &auditv1.Payload{Object: "7/x"}}),
		"why it is not":      encoded(t, &auditv1.AuditRecord{Arguments: &auditv1.Payload{NotKept: "x"}}),
		"no record at all":   []byte("hello"),
		"no tag":             {0},
		"an endless number":  bytes.Repeat([]byte{0xff}, 11),
	} {
		if same(t, s, b) {
			t.Errorf("%s: it is taken for the ordinary form", name)
		}
	}
	if _, err := s.Take(t.Context(), "p", "eu", "g", [][]byte{[]byte("hello")}); err == nil {
		t.Error("what is no record is stored")
	}
	odd := appendField(encoded(t, whole(1)), 100, []byte("x"))
	if got, err := s.Take(t.Context(), "p", "eu", "g", [][]byte{odd, encoded(t, whole(2)), encoded(t, whole(3))}); err != nil || got != 3 {
		t.Errorf("an odd record among others: acknowledged %d, %v", got, err)
	}
	if got, err := s.Take(t.Context(), "p", "eu", "g", [][]byte{encoded(t, whole(4)), encoded(t, whole(6))}); err == nil {
		t.Errorf("numbers that do not follow: acknowledged %d", got)
	}
}

// TestEachFieldOfARecordIsOfProxiesOrTheStores: a new field is of the ordinary form only once somebody thought of what the store does with it.
func TestEachFieldOfARecordIsOfProxiesOrTheStores(t *testing.T) {
	for _, of := range []struct {
		message        proto.Message
		plain, special []protowire.Number
	}{
		{&auditv1.AuditRecord{}, plainFields, []protowire.Number{24, fieldErased, 55, 60, fieldDigest, fieldSalt}},
		{&auditv1.Payload{}, plainPayload, []protowire.Number{6, 60, 61}},
	} {
		fields := of.message.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if f := fields.Get(i); slices.Contains(of.plain, f.Number()) == slices.Contains(of.special, f.Number()) {
				t.Errorf("%s (%d) is neither of the ordinary form nor known not to be", f.FullName(), f.Number())
			}
		}
	}
}

func FuzzCut(f *testing.F) {
	b := encoded(f, whole(1))
	f.Add(b)
	f.Add(b[:40])
	f.Add(appendField(nil, fieldClient, appendField(appendField(nil, fieldAddress, []byte("::1")), 1, []byte("x"))))
	f.Add(encoded(f, &auditv1.AuditRecord{Client: &auditv1.Client{Address: "::1", Id: "x"}}))
	f.Fuzz(func(t *testing.T, b []byte) { same(t, &Store{}, b) })
}
