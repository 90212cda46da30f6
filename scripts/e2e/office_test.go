package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/quickstart"
	"sallyport.dev/scripts/demo/servers"
)

// The groups of an office. Assigned gives its members Sallyport, and Admins makes them admins.
const (
	assigned = "Assigned"
	admins   = "Admins"
)

// oktaAPIToken may read at Okta who is assigned to an app.
const oktaAPIToken = "read-only"

// helpDesk is whom pages say to ask.
const helpDesk = "the desk on floor 3"

// office is a control plane that signs people in at a stand-in Okta, with one upstream and a proxy in each of two regions. Ada and
// Bob work there; Ada is an admin.
type office struct {
	t          testing.TB
	cp         *controlPlane
	org        *okta.Org
	idp        string // its address
	stopOkta   func()
	east, west *proxy
	github     *servers.GitHub
	// client is Sallyport's at the stand-in.
	client, clientSecret string
}

// newOffice starts one. signInURL is empty, or where the sign-in listener is reached in place of its own address.
func newOffice(t testing.TB, signInURL string, flags ...string) *office {
	t.Helper()
	east, west := freeAddress(t), freeAddress(t)
	flags = append(flags, "--resource", "http://"+east+"/mcp", "--resource", "http://"+west+"/mcp")
	if signInURL != "" {
		flags = append(flags, "--signin-url", signInURL)
	}
	o := &office{t: t, cp: newControlPlane(t, flags...), idp: freeAddress(t)}
	if signInURL == "" {
		signInURL = "http://" + o.cp.signin
	}
	o.org = okta.NewOrg(okta.Config{APIToken: oktaAPIToken})
	issuer := o.openOkta()
	id, secret := o.org.CreateWebApp(signInURL + "/signin/callback/okta")
	o.client, o.clientSecret = id, secret
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	o.cp.must("directories", "create", "okta", "--user-attribute", "externalId")
	o.cp.must("directories", "sign-in", "okta", "--issuer", issuer, "--client-id", id, "--client-secret-file", file, "--contact", helpDesk, "--title", "Corp")
	o.provision()
	o.connect()
	o.east = newProxyAt(t, o.cp, "us-east", east, "--resource", "http://"+east+"/mcp")
	o.west = newProxyAt(t, o.cp, "eu-west", west, "--resource", "http://"+east+"/mcp")
	o.cp.enforced()
	return o
}

// openOkta starts the stand-in, which keeps its people and apps while it is stopped.
func (o *office) openOkta() (issuer string) {
	o.t.Helper()
	issuer, _, stop, err := o.org.Start(o.t.Context(), o.idp)
	if err != nil {
		o.t.Fatal(err)
	}
	o.stopOkta = stop
	o.t.Cleanup(stop)
	return issuer
}

func (o *office) provision() {
	o.t.Helper()
	ctx := o.t.Context()
	token, err := o.cp.Issue(ctx, "scim", "--directory", "okta")
	if err != nil {
		o.t.Fatal(err)
	}
	pushed := func(_ okta.Push, err error) {
		o.t.Helper()
		if err != nil {
			o.t.Fatal(err)
		}
	}
	pushed(o.org.ConnectSCIM(ctx, "http://"+o.cp.scim+"/scim/v2", token))
	pushed(o.org.CreateGroup(ctx, assigned, okta.Assignment))
	for _, group := range []string{"Staff", admins} {
		pushed(o.org.CreateGroup(ctx, group, okta.Pushed))
	}
	for _, login := range []string{ada, bob} {
		if _, err := o.org.AddUser(okta.Profile{Login: login, GivenName: login[:3], FamilyName: "Person"}); err != nil {
			o.t.Fatal(err)
		}
		pushed(o.org.AddToGroup(ctx, "Staff", login))
		pushed(o.org.AddToGroup(ctx, assigned, login))
	}
	pushed(o.org.AddToGroup(ctx, admins, ada))
}

// connect loads the upstream and lets Staff use it.
func (o *office) connect() {
	o.t.Helper()
	o.github = servers.NewGitHub()
	url, end, err := o.github.Start(o.t.Context(), "127.0.0.1:0")
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(end)
	o.cp.apply("kind: Connector\nid: github\nurl: " + url + "\nallowedRanges: [127.0.0.0/8]\n")
	if err := o.cp.Pin(o.t.Context(), "github"); err != nil {
		o.t.Fatal(err)
	}
	o.cp.apply("kind: Grant\ngroup: okta/Staff\nconnector: github\nrules:\n  - allow: [\"*\"]\n")
}

// commands signs a person in to the command line by a browser, and returns how they run it.
func (o *office) commands(person string) func(args ...string) (string, error) {
	o.t.Helper()
	home := o.t.TempDir()
	cli := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(o.t.Context(), controlPlaneProgram, append([]string{"--server", "http://" + o.cp.admin}, args...)...)
		cmd.Env = []string{"HOME=" + home}
		return cmd
	}
	browser, err := agent.NewBrowser(quickstart.Employee(person))
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := login(o.t.Context(), cli("login", "--no-browser"), browser); err != nil {
		o.t.Fatal(err)
	}
	return func(args ...string) (string, error) {
		out, err := cli(args...).CombinedOutput()
		return string(out), err
	}
}

// signIn has a person's agent sign them in at a proxy.
func (o *office) signIn(ctx context.Context, p *agent.Program, at *proxy, person string) (agent.Tokens, error) {
	return p.SignIn(ctx, at.url(), quickstart.Employee(person))
}

// refuses says whether a proxy turns a token away.
func (o *office) refuses(p *proxy, token string) error {
	o.t.Helper()
	if status, _, body := post(o.t, p, token, nil, goodCall); status != 401 {
		return fmt.Errorf("%s answers %d: %s", p.region, status, body)
	}
	return nil
}

// takes says whether a proxy lets a call with a token through.
func (o *office) takes(p *proxy, token string) error {
	o.t.Helper()
	if status, _, body := post(o.t, p, token, nil, goodCall); status != 200 {
		return fmt.Errorf("%s answers %d: %s", p.region, status, body)
	}
	return nil
}
