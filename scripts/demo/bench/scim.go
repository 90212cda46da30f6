package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
)

// Sizes of `scim` at full scale.
const (
	loadUsers, loadGroups = 100_000, 10_000
	allUsers, allGroups   = 1_000_000, 100_000
	largeGroup            = 50_000
	perGroup              = 100 // members of each other group
	fewUsers              = 1_000
	smallGroup            = 50
)

const (
	// loadClients send what is timed; what is only to be there is sent by growClients.
	loadClients, growClients = 16, 64
	// loadRounds are the parts of the load: what else the machine does meets both sides of each.
	loadRounds = 5
	lookups    = 4_000
	patches    = 1_000
	reads      = 11
	// block is how many requests go to one side before the next: a server that is woken for each answers late.
	block = 200
)

// sized is what part of the sizes is measured.
func (c *Config) sized(n int) int {
	return max(int(float64(n)*c.Scale), loadRounds)
}

// measureScim prints what SCIM does, and what it costs, at a size, each beside the same at a small one or beside less.
func measureScim(ctx context.Context, cfg Config) (err error) {
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return fmt.Errorf("make a folder for the run: %w", err)
	}
	// This process holds a million ids; to collect its garbage takes from the cores on which the server answers.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	m := &scimRun{Config: cfg, dir: dir, client: scimClient()}
	defer func() {
		if closed := m.close(); err == nil {
			err = closed
		}
	}()
	if m.large, err = m.startPlane(ctx, "large"); err != nil {
		return err
	}
	if m.small, err = m.startPlane(ctx, "small"); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{m.load, m.grow, m.lookUp, m.patch, m.restart, m.snapshot} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("%w\n%s", err, m.large.process.Tail())
		}
	}
	return nil
}

// scimRun is the state of the measurement: a control plane that grows, and a small one beside it.
type scimRun struct {
	Config
	dir          string
	client       *http.Client
	large, small *plane
	bare         *site
	stops        []func() error
}

func (m *scimRun) say(format string, args ...any) {
	_, _ = fmt.Fprintf(m.Progress, "· "+format+"\n", args...) // nobody may be reading
}

func (m *scimRun) print(f Figure) error {
	f.Ratio = f.Value / f.Reference
	f.Scale = m.Scale
	if err := json.NewEncoder(m.Out).Encode(f); err != nil {
		return fmt.Errorf("print %s: %w", f.Name, err)
	}
	return nil
}

func (m *scimRun) close() error {
	var first error
	for i := len(m.stops) - 1; i >= 0; i-- {
		if err := m.stops[i](); err != nil && first == nil {
			first = err
		}
	}
	m.client.CloseIdleConnections()
	if err := os.RemoveAll(m.dir); err != nil && first == nil {
		first = fmt.Errorf("remove the run's folder: %w", err)
	}
	return first
}

// userBody is a user as Okta sends one.
func userBody(n int) string {
	return fmt.Sprintf(`{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":%q,"name":{"givenName":"Given%d","familyName":"Family%d"},`+
		`"emails":[{"primary":true,"value":%q,"type":"work"}],"displayName":"Given%d Family%d","locale":"en-US","externalId":"00u%016d","groups":[],"password":"placeholder","active":true}`,
		loginOf(n), n, n, loginOf(n), n, n, n)
}

func loginOf(n int) string { return fmt.Sprintf("person-%07d@bench.example", n) }

func groupBody(name string, members []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"displayName":%q,"members":[`, name)
	for i, id := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"value":%q}`, id)
	}
	b.WriteString("]}")
	return b.String()
}

// load times creations at the control plane, and the same requests at a handler that only stores their bodies, in turn.
func (m *scimRun) load(ctx context.Context) error {
	users, groups := m.sized(loadUsers), m.sized(loadGroups)
	var err error
	if m.bare, err = m.startBare(ctx); err != nil {
		return err
	}
	m.say("%d users and %d groups of %d members are created by %d clients, here and at a bare handler in turn", users, groups, perGroup, loadClients)
	var ours, theirs []float64
	for range loadRounds {
		began := time.Now()
		people, teams, err := m.large.create(ctx, users/loadRounds, groups/loadRounds, loadClients)
		if err != nil {
			return err
		}
		ours = append(ours, float64(users/loadRounds)/time.Since(began).Seconds())
		began = time.Now()
		for _, bodies := range [][]string{people, teams} {
			if _, err := m.bare.sendAll(ctx, "/", bodies, loadClients); err != nil {
				return err
			}
		}
		theirs = append(theirs, float64(users/loadRounds)/time.Since(began).Seconds())
	}
	return m.print(Figure{
		Name: "scim_load", Value: median(ours), Unit: "users/s", Reference: median(theirs),
		Load: fmt.Sprintf("POST of %d users and then, as part of the time, of %d groups with %d members each, %d memberships, by %d clients over HTTP; embedded server, SyncAlways; "+
			"reference: the same requests to a net/http handler that stores their bodies in JetStream, those that wait as one atomic batch; medians of %d parts, in turn", users, groups, perGroup, groups*perGroup, loadClients, loadRounds),
	})
}

