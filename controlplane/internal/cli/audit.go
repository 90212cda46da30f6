package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// filterFlags are the flags by which audit records are picked.
type filterFlags struct {
	filter       adminv1.AuditFilter
	decision     string
	since, until string
	rule         string
	reason       string
	outcome      string
	kinds, args  []string
}

func (f *filterFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.filter.Person, "person", "", "a user, by id or name")
	flags.StringVar(&f.filter.Connector, "connector", "", "a connector")
	flags.StringVar(&f.filter.Tool, "tool", "", "a tool")
	flags.StringVar(&f.filter.Region, "region", "", "a region")
	flags.StringVar(&f.filter.CallId, "call", "", "one call, by its id")
	flags.StringVar(&f.decision, "decision", "", "allowed or denied")
	flags.StringVar(&f.filter.Group, "group", "", "a group that counted then, such as \"okta/Senior Engineers\"")
	flags.StringVar(&f.filter.Client, "client", "", "an agent's program: an OAuth client's id, or the name it gives itself")
	flags.StringVar(&f.rule, "rule", "", "the grant or rule that decided: GROUP, or GROUP#2 for its second rule")
	flags.StringVar(&f.reason, "reason", "", "why it was decided so, such as nothing_allows")
	flags.StringVar(&f.outcome, "outcome", "", "how it ended, such as upstream_error")
	flags.StringArrayVar(&f.args, "arg", nil, "a value in the arguments, PATH=VALUE, such as branch=main, issue.labels[0]=bug or n=3 (repeat for several)")
	flags.StringVar(&f.filter.Text, "text", "", "words that all occur, in names, arguments, results or errors")
	flags.StringSliceVar(&f.kinds, "kind", nil, "what the record is about: call, list, sign_in, sign_in_failed, credential, change, review, revocation, health, audit_read, gap")
	flags.StringVar(&f.filter.Proxy, "proxy", "", "a proxy")
	flags.StringVar(&f.filter.Session, "session", "", "a session")
	flags.StringVar(&f.filter.Method, "method", "", "an MCP method, such as tools/call")
	flags.StringVar(&f.filter.Action, "action", "", "what was done, such as grant_applied")
	flags.StringVar(&f.filter.Target, "target", "", "to what, such as connector/github")
	flags.StringVar(&f.filter.TraceId, "trace", "", "a W3C trace id")
	flags.StringVar(&f.since, "since", "", "from then on: a time (RFC 3339) or how long ago (2h)")
	flags.StringVar(&f.until, "until", "", "before then: a time (RFC 3339) or how long ago (2h)")
}

func (f *filterFlags) read() (*adminv1.AuditFilter, error) {
	switch f.decision {
	case "":
	case "allowed":
		f.filter.Verdict = auditv1.Verdict_VERDICT_ALLOWED
	case "denied":
		f.filter.Verdict = auditv1.Verdict_VERDICT_DENIED
	default:
		return nil, usage("--decision is allowed or denied, not %q", f.decision)
	}
	if err := f.readWords(); err != nil {
		return nil, err
	}
	var err error
	if f.filter.Since, err = readTime(f.since); err != nil {
		return nil, err
	}
	f.filter.Until, err = readTime(f.until)
	return &f.filter, err
}

// readWords reads the flags whose values are words of the contract.
func (f *filterFlags) readWords() error {
	group, number, of := strings.Cut(f.rule, "#")
	if f.filter.RuleGroup = group; of {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 {
			return usage("--rule is GROUP or GROUP#NUMBER, counted from 1, not %q", f.rule)
		}
		f.filter.Rule = uint32(n)
	}
	reason, err := enumValue("--reason", f.reason, "REASON_", auditv1.Reason_value)
	if err != nil {
		return err
	}
	outcome, err := enumValue("--outcome", f.outcome, "OUTCOME_", auditv1.Outcome_value)
	if err != nil {
		return err
	}
	f.filter.Reason, f.filter.Outcome = auditv1.Reason(reason), auditv1.Outcome(outcome)
	for _, word := range f.kinds {
		if word == "call" {
			word = "unspecified"
		}
		kind, err := enumValue("--kind", word, "KIND_", auditv1.Kind_value)
		if err != nil {
			return err
		}
		f.filter.Kinds = append(f.filter.Kinds, auditv1.Kind(kind))
	}
	for _, arg := range f.args {
		path, value, ok := strings.Cut(arg, "=")
		if !ok {
			return usage("--arg is PATH=VALUE, not %q", arg)
		}
		var scalar any
		if err := json.Unmarshal([]byte(value), &scalar); err != nil { // as a shell's user writes a string
			quoted, err := json.Marshal(value)
			if err != nil {
				return err
			}
			value = string(quoted)
		}
		f.filter.Arguments = append(f.filter.Arguments, &adminv1.ArgumentEquals{Path: path, JsonValue: value})
	}
	return nil
}

// enumValue reads a value of an enum, written as a word: with underscores, spaces or hyphens.
func enumValue(flag, word, prefix string, values map[string]int32) (int32, error) {
	if word == "" {
		return 0, nil
	}
	name := prefix + strings.ToUpper(strings.NewReplacer(" ", "_", "-", "_").Replace(word))
	if n, there := values[name]; there {
		return n, nil
	}
	var known []string
	for v := range values {
		if !strings.HasSuffix(v, "_UNSPECIFIED") {
			known = append(known, strings.ToLower(strings.TrimPrefix(v, prefix)))
		}
	}
	slices.Sort(known)
	return 0, usage("%s is one of %s, not %q", flag, strings.Join(known, ", "), word)
}

