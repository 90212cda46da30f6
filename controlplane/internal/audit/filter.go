package audit

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// clockSlack is how far the clock of a proxy may be ahead of that of the stream for a search by time to find
// its records. Late they may come by any time.
const clockSlack = 5 * time.Minute

// endOfTime is later than all records and fits the nanoseconds in which the stream counts.
var endOfTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// pick is the subject that all matching records have.
func pick(f *adminv1.AuditFilter) string {
	part := func(s string) string {
		if s == "" {
			return "*"
		}
		return token(s)
	}
	verdict := "*"
	if f.GetVerdict() != auditv1.Verdict_VERDICT_UNSPECIFIED {
		verdict = decision(f.GetVerdict())
	}
	return "sallyport.audit." + part(f.GetRegion()) + ".*." + part(f.GetConnector()) + "." + verdict
}

// matches decides on the record itself: a subject is only near to what it stands for.
func matches(f *adminv1.AuditFilter, r *auditv1.AuditRecord) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	at := r.GetAt().AsTime()
	return is(f.GetPerson(), r.GetPersonId()) && is(f.GetConnector(), r.GetConnector()) && is(f.GetTool(), r.GetTool()) &&
		is(f.GetRegion(), r.GetRegion()) && is(f.GetCallId(), r.GetCallId()) &&
		(f.GetVerdict() == auditv1.Verdict_VERDICT_UNSPECIFIED || f.GetVerdict() == r.GetDecision().GetVerdict()) &&
		(f.GetSince() == nil || !at.Before(f.GetSince().AsTime())) && (f.GetUntil() == nil || at.Before(f.GetUntil().AsTime()))
}

// storedSince returns the time before which no matching record can have been stored; zero: there is none.
func storedSince(f *adminv1.AuditFilter) time.Time {
	var since time.Time
	if f.GetSince() != nil {
		since = f.GetSince().AsTime()
	}
	// A call's id tells when it began.
	if id, err := uuid.Parse(f.GetCallId()); err == nil && id.Version() == 7 {
		if began := time.Unix(id.Time().UnixTime()); began.After(since) {
			since = began
		}
	}
	switch {
	case since.Before(time.Unix(0, 0)):
		return time.Time{}
	case since.After(endOfTime):
		return endOfTime // what asks the stream cannot say a later one
	}
	return since.Add(-clockSlack)
}

func decode(data []byte, sequence uint64) (*adminv1.StoredRecord, error) {
	r := &auditv1.AuditRecord{}
	if err := proto.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("reading audit record %d: %w", sequence, err)
	}
	return &adminv1.StoredRecord{Sequence: sequence, Record: r}, nil
}
