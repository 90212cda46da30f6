package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/vault"
)

// patience is how long something may take that takes a moment.
const patience = 90 * time.Second

// settings is the state as the exporters know it.
type settings struct {
	mu   sync.Mutex
	made uint64
	all  map[string]*core.AuditExporter
}

func (s *settings) AuditExporters() iter.Seq[*core.AuditExporter] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*core.AuditExporter
	for _, e := range s.all {
		all = append(all, e)
	}
	return slices.Values(all)
}

func (s *settings) User(uuid.UUID) *core.User {
	return &core.User{Profile: core.Profile{UserName: "ann@example.com"}}
}

// set makes an exporter or changes it.
func (s *settings) set(e *policyv1.AuditExporter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	made := s.made
	if old := s.all[e.GetName()]; old != nil {
		made = old.Made
	}
	s.all[e.GetName()] = &core.AuditExporter{Settings: e, Made: made, SecretID: "exporter.1"}
}

func (s *settings) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
}

type secrets string

func (s secrets) ExporterSecret(context.Context, string, string) (vault.Secret, error) {
	return vault.NewSecret([]byte(s)), nil
}

// site is a stream with exporters.
type site struct {
	t      *testing.T
	store  *audit.Store
	kv     *kv.Store
	state  *settings
	folder string
	number uint64
	secret secrets
}