func readTime(s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(time.Now().Add(-d)), nil
	}
	if days, err := strconv.ParseUint(strings.TrimSuffix(s, "d"), 10, 16); err == nil && strings.HasSuffix(s, "d") {
		return timestamppb.New(time.Now().AddDate(0, 0, -int(days))), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, usage("%q is no time: write 2026-11-01T09:00:00Z, or how long ago, such as 2h or 30d", s)
	}
	return timestamppb.New(t), nil
}

func auditCommand(o *options) *cobra.Command {
	search := &filterFlags{}
	var limit uint32
	var token string
	var as lineFormat
	find := &cobra.Command{
		Use: "search", Short: "Search the audit records, newest first", Args: cobra.NoArgs,
		Example: "  sallyport audit search --person ann@example.com --since 24h\n  sallyport audit search --connector salesforce --decision denied -o json\n  sallyport audit search --kind sign_in_failed --format ocsf",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := as.check(); err != nil {
				return err
			}
			filter, err := search.read()
			if err != nil {
				return err
			}
			if limit == 0 {
				limit = 100
			}
			found := &adminv1.SearchAuditResponse{NextPageToken: token}
			for first := true; first || found.GetNextPageToken() != "" && uint32(len(found.GetRecords())) < limit; first = false {
				// One call does bounded work, and may find less than was asked for.
				page, err := ask(cmd.Context(), o, adminv1connect.NewAuditServiceClient, adminv1connect.AuditServiceClient.SearchAudit,
					&adminv1.SearchAuditRequest{Filter: filter, PageSize: min(limit-uint32(len(found.GetRecords())), 1000), PageToken: found.GetNextPageToken()})
				if err != nil {
					return err
				}
				found.Records, found.NextPageToken = append(found.GetRecords(), page.GetRecords()...), page.GetNextPageToken()
			}
			if as != "" {
				for _, rec := range found.GetRecords() {
					if _, err := as.print(o, rec); err != nil {
						return err
					}
				}
			} else if err := o.print(found, func() table {
				t := table{head: auditHead}
				for _, rec := range found.GetRecords() {
					t.rows = append(t.rows, auditRow(rec))
				}
				return t
			}); err != nil {
				return err
			}
			if o.output != "table" || found.GetNextPageToken() == "" {
				return nil
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "there is more: --page-token %s\n", found.GetNextPageToken())
			return err
		},
	}
	search.add(find)
	as.add(find)
	pageFlags(find, &limit, &token)
	return parent("audit", "What agents did, and what they were refused", find, tailAuditCommand(o), countAuditCommand(o), valueAuditCommand(o), exportAuditCommand(o), bundleAuditCommand(o), verifyAuditCommand(o), checkpointAuditCommand(o), rebuildAuditCommand(o), exportersCommand(o), consumersCommand(o))
}

func clean(row []string) []string {
	for i := range row {
		row[i] = printable(row[i])
	}
	return row
}

var auditHead = []string{"TIME", "PHASE", "PERSON", "CONNECTOR", "TOOL", "DECISION", "ARGUMENTS / RESULT", "PROXY", "CALL"}

func auditRow(s *adminv1.StoredRecord) []string {
	r := s.GetRecord()
	person := s.GetPersonName()
	if person == "" {
		person = r.GetPersonId()
	}
	detail := string(r.GetArguments().GetHead())
	decision := lower(r.GetDecision().GetVerdict(), "VERDICT_")
	switch r.GetPhase() {
	case auditv1.Phase_PHASE_COMPLETED:
		detail = fmt.Sprintf("%s in %s: %s", lower(r.GetOutcome(), "OUTCOME_"), r.GetDuration().AsDuration().Round(time.Microsecond), r.GetResult().GetHead())
		if r.GetError() != "" {
			detail += " " + r.GetError()
		}
	case auditv1.Phase_PHASE_REFUSED:
		decision += ": " + lower(r.GetDecision().GetReason(), "REASON_")
	}
	phase := lower(r.GetPhase(), "PHASE_")
	if r.GetKind() != auditv1.Kind_KIND_UNSPECIFIED {
		phase = lower(r.GetKind(), "KIND_")
	}
	if r.GetAction() != "" || r.GetTarget() != "" || r.GetKind() == auditv1.Kind_KIND_GAP {
		detail = strings.TrimSpace(r.GetAction() + " " + r.GetTarget() + " " + r.GetError())
	}
	if person == "" && r.GetActor() != nil {
		person = lower(r.GetActor().GetKind(), "ACTOR_KIND_") + " " + r.GetActor().GetId()
	}
	return []string{
		when(r.GetAt()), phase, dash(person), dash(r.GetConnector()), dash(toolOrMethod(r)), decision, cut(detail, 80), r.GetProxy(), r.GetCallId(),
	}
}

func toolOrMethod(r *auditv1.AuditRecord) string {
	if r.GetTool() != "" {
		return r.GetTool()
	}
	return r.GetMethod()
}
