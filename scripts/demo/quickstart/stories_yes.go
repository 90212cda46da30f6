package quickstart

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
)

// yesStory is about calls that wait for a yes: the person's own, asked in their client, and an approver's, given on a page.
func (s *system) yesStory(ctx context.Context, r *run) error {
	r.title("A yes first: Paul's agent writes to Analytics")
	err := r.step("an admin lets analysts write after a yes", func() (string, time.Duration, error) {
		begin := time.Now()
		err := s.apply(ctx, "analytics/approvals.yaml")
		if err == nil {
			err = s.admin.Enforced(ctx, 0)
		}
		return "create_dataset: their own; write_rows: a data engineer's", time.Since(begin), err
	})
	if err != nil {
		return err
	}
	dataset := fmt.Sprintf("forecast-%d", r.began.Unix())
	for _, revision := range []string{agent.Modern, agent.SessionEra} {
		if err := s.confirmed(ctx, r, revision, dataset+"-"+revision); err != nil {
			return err
		}
	}
	review, err := s.reviewed(ctx, r, dataset+"-"+agent.Modern)
	if err != nil {
		return err
	}
	_ = r.step("the audit says who said yes", func() (string, time.Duration, error) {
		begin := time.Now()
		_, err := until(ctx, func() error { return s.yesesRecorded(ctx, r.began, review) })
		return "create_dataset: confirmed in the client; write_rows: reviewed", time.Since(begin), err
	})
	return nil
}

// confirmed has an agent create a dataset, and its person say no, then yes.
func (s *system) confirmed(ctx context.Context, r *run, revision, dataset string) error {
	answer, shown := false, ""
	me, err := r.sit(ctx, paul, usEast, agent.Options{Revision: revision, Confirm: func(_ context.Context, message, _ string) bool {
		shown = message
		return answer
	}})
	if err != nil {
		return err
	}
	calls := s.analytics.Calls
	for _, answer = range []bool{false, true} {
		said, want := "says no", 0
		if answer {
			said, want = "says yes", 1
		}
		_ = r.step("by MCP "+revision+" Paul is asked in his client, and "+said, func() (string, time.Duration, error) {
			before := calls.Count("create_dataset")
			res := me.call(ctx, "analytics__create_dataset", object{"dataset": dataset})
			reached := calls.Count("create_dataset") - before
			switch {
			case !strings.Contains(shown, dataset):
				return "", res.Took, fmt.Errorf("he is shown %q", shown)
			case res.OK != answer || reached != want:
				return "", res.Took, fmt.Errorf("%d calls reached the server; the agent is told %q", reached, res.Text)
			}
			return fmt.Sprintf("%d calls reached the server: %s", reached, res.Text), res.Took, nil
		})
	}
	return nil
}

// reviewed has an agent write rows, which Dana approves in her browser, and returns the review's id.
func (s *system) reviewed(ctx context.Context, r *run, dataset string) (id string, err error) {
	me, err := r.sit(ctx, paul, euWest, agent.Options{Revision: agent.Modern})
	if err != nil {
		return "", err
	}
	rows := object{"dataset": dataset, "rows": []object{{"month": "2026-12", "euro": "99000"}}}
	kept := func(want int) error {
		if got := len(s.analytics.Rows(dataset)); got != want {
			return fmt.Errorf("%s has %d rows, not %d", dataset, got, want)
		}
		return nil
	}
	err = r.step("his agent is told that rows wait for a data engineer's yes", func() (string, time.Duration, error) {
		res := me.call(ctx, "analytics__write_rows", rows)
		id = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).FindString(res.Text)
		if res.OK || id == "" {
			return "", res.Took, fmt.Errorf("it is told %q", res.Text)
		}
		return "not called: review " + id, res.Took, kept(0)
	})
	if err != nil {
		return "", err
	}
	answers := func(person, want string) func() (string, time.Duration, error) {
		return func() (string, time.Duration, error) {
			begin := time.Now()
			browser, err := agent.NewBrowser(Employee(person))
			if err != nil {
				return "", 0, err
			}
			at, err := browser.Open(ctx, s.signInURL()+"/reviews/"+id)
			if err == nil && !strings.Contains(at.Text, want) {
				err = fmt.Errorf("the page says %q", at.Text)
			}
			return want, time.Since(begin), errors.Join(err, kept(0))
		}
	}
	_ = r.step("Maya, who is no data engineer, cannot approve it", answers(maya, "There is nothing for you to review here"))
	if err := r.step("Dana reads the whole call on a page, and approves it", answers(dana, "You approved the call")); err != nil {
		return "", err
	}
	_ = r.step("his agent calls again: this very call is made, once", func() (string, time.Duration, error) {
		begin := time.Now()
		res := me.call(ctx, "analytics__write_rows", rows)
		if !res.OK {
			return "", time.Since(begin), errors.New(res.Text)
		}
		if again := me.call(ctx, "analytics__write_rows", rows); again.OK {
			return "", time.Since(begin), errors.New("a second time too")
		}
		return res.Text, time.Since(begin), kept(1)
	})
	return id, nil
}

// yesesRecorded looks for the calls that were made after a yes.
func (s *system) yesesRecorded(ctx context.Context, since time.Time, review string) error {
	records, err := s.admin.Records(ctx, &adminv1.AuditFilter{Person: paul, Since: timestamppb.New(since)})
	if err != nil {
		return err
	}
	found := map[string]int{}
	for _, stored := range records {
		if r := stored.GetRecord(); r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED {
			found[r.GetTool()+" "+r.GetDecision().GetConfirmed()]++
			if r.GetTool() == "write_rows" && r.GetDecision().GetAsked() != review {
				return fmt.Errorf("write_rows was made after review %q", r.GetDecision().GetAsked())
			}
		}
	}
	if found["create_dataset client"] != 2 || found["write_rows "] != 1 {
		return fmt.Errorf("authorized: %v", found)
	}
	return nil
}
