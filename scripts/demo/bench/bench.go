// Package bench measures a running Sallyport from outside: calls through a proxy beside a bare reverse proxy, and the time
// from a deactivation to the last refusal. Every program that takes part is a process of its own on loopback, started
// and ended here. A figure is printed only if each answer behind it was checked; nothing is left out, and nothing is
// estimated. It never reaches into a program: what it cannot see from outside it does not claim.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/quickstart"
)

// Figure is one line of output.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Reference is what the value is held against, of the same unit and run; Ratio is value by reference.
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	// Direct is the same load without anything between, where there is such a thing.
	Direct float64 `json:"direct,omitempty"`
	// Scale is what part of the sizes that the name speaks of was measured; 0: it speaks of none.
	Scale float64 `json:"scale,omitempty"`
	Load  string  `json:"load"`
}

// Config of a measurement.
type Config struct {
	// ControlPlane and Proxy are the built programs; Self is this one, which also plays the upstream and the reverse proxy.
	ControlPlane, Proxy, Self string
	// Out gets figures, Progress what is being done.
	Out, Progress io.Writer

	// Rounds of each load of `proxy`, and how long one lasts.
	Rounds   int
	RoundFor time.Duration
	// Connections of `proxy`'s loads.
	Connections []int
	// Only are the Parts of `proxy` or `policy` that are measured. Empty: all.
	Only []string
	// Profiles is a folder for profiles of the proxy under each of them. Empty: none are made.
	Profiles string
	// Scale is what part of the sizes that the figures of `scim` name is measured, and of the connectors and streams of `proxy`: 1 for
	// all of them.
	Scale float64
	// Deactivations of `revoke` for each fleet, and the size of the large one.
	Deactivations, Replicas int
	// Changes of `policy`.
	Changes int
}

// limit bounds a measurement, whatever happens; fullLimit one of full size.
const (
	limit     = 8 * time.Minute
	fullLimit = 90 * time.Minute
)

// Run makes the measurement of that name: policy, proxy, revoke or scim.
func Run(ctx context.Context, name string, cfg Config) (err error) {
	most := limit
	if cfg.Scale == 1 && name != "proxy" {
		most = fullLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("the measurement took longer than %s, and was ended: is the machine busy with something else?", most))
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}()
	if name == "scim" {
		return measureScim(ctx, cfg)
	}
	run := map[string]func(context.Context, *lab) error{"proxy": measureProxy, "revoke": measureRevoke, "policy": measureEnforce}[name]
	if run == nil {
		return fmt.Errorf("there is no measurement %q", name)
	}
	var regions []string // proxy starts its own
	if name != "proxy" {
		regions = []string{quickstart.USEast, quickstart.EUWest}
	}
	l, err := newLab(ctx, cfg, regions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := run(ctx, l); err != nil {
		return errors.Join(err, l.installation.Crashed())
	}
	return l.installation.Crashed()
}

// The lab's policy. Every person is in one group, which may use both connectors.
const (
	group = "Callers"
	// loaded is the connector that is measured; marker one whose records show how far audit was delivered.
	loaded = "loaded"
	marker = "marker"
)

// lab is what both measurements stand on: an installation, an upstream and its policy.
type lab struct {
	Config
	dir          string
	installation *quickstart.Installation
	upstream     string // URL
	admin        string // address of the proxy's metrics
}

func newLab(ctx context.Context, cfg Config, regions []string) (l *lab, err error) {
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the run: %w", err)
	}
	l = &lab{Config: cfg, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	l.installation, err = quickstart.Install(ctx, quickstart.InstallConfig{
		Dir: dir, ControlPlane: cfg.ControlPlane, Proxy: cfg.Proxy, Regions: regions, Out: cfg.Progress,
	})
	if err != nil {
		return nil, err
	}
	if l.upstream, err = l.serve(ctx, "upstream"); err != nil {
		return nil, err
	}
	if _, err := l.installation.Org().CreateGroup(ctx, "Assigned", okta.Assignment); err != nil {
		return nil, fmt.Errorf("make the assignment group: %w", err)
	}
	if _, err := l.installation.Org().CreateGroup(ctx, group, okta.Pushed); err != nil {
		return nil, fmt.Errorf("push the group: %w", err)
	}
	for _, connector := range []string{loaded, marker} {
		text := fmt.Sprintf("kind: Connector\nid: %s\ntitle: %s\nurl: %s\nallowedRanges: [127.0.0.0/8]\nauth: {type: none}\n", connector, connector, l.upstream)
		if err := l.installation.Apply(ctx, connector+".yaml", text); err != nil {
			return nil, err
		}
		if err := l.installation.Pin(ctx, connector); err != nil {
			return nil, err
		}
		text = fmt.Sprintf("kind: Grant\ngroup: okta/%s\nconnector: %s\nrules:\n  - allow: [%s, %s]\n    when: args.key.startsWith(\"item/\")\n  - deny: [\"delete_*\"]\n", group, connector, toolName, largeTool)
		if err := l.installation.Apply(ctx, connector+"-grant.yaml", text); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// serve starts one of this program's servers and returns its URL.
func (l *lab) serve(ctx context.Context, role string, args ...string) (string, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return "", err
	}
	url := "http://" + addr
	return url + endpoint, l.installation.Start(ctx, role, url+healthy, l.Self, append([]string{role, addr}, args...)...)
}

// hire makes people who may call, and returns their Okta ids by login.
func (l *lab) hire(ctx context.Context, logins []string) (map[string]string, error) {
	org, ids := l.installation.Org(), map[string]string{}
	for _, login := range logins {
		person, err := org.AddUser(okta.Profile{Login: login, GivenName: "Bench", FamilyName: "Caller"})
		if err != nil {
			return nil, err
		}
		ids[login] = person.ID
	}
	for _, name := range []string{group, "Assigned"} {
		if _, err := org.AddToGroup(ctx, name, logins...); err != nil {
			return nil, fmt.Errorf("add people to %s: %w", name, err)
		}
	}
	return ids, l.installation.Enforced(ctx)
}

func (l *lab) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l.Progress, "· "+format+"\n", args...) // nobody may be reading
}

func (l *lab) print(f Figure) error {
	if err := json.NewEncoder(l.Out).Encode(f); err != nil {
		return fmt.Errorf("print %s: %w", f.Name, err)
	}
	return nil
}

func (l *lab) close() error {
	if l.installation != nil {
		l.installation.Close()
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove the run's folder: %w", err)
	}
	return nil
}

// quantile is the nearest-rank quantile: the least value that at least that share of all does not exceed.
func quantile[T int64 | float64 | time.Duration](all []T, q float64) T {
	sorted := slices.Sorted(slices.Values(all))
	rank := int(q*float64(len(sorted)) + 0.999999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func median[T int64 | float64 | time.Duration](all []T) T { return quantile(all, 0.5) }
