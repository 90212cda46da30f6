package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"sallyport.dev/scripts/demo/quickstart"
)

const nodes = 3

// natsServers are three NATS servers in this process, as an operator would configure them for Sallyport, and their URLs.
// None is started.
func natsServers(t *testing.T) ([]*server.Server, string) {
	t.Helper()
	var clients, routes [nodes]string
	var peers []*url.URL
	for i := range nodes {
		clients[i], routes[i] = freeAddress(t), freeAddress(t)
		peers = append(peers, &url.URL{Scheme: "nats", Host: routes[i]})
	}
	var servers []*server.Server
	t.Cleanup(func() {
		for _, s := range servers {
			s.Shutdown()
			s.WaitForShutdown()
		}
	})
	for i := range nodes {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: port(t, clients[i]), JetStream: true, SyncAlways: true,
			StoreDir: t.TempDir(), MaxPayload: 8 << 20, JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 256 << 20, NoLog: true, NoSigs: true,
			Cluster: server.ClusterOpts{Name: "e2e", Host: "127.0.0.1", Port: port(t, routes[i])}, Routes: peers,
		})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
	}
	return servers, "nats://" + strings.Join(clients[:], ",nats://")
}

// natsCluster starts three NATS servers and returns their URLs when streams can be made.
func natsCluster(t *testing.T) string {
	t.Helper()
	servers, urls := natsServers(t)
	for _, s := range servers {
		go s.Start()
	}
	for i, s := range servers {
		if !s.ReadyForConnections(patience) {
			t.Fatalf("NATS server %d does not start", i)
		}
	}
	eventually(t, func() error {
		for _, s := range servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == nodes {
				return nil
			}
		}
		return fmt.Errorf("the cluster has no leader yet")
	})
	return urls
}

// TestAControlPlaneStartsBeforeItsCluster: of three servers one is up, which can make no stream. The control plane says so, and is
// ready once the others are there.
func TestAControlPlaneStartsBeforeItsCluster(t *testing.T) {
	t.Parallel()
	servers, urls := natsServers(t)
	go servers[0].Start()
	c := unstarted(t, "--nats-url", urls)
	c.launch()
	eventually(t, func() error {
		log, err := os.ReadFile(filepath.Join(c.dir, "logs", "control-plane.log"))
		if err == nil && !strings.Contains(string(log), "opens it again") {
			err = errors.New("it does not say that it waits")
		}
		return err
	})
	for _, s := range servers[1:] {
		go s.Start()
	}
	if err := c.Ready(t.Context(), "http://"+c.admin+"/readyz"); err != nil {
		t.Fatal(err)
	}
}

func port(t *testing.T, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// takeover is how long the loss of the active writer may hold writes up.
const takeover = 15 * time.Second

// natsProcess is a NATS server that is a process of its own, with its streams in a folder, so that it can be killed and started again.
type natsProcess struct {
	*quickstart.Process
	t         testing.TB
	dir, addr string
}

// newNATS starts one, as an operator would configure it for Sallyport.
func newNATS(t testing.TB) *natsProcess {
	t.Helper()
	n := &natsProcess{t: t, dir: t.TempDir(), addr: freeAddress(t)}
	n.launch()
	t.Cleanup(func() { stop(t, n.Process) })
	return n
}

func (n *natsProcess) url() string { return "nats://" + n.addr }

// launch starts the process and does not wait for it.
func (n *natsProcess) launch() {
	n.t.Helper()
	p, err := quickstart.Start(n.dir, natsProgram, os.Args[0], natsProgram, n.addr, filepath.Join(n.dir, "store"))
	if err != nil {
		n.t.Fatal(err)
	}
	n.Process = p
}

// remember sets for how long the audit stream knows a message by its id.
func (n *natsProcess) remember(window time.Duration) {
	n.t.Helper()
	nc, err := nats.Connect(n.url())
	if err != nil {
		n.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		n.t.Fatal(err)
	}
	stream, err := js.Stream(n.t.Context(), "AUDIT")
	if err != nil {
		n.t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Duplicates = window
	if _, err := js.UpdateStream(n.t.Context(), config); err != nil {
		n.t.Fatal(err)
	}
}

// natsProgram is what the tests' own program is told to be in place of the tests.
const natsProgram = "nats-server"

// runNATS is that program.
func runNATS(addr, store string) error {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "n0", Host: host, Port: port, JetStream: true, SyncAlways: true, StoreDir: store,
		MaxPayload: 8 << 20, JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 256 << 20,
	})
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil { // and ends it when it is asked to
		return err
	}
	s.WaitForShutdown()
	return nil
}
