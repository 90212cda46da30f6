package quickstart

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

// Regions of an Installation's proxies.
const (
	USEast = usEast
	EUWest = euWest
)

// InstallConfig says what to install.
type InstallConfig struct {
	// Dir keeps state and logs.
	Dir string
	// ControlPlane and Proxy are the built programs.
	ControlPlane, Proxy string
	// Regions that get a proxy: USEast, EUWest, or both.
	Regions []string
	// Out gets progress.
	Out io.Writer
}

// Installation is a control plane with the stand-in Okta connected to it, and proxies; without servers, people and
// policy. It is for programs that bring their own, such as those that measure.
type Installation struct{ s *system }

// Install starts everything, or nothing.
func Install(ctx context.Context, cfg InstallConfig) (*Installation, error) {
	addrs, err := addresses(ctx, nil)
	if err != nil {
		return nil, err
	}
	s := &system{say: &printer{out: cfg.Out}, dir: cfg.Dir, addrs: addrs, bin: binaries{controlPlane: cfg.ControlPlane, proxy: cfg.Proxy}, desk: agent.Program{Name: "Bench agent"}}
	steps := []func(context.Context) error{s.startOkta, s.startControlPlane, s.connectOkta}
	for _, region := range cfg.Regions {
		steps = append(steps, func(ctx context.Context) error { return s.startProxy(ctx, region) })
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			s.down()
			return nil, err
		}
	}
	return &Installation{s}, nil
}

// Close stops everything, the last started first.
func (i *Installation) Close() { i.s.down() }

// Start runs another program until Close, and waits until a URL of its answers 200.
func (i *Installation) Start(ctx context.Context, name, readyURL, program string, args ...string) error {
	p, err := i.s.start(name, program, args...)
	if err != nil {
		return err
	}
	return p.Ready(ctx, readyURL)
}

// StartProxy starts the proxy of a region that has none yet, with further flags.
func (i *Installation) StartProxy(ctx context.Context, region string, flags ...string) error {
	return i.s.startProxy(ctx, region, flags...)
}

// PID is the process of a program by the name that it was started under, which is also that of its log: "control-plane", ProxyOf a
// region, or what was given to Start. Zero: there is none.
func (i *Installation) PID(name string) int {
	for _, p := range i.s.running {
		if p.name == name {
			return p.PID()
		}
	}
	return 0
}

// ProxyOf is the name of a region's proxy.
func ProxyOf(region string) string { return region + "-1" }

// Crashed tells of a program that ended by itself.
func (i *Installation) Crashed() error { return i.s.crashed() }

// Org is the stand-in Okta, already connected.
func (i *Installation) Org() *okta.Org { return i.s.org }

// MCPURL is where the agents of a region call.
func (i *Installation) MCPURL(region string) string { return i.s.mcpURL(region) }

// SCIM is the SCIM endpoint and its token.
func (i *Installation) SCIM() (url, token string) { return i.s.scimURL(), i.s.scimToken }

// FleetURL is what proxies connect to.
func (i *Installation) FleetURL() string { return "https://" + i.s.addrs["fleet"] }

// AdminURL is the admin API's, and the client sends the admin's token.
func (i *Installation) AdminURL() (url string, client *http.Client) {
	return i.s.admin.URL, &http.Client{Transport: &authorized{token: i.s.admin.Token}}
}

// Apply applies resources as YAML.
func (i *Installation) Apply(ctx context.Context, name, text string) error {
	return i.s.admin.Apply(ctx, i.s.dir, name, []byte(text))
}

// Pin asks a connector's server for its tools and approves what it offers.
func (i *Installation) Pin(ctx context.Context, connector string) error {
	return i.s.admin.Pin(ctx, connector)
}

// Enforced waits until every proxy enforces what the log holds now.
func (i *Installation) Enforced(ctx context.Context) error { return i.s.admin.Enforced(ctx, 0) }

// SignIn returns a person's access token for the one URL that people are given: their agent finds out where to sign in, they sign in
// at the stand-in Okta, and let the agent in.
func (i *Installation) SignIn(ctx context.Context, login string) (string, error) {
	tokens, err := i.s.signIn(ctx, login, usEast)
	if err != nil {
		return "", fmt.Errorf("sign in %s: %w", login, err)
	}
	return tokens.Access, nil
}
