package access

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// TestARecordIsReadInPlaceAsItIsRead: what is picked out of the bytes of a record is what the message says.
func TestARecordIsReadInPlaceAsItIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string {
			return rapid.SampledFrom([]string{"", "a", "tools/call", "long enough to be another thing"}).Draw(t, name)
		}
		at := func(name string) *timestamppb.Timestamp {
			return rapid.SampledFrom([]*timestamppb.Timestamp{nil, {Seconds: 5}, {Seconds: -1, Nanos: 7}}).Draw(t, name)
		}
		want := &auditv1.AuditRecord{
			Proxy: text("proxy"), Number: rapid.Uint64().Draw(t, "number"), Region: text("region"), At: at("at"), CallId: text("call"), Phase: auditv1.Phase(rapid.IntRange(0, 3).Draw(t, "phase")), Method: text("method"),
			PersonId: text("person"), Connector: text("connector"), Tool: text("tool"), Sealed: []byte(text("sealed")), Erased: rapid.Bool().Draw(t, "erased"), Kind: auditv1.Kind(rapid.IntRange(0, 2).Draw(t, "kind")),
			Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: auditv1.Reason(rapid.IntRange(0, 47).Draw(t, "reason")), Text: text("why"), Asked: text("asked"), Confirmed: text("confirmed"), Budget: text("budget")},
			Client:   &auditv1.Client{Id: text("client"), Name: text("name"), Address: text("address")}, Latency: &auditv1.Latency{}, Previous: []byte(text("previous")),
		}
		for range rapid.IntRange(0, 3).Draw(t, "groups") {
			want.Groups = append(want.Groups, text("group"))
		}
		if rapid.Bool().Draw(t, "arguments") {
			want.Arguments = &auditv1.Payload{Head: []byte(text("head")), Size: 5, Truncated: rapid.Bool().Draw(t, "cut"), Masked: rapid.Bool().Draw(t, "masked"), Redacted: rapid.Bool().Draw(t, "redacted")}
		}
		if rapid.Bool().Draw(t, "authenticated") {
			want.Authentication = &auditv1.Authentication{Acr: text("acr"), Amr: []string{text("amr")}, At: at("signed in")}
		}
		data, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got recorded
		if err := got.read([]byte{0x0a, 0x01, 'x'}); err != nil { // what was read before is forgotten
			t.Fatal(err)
		}
		got.groups = append(got.groups, []byte("another's"))
		got.reset()
		if err := got.read(data); want.GetPhase() == auditv1.Phase_PHASE_COMPLETED {
			if !errors.Is(err, errCompleted) {
				t.Fatalf("a second record: %v", err)
			}
			return
		} else if err != nil {
			t.Fatal(err)
		}
		payload, decision, signedIn := want.GetArguments(), want.GetDecision(), want.GetAuthentication()
		moment := func(at *timestamppb.Timestamp) time.Time {
			if at == nil {
				return time.Time{}
			}
			return at.AsTime()
		}
		have := fmt.Sprintf("%q %q %q %q %q %q %q %q %q %q %q %v %v %v %v %v %v %v %v %v",
			got.region, got.callID, got.method, got.person, got.connector, got.tool, got.sealed, got.client, got.address, got.arguments, got.acr, got.at, got.authTime,
			got.phase, got.erased, got.kind, got.reason, got.asked, got.argumentsCut, got.authenticated)
		should := fmt.Sprintf("%q %q %q %q %q %q %q %q %q %q %q %v %v %v %v %v %v %v %v %v",
			want.GetRegion(), want.GetCallId(), want.GetMethod(), want.GetPersonId(), want.GetConnector(), want.GetTool(), want.GetSealed(), want.GetClient().GetId(), want.GetClient().GetAddress(), payload.GetHead(), signedIn.GetAcr(),
			moment(want.GetAt()), moment(signedIn.GetAt()), uint64(want.GetPhase()), want.GetErased(), uint64(want.GetKind()), decision.GetReason(), decision.GetAsked()+decision.GetConfirmed() != "",
			payload.GetTruncated() || payload.GetMasked() || payload.GetRedacted(), signedIn != nil)
		if have != should || !slices.Equal(texts(got.groups), want.GetGroups()) && len(want.GetGroups()) > 0 || !slices.Equal(texts(got.amr), signedIn.GetAmr()) && signedIn != nil {
			t.Fatalf("read %s\nwant %s\ngroups %q, want %q", have, should, got.groups, want.GetGroups())
		}
	})
}

func FuzzRecorded(f *testing.F) {
	f.Add([]byte{0x2a, 0x02, 0x08, 0x01})
	f.Add([]byte{0x72, 0x05})
	f.Fuzz(func(t *testing.T, data []byte) {
		var r recorded
		if err := r.read(data); err == nil && r.decided() && len(r.person) == 0 {
			t.Error("somebody who is nobody called")
		}
	})
}
