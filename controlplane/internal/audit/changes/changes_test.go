package changes

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/proof"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// site is a control plane and its audit, and what follows the one for the other.
type site struct {
	*enginetest.Plane
	t     testing.TB
	store *audit.Store
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t}
	_, key, err := ed25519.GenerateKey(nil)
	enginetest.Must(t, err)
	s.store, err = audit.Open(within(t), s.Conn.Conn, audit.Config{Seals: s.Vault, Key: key})
	enginetest.Must(t, err)
	return s
}

func (s *site) follower() *Follower {
	return &Follower{Log: s.Engine, Trail: s.store.Changes(s.Engine.State().Epoch(), "eu-west"), Slog: slog.New(slog.DiscardHandler)}
}

// told follows the log as far as it goes.
func (s *site) told() {
	s.t.Helper()
	if err := s.follower().follow(within(s.t), s.Engine.State().Seq()); !errors.Is(err, errDone) {
		s.t.Fatal(err)
	}
}

// records are all changes that audit has, in their order.
func (s *site) records() []*auditv1.AuditRecord {
	s.t.Helper()
	var all []*auditv1.AuditRecord
	for cursor := ""; ; {
		found, next, err := s.store.Search(within(s.t), &adminv1.AuditFilter{Proxy: audit.ChangesName}, 500, cursor)
		enginetest.Must(s.t, err)
		for _, r := range found {
			all = append(all, r.GetRecord())
		}
		if cursor = next; next == "" {
			slices.Reverse(all)
			return all
		}
	}
}

// last is the record of the newest event with a name.
func (s *site) last(action string) *auditv1.AuditRecord {
	s.t.Helper()
	s.told()
	all := s.records()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].GetAction() == action {
			return all[i]
		}
	}
	s.t.Fatalf("there is no record of %s", action)
	return nil
}

func wantSaid(t *testing.T, r *auditv1.AuditRecord, want string) {
	t.Helper()
	if got := string(r.GetArguments().GetHead()); got != want {
		t.Errorf("%s says\n%s, want\n%s", r.GetAction(), got, want)
	}
}

