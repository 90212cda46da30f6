package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

// chromium is a person at a real browser, without a window. What no script of ours would notice, it does: pages whose policy keeps a
// form's answer from leading on, cookies that a browser does not keep.
type chromium struct {
	tab    context.Context
	person string
}

func newChromium(t *testing.T, person string) *chromium {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Skip("there is no Chromium here: install the package chromium, as scripts/test does")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute))
	allocator, end := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(end)
	tab, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(func() { _ = chromedp.Cancel(tab); closeTab() }) // it ends with its process
	if err := chromedp.Do(tab); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	return &chromium{tab: tab, person: person}
}

// Open opens a URL and presses the main button of each page.
func (c *chromium) Open(ctx context.Context, target string) (agent.Page, error) {
	run, cancel := context.WithTimeout(c.tab, time.Minute)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	const email, button = `form input[type="email"]`, `form button.main, form[action="/login"] button`
	resp, err := chromedp.RunResponse(run, chromedp.Navigate(target))
	for range 8 {
		if err != nil {
			return agent.Page{}, fmt.Errorf("browse: %w", err)
		}
		title, errTitle := chromedp.Run(run, chromedp.Title())
		text, errText := chromedp.Run(run, chromedp.Text("body"))
		asks, errAsks := has(run, button)
		isLogin, errLogin := has(run, email)
		page := agent.Page{Status: int(resp.Status), Title: title, Text: text}
		if err = errors.Join(errTitle, errText, errAsks, errLogin); err != nil || !asks || page.Status != 200 {
			return page, err
		}
		if isLogin {
			if err := chromedp.Do(run, chromedp.SetValue(email, c.person), chromedp.SetValue(`form input[type="password"]`, okta.Password)); err != nil {
				return page, err
			}
		}
		resp, err = chromedp.RunResponse(run, chromedp.Click(button, chromedp.NodeVisible))
	}
	return agent.Page{}, errors.New("the pages ask again and again")
}

// has says whether there is such an element.
func has(tab context.Context, selector string) (bool, error) {
	return chromedp.Run(tab, chromedp.Evaluate[bool]("document.querySelector('"+selector+"') !== null"))
}

// TestPeopleSignInWithARealBrowser: an admin for the command line, and anybody for an agent, in one browser, which asks for the
// password once.
func TestPeopleSignInWithARealBrowser(t *testing.T) {
	t.Parallel()
	browser := newChromium(t, ada)
	o := newOffice(t, "")
	o.cp.must("admins", "directory", "okta")
	o.cp.must("admins", "grant", "okta/"+admins, "admin")
	home := t.TempDir()
	cli := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), controlPlaneProgram, append([]string{"--server", "http://" + o.cp.admin}, args...)...)
		cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin"}
		return cmd
	}
	page, err := login(t.Context(), cli("login", "--no-browser"), browser)
	if err != nil || !strings.Contains(page.Text, "The command line has its answer") {
		t.Fatalf("%v; the page says: %s", err, page.Text)
	}
	if out, err := cli("whoami").CombinedOutput(); err != nil || !strings.Contains(string(out), ada) || !strings.Contains(string(out), "admin") {
		t.Errorf("whoami: %v: %s", err, out)
	}
	if out, err := cli("logout").CombinedOutput(); err != nil {
		t.Errorf("logout: %v: %s", err, out)
	}
	if out, err := cli("whoami").CombinedOutput(); err == nil {
		t.Errorf("after the logout: %s", out)
	}
	tokens, err := new(agent.Program).SignInWith(t.Context(), o.west.url()+"/github", browser)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Refresh(t.Context(), tokens); err != nil {
		t.Error(err)
	}
	if err := o.refuses(o.west, tokens.Access); err != nil {
		t.Errorf("a token for one connector, at all of them: %v", err)
	}
}

// TestOnlyAdminsSignInToTheCommandLine: anybody else is told whom to ask, and the command line goes on waiting until it is interrupted.
func TestOnlyAdminsSignInToTheCommandLine(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "")
	o.cp.must("admins", "directory", "okta")
	o.cp.must("admins", "grant", "okta/"+admins, "admin")
	for person, want := range map[string]string{ada: "The command line has its answer", bob: "none of your groups gives a role"} {
		browser, err := agent.NewBrowser(agent.Person{Email: person, Password: okta.Password})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, controlPlaneProgram, "--server", "http://"+o.cp.admin, "login", "--no-browser")
		cmd.Env = []string{"HOME=" + t.TempDir()}
		page, err := login(ctx, cmd, interrupting{browser, person == bob, cancel})
		cancel()
		if !strings.Contains(page.Text, want) || (err == nil) != (person == ada) {
			t.Errorf("%s: %v; the page says: %s", person, err, page.Text)
		}
	}
}

// interrupting ends the command that waits, once the browser has nothing more to do.
type interrupting struct {
	agent.Opener
	so        bool
	interrupt func()
}

// Open opens a URL.
func (i interrupting) Open(ctx context.Context, target string) (agent.Page, error) {
	page, err := i.Opener.Open(ctx, target)
	if i.so {
		i.interrupt()
	}
	return page, err
}

// login runs the command, and has a browser open the address that it shows.
func login(ctx context.Context, cmd *exec.Cmd, browser agent.Opener) (agent.Page, error) {
	shown, err := cmd.StderrPipe()
	if err != nil {
		return agent.Page{}, err
	}
	if err := cmd.Start(); err != nil {
		return agent.Page{}, err
	}
	var page agent.Page
	var said []string
	lines := bufio.NewScanner(shown)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		said = append(said, line)
		if strings.HasPrefix(line, "http://") {
			if page, err = browser.Open(ctx, line); err != nil {
				break
			}
		}
	}
	if ended := cmd.Wait(); ended != nil {
		err = errors.Join(err, fmt.Errorf("%w: %s", ended, strings.Join(said, " ")))
	}
	return page, err
}
