package spool

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Each call encodes two records, with some fifteen messages in them. Package proto goes over each twice, by way of tables; here a record is written
// in one go, byte for byte as proto writes it. A test holds the two together, and fails for a field that is not known here.

// appendRecord puts a record, encoded, behind b.
func appendRecord(b []byte, r *auditv1.AuditRecord) ([]byte, error) {
	w := writer{b: b}
	w.record(r)
	if w.odd {
		return proto.MarshalOptions{}.MarshalAppend(b, r) // which knows what to make of it, or says what is wrong
	}
	return w.b, nil
}

// writer writes fields. Like proto's, it leaves out what is zero.
type writer struct {
	b   []byte
	odd bool // something was met that is not for here: text that is not UTF-8, or fields of another build
}

func (w *writer) record(r *auditv1.AuditRecord) {
	w.text(1, r.GetProxy())
	w.text(2, r.GetSpoolGeneration())
	w.number(3, r.GetNumber())
	w.text(4, r.GetRegion())
	w.time(5, r.GetAt())
	w.text(6, r.GetCallId())
	w.number(7, enum(r.GetPhase()))
	w.text(8, r.GetMethod())
	w.text(9, r.GetPersonId())
	w.texts(10, r.GetGroups())
	if c := r.GetClient(); c != nil {
		at := w.open(11)
		w.text(1, c.GetId())
		w.text(2, c.GetName())
		w.text(3, c.GetVersion())
		w.text(4, c.GetAddress())
		w.shut(at, c)
	}
	w.text(12, r.GetConnector())
	w.text(13, r.GetTool())
	w.payload(14, r.GetArguments())
	w.payload(15, r.GetResult())
	w.decision(16, r.GetDecision())
	w.number(17, r.GetSnapshotVersion())
	w.number(18, enum(r.GetOutcome()))
	w.text(19, r.GetError())
	w.duration(20, r.GetDuration())
	w.duration(21, r.GetUpstreamDuration())
	w.text(22, r.GetTraceId())
	w.text(23, r.GetRevision())
	w.bytes(24, r.GetSealed())
	w.flag(25, r.GetErased())
	w.number(26, enum(r.GetKind()))
	if a := r.GetActor(); a != nil {
		at := w.open(27)
		w.number(1, enum(a.GetKind()))
		w.text(2, a.GetId())
		w.shut(at, a)
	}
	w.text(28, r.GetSession())
	if a := r.GetAuthentication(); a != nil {
		at := w.open(29)
		w.text(1, a.GetAcr())
		w.texts(2, a.GetAmr())
		w.time(3, a.GetAt())
		w.shut(at, a)
	}
	w.bytes(55, r.GetConditionValues())
	w.bytes(60, r.GetPrevious())
	w.bytes(61, r.GetPersonalSha256())
	w.text(62, r.GetAction())
	w.text(63, r.GetTarget())
	w.number(64, r.GetVersion())
	if l := r.GetLatency(); l != nil {
		at := w.open(65)
		w.duration(1, l.GetDecision())
		w.duration(2, l.GetRecord())
		w.duration(3, l.GetCredential())
		w.duration(4, l.GetUpstream())
		w.duration(50, l.GetApproval())
		w.shut(at, l)
	}
	w.number(66, r.GetRequestBytes())
	w.number(67, r.GetResponseBytes())
	w.number(68, r.GetLost())
	for _, d := range r.GetDetails() {
		at := w.open(69)
		w.text(1, d.GetKey())
		w.text(2, d.GetValue())
		w.shut(at, d)
	}
	w.bytes(70, r.GetSalt())
	w.looked(r)
}

func (w *writer) payload(n protowire.Number, p *auditv1.Payload) {
	if p == nil {
		return
	}
	at := w.open(n)
	w.bytes(1, p.GetHead())
	w.number(2, p.GetSize())
	w.bytes(3, p.GetSha256())
	w.flag(4, p.GetTruncated())
	w.flag(5, p.GetMasked())
	w.text(6, p.GetObject())
	w.flag(50, p.GetRedacted())
	w.bytes(60, p.GetWhole())
	w.text(61, p.GetNotKept())
	w.shut(at, p)
}

