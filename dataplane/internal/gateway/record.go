package gateway

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// refused records a request that did not come as far as a verdict on a tool. A record that cannot be kept
// changes nothing for the caller, who is refused either way; the spool says so in its log.
//
// Whoever reaches the proxy can cause such a refusal, so that only so many a second are recorded: a flood must
// not fill the spool that calls need. What was left out is counted, and the next record says how many.
func (g *Gateway) refused(c *caller, method string, reason auditv1.Reason) {
	g.Metrics.Refused(reason)
	leftOut, ok := g.refusals.admit(g.Now())
	if !ok {
		return
	}
	text := policy.Decision{Reason: reason}.Text()
	if leftOut > 0 {
		text = strings.TrimSpace(fmt.Sprintf("%s (%d refusals before this one were not recorded: too many a second)", text, leftOut))
	}
	g.keep(&auditv1.AuditRecord{
		At: timestamppb.New(g.Now()), CallId: newID(), Phase: auditv1.Phase_PHASE_REFUSED, Method: clip(method), PersonId: c.personID(), Actor: c.actor(),
		Session: clip(c.Session), Authentication: c.authentication(), Connector: c.connector, Client: &auditv1.Client{Id: c.ClientID, Address: c.address}, SnapshotVersion: c.table.Version(),
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: reason, Text: text},
	})
}

// keep puts a record into the spool where the answer does not depend on it.
func (g *Gateway) keep(r *auditv1.AuditRecord) { g.kept(r, g.Spool.Append(r)) }

// keepCompleted puts a call's completion into the spool, soon and not at once: should the proxy be killed before, the call is completed with an
// unknown outcome, as one that was still under way.
func (g *Gateway) keepCompleted(r *auditv1.AuditRecord) { g.kept(r, g.Spool.AppendLater(r)) }

func (g *Gateway) kept(r *auditv1.AuditRecord, err error) {
	if err != nil {
		g.Log.Error("an audit record could not be kept", "call_id", r.GetCallId(), "phase", r.GetPhase(), "error", err)
	}
}

// record is a call's first record: what is asked, by whom, and the verdict.
func (g *Gateway) record(x *exchange, t target, d policy.Decision) *auditv1.AuditRecord {
	x.whole = g.keepsWhole(x, t.connector)
	r := &auditv1.AuditRecord{
		At: timestamppb.New(x.began), CallId: newID(), Phase: auditv1.Phase_PHASE_REFUSED, Method: x.message.Method,
		PersonId: x.personID(), Actor: x.actor(), Groups: d.Groups, Client: x.client(), Connector: clip(t.connector), Tool: clip(t.label), Arguments: x.argumentsKept(d.Redaction, x.message.Arguments),
		SnapshotVersion: d.Version, TraceId: traceID(x), Revision: string(x.revision), Session: x.sessionID(), Authentication: x.authentication(), RequestBytes: uint64(len(x.message.Raw)),
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: d.Reason, Group: d.Group, Rule: uint32(d.Rule), Text: d.Text()},
	}
	r.ConditionValues = g.conditionValues(x.ask, x.table, r)
	if a := &x.approved; *a != (approval{}) {
		r.Decision.Asked = a.ID
		if a.Confirmed != 0 {
			r.Decision.Confirmed = strings.ToLower(strings.TrimPrefix(a.Confirmed.String(), "CONFIRMATION_ASSURANCE_"))
		}
	}
	r.Decision.Budget = x.budget
	if d.Allowed {
		r.Phase, r.Decision.Verdict = auditv1.Phase_PHASE_AUTHORIZED, auditv1.Verdict_VERDICT_ALLOWED
	}
	return r
}

// completed is a call's second record: how it ended.
func (g *Gateway) completed(first *auditv1.AuditRecord, x *exchange, to *answer, end *ending) *auditv1.AuditRecord {
	now := g.Now()
	upstream, latency := x.spent.latency(end.upstream)
	return &auditv1.AuditRecord{
		At: timestamppb.New(now), CallId: first.GetCallId(), Phase: auditv1.Phase_PHASE_COMPLETED, Method: first.GetMethod(),
		PersonId: first.GetPersonId(), Actor: first.GetActor(), Groups: first.GetGroups(), Client: first.GetClient(), Connector: first.GetConnector(), Tool: first.GetTool(),
		SnapshotVersion: first.GetSnapshotVersion(), TraceId: first.GetTraceId(), Revision: first.GetRevision(), Decision: first.GetDecision(),
		Session: first.GetSession(), Authentication: first.GetAuthentication(), RequestBytes: first.GetRequestBytes(), ResponseBytes: to.sent.Load(),
		Result: end.result, Outcome: end.outcome, Error: end.text,
		Duration: durationpb.New(now.Sub(x.began)), UpstreamDuration: upstream, Latency: latency,
	}
}

// spent is where a call's time went, beside what its upstream took.
type spent struct{ decision, approval, record, credential time.Duration }

