package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport.dev/scripts/demo/quickstart"
)

// directory is the one that a plane has.
const directory = "bench"

// site is where SCIM requests go: a control plane, or the bare handler beside which it is measured.
type site struct {
	client      *http.Client
	base, token string
}

// plane is a control plane of its own with what was created in it: the ids, in the order of their numbers.
type plane struct {
	site
	run           *scimRun
	name          string
	addrs         map[string]string
	process       *quickstart.Process
	admin         *quickstart.Admin
	users, groups []string
}

func scimClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConns: growClients, MaxIdleConnsPerHost: growClients, IdleConnTimeout: time.Minute}, Timeout: time.Minute}
}

// startPlane starts a control plane with a directory.
func (m *scimRun) startPlane(ctx context.Context, name string) (*plane, error) {
	p := &plane{run: m, name: name, addrs: map[string]string{}}
	for _, port := range []string{"scim", "admin", "fleet", "signin", "proxy"} {
		addr, err := freeAddress(ctx)
		if err != nil {
			return nil, err
		}
		p.addrs[port] = addr
	}
	m.stops = append(m.stops, func() error {
		if p.process == nil {
			return nil
		}
		return p.process.StopWithin(time.Minute)
	})
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	var err error
	if p.admin, err = quickstart.FirstOwner(ctx, m.ControlPlane, "http://"+p.addrs["admin"], p.dir()); err != nil {
		return nil, err
	}
	if _, err := p.admin.Run(ctx, "directories", "create", directory); err != nil {
		return nil, err
	}
	p.site = site{client: m.client, base: "http://" + p.addrs["scim"] + "/scim/v2"}
	p.token, err = p.admin.Issue(ctx, "scim", "--directory", directory)
	return p, err
}

func (p *plane) dir() string { return p.run.folder(p.name) }

// start starts the process, and returns when it is ready.
func (p *plane) start(ctx context.Context) error {
	var err error
	p.process, err = quickstart.Start(p.run.dir, "control-plane-"+p.name, p.run.ControlPlane, "serve", "--data-dir", p.dir(),
		"--scim-rate", "0", "--scim-addr", p.addrs["scim"], "--admin-addr", p.addrs["admin"], "--fleet-addr", p.addrs["fleet"], "--signin-addr", p.addrs["signin"])
	if err != nil {
		return err
	}
	return p.process.Ready(ctx, "http://"+p.addrs["admin"]+"/readyz")
}

// startBare starts the handler that only stores.
func (m *scimRun) startBare(ctx context.Context) (*site, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p, err := quickstart.Start(m.dir, "bare", m.ControlPlane, "bench", "bare", "--listen", addr, "--data-dir", m.folder("bare"))
	if err != nil {
		return nil, err
	}
	m.stops = append(m.stops, p.Stop)
	return &site{client: m.client, base: "http://" + addr}, p.Ready(ctx, "http://"+addr+"/")
}

// create makes users and groups of them, and returns the bodies that it sent.
func (p *plane) create(ctx context.Context, users, groups, clients int) (people, teams []string, err error) {
	first := len(p.users)
	for n := range users {
		people = append(people, userBody(first+n))
	}
	ids, err := p.sendAll(ctx, "/Users", people, clients)
	if err != nil {
		return nil, nil, err
	}
	p.users = append(p.users, ids...)
	for n := range groups {
		members := make([]string, 0, perGroup)
		for i := range min(perGroup, users) {
			members = append(members, ids[(n*perGroup/10+i)%users]) // each person is in about ten
		}
		teams = append(teams, groupBody(fmt.Sprintf("Team %d", len(p.groups)+n), members))
	}
	if ids, err = p.sendAll(ctx, "/Groups", teams, clients); err != nil {
		return nil, nil, err
	}
	p.groups = append(p.groups, ids...)
	return people, teams, nil
}

// sendAll creates resources by several clients and returns their ids, in the order of the bodies.
func (s *site) sendAll(ctx context.Context, path string, bodies []string, clients int) ([]string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ids := make([]string, len(bodies))
	next := make(chan int)
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := range next {
				answer, err := s.send(ctx, http.MethodPost, path, bodies[i], http.StatusCreated)
				if err != nil {
					cancel(err)
					return
				}
				ids[i] = idOf(answer)
			}
		})
	}
	for i := range bodies {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	group.Wait()
	return ids, context.Cause(ctx)
}

// idOf finds the id of a resource without reading it whole: the clients share the machine with what is measured.
func idOf(resource []byte) string {
	const key = `"id":"`
	_, rest, found := bytes.Cut(resource, []byte(key))
	id, _, whole := bytes.Cut(rest, []byte(`"`))
	if !found || !whole {
		return ""
	}
	return string(id)
}

// send sends one request and returns the answer, which must have a status.
func (s *site) send(ctx context.Context, method, path, body string, want int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a SCIM request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/scim+json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != want {
		return nil, fmt.Errorf("%s %s: status %d: %.300s", method, path, resp.StatusCode, answer)
	}
	return answer, nil
}

// find looks a person up by name and returns their id.
func (s *site) find(ctx context.Context, login string) (took time.Duration, id string, err error) {
	path := "/Users?filter=" + url.QueryEscape(`userName eq "`+login+`"`) + "&startIndex=1&count=100"
	began := time.Now()
	answer, err := s.send(ctx, http.MethodGet, path, "", http.StatusOK)
	took = time.Since(began)
	if err != nil {
		return 0, "", err
	}
	var list struct {
		Resources []struct{ ID string }
	}
	if err := json.Unmarshal(answer, &list); err != nil || len(list.Resources) != 1 {
		return 0, "", fmt.Errorf("look %s up: %d are found (%w)", login, len(list.Resources), err)
	}
	return took, list.Resources[0].ID, nil
}

