package quickstart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/servers"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// patience is how long a change may take to arrive before a story gives up on it.
const patience = 10 * time.Second

// gateway is what stories need of the system under them.
type gateway interface {
	mcpURL(region string) string
	upstream(connector string) *servers.Upstream
	signIn(ctx context.Context, person, region string) (agent.Tokens, error)
	refresh(ctx context.Context, t agent.Tokens) error
	verdict(ctx context.Context, person, connector, tool string, args any) (*auditv1.Decision, error)
}

// run is one walk through the stories.
type run struct {
	gateway
	say      *printer
	passed   int
	failed   int
	sessions []*agent.Session
	// asked is every call that a person's agents made, in order.
	asked map[string][]asked
	// began: the audit of a data folder that was used before holds older records too.
	began time.Time
}

// asked is one call as the agent remembers it.
type asked struct {
	connector, tool string
	args            string
	done            bool
}

func newRun(g gateway, say *printer) *run {
	return &run{gateway: g, say: say, asked: map[string][]asked{}, began: time.Now()}
}

func (r *run) close() {
	for _, s := range r.sessions {
		s.Close()
	}
	r.sessions = nil
}

func (r *run) title(format string, args ...any) { r.say.line("\n"+format, args...) }

// check prints one line: what was tried, what was seen, how long it took.
func (r *run) check(what string, took time.Duration, seen string, err error) {
	if err != nil {
		r.failed++
		r.say.line("  FAIL  %-62s %s", what, short(err.Error(), 400))
		return
	}
	r.passed++
	r.say.line("  ok    %-62s %-58s %9s", what, short(seen, 58), rounded(took))
}

// step runs one thing and prints its line; the error comes back for steps that others stand on.
func (r *run) step(what string, f func() (seen string, took time.Duration, err error)) error {
	seen, took, err := f()
	r.check(what, took, seen, err)
	return err
}

// seat is a person's agent at one proxy.
type seat struct {
	*agent.Session
	run    *run
	person string
	region string
	tokens agent.Tokens
}

// sit signs a person in and connects their agent.
func (r *run) sit(ctx context.Context, person, region string, o agent.Options) (*seat, error) {
	tokens, err := r.signIn(ctx, person, region)
	if err != nil {
		return nil, fmt.Errorf("sign in %s: %w", person, err)
	}
	return r.connect(ctx, person, region, tokens, o)
}

func (r *run) connect(ctx context.Context, person, region string, tokens agent.Tokens, o agent.Options) (*seat, error) {
	session, err := agent.Connect(ctx, r.mcpURL(region), tokens.Access, o)
	if err != nil {
		return nil, err
	}
	r.sessions = append(r.sessions, session)
	return &seat{Session: session, run: r, person: person, region: region, tokens: tokens}, nil
}

// call calls connector__tool and remembers it.
func (s *seat) call(ctx context.Context, name string, args map[string]any) agent.Result {
	connector, tool, _ := strings.Cut(name, "__")
	encoded, err := json.Marshal(args)
	if err != nil {
		return agent.Result{Text: "encode the arguments: " + err.Error()}
	}
	res := s.Call(ctx, name, args)
	s.run.asked[s.person] = append(s.run.asked[s.person], asked{connector: connector, tool: tool, args: string(encoded), done: res.OK})
	return res
}

// attempt is one call whose outcome is known beforehand.
type attempt struct {
	// what it means, for the reader
	what string
	// name of the tool: connector__tool
	name string
	args map[string]any
	// holds is looked at afterwards: the effect, or that there was none.
	holds func() error
}

// may makes the attempt, and expects the tool to do it: the answer says so, exactly one call reached the server, the
// effect is there, and `explain` says the same.
func (s *seat) may(ctx context.Context, a attempt) agent.Result { return s.try(ctx, a, true) }

// mayNot makes the attempt, and expects a refusal: the answer says so, no call reached the server, nothing changed, and
// `explain` says the same.
func (s *seat) mayNot(ctx context.Context, a attempt) agent.Result { return s.try(ctx, a, false) }

