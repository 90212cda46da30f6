package quickstart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
)

// openStream is a call that streams, at one proxy.
type openStream struct {
	*seat
	result chan agent.Result
}

func (s *system) offboardStory(ctx context.Context, r *run) error {
	r.title("Offboarding: Victor leaves, with a stream open at each proxy")
	streams, err := r.follow(ctx, victor)
	if err != nil {
		return err
	}
	if err := s.giveKey(ctx, victor); err != nil {
		return err
	}
	push, err := s.org.Deactivate(ctx, victor)
	r.check("HR deactivates him; Okta tells Sallyport", push.Took, "one SCIM PATCH, active: false", err)
	if err != nil {
		return err
	}
	r.ended(ctx, streams, push)
	_ = r.step("he cannot sign in any more", func() (string, time.Duration, error) { return r.refusedByOkta(ctx, victor) })
	_ = r.step("the calls at the server were cancelled", func() (string, time.Duration, error) {
		at, err := until(ctx, func() error {
			for _, c := range s.github.Calls.All() {
				if c.Tool == "watch_workflow_run" && c.Ended.IsZero() {
					return errors.New("one is still running")
				}
			}
			return nil
		})
		return "none is running", at.Sub(push.Answered), err
	})
	_ = r.step("the audit says that they were ended by Sallyport", func() (string, time.Duration, error) {
		begin := time.Now()
		_, err := until(ctx, func() error { return s.revokedCalls(ctx, victor, r.began, len(streams)) })
		return fmt.Sprintf("%d calls, outcome revoked", len(streams)), time.Since(begin), err
	})
	_ = r.step("the receipt: every proxy enforces it, and what became of the key that he had", func() (string, time.Duration, error) {
		begin := time.Now()
		out, err := s.admin.Run(ctx, "receipt", "--person", victor, "--wait")
		for _, line := range []string{"may not act any more; credentials in use: 0; taken out of use: ", "a key cannot be revoked from here"} {
			if err == nil && !strings.Contains(string(out), line) {
				err = fmt.Errorf("it says\n%s", out)
			}
		}
		return "destroyed here; at its upstream a key is withdrawn by hand, and the receipt says so", time.Since(begin), err
	})
	return nil
}

// giveKey sets a key of a person's own for an upstream that wants one of each.
func (s *system) giveKey(ctx context.Context, person string) error {
	connector := "kind: Connector\nid: notes\ntitle: Notes\nurl: " + s.urls["CONFLUENCE_URL"] + "\nallowedRanges: [127.0.0.0/8]\nauth: {type: header, header: X-Api-Key, keysOf: person}\n"
	if err := s.admin.Apply(ctx, s.dir, "notes.yaml", []byte(connector)); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "key")
	if err := os.WriteFile(file, []byte("a key of one person's own"), 0o600); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	_, err := s.admin.Run(ctx, "credentials", "set", "--connector", "notes", "--person", person, "--value-file", file)
	return errors.Join(err, os.Remove(file))
}

// begin starts the call and waits for its first progress.
func (o *openStream) begin(ctx context.Context, args object) (string, time.Duration, error) {
	begin := time.Now()
	go func() { o.result <- o.Call(ctx, "github__watch_workflow_run", args) }()
	select {
	case <-o.Progress():
		for len(o.Ended()) > 0 { // the handshake's answers may have been streams too
			<-o.Ended()
		}
		return "progress is streaming", time.Since(begin), nil
	case res := <-o.result:
		return "", 0, fmt.Errorf("it ended at once: %s", res.Text)
	case <-time.After(patience):
		return "", 0, fmt.Errorf("no progress within %s", patience)
	case <-ctx.Done():
		return "", 0, ctx.Err()
	}
}

// end waits for the call to end, and tells how long after Okta was answered that was.
func (o *openStream) end(ctx context.Context, answered time.Time) (string, time.Duration, error) {
	select {
	case res := <-o.result:
		if res.OK {
			return "", 0, errors.New("the call was answered as if nothing had happened")
		}
		at := time.Now()
		select {
		case stream := <-o.Ended():
			at = stream.Ended
		default: // its last bytes are still being read
		}
		return "ended: " + res.Text, max(0, at.Sub(answered)), nil
	case <-time.After(patience):
		return "", 0, fmt.Errorf("it is still open after %s", patience)
	case <-ctx.Done():
		return "", 0, ctx.Err()
	}
}

// locked tries the token that is not expired, in a new session.
func (o *openStream) locked(ctx context.Context, r *run) (string, time.Duration, error) {
	begin := time.Now()
	calls := r.upstream("github").Calls.Count("")
	session, err := agent.Connect(ctx, r.mcpURL(o.region), o.tokens.Access, agent.Options{})
	seen := "no session"
	if err == nil {
		defer session.Close()
		res := session.Call(ctx, "github__list_branches", payments)
		if res.OK {
			return "", 0, errors.New("a call still works")
		}
		seen = res.Text
	}
	took := time.Since(begin)
	if n := r.upstream("github").Calls.Count("") - calls; n != 0 {
		return "", 0, fmt.Errorf("%d calls reached the server", n)
	}
	return "refused: " + seen, took, nil
}

