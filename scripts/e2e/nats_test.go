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
