package audit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
)

// endOfTime is later than all records and fits the nanoseconds in which the stream counts.
var endOfTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// Filter is an AuditFilter, read. It decides on records; Terms and Since help an index to find them.
type Filter struct {
	*adminv1.AuditFilter
	arguments []value
	words     []string
}

// NewFilter reads a filter, or refuses what cannot be meant.
func NewFilter(f *adminv1.AuditFilter) (*Filter, error) {
	if f == nil {
		f = &adminv1.AuditFilter{}
	}
	read := &Filter{AuditFilter: f}
	for _, a := range f.GetArguments() {
		path, ok := readPath(a.GetPath())
		if !ok {
			return nil, &core.Error{Code: core.InvalidArgument, Field: "filter.arguments", Message: fmt.Sprintf("%q is no path to an argument: write issue.labels[0] or ['odd name'].x", a.GetPath())}
		}
		v := value{path: path}
		values([]byte(a.GetJsonValue()), func(got value) { v.form = got.form })
		if v.form == "" || !isScalar(a.GetJsonValue()) {
			return nil, &core.Error{Code: core.InvalidArgument, Field: "filter.arguments", Message: fmt.Sprintf("%q is no string, number, true, false or null in JSON", a.GetJsonValue())}
		}
		read.arguments = append(read.arguments, v)
	}
	words(f.GetText(), func(w string) bool {
		read.words = append(read.words, w)
		return true
	})
	if f.GetText() != "" && len(read.words) == 0 {
		return nil, &core.Error{Code: core.InvalidArgument, Field: "filter.text", Message: "there is no word in the text to look for"}
	}
	if f.GetRule() != 0 && f.GetRuleGroup() == "" {
		return nil, &core.Error{Code: core.InvalidArgument, Field: "filter.rule", Message: "a rule is one of a grant: name the grant's group too"}
	}
	return read, nil
}

func isScalar(text string) bool {
	n := 0
	w := walker{data: []byte(text), fn: func(value) { n++ }}
	whole := w.value("", 0)
	w.space()
	return whole && n == 1 && w.at == len(w.data) && text[0] != '{' && text[0] != '['
}

// pick is the subject that all matching records have.
func (f *Filter) pick() string {
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
	return "sallyport.audit." + part(f.GetRegion()) + "." + part(f.GetProxy()) + "." + part(f.GetConnector()) + "." + verdict
}

// Terms are terms that all matching records have.
func (f *Filter) Terms() []int64 {
	var all []int64
	add := func(sort byte, text string) {
		if text != "" {
			all = append(all, term(sort, text))
		}
	}
	add(termGroup, f.GetGroup())
	add(termClient, f.GetClient())
	if f.GetRule() != 0 {
		all = append(all, term(termRule, rule(f.GetRuleGroup(), f.GetRule())...))
	} else {
		add(termGrant, f.GetRuleGroup())
	}
	add(termSession, f.GetSession())
	add(termMethod, f.GetMethod())
	add(termAction, f.GetAction())
	add(termTarget, f.GetTarget())
	add(termTrace, f.GetTraceId())
	if f.GetOutcome() != 0 {
		add(termOutcome, strconv.Itoa(int(f.GetOutcome())))
	}
	for _, a := range f.arguments {
		all = append(all, term(termArgument, a.path, a.form))
	}
	for _, w := range f.words {
		all = append(all, term(termWord, w))
	}
	return all
}

