// Package natstest gives tests real NATS: a server embedded as in production, a cluster of three in this
// process whose nodes can be stopped and started, and a network path that adds delay.
//
// Everything listens on loopback and ends with its test. It is for tests only.
package natstest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"sallyport.dev/controlplane/internal/natsconn"
)

// nodes is how many servers a cluster has.
const nodes = 3

// Embedded is a connection to an embedded server with a folder of its own.
func Embedded(t testing.TB) *natsconn.Conn {
	t.Helper()
	return Open(t, natsconn.Config{DataDir: t.TempDir()})
}

// Open opens a connection that is closed when the test ends.
func Open(t testing.TB, c natsconn.Config) *natsconn.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := natsconn.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// Cluster is three servers that sync each write. Clients learn of no server but those of the URL that they
// were given, so that a path with delay stays the only one.
type Cluster struct {
	t           testing.TB
	name        string
	dirs        [nodes]string
	clientPorts [nodes]int
	routePorts  [nodes]int

	mu      sync.Mutex
	servers [nodes]*server.Server
}

// NewCluster starts a cluster and returns when its streams can be made.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t, name: "c" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	ports := freePorts(t, 2*nodes)
	for i := range nodes {
		c.dirs[i], c.clientPorts[i], c.routePorts[i] = t.TempDir(), ports[i], ports[nodes+i]
	}
	t.Cleanup(func() {
		for i := range nodes {
			c.StopNode(i)
		}
	})
	for i := range nodes {
		c.start(i)
	}
	c.wait("the cluster to be ready", func() bool {
		leader := false
		for i := range nodes {
			s := c.node(i)
			if !s.JetStreamIsCurrent() {
				return false
			}
			leader = leader || s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == nodes
		}
		return leader
	})
	return c
}

func (c *Cluster) options(i int) *server.Options {
	var routes []*url.URL
	for _, port := range c.routePorts {
		routes = append(routes, &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))})
	}
	return &server.Options{
		ServerName: fmt.Sprintf("%s-%d", c.name, i), Host: "127.0.0.1", Port: c.clientPorts[i],
		StoreDir: c.dirs[i], JetStream: true, SyncAlways: true, JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 1 << 30,
		NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: c.name, Host: "127.0.0.1", Port: c.routePorts[i], NoAdvertise: true},
		Routes:  routes,
	}
}

func (c *Cluster) start(i int) {
	c.t.Helper()
	s, err := server.NewServer(c.options(i))
	if err != nil {
		c.t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		c.t.Fatalf("node %d did not start", i)
	}
	c.mu.Lock()
	c.servers[i] = s
	c.mu.Unlock()
}

func (c *Cluster) node(i int) *server.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[i]
}

// StopNode stops a node in order, as an operator would; what it stored stays. It first gives up the lead of
// the streams that are named: NATS waits four to nine seconds before it elects a leader in place of one that
// just went silent, which is its own, and not what a test of ours is about. A node that is stopped already is
// left alone.
func (c *Cluster) StopNode(i int, streams ...string) {
	c.t.Helper()
	s := c.node(i)
	if s == nil {
		return
	}
	for _, stream := range streams {
		if s.JetStreamIsStreamLeader("$G", stream) {
			if err := s.JetStreamStepdownStream("$G", stream); err != nil {
				c.t.Fatal(err)
			}
			c.wait("another leader of "+stream, func() bool {
				for other := range nodes {
					if s := c.node(other); other != i && s != nil && s.JetStreamIsStreamLeader("$G", stream) {
						return true
					}
				}
				return false
			})
		}
	}
	c.mu.Lock()
	c.servers[i] = nil
	c.mu.Unlock()
	s.Shutdown()
	s.WaitForShutdown()
}

// StartNode starts a stopped node where it was, and returns when it has caught up on the streams that are named.
func (c *Cluster) StartNode(i int, streams ...string) {
	c.t.Helper()
	c.start(i)
	c.wait(fmt.Sprintf("node %d to catch up", i), func() bool {
		s := c.node(i)
		for _, stream := range streams {
			if !s.JetStreamIsStreamCurrent("$G", stream) {
				return false
			}
		}
		return s.JetStreamIsCurrent()
	})
}

// URL reaches the cluster by any node.
func (c *Cluster) URL() string {
	all := make([]string, nodes)
	for i := range nodes {
		all[i] = "nats://" + c.Address(i)
	}
	return strings.Join(all, ",")
}

// Address is where a node takes clients.
func (c *Cluster) Address(i int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.clientPorts[i]))
}

// StreamLeader waits for a stream to have a leader and returns its node.
func (c *Cluster) StreamLeader(stream string) int {
	c.t.Helper()
	found := -1
	c.wait("the stream "+stream+" to have a leader", func() bool {
		for i := range nodes {
			if s := c.node(i); s != nil && s.JetStreamIsStreamLeader("$G", stream) {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

func (c *Cluster) wait(what string, done func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePorts finds ports that are free now.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports, listeners := make([]int, n), make([]net.Listener, n)
	for i := range n {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i], ports[i] = l, l.Addr().(*net.TCPAddr).Port
	}
	for _, l := range listeners { // not before all are known, so that each is another
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return ports
}
