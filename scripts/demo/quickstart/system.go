package quickstart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/policy"
	"sallyport.dev/scripts/demo/servers"
)

// Regions of the two proxies.
const (
	usEast = "us-east"
	euWest = "eu-west"
)

// salesforceCredential is what the demo's Salesforce demands. It is made up, and the gateway alone should know it.
const salesforceCredential = "sf-demo-7d1f0c4be2a94c0f"

// Config of a run.
type Config struct {
	// Root of the repository.
	Root string
	// DataDir keeps all state; it stays after the run. Empty: a new folder, deleted at the end.
	DataDir string
	// EnvFile gets the env lines when all is up. Empty: none.
	EnvFile string
	// Ports by name; what is not named is chosen free.
	Ports map[string]int
	// Once ends after the stories.
	Once bool
	// NoStories skips them.
	NoStories bool
	Out       io.Writer
}

// system is everything that runs.
type system struct {
	cfg   Config
	say   *printer
	dir   string
	addrs map[string]string

	org    *okta.Org
	issuer string

	github     *servers.GitHub
	jira       *servers.Jira
	confluence *servers.Confluence
	salesforce *servers.Salesforce
	analytics  *servers.Analytics
	urls       map[string]string // of the servers, as the policy names them

	bin       binaries
	admin     *Admin
	scimToken string

	// desk is the agents' program, which registers itself at its first sign-in.
	desk agent.Program

	running []*Process
	stops   []func() // in the order of starting
}

func (s *system) mcpURL(region string) string { return "http://" + s.addrs[region] + "/mcp" }

// resource is the one URL that people are given, whichever region serves it.
func (s *system) resource() string { return s.mcpURL(usEast) }

func (s *system) signInURL() string { return "http://" + s.addrs["signin"] }

// upstream returns a server by its connector's id.
func (s *system) upstream(connector string) *servers.Upstream {
	for _, u := range s.upstreams() {
		if u.Name() == connector {
			return u
		}
	}
	return nil
}

func (s *system) upstreams() []*servers.Upstream {
	return []*servers.Upstream{s.github.Upstream, s.jira.Upstream, s.confluence.Upstream, s.salesforce.Upstream, s.analytics.Upstream}
}

// up brings everything to the point at which people can work.
func (s *system) up(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.startUpstreams, s.startOkta, s.startControlPlane, s.connectOkta, s.startProxies, s.loadConnectors, s.hireStaff, s.loadGrants,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return s.writeEnv()
}

