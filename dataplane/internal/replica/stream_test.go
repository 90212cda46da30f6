package replica

import (
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

func connectorEntry(id string) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: id, Url: "http://u"}}}
}

func digestOf(entries ...*fleetv1.Entry) []byte {
	var d policy.Digest
	for _, e := range entries {
		d.Add(e)
	}
	return d.Bytes()
}

func chunk(epoch string, version uint64, last bool, digest []byte, entries ...*fleetv1.Entry) *fleetv1.SyncResponse {
	return &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Chunk{Chunk: &fleetv1.SnapshotChunk{
		Epoch: epoch, Version: version, Entries: entries, Last: last, Digest: digest,
	}}}
}

func delta(from, to uint64, digest []byte, changed ...*fleetv1.Entry) *fleetv1.SyncResponse {
	return &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Delta{Delta: &fleetv1.Delta{
		FromVersion: from, Version: to, Changed: changed, Digest: digest,
	}}}
}

// heartbeat answers the first message of a stream, its Hello.
func heartbeat(fenced uint64) *fleetv1.SyncResponse { return answer(fenced, 1) }

func answer(fenced, mark uint64) *fleetv1.SyncResponse {
	return &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Heartbeat{Heartbeat: &fleetv1.Heartbeat{
		FencedVersion: fenced, Lease: durationpb.New(time.Minute), Mark: mark,
	}}}
}

func welcome(epoch string) *fleetv1.SyncResponse {
	return &fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Welcome{Welcome: &fleetv1.Welcome{Epoch: epoch}}}
}

// script is a stream whose messages a test says by hand.
type script struct {
	t *testing.T
	*stream
	now time.Time
}