func TestARecordSaysWhoChangedWhatAndWhatWasBefore(t *testing.T) {
	s := newSite(t)
	s.Directory("okta")
	ann := s.User("okta", "ann@example.com")
	eng := s.Group("okta", "Engineers", ann)
	admin := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_PERSON, Id: ann.ID.String(), Role: policyv1.Role_ROLE_ADMIN}
	do := func(by *eventv1.Actor, c core.Command) {
		t.Helper()
		_, err := s.Engine.Do(within(t), by, c)
		enginetest.Must(t, err)
	}
	github := &policyv1.Connector{Id: "github", Url: "https://github.example/mcp"}
	do(admin, core.NewApplyPolicy([]*policyv1.Connector{github}, nil))
	github = &policyv1.Connector{Id: "github", Url: "https://ghe.example/mcp", Title: "GitHub"}
	do(admin, core.NewApplyPolicy([]*policyv1.Connector{github}, nil))
	r := s.last("connector_set")
	if r.GetKind() != auditv1.Kind_KIND_CHANGE || r.GetTarget() != "connector/github" || r.GetConnector() != "github" || r.GetVersion() != s.Engine.State().Seq() ||
		r.GetActor().GetKind() != auditv1.ActorKind_ACTOR_KIND_ADMIN || r.GetActor().GetId() != ann.ID.String() || r.GetCallId() == "" || r.GetAt() == nil ||
		r.GetRegion() != "eu-west" || !slices.Equal(r.GetGroups(), []string{"okta/Engineers"}) {
		t.Errorf("the record is %v", r)
	}
	wantSaid(t, r, `{"after":{"title":"GitHub","url":"https://ghe.example/mcp"},"before":{"url":"https://github.example/mcp"}}`)

	grant := func(globs ...string) core.Command {
		return core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(eng.ID, "github", []*policyv1.Rule{{Allow: globs}})})
	}
	do(admin, grant("get_*"))
	do(admin, grant("*"))
	r = s.last("grant_applied")
	wantSaid(t, r, `{"after":{"rules":[{"allow":["*"]}]},"before":{"rules":[{"allow":["get_*"]}]}}`)
	if r.GetTarget() != "grant/"+eng.ID.String() || !slices.ContainsFunc(r.GetDetails(), func(d *auditv1.Detail) bool { return d.GetKey() == "group" && d.GetValue() == "okta/Engineers" }) {
		t.Errorf("the record is %v", r)
	}

	scim := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SCIM, Id: uuid.NewString()}
	do(scim, core.UpdateUser{Directory: "okta", ID: ann.ID, Profile: core.Profile{UserName: "ann@example.com", ExternalID: ann.ExternalID, DisplayName: "Ann", Attributes: []byte(`{"title":"Boss"}`)}, Active: false})
	r = s.last("user_updated")
	wantSaid(t, r, `{"after":{"attributes.title":"Boss","displayName":"Ann"}}`)
	if r.GetPersonId() != ann.ID.String() || r.GetActor().GetKind() != auditv1.ActorKind_ACTOR_KIND_IDENTITY_PROVIDER || r.GetActor().GetId() != scim.GetId() {
		t.Errorf("the record is %v", r)
	}
	r = s.last("user_deactivated")
	wantSaid(t, r, fmt.Sprintf(`{"after":{"active":false,"generation":%d},"before":{"active":true,"generation":%d}}`, ann.Generation+1, ann.Generation))
	if r.GetKind() != auditv1.Kind_KIND_REVOCATION {
		t.Errorf("a deactivation is of kind %s", r.GetKind())
	}
	_, token := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	r = s.last("token_issued")
	if said := string(r.GetArguments().GetHead()); strings.Contains(said, "sha256") || strings.Contains(r.String(), token) || !strings.Contains(said, `"directoryId":"okta"`) {
		t.Errorf("of a token audit says %s", said)
	}
	until := time.Now().Add(time.Hour)
	do(admin, core.NewPlaceBlock(&policyv1.Block{Target: &policyv1.Block_Connector{Connector: "github"}, Reason: "leak", Until: timestamppb.New(until)}))
	if r = s.last("block_placed"); !strings.Contains(string(r.GetArguments().GetHead()), `"reason":"leak"`) {
		t.Errorf("the record is %v", r)
	}
}

func TestLaterEventsOfOneRoundSayWhatEarlierOnesMade(t *testing.T) {
	said := func(url string) core.Record {
		return core.Record{Event: &eventv1.Event{Body: &eventv1.Event_ConnectorSet{ConnectorSet: &eventv1.ConnectorSet{Connector: &policyv1.Connector{Id: "github", Url: url}}}}}
	}
	all := recordsOf(core.NewState(), []core.Record{said("https://one.example"), {Event: &eventv1.Event{Body: &eventv1.Event_Barrier{Barrier: &eventv1.Barrier{}}}}, said("https://two.example")})
	if len(all) != 2 {
		t.Fatalf("%d records", len(all))
	}
	wantSaid(t, all[1], `{"after":{"url":"https://two.example"},"before":{"url":"https://one.example"}}`)
}

func TestWhatAChangeSaysOfAPersonGoesWithThePersonAndTheChainHolds(t *testing.T) {
	s := newSite(t)
	s.Directory("okta")
	const planted = "planted-name-7c1f"
	ann := s.User("okta", planted)
	if r := s.last("user_updated"); !strings.Contains(string(r.GetArguments().GetHead()), planted) {
		t.Fatalf("the change says %q", r.GetArguments().GetHead())
	}
	if files := enginetest.OnDisk(t, s.Dir, []byte(planted)); len(files) > 0 {
		t.Fatalf("the name is in the open in %v", files)
	}
	enginetest.Must(t, s.Vault.DestroyKey(within(t), ann.ID))
	r := s.last("user_updated")
	if !r.GetErased() || r.GetArguments() != nil {
		t.Fatalf("after the erasure there is %v", r)
	}
	s.verify()
}