func (s *system) revokedCalls(ctx context.Context, person string, since time.Time, want int) error {
	records, err := s.admin.Records(ctx, &adminv1.AuditFilter{Person: person, Tool: "watch_workflow_run", Since: timestamppb.New(since)})
	if err != nil {
		return err
	}
	got := 0
	for _, rec := range records {
		if rec.GetRecord().GetOutcome() == auditv1.Outcome_OUTCOME_REVOKED {
			got++
		}
	}
	if got != want {
		return fmt.Errorf("%d calls have the outcome revoked, not %d", got, want)
	}
	return nil
}

// investigationStory asks the audit for all that Maya's agents did, and compares it with what they remember.
func (s *system) investigationStory(ctx context.Context, r *run) error {
	remembered := r.asked[maya]
	r.title("Investigation: everything that Maya's agents did")
	var records []*adminv1.StoredRecord
	err := r.step("the audit holds each of her calls, done and refused", func() (string, time.Duration, error) {
		begin := time.Now()
		_, err := until(ctx, func() error {
			var err error
			if records, err = s.admin.Records(ctx, &adminv1.AuditFilter{Person: maya, Since: timestamppb.New(r.began)}); err != nil {
				return err
			}
			return compare(remembered, records)
		})
		return fmt.Sprintf("%d calls, %d records", len(remembered), len(records)), time.Since(begin), err
	})
	if err != nil {
		return err
	}
	_ = r.step("no record holds Salesforce's credential or a token", func() (string, time.Duration, error) {
		begin := time.Now()
		all, err := s.admin.Records(ctx, &adminv1.AuditFilter{})
		if err != nil {
			return "", 0, err
		}
		for _, rec := range all {
			text := rec.String()
			if strings.Contains(text, salesforceCredential) || strings.Contains(text, "eyJhbGciOi") {
				return "", 0, fmt.Errorf("record %d does", rec.GetSequence())
			}
		}
		return fmt.Sprintf("%d records looked at", len(all)), time.Since(begin), nil
	})
	s.list(records)
	return nil
}

// compare matches calls and records by connector, tool, arguments and outcome, each as often as the other.
func compare(remembered []asked, records []*adminv1.StoredRecord) error {
	arguments := map[string]string{} // by call id, of authorized records
	count := map[asked]int{}
	for _, stored := range records {
		rec := stored.GetRecord()
		if rec.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED {
			arguments[rec.GetCallId()] = string(rec.GetArguments().GetHead())
		}
	}
	for _, stored := range records {
		rec := stored.GetRecord()
		if rec.GetMethod() != "tools/call" || rec.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED {
			continue
		}
		a := asked{connector: rec.GetConnector(), tool: rec.GetTool(), done: rec.GetPhase() == auditv1.Phase_PHASE_COMPLETED}
		if a.connector == "" { // a connector that is not there any more
			a.connector, a.tool, _ = strings.Cut(a.tool, "__")
		}
		head := string(rec.GetArguments().GetHead())
		if a.done {
			var ok bool
			if head, ok = arguments[rec.GetCallId()]; !ok {
				return fmt.Errorf("call %s was completed but never authorized", rec.GetCallId())
			}
			if rec.GetOutcome() == auditv1.Outcome_OUTCOME_OK && rec.GetResult().GetSize() == 0 {
				return fmt.Errorf("the record of %s %s has no result", a.connector, a.tool)
			}
		}
		a.args = normal(head)
		count[a]++
	}
	for _, a := range remembered {
		a.args = normal(a.args)
		count[a]--
	}
	for a, n := range count {
		if n != 0 {
			return fmt.Errorf("%s %s %s (done: %t): %+d records", a.connector, a.tool, short(a.args, 120), a.done, n)
		}
	}
	return nil
}

// normal writes JSON in one way, so that spacing and the order of keys do not matter.
func normal(text string) string {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return text
	}
	out, err := json.Marshal(v)
	if err != nil {
		return text
	}
	return string(out)
}

// list prints the newest of the records as an investigator sees them.
func (s *system) list(records []*adminv1.StoredRecord) {
	const newest = 12
	s.say.line("        the newest %d of them (sallyport audit search --person %s):", min(newest, len(records)), maya)
	for _, stored := range records[:min(newest, len(records))] {
		rec := stored.GetRecord()
		if rec.GetMethod() != "tools/call" {
			s.say.line("        %s %-7s %-34s %s", rec.GetAt().AsTime().Local().Format("15:04:05.000"), rec.GetRegion(), rec.GetMethod(), short(rec.GetAction()+" "+rec.GetTarget(), 90))
			continue
		}
		what := "asked " + string(rec.GetArguments().GetHead())
		switch rec.GetPhase() {
		case auditv1.Phase_PHASE_COMPLETED:
			what = "got " + string(rec.GetResult().GetHead())
		case auditv1.Phase_PHASE_REFUSED:
			what = "refused " + string(rec.GetArguments().GetHead()) + ": " + rec.GetDecision().GetText()
		}
		s.say.line("        %s %-7s %-11s %-22s %s", rec.GetAt().AsTime().Local().Format("15:04:05.000"), rec.GetRegion(), rec.GetConnector(), rec.GetTool(), short(what, 90))
	}
}
