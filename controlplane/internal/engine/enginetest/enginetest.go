// Package enginetest gives tests the inner parts of a control plane, wired as production wires them: an engine
// over an embedded server that syncs each write, with vault and key-value beside it.
//
// What listens does so on loopback, and all ends with its test. It is for tests only.
package enginetest

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/vault"
)

// Actor is who makes the changes that a test makes itself.
var Actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}

// Plane is the inner parts of one control plane.
type Plane struct {
	// Dir is the data folder: whatever is stored is in it.
	Dir    string
	Conn   *natsconn.Conn
	Vault  *vault.Vault
	Shared *kv.Store
	Events *journal.Journal
	Engine *engine.Engine
	Log    *slog.Logger

	t testing.TB
}

// New opens a control plane in a folder of its own and starts its log in the epoch "epoch". Its engine takes
// commands after Start.
func New(t testing.TB) *Plane {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p := &Plane{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), t: t}
	p.Conn = natstest.Open(t, natsconn.Config{DataDir: p.Dir})
	secrets, err := kv.Open(ctx, p.Conn.Conn, kv.Config{Bucket: "VAULT"})
	Must(t, err)
	p.Vault, err = vault.Open(ctx, secrets, vault.Config{Keys: []string{"file:" + filepath.Join(p.Dir, "key-encryption-key.json")}, Log: p.Log})
	Must(t, err)
	p.Shared, err = kv.Open(ctx, p.Conn.Conn, kv.Config{Bucket: "SHARED"})
	Must(t, err)
	p.Events, err = journal.Open(ctx, p.Conn.Conn, journal.Config{Log: p.Log})
	Must(t, err)
	p.Engine, err = engine.Open(ctx, engine.Config{
		Journal: p.Events, Seals: p.Vault, Log: p.Log, Checkpoints: &engine.Checkpoints{Path: filepath.Join(p.Dir, "checkpoint"), Blobs: p.Vault},
	})
	Must(t, err)
	return p
}

// Start lets the engine take commands until the test ends, and starts the log.
func (p *Plane) Start(round engine.Round) *Plane {
	p.t.Helper()
	p.Engine.Start(round)
	p.t.Cleanup(p.Engine.Close)
	p.Do(core.StartLog{Epoch: "epoch"})
	return p
}

// Do makes a change that must be possible.
func (p *Plane) Do(c core.Command) engine.Outcome {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	out, err := p.Engine.Do(ctx, Actor, c)
	if err != nil {
		p.t.Fatalf("%T: %v", c, err)
	}
	return out
}

// Directory makes directories of these ids.
func (p *Plane) Directory(ids ...string) {
	p.t.Helper()
	for _, id := range ids {
		p.Do(core.NewSetDirectory(&policyv1.Directory{Id: id}))
	}
}

// Token issues a token: for admins, it is an owner's; for SCIM, name is the directory; for a proxy, it is the proxy's in region us-east.
func (p *Plane) Token(kind eventv1.TokenKind, name string) (id uuid.UUID, token string) {
	p.t.Helper()
	id, token, sum, err := bearer.New(kind)
	Must(p.t, err)
	issue := core.IssueToken{ID: id, Kind: kind, SHA256: sum[:], Name: name}
	switch kind {
	case eventv1.TokenKind_TOKEN_KIND_ADMIN:
		issue.Role, issue.ExpiresAt = policyv1.Role_ROLE_OWNER, time.Now().Add(time.Hour)
	case eventv1.TokenKind_TOKEN_KIND_SCIM:
		issue.Directory = name
	case eventv1.TokenKind_TOKEN_KIND_PROXY:
		issue.Region = "us-east"
	}
	p.Do(issue)
	if kind == eventv1.TokenKind_TOKEN_KIND_PROXY {
		p.Do(core.JoinProxy{ID: id, KeySHA256: sum[:]})
	}
	return id, token
}

// User provisions an active person.
func (p *Plane) User(directory, name string) *core.User {
	p.t.Helper()
	out := p.Do(core.CreateUser{Directory: directory, Profile: core.Profile{UserName: name, ExternalID: "ext-" + name}, Active: true})
	return out.State.UserByName(directory, name)
}

// Group provisions a group.
func (p *Plane) Group(directory, name string, members ...*core.User) *core.Group {
	p.t.Helper()
	create := core.CreateGroup{Directory: directory, DisplayName: name}
	for _, u := range members {
		create.Users = append(create.Users, u.ID)
	}
	out := p.Do(create)
	return out.State.Group(uuid.MustParse(out.Events[0].GetGroupCreated().GetGroupId()))
}

// OnDisk tells in which files below a folder some bytes are.
func OnDisk(t testing.TB, dir string, needle []byte) (files []string) {
	t.Helper()
	Must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, needle) {
			files = append(files, path)
		}
		return err
	}))
	return files
}

// Serve serves a handler over HTTP/1.1 and cleartext HTTP/2 until the test ends.
func Serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections() // HTTP/2 keeps them open when nothing is under way
		s.Close()
	})
	return s
}

// H2C returns a client that speaks cleartext HTTP/2 alone.
func H2C(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Eventually waits for something to become so.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