func (s *seat) try(ctx context.Context, a attempt, allowed bool) agent.Result {
	connector, tool, _ := strings.Cut(a.name, "__")
	calls := s.run.upstream(connector).Calls
	before := calls.Count("")
	res := s.call(ctx, a.name, a.args)
	reached := calls.Count("") - before
	seen, err := s.judge(ctx, connector, tool, a, res, reached, allowed)
	s.run.check(a.what, res.Took, seen, err)
	return res
}

func (s *seat) judge(ctx context.Context, connector, tool string, a attempt, res agent.Result, reached int, allowed bool) (string, error) {
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var problems []error
	seen := "refused: " + res.Text
	switch {
	case allowed && !res.OK:
		problems = append(problems, fmt.Errorf("should work, but: %s", res.Text))
	case allowed:
		seen = "done: " + res.Text
		if reached != 1 {
			problems = append(problems, fmt.Errorf("%d calls reached the server instead of 1", reached))
		}
	case res.OK:
		problems = append(problems, fmt.Errorf("should be refused, but was answered: %s", res.Text))
	}
	if !allowed && reached != 0 {
		problems = append(problems, fmt.Errorf("should be refused, but %d calls reached the server", reached))
	}
	if a.holds != nil {
		problems = append(problems, a.holds())
	}
	decision, err := s.run.verdict(ctx, s.person, connector, tool, a.args)
	if err != nil {
		problems = append(problems, err)
	} else if got := decision.GetVerdict() == auditv1.Verdict_VERDICT_ALLOWED; got != allowed {
		problems = append(problems, fmt.Errorf("explain says %s: %s", decision.GetVerdict(), decision.GetText()))
	}
	return seen, errors.Join(problems...)
}

// sees compares the tools that an agent is shown with those that it should be shown.
func (s *seat) sees(ctx context.Context, what string, want ...string) {
	_ = s.run.step(what, func() (string, time.Duration, error) {
		begin := time.Now()
		got, err := s.Tools(ctx)
		took := time.Since(begin)
		if err != nil {
			return "", took, err
		}
		return fmt.Sprintf("%d tools", len(got)), took, sameTools(got, want)
	})
}

func sameTools(got, want []string) error {
	var problems []string
	for _, name := range want {
		if !slices.Contains(got, name) {
			problems = append(problems, "does not see "+name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			problems = append(problems, "sees "+name)
		}
	}
	if problems != nil {
		return errors.New(strings.Join(problems, ", "))
	}
	return nil
}

// of names tools of one connector as the gateway shows them.
func of(connector string, tools ...string) []string {
	out := make([]string, 0, len(tools))
	for _, t := range tools {
		out = append(out, connector+"__"+t)
	}
	return out
}

// until tries again until it works or patience ends, and tells when it worked.
func until(ctx context.Context, f func() error) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("not within %s: %w", patience, err)
		case <-tick.C:
		}
	}
}

// works and refused are conditions for until.
func (s *seat) works(ctx context.Context, name string, args map[string]any) func() error {
	return func() error {
		if r := s.call(ctx, name, args); !r.OK {
			return errors.New(r.Text)
		}
		return nil
	}
}

func (s *seat) refused(ctx context.Context, name string, args map[string]any) func() error {
	return func() error {
		if r := s.call(ctx, name, args); r.OK {
			return errors.New("it still works")
		}
		return nil
	}
}

// signIn has a person's agent, which is given the address of a region, find out where to sign in, and sign in there with a browser.
func (s *system) signIn(ctx context.Context, person, region string) (agent.Tokens, error) {
	return s.desk.SignIn(ctx, s.mcpURL(region), Employee(person))
}

// refresh tries to get other tokens.
func (s *system) refresh(ctx context.Context, t agent.Tokens) error {
	_, err := agent.Refresh(ctx, t)
	return err
}

func (s *system) verdict(ctx context.Context, person, connector, tool string, args any) (*auditv1.Decision, error) {
	decision, err := s.admin.Explain(ctx, person, connector, tool, args)
	if connect.CodeOf(err) == connect.CodeNotFound {
		// What is not there is denied too.
		return &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Text: err.Error()}, nil
	}
	return decision, err
}

// Employee is a person of the demo, at a browser.
func Employee(email string) agent.Person { return agent.Person{Email: email, Password: okta.Password} }