func (w *writer) decision(n protowire.Number, d *auditv1.Decision) {
	if d == nil {
		return
	}
	at := w.open(n)
	w.number(1, enum(d.GetVerdict()))
	w.number(2, enum(d.GetReason()))
	w.text(3, d.GetGroup())
	w.number(4, uint64(d.GetRule()))
	w.text(5, d.GetText())
	w.text(50, d.GetRuleSet())
	w.text(51, d.GetConfirmed())
	w.text(52, d.GetAsked())
	w.text(53, d.GetBudget())
	w.shut(at, d)
}

func (w *writer) time(n protowire.Number, t *timestamppb.Timestamp) {
	if t == nil {
		return
	}
	at := w.open(n)
	w.number(1, uint64(t.GetSeconds()))      //nolint:gosec // as int64 is encoded
	w.number(2, uint64(int64(t.GetNanos()))) //nolint:gosec // as int32 is encoded
	w.shut(at, t)
}

func (w *writer) duration(n protowire.Number, d *durationpb.Duration) {
	if d == nil {
		return
	}
	at := w.open(n)
	w.number(1, uint64(d.GetSeconds()))      //nolint:gosec // as int64 is encoded
	w.number(2, uint64(int64(d.GetNanos()))) //nolint:gosec // as int32 is encoded
	w.shut(at, d)
}

func (w *writer) text(n protowire.Number, s string) {
	if s != "" {
		w.item(n, s)
	}
}

func (w *writer) texts(n protowire.Number, all []string) {
	for _, s := range all {
		w.item(n, s)
	}
}

func (w *writer) item(n protowire.Number, s string) {
	w.odd = w.odd || !utf8.ValidString(s)
	w.tag(n, protowire.BytesType)
	w.varint(uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) bytes(n protowire.Number, p []byte) {
	if len(p) > 0 {
		w.tag(n, protowire.BytesType)
		w.varint(uint64(len(p)))
		w.b = append(w.b, p...)
	}
}

func (w *writer) number(n protowire.Number, v uint64) {
	if v != 0 {
		w.tag(n, protowire.VarintType)
		w.varint(v)
	}
}

func (w *writer) tag(n protowire.Number, kind protowire.Type) { w.varint(protowire.EncodeTag(n, kind)) }

func (w *writer) varint(v uint64) {
	if v < 0x80 { // most are
		w.b = append(w.b, byte(v))
		return
	}
	w.b = protowire.AppendVarint(w.b, v)
}

func (w *writer) flag(n protowire.Number, v bool) {
	if v {
		w.number(n, 1)
	}
}

// enum is a value of an enum as it is encoded.
func enum[E ~int32](v E) uint64 { return uint64(int64(v)) } //nolint:gosec // as int32 is encoded

// open begins a message, and returns where.
func (w *writer) open(n protowire.Number) int {
	w.tag(n, protowire.BytesType)
	w.b = append(w.b, 0)
	return len(w.b)
}

// shut ends a message: its size goes ahead of it, for which there is one byte of room.
func (w *writer) shut(at int, m proto.Message) {
	w.looked(m)
	size := uint64(len(w.b) - at)
	if size < 0x80 {
		w.b[at-1] = byte(size)
		return
	}
	more := protowire.SizeVarint(size) - 1
	for range more {
		w.b = append(w.b, 0)
	}
	copy(w.b[at+more:], w.b[at:])
	protowire.AppendVarint(w.b[:at-1], size)
}

// looked looks whether a message has fields of another build.
func (w *writer) looked(m proto.Message) {
	w.odd = w.odd || len(m.ProtoReflect().GetUnknown()) > 0
}