// latency is that as audit has it, in one allocation.
func (s *spent) latency(upstream time.Duration) (*durationpb.Duration, *auditv1.Latency) {
	var all struct {
		auditv1.Latency
		decision, approval, record, credential, upstream durationpb.Duration
	}
	set := func(d *durationpb.Duration, spent time.Duration) *durationpb.Duration {
		d.Seconds, d.Nanos = int64(spent/time.Second), int32(spent%time.Second)
		return d
	}
	l := &all.Latency
	l.Decision, l.Record, l.Credential, l.Upstream = set(&all.decision, s.decision), set(&all.record, s.record), set(&all.credential, s.credential), set(&all.upstream, upstream)
	if s.approval > 0 {
		l.Approval = set(&all.approval, s.approval)
	}
	return l.Upstream, l
}

// sessionID names the session of the call, or else that of the sign-in, by an id that opens nothing.
func (x *exchange) sessionID() string {
	if x.session.ID != "" {
		return x.session.ID
	}
	return clip(x.Session)
}

// authentication is how the person signed in, as the token says; without anything in it where the token says nothing.
func (c *caller) authentication() *auditv1.Authentication {
	a := &auditv1.Authentication{Acr: c.from.ACR, Amr: c.from.AMR}
	if !c.from.AuthTime.IsZero() {
		a.At = timestamppb.New(c.from.AuthTime)
	}
	return a
}

// client is the agent's program, as far as it says.
func (x *exchange) client() *auditv1.Client {
	c := &auditv1.Client{Id: x.ClientID, Address: x.address}
	if len(x.message.ClientInfo) > 0 {
		var r strictjson.Reader
		r.Reset(x.message.ClientInfo, strictjson.Limits{})
		for r.Enter(); r.Next(); {
			key := string(r.Key())
			text, _ := strictjson.Text(r.Value())
			switch key {
			case "name":
				c.Name = clip(text)
			case "version":
				c.Version = clip(text)
			}
		}
	}
	if c.Name == "" {
		c.Name = clip(x.header.Get("User-Agent"))
	}
	return c
}

// traceID is the trace under which a message came; empty: under none.
func traceID(x *exchange) string {
	if parent, _ := x.traceContext(); parent != "" {
		return parent[len("00-") : len(noParent)-len("-0000000000000000-00")]
	}
	return ""
}

// traceContext is the W3C trace context of the message, or else of the headers. One that is malformed is none.
func (x *exchange) traceContext() (parent, state string) {
	if m := &x.message.Meta; isTraceParent(m.TraceParent) {
		return m.TraceParent, m.TraceState
	}
	if parent := x.header.Get("Traceparent"); isTraceParent(parent) {
		return parent, x.header.Get("Tracestate")
	}
	return "", ""
}

// noParent is the form of a traceparent (W3C Trace Context, section 3.2): version, trace, parent, flags.
const noParent = "00-00000000000000000000000000000000-0000000000000000-00"

func isTraceParent(s string) bool {
	const trace, parent = len("00-"), len("00-00000000000000000000000000000000-")
	if len(s) < len(noParent) || s[:2] == "ff" || s[:2] == "00" && len(s) > len(noParent) || len(s) > len(noParent) && s[len(noParent)] != '-' || len(s) > 256 {
		return false
	}
	for i := range len(noParent) {
		if c := s[i]; (noParent[i] == '-') != (c == '-') || c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s[trace:trace+32] != noParent[trace:trace+32] && s[parent:parent+16] != noParent[parent:parent+16]
}

// personID is the caller's id; empty where nobody was identified.
func (c *caller) personID() string {
	if c.person != "" || c.ID == uuid.Nil {
		return c.person
	}
	return c.ID.String()
}

// actor says who acts, where that is no person.
func (c *caller) actor() *auditv1.Actor {
	if !c.Service {
		return nil
	}
	return &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT, Id: c.personID()}
}

func clip(s string) string { return clipTo(s, 256) }

func clipTo(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// ending is how a call ended.
type ending struct {
	outcome  auditv1.Outcome
	text     string
	result   *auditv1.Payload
	upstream time.Duration
}

// ended reads how a call ended from its response.
func (x *exchange) ended(m *mcp.Message) ending {
	e := ending{outcome: auditv1.Outcome_OUTCOME_OK}
	if m.Failure != nil {
		e.outcome, e.result = auditv1.Outcome_OUTCOME_TOOL_ERROR, x.failureKept(m.Failure)
		return e
	}
	e.result = x.resultKept(m.Result)
	var r strictjson.Reader
	r.Reset(m.Result, strictjson.Limits{MaxBytes: len(m.Result), MaxDepth: maxResultDepth, MaxKeys: len(m.Result)})
	for r.Enter(); r.Next(); {
		isError := string(r.Key()) == "isError"
		if raw := r.Value(); isError && string(raw) == "true" {
			e.outcome = auditv1.Outcome_OUTCOME_TOOL_ERROR
		}
	}
	return e
}

// maxResultDepth bounds how deep a result's own members may lie.
const maxResultDepth = 256
