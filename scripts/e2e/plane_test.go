package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/scripts/demo/quickstart"
)

// nextPort walks below the range from which the kernel takes ports for clients, so that a process that is restarted
// finds its port free.
var nextPort atomic.Int32

func freeAddress(t testing.TB) string {
	t.Helper()
	nextPort.CompareAndSwap(0, int32(15000+os.Getpid()%1000*10))
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// controlPlane is one control plane, which can be killed and started again on the same folder and addresses.
type controlPlane struct {
	*quickstart.Admin
	*quickstart.Process
	t                  testing.TB
	dir                string
	scim, admin, fleet string
	signin             string
	flags              []string
}

// newControlPlane starts one on a new folder. With more flags than one may want to give.
func newControlPlane(t testing.TB, flags ...string) *controlPlane {
	t.Helper()
	c := unstarted(t, flags...)
	c.start()
	return c
}

// unstarted is one on a new folder that does not run yet.
func unstarted(t testing.TB, flags ...string) *controlPlane {
	t.Helper()
	return &controlPlane{t: t, dir: t.TempDir(), flags: flags, scim: freeAddress(t), admin: freeAddress(t), fleet: freeAddress(t), signin: freeAddress(t)}
}

func (c *controlPlane) data() string { return filepath.Join(c.dir, "control-plane") }

// launch starts the process and does not wait for it.
func (c *controlPlane) launch() {
	c.t.Helper()
	args := append([]string{"serve", "--data-dir", c.data(), "--scim-addr", c.scim, "--admin-addr", c.admin, "--fleet-addr", c.fleet, "--signin-addr", c.signin}, c.flags...)
	p, err := quickstart.Start(c.dir, "control-plane", controlPlaneProgram, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Process = p
	c.t.Cleanup(func() { stop(c.t, p) })
}

// start starts the process and waits until it is ready.
func (c *controlPlane) start() {
	c.t.Helper()
	c.launch()
	if err := c.Ready(c.t.Context(), "http://"+c.admin+"/readyz"); err != nil {
		c.t.Fatal(err)
	}
	if c.Admin == nil {
		admin, err := quickstart.FirstOwner(c.t.Context(), controlPlaneProgram, "http://"+c.admin, c.data())
		if err != nil {
			c.t.Fatal(err)
		}
		c.Admin = admin
	}
}

// as makes the admin use the token in a file.
func (c *controlPlane) as(tokenFile string) {
	c.t.Helper()
	admin, err := quickstart.AdminOf(controlPlaneProgram, "http://"+c.admin, tokenFile)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Admin = admin
}

// must runs the command line.
func (c *controlPlane) must(args ...string) {
	c.t.Helper()
	if _, err := c.Run(c.t.Context(), args...); err != nil {
		c.t.Fatal(err)
	}
}

// apply loads resources.
func (c *controlPlane) apply(text string) {
	c.t.Helper()
	if err := c.Apply(c.t.Context(), c.dir, fmt.Sprintf("%d.yaml", time.Now().UnixNano()), []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// enforced waits until every proxy enforces the log's end.
func (c *controlPlane) enforced() {
	c.t.Helper()
	if err := c.Enforced(c.t.Context(), 0); err != nil {
		c.t.Fatal(err)
	}
}

// proxy is one proxy, which can be killed and started again on the same folder and address.
type proxy struct {
	*quickstart.Process
	t            testing.TB
	name, region string
	listen       string
	dir          string
	in           string // where its data are; empty: in dir
	invitation   string
	fleet        string
	flags        []string
}

// newProxy starts one at a control plane.
func newProxy(t testing.TB, c *controlPlane, region string, flags ...string) *proxy {
	t.Helper()
	return newProxyAt(t, c, region, freeAddress(t), flags...)
}

// newProxyAt starts one at an address that others know beforehand.
func newProxyAt(t testing.TB, c *controlPlane, region, listen string, flags ...string) *proxy {
	t.Helper()
	p := &proxy{t: t, name: region + "-1", region: region, listen: listen, dir: t.TempDir(), fleet: "https://" + c.fleet, flags: flags}
	p.invite(c)
	p.start()
	return p
}

// newProxyIn starts one with its data in a folder.
func newProxyIn(t testing.TB, c *controlPlane, dir string, flags ...string) *proxy {
	t.Helper()
	p := &proxy{t: t, name: "us-east-1", region: "us-east", listen: freeAddress(t), dir: t.TempDir(), in: dir, fleet: "https://" + c.fleet, flags: flags}
	p.invite(c)
	p.start()
	return p
}

// invite has the control plane make the proxy's invitation.
func (p *proxy) invite(c *controlPlane) {
	p.t.Helper()
	p.invitation = filepath.Join(p.dir, "invitation")
	if err := c.Invite(p.t.Context(), p.invitation, p.name, p.region); err != nil {
		p.t.Fatal(err)
	}
}

func (p *proxy) data() string {
	if p.in != "" {
		return filepath.Join(p.in, "data")
	}
	return filepath.Join(p.dir, "data")
}

func (p *proxy) url() string { return "http://" + p.listen + "/mcp" }

// launch starts the process and does not wait for it.
func (p *proxy) launch() {
	p.t.Helper()
	args := append([]string{"serve", "--name", p.name, "--region", p.region, "--control-plane", p.fleet, "--invitation-file", p.invitation,
		"--listen", p.listen, "--data-dir", p.data()}, p.flags...)
	running, err := quickstart.Start(p.dir, p.name, proxyProgram, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Process = running
	p.t.Cleanup(func() { stop(p.t, running) })
}

func (p *proxy) start() {
	p.t.Helper()
	p.launch()
	if err := p.Ready(p.t.Context(), "http://"+p.listen+"/readyz"); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends a process; a race that it saw fails the test.
func stop(t testing.TB, p *quickstart.Process) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(p.Log)
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(string(log), "WARNING: DATA RACE") || strings.Contains(string(log), "panic: ") {
		t.Errorf("a race or a panic:\n%s", log)
	}
	if t.Failed() {
		t.Log(p.Tail())
	}
}

// patience is how long anything may take that a test waits for.
const patience = 30 * time.Second

// eventually waits until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	if err := within(t.Context(), patience, f); err != nil {
		t.Fatalf("not within %s: %v", patience, err)
	}
}

func within(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
