package audit

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// TestASearchByTimeFindsWhatAProxyWithAWrongClockRecorded, at each control plane.
func TestASearchByTimeFindsWhatAProxyWithAWrongClockRecorded(t *testing.T) {
	nc := natstest.Embedded(t).Conn
	s, other := open(t, nc, 1), open(t, nc, 1)
	mustAppend(t, s, "p", "g", 1, 20, 20)
	if s.clocks.known() != 0 {
		t.Fatalf("clocks are %v apart, and none is wrong", s.clocks.known())
	}
	real := time.Now()
	number := uint64(20)
	for _, off := range []time.Duration{time.Minute, -26 * time.Hour, 26 * time.Hour, 0, 400 * 24 * time.Hour, 200 * 365 * 24 * time.Hour, 0} {
		at := real.Add(off)
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		for i, ms := 0, at.UnixMilli(); i < 6; i++ { // as the proxy would have made it then
			id[i] = byte(ms >> (8 * (5 - i)))
		}
		number++
		r := &auditv1.AuditRecord{Number: number, At: timestamppb.New(at), CallId: id.String(), Connector: "github"}
		if _, err := s.Append(within(t), "p", "eu-west", "g", []*auditv1.AuditRecord{r}); err != nil {
			t.Fatal(err)
		}
		for name, store := range map[string]*Store{"the one that stored it": s, "another": other} {
			for what, f := range map[string]*adminv1.AuditFilter{
				"time": {Since: timestamppb.New(at.Add(-time.Second)), Until: timestamppb.New(at.Add(time.Second)), CallId: ""}, "call": {CallId: id.String()},
			} {
				found, _, err := pages(within(t), store, f, 10)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(found, number) { // which is its sequence too
					t.Errorf("a clock off by %v: %s does not find record %d by %s, but %d others", off, name, number, what, len(found))
				}
			}
		}
		if off == time.Minute && s.clocks.known() != 0 {
			t.Error("a clock that is off by a minute has searches look further back")
		}
	}
}

// TestAStreamsClockThatGoesBackIsNotedBeforeAnythingIsStoredByIt, and checkpoints, by whose times exports begin and end, do not go back.
func TestAStreamsClockThatGoesBackIsNotedBeforeAnythingIsStoredByIt(t *testing.T) {
	nc := natstest.Embedded(t).Conn
	s, err := Open(within(t), nc, Config{Key: testKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "p", "g", 1, 20, 20)
	first, err := s.Checkpoint(within(t), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, jump := range []time.Duration{-24 * time.Hour, -24*time.Hour + time.Second, 24 * time.Hour, -24 * time.Hour, 0} {
		s.clocks.clock = func() time.Time { return time.Now().Add(jump) }
		n := uint64(21)
		if last, err := s.Last(within(t)); err == nil {
			n = last + 1
		}
		mustAppend(t, s, "p", "g", n, n+9, n+9)
		next, err := s.Checkpoint(within(t), false)
		if err != nil {
			t.Fatal(err)
		}
		if next.GetAt().AsTime().Before(first.GetAt().AsTime()) || next.GetSequence() != n+9 {
			t.Errorf("after %v the checkpoint of %v follows one of %v", jump, next.GetAt().AsTime(), first.GetAt().AsTime())
		}
		first = next
	}
	if apart := s.clocks.known(); apart < 48*time.Hour || apart > 10*24*time.Hour {
		t.Errorf("clocks are noted to be %v apart", apart)
	}
	if again := open(t, nc, 1); again.clocks.known() != s.clocks.known() {
		t.Errorf("another control plane knows of %v", again.clocks.known())
	}
}

func TestTheTimeOfARecordIsReadFromItsBytes(t *testing.T) {
	for _, core := range [][]byte{nil, {0xff}, {0x2a, 0x02, 0x08}, {0x2a, 0x01, 0x00}, {0x32, 0x03, 'a', 'b', 'c'}} {
		if at := saidAt(core); !at.IsZero() {
			t.Errorf("%x says %v", core, at)
		}
	}
	far := []byte{0x2a, 0x0b, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01} // a second before 1970
	if at := saidAt(far); at.After(time.Unix(0, 0)) {
		t.Errorf("%v", at)
	}
}
