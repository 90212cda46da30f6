package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport.dev/scripts/demo/agent"
)

// listed is a session as `sallyport sessions list` shows it.
type listed struct {
	ID         string
	User       string
	ClientID   string `json:"client_id"`
	ClientName string `json:"client_name"`
	Region     string
	Address    string
}

func (o *office) sessions(t *testing.T, args ...string) ([]listed, error) {
	t.Helper()
	out, err := o.cp.Run(t.Context(), append([]string{"sessions", "list", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var said struct{ Sessions []listed }
	return said.Sessions, json.Unmarshal(out, &said)
}

// TestSessionsAreListedAndRevokedByPersonClientRegionAndLastUse, by the commands that an admin uses. Those that a filter does not
// name go on.
func TestSessionsAreListedAndRevokedByPersonClientRegionAndLastUse(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "")
	tokens := map[string]agent.Tokens{}
	used := map[string]*proxy{} // where
	// What is called here is what the commands are to find: by the session's own name.
	for _, s := range []struct {
		name, person string
		at           *proxy
	}{{"ada's editor", ada, o.east}, {"ada's assistant", ada, o.west}, {"bob's editor", bob, o.east}, {"bob's assistant", bob, o.west}, {"bob's script", bob, o.west}} {
		given, err := o.signIn(t.Context(), &agent.Program{Name: s.name}, s.at, s.person)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.takes(s.at, given.Access); err != nil {
			t.Fatal(err)
		}
		tokens[s.name], used[s.name] = given, s.at
	}
	names := func(args ...string) (all []string, err error) {
		found, err := o.sessions(t, args...)
		for _, s := range found {
			all = append(all, s.ClientName)
		}
		slices.Sort(all)
		return all, err
	}
	// Proxies tell where sessions are used in their audit, which is told on now and then.
	waits := func(want string, args ...string) {
		t.Helper()
		err := within(t.Context(), 2*time.Minute, func() error {
			got, err := names(args...)
			if err == nil && strings.Join(got, ", ") != want {
				err = fmt.Errorf("sessions list %s: %s, want %s", strings.Join(args, " "), strings.Join(got, ", "), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	waits("ada's assistant, ada's editor", "--user", "okta/"+ada)
	waits("bob's assistant, bob's editor, bob's script", "--user", bob)
	waits("ada's editor, bob's editor", "--region", "us-east")
	waits("ada's assistant, bob's assistant, bob's script", "--region", "eu-west")
	waits("ada's assistant", "--region", "eu-west", "--user", ada)
	waits("", "--region", "ap-south")
	waits("", "--unused-for", "1h")
	all, err := o.sessions(t)
	if err != nil || len(all) != 5 {
		t.Fatalf("%v %v", all, err)
	}
	one := func(name string) listed {
		return all[slices.IndexFunc(all, func(s listed) bool { return s.ClientName == name })]
	}
	if s := one("bob's editor"); s.User != "okta/"+bob || s.Address != "127.0.0.1" {
		t.Errorf("%+v", s)
	}
	waits("ada's editor", "--client", one("ada's editor").ClientID)
	table, err := o.cp.Run(t.Context(), "sessions", "list", "--user", ada)
	if err != nil || !strings.Contains(string(table), "SESSION") || !strings.Contains(string(table), "us-east") || !strings.Contains(string(table), "ada's editor") {
		t.Errorf("the table: %s %v", table, err)
	}

	// Only the one that nobody uses is found by that.
	err = within(t.Context(), 3*time.Minute, func() error {
		for name, given := range tokens {
			if name != "bob's script" {
				if err := o.takes(used[name], given.Access); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := names("--unused-for", "20s")
		if err == nil && !slices.Equal(got, []string{"bob's script"}) {
			err = fmt.Errorf("unused: %v", got)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	// What is to be revoked must be named, and somebody who is there.
	for _, args := range [][]string{{}, {"--user", "nobody@corp.test"}, {"not-an-id"}} {
		if out, err := o.cp.Run(t.Context(), append([]string{"sessions", "revoke"}, args...)...); err == nil && !strings.HasPrefix(string(out), "0 ") {
			t.Errorf("sessions revoke %v: %s", args, out)
		}
	}
	left := slices.Collect(maps.Keys(tokens))
	for _, c := range []struct {
		args []string
		ends []string
	}{
		{[]string{one("ada's editor").ID}, []string{"ada's editor"}},
		{[]string{"--unused-for", "20s", "--user", bob, "--client", one("bob's script").ClientID}, []string{"bob's script"}},
		{[]string{"--client", one("bob's editor").ClientID}, []string{"bob's editor"}},
		{[]string{"--region", "eu-west", "--user", bob}, []string{"bob's assistant"}},
		{[]string{"--user", ada}, []string{"ada's assistant"}},
	} {
		o.cp.must(append([]string{"sessions", "revoke"}, c.args...)...)
		o.cp.enforced()
		left = slices.DeleteFunc(left, func(name string) bool { return slices.Contains(c.ends, name) })
		for name, given := range tokens {
			check, what := o.refuses, "ended"
			if slices.Contains(left, name) {
				check, what = o.takes, "goes on"
			}
			if err := check(used[name], given.Access); err != nil {
				t.Errorf("after sessions revoke %v, not so that %s %s: %v", c.args, name, what, err)
			}
		}
		for _, name := range c.ends {
			if _, err := agent.Refresh(t.Context(), tokens[name]); err == nil {
				t.Errorf("%s was revoked and refreshes", name)
			}
		}
		slices.Sort(left)
		waits(strings.Join(left, ", "))
	}
}
