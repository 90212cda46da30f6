package postgres

import (
	"context"
	"fmt"
	"strings"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
)

// countColumns are what records are counted by.
var countColumns = map[adminv1.CountBy]string{
	adminv1.CountBy_COUNT_BY_PERSON: "person", adminv1.CountBy_COUNT_BY_CONNECTOR: "connector", adminv1.CountBy_COUNT_BY_TOOL: "tool",
	adminv1.CountBy_COUNT_BY_REGION: "region", adminv1.CountBy_COUNT_BY_PROXY: "proxy",
	adminv1.CountBy_COUNT_BY_DECISION: "verdict::text", adminv1.CountBy_COUNT_BY_REASON: "reason::text", adminv1.CountBy_COUNT_BY_KIND: "kind::text",
}

// Count answers as the stream's does, and always looks at all. Records are not read: a term that another collides with,
// one in 2^64 unless somebody makes it so, would be counted.
func (x *Index) Count(ctx context.Context, r *adminv1.CountAuditRequest) (*adminv1.CountAuditResponse, error) {
	f, err := audit.NewFilter(r.GetFilter())
	if err != nil {
		return nil, err
	}
	position, err := x.reach(ctx)
	if err != nil {
		x.log.Warn("audit is counted on the stream: PostgreSQL does not answer", "error", err)
		return x.stream.Count(ctx, r)
	}
	t := audit.NewTally(r)
	before, err := x.stream.CountNewer(ctx, f, position, t)
	if err != nil {
		return nil, err
	}
	if before != 0 {
		return t.Response(before), nil
	}
	if err := x.count(ctx, f, position, t, r); err != nil {
		return nil, fmt.Errorf("counting audit in PostgreSQL: %w", err)
	}
	return t.Response(0), nil
}

func (x *Index) count(ctx context.Context, f *audit.Filter, position uint64, t *audit.Tally, r *adminv1.CountAuditRequest) error {
	var columns []string
	for _, by := range r.GetBy() {
		columns = append(columns, countColumns[by])
	}
	step := "0::bigint"
	if r.GetInterval() != nil {
		seconds := int64(r.GetInterval().AsDuration().Seconds())
		step = fmt.Sprintf("(floor(extract(epoch FROM at) / %[1]d) * %[1]d)::bigint", seconds)
	}
	w := where(f)
	w.add("sequence <= ?", int64(position))
	var places []string
	for i := range len(columns) + 1 {
		places = append(places, fmt.Sprint(i+1))
	}
	rows, err := x.query(ctx, in(x.schema, "SELECT "+strings.Join(append(columns, step, "count(*)"), ", ")+" FROM $S.records"+w.sql()+" GROUP BY "+strings.Join(places, ", ")), w.args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		keys := make([]string, len(columns))
		var at, n int64
		into := make([]any, 0, len(columns)+2)
		for i := range keys {
			into = append(into, &keys[i])
		}
		if err := rows.Scan(append(into, &at, &n)...); err != nil {
			return err
		}
		for i, by := range r.GetBy() {
			keys[i] = word(by, keys[i])
		}
		t.AddCount(keys, at, uint64(n))
	}
	return rows.Err()
}

// word is a column's value as the stream's counts say it.
func word(by adminv1.CountBy, value string) string {
	var n int32
	switch by {
	case adminv1.CountBy_COUNT_BY_DECISION, adminv1.CountBy_COUNT_BY_REASON, adminv1.CountBy_COUNT_BY_KIND:
		if _, err := fmt.Sscan(value, &n); err != nil {
			return value
		}
	default:
		return value
	}
	return audit.CountKey(by, &auditv1.AuditRecord{Kind: auditv1.Kind(n), Decision: &auditv1.Decision{Verdict: auditv1.Verdict(n), Reason: auditv1.Reason(n)}})
}