// lookUp times the look-up of a random person, who must be found.
func (p *plane) lookUp(ctx context.Context) (time.Duration, error) {
	n := rand.IntN(len(p.users))
	login := loginOf(n)
	if n%2 == 0 {
		login = strings.ToUpper(login)
	}
	d, found, err := p.find(ctx, login)
	if err == nil && found != p.users[n] {
		err = fmt.Errorf("%s is %s, not %s", login, found, p.users[n])
	}
	return d, err
}

// beat times a request that asks for nothing: what the machine and the client take.
func (p *plane) beat(ctx context.Context) (time.Duration, error) {
	s := site{client: p.client, base: "http://" + p.addrs["admin"]}
	began := time.Now()
	_, err := s.send(ctx, http.MethodGet, "/healthz", "", http.StatusOK)
	return time.Since(began), err
}

// store times a request whose body is only stored.
func (s *site) store(ctx context.Context, body string) (time.Duration, error) {
	began := time.Now()
	_, err := s.send(ctx, http.MethodPost, "/", body, http.StatusCreated)
	return time.Since(began), err
}

// idle waits until the control plane has nothing to do: for a while it takes next to no processor time.
func (p *plane) idle(ctx context.Context) error {
	const window, quiet, most = 500 * time.Millisecond, 25 * time.Millisecond, 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ticker := time.NewTicker(window)
	defer ticker.Stop()
	before, err := processorTime(p.process.PID())
	for calm := 0; err == nil && calm < 12; { // longer than it looks whether there is something to write
		select {
		case <-ctx.Done():
			return fmt.Errorf("the control plane %q does not come to rest: %w", p.name, ctx.Err())
		case <-ticker.C:
		}
		var now time.Duration
		now, err = processorTime(p.process.PID())
		if calm++; now-before > quiet {
			calm = 0
		}
		before = now
	}
	return err
}

// processorTime is what a process has taken of the processors.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read what a process takes, which needs Linux: %w", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("read what a process takes: it is not said")
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond // of Linux's USER_HZ
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

func (s *site) patch(ctx context.Context, path, op string) (time.Duration, error) {
	body := `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[` + op + `]}`
	began := time.Now()
	_, err := s.send(ctx, http.MethodPatch, path, body, http.StatusNoContent)
	return time.Since(began), err
}

// read reads a group and counts its members.
func (s *site) read(ctx context.Context, path string) (took time.Duration, members int, err error) {
	began := time.Now()
	answer, err := s.send(ctx, http.MethodGet, path, "", http.StatusOK)
	took = time.Since(began)
	if err != nil {
		return 0, 0, err
	}
	var group struct{ Members []struct{ Value string } }
	if err := json.Unmarshal(answer, &group); err != nil {
		return 0, 0, fmt.Errorf("read a group: %w", err)
	}
	return took, len(group.Members), nil
}

// grant lets the first groups use a connector.
func (p *plane) grant(ctx context.Context, n int) error {
	var policy strings.Builder
	policy.WriteString("kind: Connector\nid: bench\ntitle: Bench\nurl: http://127.0.0.1:1/mcp\nallowedRanges: [127.0.0.0/8]\nauth: {type: none}\n")
	for i := range min(n, len(p.groups)) {
		fmt.Fprintf(&policy, "---\nkind: Grant\ngroup: %s/Team %d\nconnector: bench\nrules:\n  - allow: [\"get_*\"]\n", directory, i)
	}
	return p.admin.Apply(ctx, p.run.folder("policy-"+p.name), "policy.yaml", []byte(policy.String()))
}

// timeProxy starts a proxy and tells how long it took until it was ready, and the most memory that it had, in MiB.
func (p *plane) timeProxy(ctx context.Context) (seconds, peak float64, err error) {
	file := p.run.folder("proxy-" + p.name + ".token")
	if err := p.admin.Invite(ctx, file, "bench", "us-east"); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	proxy, err := quickstart.Start(p.run.dir, "proxy-"+p.name, p.run.Proxy, "serve", "--name", "bench", "--region", "us-east", "--control-plane", "https://"+p.addrs["fleet"],
		"--invitation-file", file, "--listen", p.addrs["proxy"], "--public-url", "http://"+p.addrs["proxy"], "--data-dir", p.run.folder("proxy-"+p.name))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, proxy.Stop()) }()
	if err := proxy.Ready(ctx, "http://"+p.addrs["proxy"]+"/readyz"); err != nil {
		return 0, 0, err
	}
	seconds = time.Since(began).Seconds()
	_, peak, err = memory(proxy.PID())
	return seconds, peak, err
}

// memory is what of a process is resident, now and at most, in MiB.
func memory(pid int) (now, peak float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read the memory of a process, which takes Linux: %w", err)
	}
	field := func(name string) float64 {
		_, rest, _ := strings.Cut(string(status), name+":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return 0
		}
		n, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0
		}
		return n / 1024
	}
	if now, peak = field("VmRSS"), field("VmHWM"); now == 0 || peak == 0 {
		return 0, 0, errors.New("read the memory of a process: it is not said")
	}
	return now, peak, nil
}