func newSite(t *testing.T) *site {
	nc := natstest.Embedded(t).Conn
	store, err := audit.Open(t.Context(), nc, audit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := kv.Open(t.Context(), nc, kv.Config{Bucket: "SALLYPORT_EXPORTERS"})
	if err != nil {
		t.Fatal(err)
	}
	return &site{t: t, store: store, kv: bucket, state: &settings{all: map[string]*core.AuditExporter{}}, folder: t.TempDir()}
}

// run runs a control plane's exporters until what it returns is called, or the test ends.
func (s *site) run(name string, open func(*core.AuditExporter, vault.Secret) (Sink, error)) (*Runner, func()) {
	r := New(Config{
		Audit: s.store, Store: s.kv, Secrets: s.secret, State: func() State { return s.state }, Name: name, Folder: s.folder, Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
		backoff: 20 * time.Millisecond, longest: 200 * time.Millisecond, openSink: open,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	end := sync.OnceFunc(func() { cancel(); <-done })
	s.t.Cleanup(end)
	return r, end
}

// append stores records of a connector, and returns their ids.
func (s *site) append(n int, change ...func(*auditv1.AuditRecord)) []string {
	s.t.Helper()
	var all []*auditv1.AuditRecord
	var ids []string
	for range n {
		s.number++
		r := &auditv1.AuditRecord{
			Number: s.number, At: timestamppb.Now(), CallId: fmt.Sprint("call-", s.number), PersonId: "0199c1d2-0000-7000-8000-000000000001", Connector: "github", Tool: "push_files", Phase: auditv1.Phase_PHASE_COMPLETED,
			Client: &auditv1.Client{Address: "192.0.2.1"}, Arguments: &auditv1.Payload{Head: []byte(`{"secret":"of hers"}`)},
		}
		for _, c := range change {
			c(r)
		}
		all = append(all, r)
		ids = append(ids, fmt.Sprintf("p1/g/%d", s.number))
	}
	if _, err := s.store.Append(s.t.Context(), "p1", "eu", "g", all); err != nil {
		s.t.Fatal(err)
	}
	return ids
}

func eventually(t *testing.T, ok func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // it is asked again
	}
}

// sink is a receiver in this process that does as it is told.
type sink struct {
	mu     sync.Mutex
	got    []string
	sends  int
	answer func(items []Item) error // nil: takes all
}

func (k *sink) Send(_ context.Context, items []Item) error {
	k.mu.Lock()
	answer := k.answer
	k.sends++
	k.mu.Unlock()
	if answer != nil {
		if err := answer(items); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, item := range items {
		k.got = append(k.got, item.ID())
	}
	return nil
}

func (k *sink) Close() error { return nil }

func (k *sink) set(answer func(items []Item) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answer = answer
}

// has says what of some records is missing.
func (k *sink) has(ids []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		if !slices.Contains(k.got, id) {
			return fmt.Errorf("%s did not come; %d of %d did", id, len(k.got), len(ids))
		}
	}
	return nil
}

func (k *sink) only(*core.AuditExporter, vault.Secret) (Sink, error) { return k, nil }

// made returns when an exporter's consumer is there: what is stored from then on is its.
func (s *site) made(name string) {
	s.t.Helper()
	eventually(s.t, func() error {
		all, err := s.store.Deliveries(s.t.Context())
		if _, there := all[name]; err == nil && !there {
			err = errors.New("there is no consumer yet")
		}
		return err
	})
}

func hookTo(name string) *policyv1.AuditExporter {
	return &policyv1.AuditExporter{Name: name, Target: policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK, Url: "https://siem.example", BatchWait: durationpb.New(10 * time.Millisecond), FromBeginning: true}
}

func TestAReceiverThatIsDownGetsAllOnceItIsBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := s.append(5)
	k := &sink{answer: func([]Item) error { return errors.New("connection refused") }}
	s.state.set(hookTo("hook"))
	r, _ := s.run("cp-1", k.only)
	all := append(before, s.append(700)...)
	eventually(t, func() error {
		st, err := r.Status(t.Context(), "hook")
		if err == nil && (st.Health != "retrying" || st.Error == "" || st.FailingSince.IsZero() || st.Lag != 705) {
			err = fmt.Errorf("the status is %+v", st)
		}
		return err
	})
	k.set(nil)
	eventually(t, func() error { return k.has(all) })
	eventually(t, func() error {
		st, err := r.Status(t.Context(), "hook")
		if err == nil && (st.Health != "running" || st.Error != "" || st.Lag != 0 || st.Sent != 705 || st.ControlPlane != "cp-1") {
			err = fmt.Errorf("the status is %+v", st)
		}
		return err
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.got, all) {
		t.Error("with nothing sent twice, records do not come in their order")
	}
}

// TestAConsumerThatSomebodyRemovesIsMadeAgain: what the exporter sends begins again where it is set to start, and goes on.
func TestAConsumerThatSomebodyRemovesIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := s.append(5)
	k := &sink{}
	s.state.set(hookTo("hook"))
	s.run("cp-1", k.only)
	eventually(t, func() error { return k.has(all) })
	if err := s.store.EndDelivery(t.Context(), "hook"); err != nil {
		t.Fatal(err)
	}
	all = append(all, s.append(5)...)
	eventually(t, func() error { return k.has(all) })
}

func TestAPoisonRecordIsPutAsideAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	for name, certain := range map[string]bool{"refused": true, "the receiver fails at it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			ids := s.append(60)
			poison := ids[17]
			refuse := func(items []Item) error {
				for _, item := range items {
					if item.ID() == poison {
						return &Refusal{Certain: certain, Text: "the receiver answered 400: odd"}
					}
				}
				return nil
			}
			k := &sink{answer: refuse}
			e := hookTo("hook")
			e.MaxTries = 3
			s.state.set(e)
			r, _ := s.run("cp-1", k.only)
			good := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == poison })
			eventually(t, func() error { return k.has(good) })
			if !certain { // only by what becomes of others does it show that the receiver is well
				good = append(good, s.append(3)...)
			}
			var dead []DeadLetter
			eventually(t, func() (err error) {
				if dead, err = r.DeadLetters(t.Context(), "hook"); err == nil && len(dead) != 1 {
					err = fmt.Errorf("%d records were put aside", len(dead))
				}
				return err
			})
			if dead[0].Sequence != 18 || dead[0].Tries != 3 || !strings.Contains(dead[0].Reason, "400: odd") {
				t.Errorf("put aside was %+v", dead[0])
			}
			good = append(good, s.append(10)...)
			eventually(t, func() error { return k.has(good) })
			if k.has([]string{poison}) == nil {
				t.Error("the record that was put aside came all the same")
			}
			// Sent again it is refused again, and says so; then the receiver takes it.
			if n, err := r.Retry(t.Context(), "hook", []uint64{18}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			eventually(t, func() (err error) {
				if dead, err = r.DeadLetters(t.Context(), "hook"); err == nil && (len(dead) != 1 || dead[0].Tries != 4 || dead[0].Retry) {
					err = fmt.Errorf("%+v", dead)
				}
				return err
			})
			k.set(nil)
			if _, err := r.Retry(t.Context(), "hook", nil); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error { return k.has([]string{poison}) })
			eventually(t, func() (err error) {
				if dead, err = r.DeadLetters(t.Context(), "hook"); err == nil && len(dead) != 0 {
					err = fmt.Errorf("still put aside: %+v", dead)
				}
				return err
			})
		})
	}
}

func TestAReceiverThatFailsAtEverythingLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ids := s.append(40)
	k := &sink{answer: func([]Item) error { return &Refusal{Text: "the receiver answered 500"} }}
	e := hookTo("hook")
	e.MaxTries = 2
	s.state.set(e)
	r, _ := s.run("cp-1", k.only)
	eventually(t, func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.sends < 100 {
			return fmt.Errorf("it was tried %d times", k.sends)
		}
		return nil
	})
	if dead, err := r.DeadLetters(t.Context(), "hook"); err != nil || len(dead) > 0 {
		t.Fatalf("of a receiver that is ill %d records were put aside, %v", len(dead), err)
	}
	k.set(nil)
	eventually(t, func() error { return k.has(ids) })
}

func TestASlowExporterHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	release := make(chan struct{})
	slow := &sink{answer: func([]Item) error { <-release; return nil }}
	quick := &sink{}
	s.state.set(hookTo("slow"))
	s.state.set(hookTo("quick"))
	s.run("cp-1", func(e *core.AuditExporter, _ vault.Secret) (Sink, error) {
		if e.Settings.GetName() == "slow" {
			return slow, nil
		}
		return quick, nil
	})
	var ids []string
	for range 10 {
		ids = append(ids, s.append(100)...) // the audit path goes on
	}
	eventually(t, func() error { return quick.has(ids) })
	if slow.has(ids[:1]) == nil {
		t.Error("the slow one was not slow")
	}
	close(release)
	eventually(t, func() error { return slow.has(ids) })
}

func TestAnotherControlPlaneGoesOnWhereOneEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := &sink{}
	s.state.set(hookTo("hook"))
	first, end := s.run("cp-1", k.only)
	ids := s.append(50)
	eventually(t, func() error { return k.has(ids) })
	second, _ := s.run("cp-2", k.only)
	second.mu.Lock()
	if len(second.running) > 0 {
		t.Error("two run the exporters at once")
	}
	second.mu.Unlock()
	end()
	ids = append(ids, s.append(50)...)
	eventually(t, func() error { return k.has(ids) })
	if len(first.running) > 0 {
		t.Error("the first still runs some")
	}
	// With an end in order nothing is sent twice.
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.got) != len(ids) {
		t.Errorf("%d records came for %d", len(k.got), len(ids))
	}
}

func TestOnlyWhatIsAskedForIsSent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var mu sync.Mutex
	lines := map[string][]string{}
	open := func(e *core.AuditExporter, _ vault.Secret) (Sink, error) {
		return &sink{answer: func(items []Item) error {
			mu.Lock()
			defer mu.Unlock()
			for _, item := range items {
				lines[e.Settings.GetName()] = append(lines[e.Settings.GetName()], string(item.Line))
			}
			return nil
		}}, nil
	}
	all, some, late, personal := hookTo("all"), hookTo("some"), hookTo("late"), hookTo("personal")
	some.Kinds, some.Connectors, some.Format = []string{"sign_in"}, []string{"jira"}, policyv1.ExportFormat_EXPORT_FORMAT_CEF
	late.FromBeginning = false
	personal.Personal = true
	s.append(3)
	for _, e := range []*policyv1.AuditExporter{all, some, late, personal} {
		s.state.set(e)
	}
	s.run("cp-1", open)
	s.made("late")
	s.append(1, func(r *auditv1.AuditRecord) { r.Connector = "jira" })
	s.append(1, func(r *auditv1.AuditRecord) { r.Connector, r.Kind = "jira", auditv1.Kind_KIND_SIGN_IN })
	s.append(1, func(r *auditv1.AuditRecord) { r.Kind = auditv1.Kind_KIND_SIGN_IN })
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(lines["all"]) != 6 || len(lines["some"]) != 1 || len(lines["late"]) != 3 || len(lines["personal"]) != 6 {
			return fmt.Errorf("sent were %d, %d, %d, %d", len(lines["all"]), len(lines["some"]), len(lines["late"]), len(lines["personal"]))
		}
		return nil
	})
	if !strings.HasPrefix(lines["some"][0], "CEF:0|") || !strings.Contains(lines["some"][0], "cs1=jira") {
		t.Errorf("the one that was asked for is %s", lines["some"][0])
	}
	for _, line := range lines["all"] {
		for _, of := range []string{"of hers", "192.0.2.1", "ann@example.com", "salt"} {
			if strings.Contains(line, of) {
				t.Errorf("%q left though nobody asked for what is personal: %s", of, line)
			}
		}
	}
	for _, of := range []string{"of hers", "192.0.2.1", "ann@example.com"} {
		if !strings.Contains(lines["personal"][0], of) {
			t.Errorf("%q is missing where what is personal was asked for: %s", of, lines["personal"][0])
		}
	}
}