// Facts decides on what a record says apart from its person's fields; a subject is only near to what it stands for.
func (f *Filter) Facts(r *auditv1.AuditRecord) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	at := r.GetAt().AsTime()
	return is(f.GetPerson(), r.GetPersonId()) && is(f.GetConnector(), r.GetConnector()) && is(f.GetTool(), r.GetTool()) &&
		is(f.GetRegion(), r.GetRegion()) && is(f.GetCallId(), r.GetCallId()) && is(f.GetProxy(), r.GetProxy()) &&
		is(f.GetSession(), r.GetSession()) && is(f.GetMethod(), r.GetMethod()) && is(f.GetAction(), r.GetAction()) &&
		is(f.GetTarget(), r.GetTarget()) && is(f.GetTraceId(), r.GetTraceId()) && is(f.GetRuleGroup(), r.GetDecision().GetGroup()) &&
		(f.GetRule() == 0 || f.GetRule() == r.GetDecision().GetRule()) &&
		(f.GetClient() == "" || f.GetClient() == r.GetClient().GetId() || f.GetClient() == r.GetClient().GetName()) &&
		(f.GetGroup() == "" || slices.Contains(r.GetGroups(), f.GetGroup())) &&
		(f.GetVerdict() == 0 || f.GetVerdict() == r.GetDecision().GetVerdict()) &&
		(f.GetReason() == 0 || f.GetReason() == r.GetDecision().GetReason()) &&
		(f.GetOutcome() == 0 || f.GetOutcome() == r.GetOutcome()) &&
		(len(f.GetKinds()) == 0 || slices.Contains(f.GetKinds(), r.GetKind())) &&
		(f.GetSince() == nil || !at.Before(f.GetSince().AsTime())) && (f.GetUntil() == nil || at.Before(f.GetUntil().AsTime()))
}

// OfPerson tells whether the filter asks for what a record says of its person: arguments, results.
func (f *Filter) OfPerson() bool { return len(f.arguments)+len(f.words) > 0 }

// Personal decides on what a record says of its person, opened.
func (f *Filter) Personal(r *auditv1.AuditRecord) bool {
	if len(f.arguments) > 0 {
		found := make([]bool, len(f.arguments))
		values(r.GetArguments().GetHead(), func(v value) {
			for i, want := range f.arguments {
				found[i] = found[i] || v.form != "" && v.path == want.path && v.form == want.form
			}
		})
		if slices.Contains(found, false) {
			return false
		}
	}
	if len(f.words) == 0 {
		return true
	}
	missing := slices.Clone(f.words)
	eachText(r, func(text string) bool {
		words(text, func(w string) bool {
			missing = slices.DeleteFunc(missing, func(m string) bool { return m == w })
			return len(missing) > 0
		})
		return len(missing) > 0
	})
	return len(missing) == 0
}

// Since returns the time before which no matching record can have been stored while clocks are not far apart; zero: there is none.
func (f *Filter) Since() time.Time {
	var since time.Time
	if f.GetSince() != nil {
		since = f.GetSince().AsTime()
	}
	// A call's id tells when it began.
	if start := began(f.GetCallId()); start.After(since) {
		since = start
	}
	switch {
	case since.Before(time.Unix(0, 0)):
		return time.Time{}
	case since.After(endOfTime):
		return endOfTime // what asks the stream cannot say a later one
	}
	return since.Add(-clockSlack)
}

// matches decides on a record, and opens it if that is needed.
func (s *Store) matches(ctx context.Context, f *Filter, r *auditv1.AuditRecord) (bool, error) {
	if !f.Facts(r) {
		return false, nil
	}
	if !f.OfPerson() {
		return true, nil
	}
	if err := s.openPersonal(ctx, r); err != nil {
		return false, err
	}
	return f.Personal(r), nil
}

// Decode reads a message of the stream. One that is no record becomes one that says so: it must neither be passed over in
// silence nor stand in the way of the others.
func Decode(data []byte, sequence uint64) *adminv1.StoredRecord {
	r := &auditv1.AuditRecord{}
	if err := proto.Unmarshal(data, r); err != nil {
		r = &auditv1.AuditRecord{Kind: auditv1.Kind_KIND_GAP, Lost: 1, Error: fmt.Sprintf("message %d of the stream is no record (%d bytes): who wrote it?", sequence, len(data))}
	}
	return &adminv1.StoredRecord{Sequence: sequence, Record: r}
}