// grow brings both control planes to their sizes.
func (m *scimRun) grow(ctx context.Context) error {
	began := time.Now()
	users, groups := m.sized(allUsers), m.sized(allGroups)
	m.say("the rest is created: %d users, %d groups", users, groups)
	const parts = 10
	for part := 1; part <= parts; part++ {
		moreUsers, moreGroups := users*part/parts-len(m.large.users), groups*part/parts-len(m.large.groups)
		if moreUsers <= 0 {
			continue
		}
		if _, _, err := m.large.create(ctx, moreUsers, max(moreGroups, 0), growClients); err != nil {
			return err
		}
		m.say("%d users, %d groups after %s", len(m.large.users), len(m.large.groups), time.Since(began).Round(time.Second))
	}
	if _, _, err := m.small.create(ctx, fewUsers, fewUsers/10, growClients); err != nil {
		return err
	}
	m.say("what the growth left to do, such as a checkpoint, is waited for")
	return m.large.idle(ctx)
}

// lookUp times userName eq at both sizes, in turn.
func (m *scimRun) lookUp(ctx context.Context) error {
	m.say("%d people are looked up at each size", lookups)
	sides := []func(context.Context) (time.Duration, error){m.large.lookUp, m.small.lookUp, m.small.beat}
	took := make([][]time.Duration, len(sides))
	for i := range lookups * len(sides) {
		side := i / block % len(sides)
		d, err := sides[side](ctx)
		if err != nil {
			return err
		}
		took[side] = append(took[side], d)
	}
	return m.print(Figure{
		Name: "scim_username_p99_1m", Value: milliseconds(quantile(took[0], 0.99)), Unit: "ms", Reference: milliseconds(quantile(took[1], 0.99)),
		Load: fmt.Sprintf("GET /Users?filter=userName eq, one client over HTTP, %d of random people out of %d, in either letter case, at a control plane that does nothing else; reference: the same out of %d, at a control plane of their own; in turn; "+
			"the medians are %.3f and %.3f ms; in turn with them GET /healthz has a median of %.3f and a p99 of %.3f ms",
			lookups, len(m.large.users), len(m.small.users), milliseconds(median(took[0])), milliseconds(median(took[1])), milliseconds(median(took[2])), milliseconds(quantile(took[2], 0.99))),
	})
}

// patch times PATCHes of one member, and full reads, of a large and of a small group.
func (m *scimRun) patch(ctx context.Context) error {
	sizes := []int{m.sized(largeGroup), smallGroup}
	ids := make([]string, len(sizes))
	for i, n := range sizes {
		all, err := m.large.sendAll(ctx, "/Groups", []string{groupBody(fmt.Sprintf("Group of %d", n), m.large.users[:n])}, 1)
		if err != nil {
			return err
		}
		ids[i] = all[0]
	}
	m.say("%d PATCHes of one member of a group of %d and of one of %d", patches, sizes[0], sizes[1])
	took := make([][]time.Duration, len(sizes)+1)
	for n := range patches * len(took) {
		side := n / block % len(took)
		person := m.large.users[len(m.large.users)-1-n/2%block]
		op := fmt.Sprintf(`{"op":"add","path":"members","value":[{"value":%q}]}`, person)
		if n%2 == 1 {
			op = fmt.Sprintf(`{"op":"remove","path":"members[value eq \"%s\"]"}`, person)
		}
		var d time.Duration
		var err error
		if side < len(ids) {
			d, err = m.large.patch(ctx, "/Groups/"+ids[side], op)
		} else {
			d, err = m.bare.store(ctx, op)
		}
		if err != nil {
			return err
		}
		took[side] = append(took[side], d)
	}
	if err := m.print(Figure{
		Name: "scim_patch_p99_50k", Value: milliseconds(quantile(took[0], 0.99)), Unit: "ms", Reference: milliseconds(quantile(took[1], 0.99)),
		Load: fmt.Sprintf("PATCH that adds or removes one member, one client over HTTP, %d at a group of %d, durable before it is answered; reference: a group of %d, in turn; the medians are %.3f and %.3f ms; "+
			"in turn with them a net/http handler that only stores such a body has a median of %.3f and a p99 of %.3f ms",
			patches, sizes[0], sizes[1], milliseconds(median(took[0])), milliseconds(median(took[1])), milliseconds(median(took[2])), milliseconds(quantile(took[2], 0.99))),
	}); err != nil {
		return err
	}
	took = make([][]time.Duration, len(sizes))
	for range reads {
		for i, n := range sizes {
			d, members, err := m.large.read(ctx, "/Groups/"+ids[i])
			if err != nil {
				return err
			}
			if members != n {
				return fmt.Errorf("a group of %d is read with %d members", n, members)
			}
			took[i] = append(took[i], d)
		}
	}
	return m.print(Figure{
		Name: "scim_group_read_50k", Value: milliseconds(median(took[0])), Unit: "ms", Reference: milliseconds(median(took[1])),
		Load: fmt.Sprintf("GET of a group of %d with all members, one client over HTTP, until the last byte; reference: a group of %d; medians of %d, in turn", sizes[0], sizes[1], reads),
	})
}