func TestAnExporterThatIsMadeAgainStartsAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ids := s.append(5)
	k := &sink{answer: func(items []Item) error {
		if len(items) > 1 || items[0].ID() == ids[0] {
			return &Refusal{Certain: true, Text: "no"}
		}
		return nil
	}}
	e := hookTo("hook")
	e.MaxTries = 1
	s.state.set(e)
	r, _ := s.run("cp-1", k.only)
	eventually(t, func() error { return k.has(ids[1:]) })
	s.state.remove("hook")
	eventually(t, func() error {
		all, err := s.store.Deliveries(t.Context())
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("there are still consumers: %v", all)
		}
		return err
	})
	if dead, err := r.DeadLetters(t.Context(), "hook"); err != nil || len(dead) > 0 {
		t.Errorf("of an exporter that is no more %d records are put aside, %v", len(dead), err)
	}
	k.set(nil)
	s.state.set(e)
	eventually(t, func() error { return k.has(ids) })
}

func TestPausedItSendsNothingAndThenGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := &sink{}
	paused := hookTo("hook")
	paused.Paused, paused.FromBeginning = true, false
	s.state.set(paused)
	r, _ := s.run("cp-1", k.only)
	s.made("hook")
	ids := s.append(5)
	eventually(t, func() error {
		st, err := r.Status(t.Context(), "hook")
		if err == nil && (st.Health != "paused" || st.Lag != 5) {
			err = fmt.Errorf("the status is %+v", st)
		}
		return err
	})
	if k.sends > 0 {
		t.Error("it sent")
	}
	again := hookTo("hook")
	again.FromBeginning = false
	s.state.set(again)
	eventually(t, func() error { return k.has(ids) })
}

func TestMetricsTellHowFarItIs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.append(5)
	k := &sink{}
	s.state.set(hookTo("hook"))
	r, _ := s.run("cp-1", k.only)
	registry := prometheus.NewRegistry()
	registry.MustRegister(r)
	eventually(t, func() error {
		families, err := registry.Gather()
		if err != nil {
			return err
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		if lag, known := got["sallyport_audit_exporter_lag_records"]; got["sallyport_audit_exporter_sent_records_total"] != 5 || !known || lag != 0 {
			return fmt.Errorf("the metrics are %v", got)
		}
		return nil
	})
}

func TestFilesHoldEachRecordAndAreRotated(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	e := &policyv1.AuditExporter{Name: "archive", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, FromBeginning: true, RotateBytes: 4096, BatchRecords: 10}
	s.state.set(e)
	s.run("cp-1", nil)
	ids := s.append(200)
	var names []string
	eventually(t, func() error {
		lines, files, err := linesOf(filepath.Join(s.folder, "archive"))
		if err == nil && len(lines) != len(ids) {
			err = fmt.Errorf("the files hold %d lines of %d", len(lines), len(ids))
		}
		for i, line := range lines {
			var r struct {
				ID string `json:"id"`
			}
			if err == nil {
				err = json.Unmarshal([]byte(line), &r)
			}
			if err == nil && i < len(ids) && r.ID != ids[i] {
				err = fmt.Errorf("line %d is of %s, not %s", i, r.ID, ids[i])
			}
		}
		names = files
		return err
	})
	if len(names) < 5 || strings.HasSuffix(names[0], underWay) || !strings.HasSuffix(names[len(names)-1], underWay) {
		t.Errorf("the files are %q", names)
	}
}

// linesOf reads a folder's files in the order of their names.
func linesOf(folder string) (lines, names []string, err error) {
	names, err = filepath.Glob(filepath.Join(folder, "audit-*"))
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, err
		}
		for line := range strings.Lines(string(data)) {
			lines = append(lines, line)
		}
	}
	return lines, names, nil
}
