package natsconn_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func makeStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"audit.>"}}); err != nil {
		t.Fatal(err)
	}
	return js
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

func TestWhatWasStoredIsThereAfterAnotherStart(t *testing.T) {
	dir := t.TempDir()
	conn, err := natsconn.Open(t.Context(), natsconn.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !conn.Embedded() || conn.ClientURL() != "" || conn.Replicas() != 1 {
		t.Fatalf("embedded %v, URL %q, replicas %d", conn.Embedded(), conn.ClientURL(), conn.Replicas())
	}
	if err := conn.Healthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := makeStream(t, conn.Conn).Publish(t.Context(), "audit.a", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	conn.Close()

	again := natstest.Open(t, natsconn.Config{DataDir: dir})
	js, err := jetstream.New(again.Conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "AUDIT")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(t.Context(), 1); err != nil || string(m.Data) != "kept" {
		t.Fatalf("got %v, %v", m, err)
	}
}

func TestAFolderThatCannotBeUsedSaysWhatToDo(t *testing.T) {
	inTheWay := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := t.TempDir()
	natstest.Open(t, natsconn.Config{DataDir: taken})
	cases := map[string]struct{ dir, want string }{
		"a file is in the way":          {inTheWay, "is not a folder"},
		"another process uses it":       {taken, "used by another process"},
		"the system does not permit it": {"/proc/sallyport", "/proc/sallyport/nats"},
	}
	if os.Getuid() != 0 { // root may write everywhere
		locked := t.TempDir()
		if err := os.Chmod(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		cases["no permission"] = struct{ dir, want string }{locked, "is not writable"}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			conn, err := natsconn.Open(t.Context(), natsconn.Config{DataDir: c.dir})
			if err == nil {
				conn.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %q, want it to say %q", err, c.want)
			}
		})
	}
	if _, err := natsconn.Open(t.Context(), natsconn.Config{}); err == nil {
		t.Fatal("neither a folder nor a URL was taken")
	}
}

func TestTheListenerIsOnLoopbackAndLetsNobodyInWithoutAKeyThatIsKnown(t *testing.T) {
	conn := natstest.Open(t, natsconn.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	key := func() (nkeys.KeyPair, string, nats.Option) {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return pair, public, nats.Nkey(public, pair.Sign)
	}
	_, known, withKnown := key()
	_, _, withUnknown := key()
	_, _, withAnother := key()
	stolen := nats.Nkey(known, func([]byte) ([]byte, error) { return make([]byte, 64), nil })
	for range 2 { // before there are readers, and with one
		for how, with := range map[string][]nats.Option{
			"without a key": nil, "as a user": {nats.UserInfo("sallyport", "")}, "with a token": {nats.Token("x")},
			"with a key that nobody knows": {withUnknown}, "with another": {withAnother}, "with a reader's public key alone": {stolen},
		} {
			nc, err := nats.Connect(conn.ClientURL(), append(with, nats.NoReconnect())...)
			if err == nil {
				nc.Close()
			}
			if !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("whoever comes %s: %v", how, err)
			}
		}
		if err := conn.SetReaders([]natsconn.Reader{{PublicKey: known, Publish: []string{"hello"}}}); err != nil {
			t.Fatal(err)
		}
	}
	nc, err := nats.Connect(conn.ClientURL(), withKnown)
	if err != nil {
		t.Fatalf("a reader: %v", err)
	}
	nc.Close()
	if open, err := natsconn.Open(t.Context(), natsconn.Config{DataDir: t.TempDir(), Listen: "0.0.0.0:0"}); err == nil {
		open.Close()
		t.Fatal("the server listens to the world")
	}
}

func TestAServerThatDoesNotSyncIsRefusedWhereItCanBeAsked(t *testing.T) {
	for name, syncAlways := range map[string]bool{"syncs": true, "does not sync": false} {
		t.Run(name, func(t *testing.T) {
			sys := server.NewAccount("SYS")
			s, err := server.NewServer(&server.Options{
				Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, StoreDir: t.TempDir(), JetStream: true, SyncAlways: syncAlways,
				Accounts: []*server.Account{sys}, SystemAccount: "SYS",
				Users: []*server.User{{Username: "u", Password: "p", Account: sys}},
			})
			if err != nil {
				t.Fatal(err)
			}
			s.Start()
			t.Cleanup(s.Shutdown)
			conn, err := natsconn.Open(t.Context(), natsconn.Config{URL: strings.Replace(s.ClientURL(), "//", "//u:p@", 1)})
			if err == nil {
				conn.Close()
			}
			if (err == nil) != syncAlways {
				t.Fatalf("sync %v: got %v", syncAlways, err)
			}
			if err != nil && !strings.Contains(err.Error(), "sync_interval: always") {
				t.Fatalf("it does not say what to set: %v", err)
			}
		})
	}
}

func TestAnUnreachableClusterIsAClearErrorWithoutPasswords(t *testing.T) {
	_, err := natsconn.Open(t.Context(), natsconn.Config{URL: "nats://me:hunter2@127.0.0.1:1"})
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "is it running") {
		t.Fatalf("got %v", err)
	}
}

// TestAFullDiskIsSaidAndSurvived needs to mount a small disk, which takes a privileged user.
func TestAFullDiskIsSaidAndSurvived(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	conn := natstest.Open(t, natsconn.Config{DataDir: disk})
	js := makeStream(t, conn.Conn)
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "audit.a", make([]byte, 64<<10))
		return err
	}
	eventually(t, "the full disk to refuse writes", func() error {
		if err := publish(); err == nil {
			return errors.New("it still writes")
		}
		return nil
	})
	eventually(t, "readiness to go red and say why", func() error {
		err := conn.Healthy(t.Context())
		if err == nil || !errors.Is(err, natsconn.ErrUnavailable) || !strings.Contains(err.Error(), "is full") {
			return errors.Join(errors.New("it says"), err)
		}
		return nil
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes to work again", func() error { return errors.Join(publish(), conn.Healthy(t.Context())) })
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
