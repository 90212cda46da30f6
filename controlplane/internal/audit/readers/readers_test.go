package readers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

const patience = 60 * time.Second

// newDesk stores ten records, and opens a desk beside them.
func newDesk(t *testing.T, conn *natsconn.Conn) *Desk {
	t.Helper()
	store, err := audit.Open(t.Context(), conn.Conn, audit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := kv.Open(t.Context(), conn.Conn, kv.Config{Bucket: "SALLYPORT_EXPORTERS"})
	if err != nil {
		t.Fatal(err)
	}
	var all []*auditv1.AuditRecord
	for n := range 10 {
		all = append(all, &auditv1.AuditRecord{Number: uint64(n + 1), Connector: []string{"github", "jira"}[n%2]})
	}
	if _, err := store.Append(t.Context(), "p1", "eu", "g", all); err != nil {
		t.Fatal(err)
	}
	return &Desk{Audit: store, Store: bucket, Server: conn, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// connect connects as the other system does.
func connect(t *testing.T, url string, made *Made, violations chan<- error) (*nats.Conn, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, made.Credentials, 0o600); err != nil {
		t.Fatal(err)
	}
	with := nats.UserCredentials(path)
	if !strings.Contains(string(made.Credentials), "JWT") {
		var err error
		if with, err = nats.NkeyOptionFromSeed(path); err != nil {
			t.Fatal(err)
		}
	}
	nc, err := nats.Connect(url, with, nats.CustomInboxPrefix(made.InboxPrefix()), nats.NoReconnect(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case violations <- err:
		default:
		}
	}))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

// read reads so many records by a consumer, and acknowledges them.
func read(t *testing.T, nc *nats.Conn, made *Made, n int) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := js.Consumer(ctx, audit.StreamName, made.Durable)
	if err != nil {
		t.Fatalf("its own consumer: %v", err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for m := range batch.Messages() {
		if err := m.DoubleAck(ctx); err != nil {
			t.Fatalf("acknowledging: %v", err)
		}
		if !strings.Contains(m.Subject(), ".jira.") {
			t.Errorf("it was given %s", m.Subject())
		}
		got++
	}
	if got != n {
		t.Fatalf("it read %d of %d", got, n)
	}
}

// opensNothingElse tries what a key could be misused for.
func opensNothingElse(t *testing.T, nc *nats.Conn, other *Made, violations <-chan error) {
	t.Helper()
	refused := func(what string) {
		t.Helper()
		_ = nc.Flush() // the answer to what was sent before comes before that to this
		select {
		case err := <-violations:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(patience):
			t.Errorf("%s is permitted", what)
		}
	}
	for _, subject := range []string{
		"sallyport.audit.eu.p1.github.allowed", "sallyport.event.user.x", "$KV.SALLYPORT_VAULT.x", "$KV.SALLYPORT_EXPORTERS.reader.x", "anything",
		"$JS.API.STREAM.INFO.AUDIT", "$JS.API.STREAM.MSG.GET.AUDIT", "$JS.API.STREAM.MSG.GET.KV_SALLYPORT_VAULT", "$JS.API.DIRECT.GET.KV_SALLYPORT_VAULT", "$JS.API.STREAM.PURGE.AUDIT", "$JS.API.STREAM.DELETE.AUDIT",
		"$JS.API.STREAM.UPDATE.AUDIT", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.INFO", "$JS.API.CONSUMER.LIST.AUDIT", "$JS.API.CONSUMER.CREATE.AUDIT", "$JS.API.CONSUMER.CREATE.AUDIT.mine", "$JS.API.CONSUMER.CREATE.SALLYPORT_EVENTS.mine",
		"$JS.API.CONSUMER.DURABLE.CREATE.AUDIT.mine", "$JS.API.CONSUMER.DELETE.AUDIT." + other.Durable, "$JS.API.CONSUMER.INFO.AUDIT." + other.Durable, "$JS.API.CONSUMER.MSG.NEXT.AUDIT." + other.Durable, "$JS.ACK.AUDIT." + other.Durable + ".1.1.1.1.1",
		"$SYS.REQ.USER.INFO.x", other.InboxPrefix() + ".x",
	} {
		if err := nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		refused("to publish to " + subject)
	}
	for _, subject := range []string{">", "_INBOX.>", "sallyport.audit.>", "sallyport.event.>", "$KV.>", "$JS.>", other.InboxPrefix() + ".>"} {
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		refused("to listen to " + subject)
	}
}

// mustCreate makes a consumer of what is about jira, from the beginning.
func mustCreate(t *testing.T, d *Desk, name string, lifetime time.Duration) *Made {
	t.Helper()
	made, err := d.Create(t.Context(), Reader{Name: name, Subjects: []string{"sallyport.audit.*.*.jira.*"}, Beginning: true}, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestACredentialOpensItsConsumerAndNothingElse(t *testing.T) {
	t.Parallel()
	conn := natstest.Open(t, natsconn.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	d := newDesk(t, conn)
	made, other := mustCreate(t, d, "siem", time.Hour), mustCreate(t, d, "lake", time.Hour)
	violations := make(chan error, 1)
	nc, err := connect(t, conn.ClientURL(), made, violations)
	if err != nil {
		t.Fatal(err)
	}
	read(t, nc, made, 3)
	opensNothingElse(t, nc, other, violations)
	read(t, nc, made, 2) // it goes on where it was
	all, err := d.List(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "lake" || all[0].Lag != 5 || all[1].Lag != 0 {
		t.Fatalf("listed are %+v, %v", all, err)
	}
	var refusal *core.Error
	if _, err := d.Create(t.Context(), Reader{Name: "siem"}, time.Hour); !errors.As(err, &refusal) || refusal.Code != core.AlreadyExists {
		t.Errorf("a second of its name: %v", err)
	}
	for _, subject := range []string{">", "sallyport.>", "sallyport.event.>", "$KV.SALLYPORT_VAULT.>", "sallyport.audit.a", "sallyport.audit.*.*.*.*.*", "sallyport.audit.*.*.a b.*", "sallyport.audit..>", "sallyport.audit.>.x"} {
		if _, err := d.Create(t.Context(), Reader{Name: "x", Subjects: []string{subject}}, time.Hour); !errors.As(err, &refusal) || refusal.Code != core.InvalidArgument {
			t.Errorf("%q as a subject: %v", subject, err)
		}
	}
	// Deleted, it is disconnected, and its key is of no use for one of its name that is made later.
	if err := d.Delete(t.Context(), "siem"); err != nil {
		t.Fatal(err)
	}
	gone(t, nc)
	mustCreate(t, d, "siem", time.Hour)
	if _, err := connect(t, conn.ClientURL(), made, violations); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with the key of one that was deleted: %v", err)
	}
}

func gone(t *testing.T, nc *nats.Conn) {
	t.Helper()
	end := time.Now().Add(patience)
	for !nc.IsClosed() {
		if time.Now().After(end) {
			t.Fatal("it is still connected")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestACredentialEnds(t *testing.T) {
	t.Parallel()
	conn := natstest.Open(t, natsconn.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	d := newDesk(t, conn)
	made := mustCreate(t, d, "siem", 3*time.Second)
	nc, err := connect(t, conn.ClientURL(), made, nil)
	if err != nil {
		t.Fatal(err)
	}
	read(t, nc, made, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	gone(t, nc)
	cancel()
	<-done
	all, err := d.List(t.Context())
	if err != nil || len(all) != 1 || !all[0].Ended || all[0].Lag == 0 {
		t.Errorf("listed are %+v, %v", all, err)
	}
	if err := d.Delete(t.Context(), "siem"); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), "siem"); err == nil {
		t.Error("it is deleted twice")
	}
}

func TestNobodyIsPromisedAServerThatCannotBeReached(t *testing.T) {
	t.Parallel()
	d := newDesk(t, natstest.Embedded(t))
	if _, err := d.Create(t.Context(), Reader{Name: "siem"}, time.Hour); err == nil || !strings.Contains(err.Error(), "--nats-listen") {
		t.Errorf("%v", err)
	}
}

// external starts a NATS server as an operator would.
func external(t *testing.T, o *server.Options) (*server.Server, string) {
	t.Helper()
	o.ServerName, o.Host, o.Port, o.JetStream, o.SyncAlways, o.StoreDir, o.NoLog, o.NoSigs = "n1", "127.0.0.1", server.RANDOM_PORT, true, true, t.TempDir(), true, true
	o.JetStreamMaxStore, o.JetStreamMaxMemory = 1<<30, 64<<20
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	go s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	url := s.ClientURL()
	return s, url
}

func TestAnExternalClusterIsToldWhatToPermit(t *testing.T) {
	t.Parallel()
	o := &server.Options{Users: []*server.User{{Username: "sallyport", Password: "secret"}}}
	s, url := external(t, o)
	conn := natstest.Open(t, natsconn.Config{URL: strings.Replace(url, "nats://", "nats://sallyport:secret@", 1), Replicas: 1})
	d := newDesk(t, conn)
	made, other := mustCreate(t, d, "siem", time.Hour), mustCreate(t, d, "lake", time.Hour)
	if made.Signed {
		t.Fatal("nobody signed it")
	}
	if _, err := connect(t, url, made, nil); err == nil {
		t.Fatal("a key that the cluster was not told of opens it")
	}
	o = o.Clone() // as a configuration that is read anew
	o.Nkeys = []*server.NkeyUser{{Nkey: made.PublicKey, Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: made.Publish()}, Subscribe: &server.SubjectPermission{Allow: made.Subscribe()},
	}}}
	if err := s.ReloadOptions(o); err != nil {
		t.Fatal(err)
	}
	violations := make(chan error, 1)
	nc, err := connect(t, url, made, violations)
	if err != nil {
		t.Fatal(err)
	}
	read(t, nc, made, 3)
	opensNothingElse(t, nc, other, violations)
}

func TestAnExternalClusterThatKnowsUsersByJWTTakesSignedCredentials(t *testing.T) {
	t.Parallel()
	pair := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		k, err := make()
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return k, public
	}
	operator, operatorID := pair(nkeys.CreateOperator)
	account, accountID := pair(nkeys.CreateAccount)
	signing, signingID := pair(nkeys.CreateAccount)
	_, systemID := pair(nkeys.CreateAccount)
	must := func(text string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	claims := jwt.NewAccountClaims(accountID)
	claims.SigningKeys.Add(signingID)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(systemID, must(jwt.NewAccountClaims(systemID).Encode(operator))); err != nil {
		t.Fatal(err)
	}
	if err := resolver.Store(accountID, must(claims.Encode(operator))); err != nil {
		t.Fatal(err)
	}
	trusted, err := jwt.DecodeOperatorClaims(must(jwt.NewOperatorClaims(operatorID).Encode(operator)))
	if err != nil {
		t.Fatal(err)
	}
	_, url := external(t, &server.Options{TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: systemID})
	user, userID := pair(nkeys.CreateUser)
	seed, _ := user.Seed()
	own, err := jwt.FormatUserConfig(must(jwt.NewUserClaims(userID).Encode(account)), seed)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "own.creds"), own, 0o600); err != nil {
		t.Fatal(err)
	}
	signingSeed, _ := signing.Seed()
	if err := os.WriteFile(filepath.Join(folder, "signing.nk"), signingSeed, 0o600); err != nil {
		t.Fatal(err)
	}
	conn := natstest.Open(t, natsconn.Config{URL: url, Credentials: filepath.Join(folder, "own.creds"), Replicas: 1})
	d := newDesk(t, conn)
	d.SigningKeyFile, d.Account = filepath.Join(folder, "signing.nk"), accountID
	made, other := mustCreate(t, d, "siem", time.Hour), mustCreate(t, d, "lake", time.Hour)
	if !made.Signed {
		t.Fatal("it is not signed")
	}
	violations := make(chan error, 1)
	nc, err := connect(t, url, made, violations)
	if err != nil {
		t.Fatal(err)
	}
	read(t, nc, made, 3)
	opensNothingElse(t, nc, other, violations)
	short := mustCreate(t, d, "short", 2*time.Second)
	if nc, err = connect(t, url, short, nil); err != nil {
		t.Fatal(err)
	}
	gone(t, nc) // the server itself looks when it ends
	if err := os.WriteFile(d.SigningKeyFile, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), Reader{Name: "x"}, time.Hour); err == nil || strings.Contains(fmt.Sprint(err), string(signingSeed)) {
		t.Errorf("without a key: %v", err)
	}
}
