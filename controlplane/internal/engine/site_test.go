package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/vault"
)

// failer is a test or a property's run.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

var actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}

// parts are what an engine runs on.
type parts struct {
	journal *journal.Journal
	vault   *vault.Vault
	shared  *kv.Store
}

func newParts(t failer, conn *natsconn.Conn, dir string, replicas int) parts {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	secrets, err := kv.Open(ctx, conn.Conn, kv.Config{Bucket: "VAULT", Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(ctx, secrets, vault.Config{Keys: []string{"file:" + filepath.Join(dir, "kek.json")}})
	if err != nil {
		t.Fatal(err)
	}
	shared, err := kv.Open(ctx, conn.Conn, kv.Config{Bucket: "SHARED", Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(ctx, conn.Conn, journal.Config{Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return parts{j, v, shared}
}

// start opens an engine and starts the log and a directory on it.
func start(t failer, c engine.Config, round engine.Round) *engine.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := engine.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	e.Start(round)
	for _, c := range []core.Command{core.StartLog{Epoch: "epoch"}, core.NewSetDirectory(&policyv1.Directory{Id: "okta"})} {
		if _, err := e.Do(ctx, actor, c); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func newUser(name string) core.Command {
	return core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: name, ExternalID: "00u-" + name, Email: name + "@corp.example"}, Active: true}
}

func newGroup(name string) core.Command {
	return core.CreateGroup{Directory: "okta", DisplayName: name}
}

// dump is all of a state that can be told from outside.
func dump(t failer, s *core.State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// logOf reads the log from its beginning, as it lies there. A conflict tells where it ends.
func logOf(t failer, p parts) []core.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	last, err := p.journal.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var all []core.Record
	over := errors.New("read")
	err = p.journal.Follow(ctx, 0, func(records []journal.Record) error {
		for _, r := range records {
			ev := &eventv1.Event{}
			if err := proto.Unmarshal(r.Data, ev); err != nil {
				return err
			}
			all = append(all, core.Record{Seq: r.Seq, Event: ev})
		}
		if records[len(records)-1].Seq >= last {
			return over
		}
		return nil
	})
	if !errors.Is(err, over) {
		t.Fatalf("reading the log: %v", err)
	}
	return all
}

// rebuilt is the state that another engine makes of the log alone.
func rebuilt(t failer, p parts) *core.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	e, err := engine.Open(ctx, engine.Config{Journal: p.journal, Seals: p.vault})
	if err != nil {
		t.Fatal(err)
	}
	return e.State()
}

// hub connects engines of one process as their peers; the test says who believes to be the writer.
type hub struct {
	mu      sync.Mutex
	tell    map[string]func(holder string, mine bool)
	serve   map[string]func(context.Context, []byte) []byte
	holders map[string]string // what each believes
	// lose says whether a request, or its answer, is lost; nil: never.
	lose func(answer bool) bool
}

func newHub() *hub {
	return &hub{tell: map[string]func(string, bool){}, serve: map[string]func(context.Context, []byte) []byte{}, holders: map[string]string{}}
}

// believe makes a peer believe that another, or itself, is the active writer.
func (h *hub) believe(who, holder string) {
	h.mu.Lock()
	h.holders[who] = holder
	tell := h.tell[who]
	h.mu.Unlock()
	if tell != nil {
		tell(holder, holder == who)
	}
}

type peer struct {
	*hub
	id string
}

func (p peer) Campaign(ctx context.Context, fn func(holder string, mine bool)) {
	p.mu.Lock()
	p.tell[p.id] = fn
	holder := p.holders[p.id]
	p.mu.Unlock()
	fn(holder, holder == p.id)
	<-ctx.Done()
}

func (p peer) Request(ctx context.Context, to string, data []byte) ([]byte, error) {
	p.mu.Lock()
	serve, lose := p.serve[to], p.lose
	p.mu.Unlock()
	if serve == nil {
		return nil, fmt.Errorf("%s does not answer", to)
	}
	if lose != nil && lose(false) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	answer := serve(ctx, data)
	if lose != nil && lose(true) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return answer, nil
}

func (p peer) Serve(ctx context.Context, answer func(context.Context, []byte) []byte) error {
	p.mu.Lock()
	p.serve[p.id] = func(_ context.Context, data []byte) []byte { return answer(ctx, data) }
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func eventually(t *testing.T, what string, done func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