// restart tells what memory the control planes have, ends them, and times their starts.
func (m *scimRun) restart(ctx context.Context) error {
	held := fmt.Sprintf("%d users, %d groups, %d memberships", len(m.large.users), len(m.large.groups), len(m.large.groups)*perGroup)
	little := fmt.Sprintf("%d users, %d groups, %d memberships", len(m.small.users), len(m.small.groups), len(m.small.groups)*perGroup)
	figures := []Figure{
		{Name: "scim_rss_1m", Unit: "MiB", Load: "resident memory of the control plane, its event store included, after all of the above, with " + held + "; reference: one with " + little},
		{Name: "scim_start_1m", Unit: "s", Load: "from the start of the process to /readyz and a person found, from the checkpoint of an orderly end, with " + held + "; reference: with " + little},
		{Name: "scim_start_rss_1m", Unit: "MiB", Load: "resident memory of the control plane after that start, with " + held + "; reference: with " + little},
	}
	for _, p := range []*plane{m.large, m.small} {
		set := func(f *Figure, v float64) {
			if p == m.large {
				f.Value = v
			} else {
				f.Reference = v
			}
		}
		rss, _, err := memory(p.process.PID())
		if err != nil {
			return err
		}
		set(&figures[0], rss)
		m.say("the control plane %q is stopped and started", p.name)
		if err := p.process.StopWithin(time.Minute); err != nil {
			return err
		}
		began := time.Now()
		if err := p.start(ctx); err != nil {
			return err
		}
		if _, found, err := p.find(ctx, loginOf(1)); err != nil || found != p.users[1] {
			return fmt.Errorf("after a start %s is %q: %w", loginOf(1), found, err)
		}
		set(&figures[1], time.Since(began).Seconds())
		if rss, _, err = memory(p.process.PID()); err != nil {
			return err
		}
		set(&figures[2], rss)
	}
	for _, f := range figures {
		if err := m.print(f); err != nil {
			return err
		}
	}
	return nil
}

// snapshot times the start of a proxy that has nothing yet, at each control plane.
func (m *scimRun) snapshot(ctx context.Context) error {
	const grants = 100
	took := Figure{Name: "scim_snapshot_1m", Unit: "s", Load: fmt.Sprintf("from the start of a proxy that has nothing to /readyz: the first snapshot with %d users and grants of %d of %d groups is applied; reference: of %d users", len(m.large.users), grants, len(m.large.groups), len(m.small.users))}
	peak := Figure{Name: "scim_snapshot_rss_1m", Unit: "MiB", Load: "the most resident memory that the proxy had until then; reference: at the small control plane"}
	for _, p := range []*plane{m.large, m.small} {
		if err := p.grant(ctx, grants); err != nil {
			return err
		}
		m.say("a proxy starts at the control plane %q", p.name)
		seconds, most, err := p.timeProxy(ctx)
		if err != nil {
			return err
		}
		if p == m.large {
			took.Value, peak.Value = seconds, most
		} else {
			took.Reference, peak.Reference = seconds, most
		}
	}
	if err := m.print(took); err != nil {
		return err
	}
	return m.print(peak)
}

func (m *scimRun) folder(name string) string { return filepath.Join(m.dir, name) }
