package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func countAuditCommand(o *options) *cobra.Command {
	filter := &filterFlags{}
	var by []string
	var every time.Duration
	var limit uint32
	c := &cobra.Command{
		Use: "count", Short: "Count audit records, by what they have in common or by time", Args: cobra.NoArgs,
		Example: "  sallyport audit count --decision denied --since 168h --by reason\n  sallyport audit count --connector salesforce --by person --every 24h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			read, err := filter.read()
			if err != nil {
				return err
			}
			req := &adminv1.CountAuditRequest{Filter: read, Limit: limit}
			for _, word := range by {
				n, err := enumValue("--by", word, "COUNT_BY_", adminv1.CountBy_value)
				if err != nil {
					return err
				}
				req.By = append(req.By, adminv1.CountBy(n))
			}
			if every > 0 {
				req.Interval = durationpb.New(every)
			}
			counted, err := ask(cmd.Context(), o, adminv1connect.NewAuditServiceClient, adminv1connect.AuditServiceClient.CountAudit, req)
			if err != nil {
				return err
			}
			if err := o.print(counted, func() table { return countTable(by, every > 0, counted) }); err != nil || o.output != "table" || counted.GetBeforeNotCounted() == 0 {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "not complete: records before %d were not counted, there was too much for one call; narrow it with --since\n", counted.GetBeforeNotCounted())
			return err
		},
	}
	filter.add(c)
	c.Flags().StringSliceVar(&by, "by", nil, "person, connector, tool, decision, reason, region, kind or proxy: up to two")
	c.Flags().DurationVar(&every, "every", 0, "also by time, in steps of this length, such as 1h")
	c.Flags().Uint32Var(&limit, "limit", 0, "at most this many lines (default 1,000)")
	return c
}

func countTable(by []string, timed bool, r *adminv1.CountAuditResponse) table {
	t := table{}
	if timed {
		t.head = append(t.head, "FROM")
	}
	for _, word := range by {
		t.head = append(t.head, strings.ToUpper(word))
	}
	t.head = append(t.head, "RECORDS")
	for _, c := range r.GetCounts() {
		var row []string
		if timed {
			row = append(row, when(c.GetAt()))
		}
		for _, key := range c.GetKeys() {
			row = append(row, dash(key))
		}
		t.rows = append(t.rows, append(row, strconv.FormatUint(c.GetCount(), 10)))
	}
	total := slices.Repeat([]string{""}, len(t.head))
	total[0] = "all"
	total[len(total)-1] = strconv.FormatUint(r.GetTotal(), 10)
	if len(t.head) > 1 {
		t.rows = append(t.rows, total)
	} else if len(t.rows) == 0 {
		t.rows = [][]string{{"0"}}
	}
	return t
}

func rebuildAuditCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "rebuild", Short: "Build the index of audit in PostgreSQL again from the stream", Args: cobra.NoArgs,
		Long:    "Build the index of audit in PostgreSQL again from the stream, beside the old one, which goes on to be searched and kept;\nthen the new one takes its place at once.",
		Example: "  sallyport audit rebuild",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.dial()
			if err != nil {
				return err
			}
			stream, err := adminv1connect.NewAuditIndexServiceClient(c.client, c.server, c.with).RebuildAuditIndex(cmd.Context(), connect.NewRequest(&adminv1.RebuildAuditIndexRequest{}))
			if err != nil {
				return err
			}
			defer stream.Close() //nolint:errcheck // the stream is over either way
			last, told := &adminv1.RebuildAuditIndexResponse{}, time.Now()
			for stream.Receive() {
				last = &adminv1.RebuildAuditIndexResponse{Indexed: stream.Msg().GetIndexed(), Last: stream.Msg().GetLast()}
				if time.Since(told) > 2*time.Second {
					told = time.Now()
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d\n", last.GetIndexed(), last.GetLast())
				}
			}
			if err := stream.Err(); err != nil {
				return err
			}
			return o.print(last, func() table { return line("the index was built again, up to record %d", last.GetIndexed()) })
		},
	}
}
