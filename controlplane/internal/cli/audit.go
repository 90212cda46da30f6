package cli

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
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
}

func (f *filterFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.filter.Person, "person", "", "a user, by id or name")
	flags.StringVar(&f.filter.Connector, "connector", "", "a connector")
	flags.StringVar(&f.filter.Tool, "tool", "", "a tool")
	flags.StringVar(&f.filter.Region, "region", "", "a region")
	flags.StringVar(&f.filter.CallId, "call", "", "one call, by its id")
	flags.StringVar(&f.decision, "decision", "", "allowed or denied")
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
	var err error
	if f.filter.Since, err = readTime(f.since); err != nil {
		return nil, err
	}
	f.filter.Until, err = readTime(f.until)
	return &f.filter, err
}

func readTime(s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(time.Now().Add(-d)), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, usage("%q is no time: write 2026-11-01T09:00:00Z, or how long ago, such as 2h", s)
	}
	return timestamppb.New(t), nil
}

func auditCommand(o *options) *cobra.Command {
	search, tail := &filterFlags{}, &filterFlags{}
	var limit uint32
	var token string
	find := &cobra.Command{
		Use: "search", Short: "Search the audit records, newest first", Args: cobra.NoArgs,
		Example: "  sallyport audit search --person ann@example.com --since 24h\n  sallyport audit search --connector salesforce --decision denied -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := search.read()
			if err != nil {
				return err
			}
			return call(cmd.Context(), o, adminv1connect.NewAuditServiceClient, adminv1connect.AuditServiceClient.SearchAudit,
				&adminv1.SearchAuditRequest{Filter: filter, PageSize: limit, PageToken: token}, func(r *adminv1.SearchAuditResponse) table {
					t := table{head: auditHead}
					for _, rec := range r.GetRecords() {
						t.rows = append(t.rows, auditRow(rec))
					}
					return t
				})
		},
	}
	search.add(find)
	pageFlags(find, &limit, &token)
	var after uint64
	follow := &cobra.Command{
		Use: "tail", Short: "Show audit records as they are stored", Args: cobra.NoArgs,
		Example: "  sallyport audit tail --decision denied",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := tail.read()
			if err != nil {
				return err
			}
			c, err := o.dial()
			if err != nil {
				return err
			}
			stream, err := adminv1connect.NewAuditServiceClient(c.client, c.server, c.with).TailAudit(cmd.Context(),
				connect.NewRequest(&adminv1.TailAuditRequest{Filter: filter, AfterSequence: after}))
			if err != nil {
				return err
			}
			defer stream.Close() //nolint:errcheck // the stream is over either way
			for stream.Receive() {
				rec := stream.Msg().GetRecord()
				if err := o.print(stream.Msg(), func() table { return line("%s", strings.Join(clean(auditRow(rec)), "  ")) }); err != nil {
					return err
				}
			}
			if cmd.Context().Err() != nil {
				return nil
			}
			return stream.Err()
		},
	}
	tail.add(follow)
	follow.Flags().Uint64Var(&after, "after", 0, "start after this sequence (default: with the next record)")
	return parent("audit", "What agents did, and what they were refused", find, follow)
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
	return []string{
		when(r.GetAt()), lower(r.GetPhase(), "PHASE_"), dash(person), dash(r.GetConnector()), dash(toolOrMethod(r)), decision, cut(detail, 80), r.GetProxy(), r.GetCallId(),
	}
}

func toolOrMethod(r *auditv1.AuditRecord) string {
	if r.GetTool() != "" {
		return r.GetTool()
	}
	return r.GetMethod()
}
