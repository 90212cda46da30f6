package fleet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

func TestRecordsOfADeliveryStayAsTheyCame(t *testing.T) {
	sent := &fleetv1.DeliverAuditRequest{SpoolGeneration: "g1", Records: []*auditv1.AuditRecord{{Number: 1, Tool: "one"}, {}, {Number: 3, Tool: "three"}}}
	b, err := proto.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	got := &fleetv1.DeliverAuditRequest{}
	if err := (undecoded{}).Unmarshal(b, got); err != nil || got.GetSpoolGeneration() != "g1" || len(got.GetRecords()) > 0 {
		t.Fatalf("read %v, %v", got, err)
	}
	clear(b) // which is connect's to use again
	want, err := encodedRecords(sent)
	if err != nil || len(want) != 3 {
		t.Fatalf("of a client that speaks JSON: %d records, %v", len(want), err)
	}
	if all, err := encodedRecords(got); err != nil || !slices.EqualFunc(all, want, slices.Equal[[]byte]) {
		t.Errorf("as they came: %q, %v, want %q", all, err, want)
	}
	for name, b := range map[string][]byte{"cut off": {0x12, 5, 1}, "no tag": {0}, "another kind": {0x0a}} {
		if err := (undecoded{}).Unmarshal(b, &fleetv1.DeliverAuditRequest{}); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
	if err := (undecoded{}).Unmarshal(nil, &fleetv1.Hello{}); err == nil {
		t.Error("another message is taken for a delivery")
	}
}

func TestOfUsesThatAreAlikeTheFirstAndTheLastAreTold(t *testing.T) {
	at := func(second int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: second} }
	record := func(second int64, person, connector string, phase auditv1.Phase) []byte {
		b, err := proto.Marshal(&auditv1.AuditRecord{
			At: at(second), PersonId: person, Connector: connector, Phase: phase, Client: &auditv1.Client{Id: "code"}, Kind: auditv1.Kind_KIND_LIST, Tool: "secret", Groups: []string{"okta/One"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const authorized, refused = auditv1.Phase_PHASE_AUTHORIZED, auditv1.Phase_PHASE_REFUSED
	uses := usesOf([][]byte{
		record(5, "ann", "github", authorized), record(2, "ann", "github", authorized), record(9, "ann", "github", authorized), record(3, "ann", "jira", authorized),
		record(4, "bob", "github", authorized), record(6, "ann", "github", refused), {},
	})
	var got []string
	for _, u := range uses {
		if u.GetTool() != "" || u.GetGroups() != nil {
			t.Errorf("more is told than who used what: %v", u)
		}
		got = append(got, fmt.Sprint(u.GetPersonId(), u.GetClient().GetId(), u.GetConnector(), u.GetPhase().Number(), u.GetKind().Number(), u.GetAt().AsTime().Sub(time.Unix(0, 0)).Seconds()))
	}
	slices.Sort(got)
	want := []string{"0 0 0", "anncodegithub1 1 2", "anncodegithub1 1 9", "anncodegithub3 1 6", "anncodejira1 1 3", "bobcodegithub1 1 4"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