func newScript(t *testing.T, messages ...*fleetv1.SyncResponse) *script {
	s := &script{t: t, now: time.Now()}
	r := New(Config{Now: func() time.Time { return s.now }, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	s.stream = &stream{r: r, acks: newAcks(), marks: &marks{}}
	s.marks.next(s.now)
	s.say(messages...)
	return s
}

func (s *script) say(messages ...*fleetv1.SyncResponse) {
	s.t.Helper()
	for _, m := range messages {
		if err := s.take(m); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *script) wantUsable(want bool) {
	s.t.Helper()
	if _, err := s.r.Usable(s.now); (err == nil) != want {
		s.t.Errorf("usable: %v", err)
	}
}

func TestAHeartbeatAheadOfWhatIsEnforcedDoesNotRenewTheLease(t *testing.T) {
	s := newScript(t, welcome("e"), chunk("e", 5, true, digestOf()), heartbeat(6))
	s.wantUsable(false)
	s.say(heartbeat(5))
	s.wantUsable(true)
}

// TestALeaseCountsFromWhatTheControlPlaneHadRead: a heartbeat that was on its way for long gives what is left, and one
// that answers nothing that was sent gives nothing.
func TestALeaseCountsFromWhatTheControlPlaneHadRead(t *testing.T) {
	s := newScript(t, welcome("e"), chunk("e", 5, true, digestOf()))
	s.say(answer(5, 0), answer(5, 2))
	s.wantUsable(false)
	s.now = s.now.Add(50 * time.Second)
	second := s.marks.next(s.now)
	s.say(heartbeat(5))
	s.wantUsable(true)
	s.now = s.now.Add(9 * time.Second)
	s.wantUsable(true)
	s.now = s.now.Add(time.Second)
	s.wantUsable(false)
	s.say(answer(5, second))
	s.wantUsable(true)
	s.say(heartbeat(5)) // an older one is no answer any more
	s.now = s.now.Add(49 * time.Second)
	s.wantUsable(true)
	s.now = s.now.Add(time.Second)
	s.wantUsable(false)
}

func TestMessagesThatNothingAnswersAreForgotten(t *testing.T) {
	var m marks
	now := time.Now()
	for range 3 * maxMarks {
		m.next(now)
	}
	if _, known := m.when(2 * maxMarks); known || len(m.sent) > maxMarks {
		t.Errorf("%d are kept", len(m.sent))
	}
	if _, known := m.when(3 * maxMarks); !known {
		t.Error("the newest is not known")
	}
}

func TestAChangeOrAnotherSnapshotOfTheLogNeitherEndsNorRenewsTheLease(t *testing.T) {
	a := connectorEntry("a")
	s := newScript(t, welcome("e"), chunk("e", 5, true, digestOf()), heartbeat(5))
	s.now = s.now.Add(50 * time.Second)
	s.say(delta(5, 6, digestOf(a), a), chunk("e", 6, true, digestOf(a), a))
	s.wantUsable(true)
	s.now = s.now.Add(10 * time.Second)
	s.wantUsable(false)
}

func TestAnotherLogsSnapshotWaitsForItsOwnHeartbeat(t *testing.T) {
	s := newScript(t, welcome("e"), chunk("e", 5, true, digestOf()), heartbeat(5))
	next := &script{t: t, stream: &stream{r: s.r, acks: newAcks(), marks: &marks{}}, now: s.now}
	next.marks.next(next.now)
	next.say(welcome("f"))
	next.wantUsable(true) // until it is replaced
	next.say(heartbeat(9))
	if err := next.take(delta(5, 6, digestOf())); err == nil {
		t.Error("a change of another log was taken")
	}
	next.say(chunk("f", 1, true, digestOf()))
	next.wantUsable(false)
	next.say(heartbeat(1))
	next.wantUsable(true)
}

func TestATableThatDriftedDecidesNothingUntilAFullSnapshot(t *testing.T) {
	a, b := connectorEntry("a"), connectorEntry("b")
	s := newScript(t, welcome("e"), chunk("e", 5, true, digestOf()), heartbeat(5))
	var told []bool
	s.r.Subscribe(func(c Change) { told = append(told, c.Table != nil) })
	s.say(delta(5, 6, digestOf(b), a))
	s.wantUsable(false)
	if h := s.r.hello(); h.GetVersion() != 0 || h.GetDigest() != nil {
		t.Errorf("a reconnect would say %v", h)
	}
	s.say(delta(6, 7, digestOf(a, b), b), heartbeat(5)) // on its way already
	s.wantUsable(false)
	s.say(chunk("e", 7, true, digestOf(a, b), a, b))
	s.wantUsable(true)
	if len(told) != 3 || !told[0] || told[1] || !told[2] {
		t.Errorf("subscribers were told %v", told)
	}
}

func TestAStreamThatBreaksTheOrderIsRefused(t *testing.T) {
	a := connectorEntry("a")
	for what, messages := range map[string][]*fleetv1.SyncResponse{
		"no welcome":                  {heartbeat(1)},
		"welcome without a log":       {welcome("")},
		"two welcomes":                {welcome("e"), welcome("e")},
		"a change before a snapshot":  {welcome("e"), delta(1, 2, digestOf())},
		"another log's chunk":         {welcome("e"), chunk("f", 1, true, digestOf())},
		"chunks of two versions":      {welcome("e"), chunk("e", 1, false, nil), chunk("e", 2, true, digestOf())},
		"something between chunks":    {welcome("e"), chunk("e", 1, false, nil), heartbeat(1)},
		"a snapshot's digest differs": {welcome("e"), chunk("e", 1, true, digestOf(a))},
		"a lower snapshot":            {welcome("e"), chunk("e", 5, true, digestOf()), chunk("e", 4, true, digestOf())},
		"a change to a lower version": {welcome("e"), chunk("e", 5, true, digestOf()), delta(5, 4, digestOf())},
		"a change from elsewhere":     {welcome("e"), chunk("e", 5, true, digestOf()), delta(6, 7, digestOf())},
		"a message from the future":   {welcome("e"), {}},
	} {
		s := newScript(t)
		var err error
		for _, m := range messages {
			err = errors.Join(err, s.take(m))
		}
		if err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}