func (s *system) startUpstreams(ctx context.Context) error {
	s.github, s.jira, s.confluence = servers.NewGitHub(), servers.NewJira(), servers.NewConfluence()
	s.salesforce, s.analytics = servers.NewSalesforce(salesforceCredential), servers.NewAnalytics()
	s.urls = map[string]string{}
	for _, u := range s.upstreams() {
		at, stop, err := u.Start(ctx, "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.stops = append(s.stops, stop)
		s.urls[strings.ToUpper(u.Name())+"_URL"] = at
	}
	s.say.status("MCP servers: GitHub, Jira, Confluence, Salesforce, Analytics")
	return nil
}

func (s *system) startOkta(ctx context.Context) error {
	s.org = okta.NewOrg(okta.Config{Audience: s.resource()})
	issuer, _, stop, err := s.org.Start(ctx, s.addrs["okta"])
	if err != nil {
		return err
	}
	s.issuer = issuer
	s.stops = append(s.stops, stop)
	s.say.status("stand-in Okta: issuer %s", issuer)
	return nil
}

func (s *system) startControlPlane(ctx context.Context) error {
	dir := filepath.Join(s.dir, "control-plane")
	p, err := s.start("control-plane", s.bin.controlPlane, "serve", "--data-dir", dir,
		"--scim-addr", s.addrs["scim"], "--admin-addr", s.addrs["admin"], "--fleet-addr", s.addrs["fleet"], "--signin-addr", s.addrs["signin"],
		"--resource", s.resource(), "--resource", s.mcpURL(euWest), "--nats-listen", s.addrs["nats"])
	if err != nil {
		return err
	}
	adminURL := "http://" + s.addrs["admin"]
	if err := p.Ready(ctx, adminURL+"/readyz"); err != nil {
		return err
	}
	if s.admin, err = FirstOwner(ctx, s.bin.controlPlane, adminURL, dir); err != nil {
		return err
	}
	s.say.status("control plane: admin API %s, SCIM %s, sign-in %s", adminURL, s.scimURL(), s.signInURL())
	return nil
}

// connectOkta is what docs tell an admin to do once: a directory, Okta's two apps, a SCIM token, and where Okta tells what SCIM does not.
func (s *system) connectOkta(ctx context.Context) error {
	if _, err := s.admin.Run(ctx, "directories", "create", "okta", "--user-attribute", "externalId"); err != nil {
		return err
	}
	if err := s.connectSignIn(ctx); err != nil {
		return err
	}
	if err := s.connectSignals(ctx); err != nil {
		return err
	}
	var err error
	if s.scimToken, err = s.admin.KeptToken(ctx, filepath.Join(s.dir, "scim-token"), "scim", "--directory", "okta"); err != nil {
		return err
	}
	if _, err := s.org.ConnectSCIM(ctx, s.scimURL(), s.scimToken); err != nil {
		return fmt.Errorf("connect Okta's SCIM app: %w", err)
	}
	s.say.status("Okta is connected: sign-in by OIDC, people and groups by SCIM, ends of sessions by signals")
	return nil
}

// connectSignIn creates the web app by which people sign in at Okta, and says which programs are known.
func (s *system) connectSignIn(ctx context.Context) error {
	id, secret := s.org.CreateWebApp(s.signInURL() + "/signin/callback/okta")
	file := filepath.Join(s.dir, "okta-client-secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		return fmt.Errorf("write the client's secret: %w", err)
	}
	_, err := s.admin.Run(ctx, "directories", "sign-in", "okta", "--issuer", s.issuer, "--client-id", id, "--client-secret-file", file,
		"--title", "Acme's Okta", "--contact", helpDesk)
	if err := errors.Join(err, os.Remove(file)); err != nil {
		return err
	}
	// Claude Code names itself by a document on the web. It is known here beforehand, as in a network that has no way there.
	_, err = s.admin.Run(ctx, "clients", "approve", "https://claude.ai/oauth/claude-code-client-metadata", "--name", "Claude Code",
		"--redirect-uri", "http://localhost/callback", "--redirect-uri", "http://127.0.0.1/callback")
	return err
}

// connectSignals lets Okta tell what it does not tell by SCIM: suspensions above all.
func (s *system) connectSignals(ctx context.Context) error {
	issuer, keys := s.org.Transmitter()
	base := "http://" + s.addrs["scim"] + "/signals/okta"
	to := okta.Receiver{EventsURL: base + "/events", LogoutURL: base + "/logout", Audience: base}
	if _, err := s.admin.Run(ctx, "directories", "signals", "okta", "--issuer", issuer, "--jwks-url", keys, "--audience", to.Audience, "--audience", to.LogoutURL); err != nil {
		return err
	}
	s.org.ConnectReceiver(to)
	return nil
}

func (s *system) scimURL() string { return "http://" + s.addrs["scim"] + "/scim/v2" }

func (s *system) startProxies(ctx context.Context) error {
	for _, region := range []string{usEast, euWest} {
		if err := s.startProxy(ctx, region); err != nil {
			return err
		}
	}
	return nil
}

func (s *system) startProxy(ctx context.Context, region string, flags ...string) error {
	name := ProxyOf(region)
	file := filepath.Join(s.dir, name+".invitation")
	if err := s.admin.Invite(ctx, file, name, region); err != nil {
		return err
	}
	args := []string{
		"serve", "--name", name, "--region", region, "--control-plane", "https://" + s.addrs["fleet"],
		"--invitation-file", file, "--listen", s.addrs[region], "--public-url", "http://" + s.addrs[region],
		"--resource", s.resource(), "--data-dir", filepath.Join(s.dir, name),
	}
	p, err := s.start(name, s.bin.proxy, append(args, flags...)...)
	if err != nil {
		return err
	}
	if err := p.Ready(ctx, "http://"+s.addrs[region]+"/readyz"); err != nil {
		return err
	}
	s.say.status("proxy %s: %s", name, s.mcpURL(region))
	return nil
}

// loadConnectors registers the servers, sets Salesforce's credential and pins every catalogue. Analytics comes later.
func (s *system) loadConnectors(ctx context.Context) error {
	// A data folder that was used before may still have it.
	_, err := s.admin.Connectors.RetireConnector(ctx, connect.NewRequest(&adminv1.RetireConnectorRequest{Id: "analytics"}))
	if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
		return fmt.Errorf("retire analytics: %w", err)
	}
	if err := s.apply(ctx, "connectors.yaml"); err != nil {
		return err
	}
	secret := filepath.Join(s.dir, "salesforce-credential")
	if err := os.WriteFile(secret, []byte("Bearer "+salesforceCredential), 0o600); err != nil {
		return fmt.Errorf("write the credential: %w", err)
	}
	_, err = s.admin.Run(ctx, "secrets", "set", "--connector", "salesforce", "--header", "Authorization", "--value-file", secret)
	if err := errors.Join(err, os.Remove(secret)); err != nil {
		return err
	}
	for _, connector := range []string{"github", "jira", "confluence", "salesforce"} {
		if err := s.admin.Pin(ctx, connector); err != nil {
			return err
		}
	}
	s.say.status("connectors github, jira, confluence, salesforce: tools pinned; Salesforce's credential is in the vault")
	return nil
}