// verify proves the chain.
func (s *site) verify() proof.Report {
	s.t.Helper()
	_, err := s.store.Checkpoint(within(s.t), true)
	enginetest.Must(s.t, err)
	v := &proof.Verifier{}
	enginetest.Must(s.t, s.store.Export(within(s.t), time.Time{}, time.Time{}, nil, v.Add))
	enginetest.Must(s.t, v.Finish(time.Time{}, time.Time{}))
	return v.Report
}

var rounds = flag.Int("rounds", 12, "how often followers are killed")

func TestEachEventIsToldOnceWhoeverTellsIt(t *testing.T) {
	s := newSite(t)
	s.Directory("okta")
	var writing sync.WaitGroup
	enough := make(chan struct{})
	for w := range 3 {
		writing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-enough:
					return
				default:
				}
				if _, err := s.Engine.Do(within(t), enginetest.Actor, core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: fmt.Sprint("u", w, "-", i), ExternalID: fmt.Sprint(w, "-", i)}, Active: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Three followers at a time, each of which ends at any moment, as a control plane does that is killed.
	for range *rounds {
		ctx, cancel := context.WithCancel(within(t))
		var following sync.WaitGroup
		for range 3 {
			following.Go(func() { _ = s.follower().follow(ctx, 0) })
		}
		time.AfterFunc(rand.N(250*time.Millisecond), cancel)
		following.Wait()
		cancel()
	}
	close(enough)
	writing.Wait()
	s.told()
	versions := map[uint64]int{}
	records := s.records()
	for i, r := range records {
		versions[r.GetVersion()]++
		if r.GetNumber() != uint64(i)+1 || i > 0 && r.GetVersion() <= records[i-1].GetVersion() {
			t.Fatalf("record %d has number %d and version %d", i, r.GetNumber(), r.GetVersion())
		}
	}
	for v := uint64(1); v <= s.Engine.State().Seq(); v++ {
		if versions[v] != 1 { // nothing is a barrier where one control plane writes
			t.Errorf("event %d was told %d times", v, versions[v])
		}
	}
	if report := s.verify(); report.Records != uint64(len(records)) {
		t.Fatalf("the proof is over %d records, want %d", report.Records, len(records))
	}
	t.Logf("%d events, each told once", len(records))
}

// TestEveryEventIsNamed fails where an event comes to be known that says nothing of itself.
func TestEveryEventIsNamed(t *testing.T) {
	fields := (&eventv1.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	s := newSite(t).Engine.State()
	for i := range fields.Len() {
		ev := &eventv1.Event{Id: uuid.NewString()}
		m := ev.ProtoReflect()
		m.Set(fields.Get(i), m.NewField(fields.Get(i)))
		for _, r := range recordsOf(s, []core.Record{{Seq: 7, Event: ev}}) {
			if r.GetAction() != string(fields.Get(i).Name()) || r.GetTarget() == "" || r.GetVersion() != 7 {
				t.Errorf("%s became %v", fields.Get(i).Name(), r)
			}
		}
	}
}

func TestWhatIsLongIsShort(t *testing.T) {
	many := make([]any, 100)
	for i := range many {
		many[i] = strings.Repeat("é", 1000)
	}
	p := change{after: facts{"globs": many}}.payload()
	said := map[string]map[string][]string{}
	if p.GetTruncated() || json.Unmarshal(p.GetHead(), &said) != nil || len(said["after"]["globs"]) != maxList+1 {
		if !p.GetTruncated() || len(p.GetHead()) != headBytes || p.GetSize() <= headBytes {
			t.Fatalf("%d bytes are kept of %d", len(p.GetHead()), p.GetSize())
		}
	}
	if size := proto.Size(p); size > headBytes+200 {
		t.Fatalf("the payload has %d bytes", size)
	}
}
