package quickstart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

// anonymous asks both proxies without a token, and follows the challenge to the issuer.
func (s *system) anonymous(ctx context.Context) (string, time.Duration, error) {
	begin := time.Now()
	for _, region := range []string{usEast, euWest} {
		resp, err := request(ctx, http.MethodPost, s.mcpURL(region), `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		if err != nil {
			return "", 0, err
		}
		challenge := resp.header.Get("WWW-Authenticate")
		_, after, found := strings.Cut(challenge, `resource_metadata="`)
		at, _, _ := strings.Cut(after, `"`)
		if resp.status != http.StatusUnauthorized || !found {
			return "", 0, fmt.Errorf("%s answers %d with challenge %q", region, resp.status, challenge)
		}
		metadata, err := request(ctx, http.MethodGet, at, "")
		if err != nil {
			return "", 0, err
		}
		if metadata.status != http.StatusOK || !strings.Contains(metadata.body, s.signInURL()) {
			return "", 0, fmt.Errorf("%s answers %d and does not name where to sign in: %s", at, metadata.status, metadata.body)
		}
	}
	return "401 at both proxies, metadata names where to sign in", time.Since(begin), nil
}

type response struct {
	status int
	header http.Header
	body   string
}

func request(ctx context.Context, method, url, body string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return response{}, fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{}, fmt.Errorf("%s %s: %w", method, url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return response{}, fmt.Errorf("%s %s: %w", method, url, err)
	}
	return response{status: resp.StatusCode, header: resp.Header, body: string(text)}, nil
}

func (s *system) hireStory(ctx context.Context, r *run) error {
	r.title("New hire: Noor joins Junior Engineers")
	begin := time.Now()
	if _, err := s.org.AddUser(okta.Profile{Login: noor, GivenName: "Noor", FamilyName: "Haddad"}); err != nil {
		return err
	}
	if _, err := s.org.AddToGroup(ctx, juniors, noor); err != nil {
		return err
	}
	push, err := s.org.AddToGroup(ctx, assigned, noor)
	r.check("Okta provisions the account and the group", push.Took, fmt.Sprintf("%d SCIM requests", push.Requests), err)
	if err != nil {
		return err
	}
	return r.step("the agent's first call, from the first minute on", func() (string, time.Duration, error) {
		me, err := r.sit(ctx, noor, usEast, agent.Options{Revision: agent.Modern})
		if err != nil {
			return "", 0, err
		}
		at, err := until(ctx, me.works(ctx, "github__list_branches", payments))
		if err != nil {
			return "", 0, err
		}
		return fmt.Sprintf("works; %s after SCIM's answer, sign-in included", rounded(at.Sub(push.Answered))), at.Sub(begin), nil
	})
}

func (s *system) promotionStory(ctx context.Context, r *run) error {
	r.title("Promotion: Tom becomes a senior while his session at eu-west stays open")
	me, err := r.sit(ctx, tom, euWest, agent.Options{Revision: agent.SessionEra, Watch: true})
	if err != nil {
		return err
	}
	push := in(payments, write("push_files", object{"branch": "agent/fix"}))
	me.mayNot(ctx, attempt{what: "before: push_files to agent/fix", name: "github__push_files", args: push, holds: s.unmoved("acme/payments", "agent/fix")})
	if _, err := s.org.AddToGroup(ctx, seniors, tom); err != nil {
		return err
	}
	changed, err := s.org.RemoveFromGroup(ctx, juniors, tom)
	if err != nil {
		return err
	}
	_ = r.step("the session is told that its tools changed", func() (string, time.Duration, error) {
		select {
		case at := <-me.Changed():
			return "notifications/tools/list_changed", max(0, at.Sub(changed.Answered)), nil
		case <-time.After(patience):
			return "", 0, fmt.Errorf("no notice within %s", patience)
		case <-ctx.Done():
			return "", 0, ctx.Err()
		}
	})
	_ = r.step("the same session lists what seniors may use", func() (string, time.Duration, error) {
		at, err := until(ctx, func() error {
			got, err := me.Tools(ctx)
			if err != nil {
				return err
			}
			return sameTools(got, concat(engineerReads, seniorPushes, engineerJira, seniorWiki))
		})
		return "push tools are there", at.Sub(changed.Answered), err
	})
	me.may(ctx, attempt{what: "after: push_files to agent/fix, in the same session", name: "github__push_files", args: push, holds: s.grown("acme/payments", "agent/fix")})
	me.mayNot(ctx, attempt{what: "after: push_files to main still", name: "github__push_files", args: in(payments, write("push_files", object{"branch": "main"})), holds: s.unmoved("acme/payments", "main")})
	return nil
}

func (s *system) teamStory(ctx context.Context, r *run) error {
	r.title("Team change: Ines goes from Sales to Junior Engineers")
	me, err := r.sit(ctx, ines, usEast, agent.Options{Revision: agent.Modern})
	if err != nil {
		return err
	}
	query := object{"object": "Account"}
	me.may(ctx, attempt{what: "before: reads Salesforce", name: "salesforce__query_records", args: query})
	me.mayNot(ctx, attempt{what: "before: GitHub", name: "github__list_branches", args: payments})
	if _, err := s.org.AddToGroup(ctx, juniors, ines); err != nil {
		return err
	}
	push, err := s.org.RemoveFromGroup(ctx, sales, ines)
	if err != nil {
		return err
	}
	_ = r.step("Salesforce ends in the open session", func() (string, time.Duration, error) {
		at, err := until(ctx, me.refused(ctx, "salesforce__query_records", query))
		return "refused", at.Sub(push.Answered), err
	})
	_ = r.step("GitHub begins in the open session", func() (string, time.Duration, error) {
		at, err := until(ctx, me.works(ctx, "github__list_branches", payments))
		return "works", at.Sub(push.Answered), err
	})
	me.mayNot(ctx, attempt{what: "after: Salesforce", name: "salesforce__query_records", args: query})
	me.may(ctx, attempt{what: "after: lists branches", name: "github__list_branches", args: payments})
	me.sees(ctx, "after: is shown what juniors may use", concat(engineerReads, engineerJira, juniorWiki)...)
	return nil
}

func (s *system) analyticsStory(ctx context.Context, r *run) error {
	r.title("A new internal server goes live: Analytics")
	analyst, err := r.sit(ctx, paul, usEast, agent.Options{Revision: agent.Modern})
	if err != nil {
		return err
	}
	engineer, err := r.sit(ctx, dana, euWest, agent.Options{Revision: agent.SessionEra})
	if err != nil {
		return err
	}
	outsider, err := r.sit(ctx, maya, usEast, agent.Options{Revision: agent.Modern})
	if err != nil {
		return err
	}
	analyst.sees(ctx, "before: the analyst is shown nothing")
	err = r.step("an admin applies connector and grants, and pins its tools", func() (string, time.Duration, error) {
		begin := time.Now()
		err := s.apply(ctx, "analytics/connector.yaml")
		if err == nil {
			err = s.admin.Pin(ctx, "analytics")
		}
		if err == nil {
			err = s.apply(ctx, "analytics/grants.yaml")
		}
		if err == nil {
			err = s.admin.Enforced(ctx, 0)
		}
		return "enforced at both proxies", time.Since(begin), err
	})
	if err != nil {
		return err
	}
	rows := func(want int) func() error {
		return func() error {
			if got := len(s.analytics.Rows("revenue")); got != want {
				return fmt.Errorf("revenue has %d rows, not %d", got, want)
			}
			return nil
		}
	}
	written := object{"dataset": "revenue", "rows": []object{{"month": "2026-11", "euro": "97000"}}}
	analyst.sees(ctx, "the analyst is shown reading", analystTools...)
	analyst.may(ctx, attempt{what: "the analyst reads", name: "analytics__run_query", args: object{"dataset": "revenue"}})
	analyst.mayNot(ctx, attempt{what: "the analyst writes", name: "analytics__write_rows", args: written, holds: rows(2)})
	analyst.mayNot(ctx, attempt{what: "the analyst drops", name: "analytics__drop_dataset", args: object{"dataset": "revenue"}, holds: rows(2)})
	engineer.sees(ctx, "the data engineer is shown reading and writing", engineerTools...)
	engineer.may(ctx, attempt{what: "the data engineer reads", name: "analytics__run_query", args: object{"dataset": "revenue"}})
	engineer.may(ctx, attempt{what: "the data engineer writes", name: "analytics__write_rows", args: written, holds: rows(3)})
	engineer.mayNot(ctx, attempt{what: "the data engineer drops", name: "analytics__drop_dataset", args: object{"dataset": "revenue"}, holds: rows(3)})
	outsider.mayNot(ctx, attempt{what: "a senior engineer reads", name: "analytics__run_query", args: object{"dataset": "revenue"}})
	return nil
}

func (s *system) retireStory(ctx context.Context, r *run) error {
	r.title("A connector is retired: Jira")
	search := object{"text": ""}
	var seats []*seat
	for _, who := range []struct {
		person, region string
		options        agent.Options
	}{
		{maya, usEast, agent.Options{Revision: agent.Modern}},
		{tom, euWest, agent.Options{Revision: agent.SessionEra, Watch: true}},
		{noor, usEast, agent.Options{Revision: agent.SessionEra}},
	} {
		me, err := r.sit(ctx, who.person, who.region, who.options)
		if err != nil {
			return err
		}
		me.may(ctx, attempt{what: "before: " + who.person + " searches issues", name: "jira__search_issues", args: search})
		seats = append(seats, me)
	}
	res, err := s.admin.Connectors.RetireConnector(ctx, connect.NewRequest(&adminv1.RetireConnectorRequest{Id: "jira"}))
	answered := time.Now()
	if err != nil {
		return fmt.Errorf("retire jira: %w", err)
	}
	_ = r.step("the receipt says that both proxies enforce it", func() (string, time.Duration, error) {
		err := s.admin.Enforced(ctx, res.Msg.GetVersion())
		return fmt.Sprintf("version %d", res.Msg.GetVersion()), time.Since(answered), err
	})
	for _, me := range seats {
		me.mayNot(ctx, attempt{what: "after: " + me.person + " at " + me.region, name: "jira__search_issues", args: search})
		_ = r.step("after: "+me.person+" is shown nothing of Jira", func() (string, time.Duration, error) {
			begin := time.Now()
			got, err := me.Tools(ctx)
			if slices.ContainsFunc(got, func(name string) bool { return strings.HasPrefix(name, "jira__") }) {
				err = errors.Join(err, errors.New("tools of Jira are listed"))
			}
			return fmt.Sprintf("%d tools", len(got)), time.Since(begin), err
		})
	}
	_ = r.step("a session that watches was told", func() (string, time.Duration, error) {
		select {
		case at := <-seats[1].Changed():
			return "notifications/tools/list_changed", max(0, at.Sub(answered)), nil
		case <-time.After(patience):
			return "", 0, fmt.Errorf("no notice within %s", patience)
		case <-ctx.Done():
			return "", 0, ctx.Err()
		}
	})
	return nil
}