func (s *system) apply(ctx context.Context, name string) error {
	text, err := policy.Read(name, s.urls)
	if err != nil {
		return err
	}
	return s.admin.Apply(ctx, s.dir, name, text)
}

// hireStaff makes the org's people and groups; Okta pushes them.
func (s *system) hireStaff(ctx context.Context) error {
	requests := 0
	count := func(p okta.Push, err error) error {
		requests += p.Requests
		return err
	}
	err := count(s.org.CreateGroup(ctx, assigned, okta.Assignment))
	for _, group := range pushedGroups {
		err = errors.Join(err, count(s.org.CreateGroup(ctx, group, okta.Pushed)))
	}
	if err != nil {
		return fmt.Errorf("push groups: %w", err)
	}
	provisioned := 0
	for _, h := range staff {
		if _, err := s.org.AddUser(h.profile); err != nil {
			return err
		}
		if h.group == "" { // nobody gave them Sallyport
			continue
		}
		if err := count(s.org.AddToGroup(ctx, h.group, h.profile.Login)); err != nil {
			return fmt.Errorf("add %s to %s: %w", h.profile.Login, h.group, err)
		}
		if err := count(s.org.AddToGroup(ctx, assigned, h.profile.Login)); err != nil {
			return fmt.Errorf("provision %s: %w", h.profile.Login, err)
		}
		provisioned++
	}
	s.say.status("Okta pushed %d people and %d groups in %d SCIM requests", provisioned, len(pushedGroups), requests)
	return nil
}

func (s *system) loadGrants(ctx context.Context) error {
	for _, name := range []string{"engineers.yaml", "sales.yaml"} {
		if err := s.apply(ctx, name); err != nil {
			return err
		}
	}
	if err := s.admin.Enforced(ctx, 0); err != nil {
		return err
	}
	s.say.status("policy is loaded and enforced at both proxies")
	return nil
}

func (s *system) writeEnv() error {
	values := map[string]string{
		KeySCIMURL: s.scimURL(), KeySCIMToken: s.scimToken,
		KeyAdminURL: s.admin.URL, KeyAdminToken: s.admin.Token, KeyFleetURL: "https://" + s.addrs["fleet"],
		KeyIssuer: s.issuer, KeySignInURL: s.signInURL(),
		KeyMCPUSEast: s.mcpURL(usEast), KeyMCPEUWest: s.mcpURL(euWest),
		KeyNATSURL: (&url.URL{Scheme: "nats", Host: s.addrs["nats"]}).String(),
	}
	files := []string{StateOf(s.dir)}
	if s.cfg.EnvFile != "" {
		files = append(files, s.cfg.EnvFile)
	}
	for _, file := range files {
		if err := WriteEnv(file, values); err != nil {
			return err
		}
	}
	if last, err := LastRun(); err == nil {
		public := map[string]string{KeyIssuer: values[KeyIssuer], KeyMCPUSEast: values[KeyMCPUSEast], KeyMCPEUWest: values[KeyMCPEUWest]}
		// Only scripts/agent-token without arguments needs it, and it says what to name instead.
		if err := WriteEnv(last, public); err != nil {
			s.say.status("%v", err)
		}
	}
	return nil
}

func (s *system) start(name, program string, args ...string) (*Process, error) {
	p, err := Start(s.dir, name, program, args...)
	if err != nil {
		return nil, err
	}
	s.running = append(s.running, p)
	s.stops = append(s.stops, func() {
		if err := p.Stop(); err != nil {
			s.say.status("%v", err)
		}
	})
	return p, nil
}

// down stops everything, the last started first.
func (s *system) down() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
	s.stops = nil
}

// crashed tells of a program that ended by itself.
func (s *system) crashed() error {
	for _, p := range s.running {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended by itself: %s\n%s", p.name, p.cmd.ProcessState, p.Tail())
		default:
		}
	}
	return nil
}
