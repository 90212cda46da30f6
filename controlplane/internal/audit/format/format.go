// Package format writes audit records as other systems read them: Sallyport's own JSON, OCSF and CEF, one line each.
//
// It is pure: a record in, a line out, always the same one. What stands in a record came from people, agents and
// upstreams, so that a line never holds a line break, a control character or a mark that turns the direction of text,
// and its parts are bounded where a format's readers expect it.
package format

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Record is a record as it lies on the stream.
type Record struct {
	*auditv1.AuditRecord
	// Sequence is its place on the stream. Zero: not known.
	Sequence uint64
	// Stored is when the stream took it. Zero: not known.
	Stored time.Time
	// Person is how the person is called now. Empty: not known, or not to be told.
	Person string
}

// ID is the record's identity, by which a reader tells repeats. It is the same in all formats.
func (r Record) ID() string {
	return r.GetProxy() + "/" + r.GetSpoolGeneration() + "/" + strconv.FormatUint(r.GetNumber(), 10)
}

// Formats are the formats by their names.
var Formats = map[string]func(Record) []byte{"json": JSON, "ocsf": OCSF, "cef": CEF}

// word is an enum's value as a word: KIND_SIGN_IN is sign_in. One that this build does not know is its number.
func word(e protoreflect.Enum, prefix string) string {
	v := e.Descriptor().Values().ByNumber(e.Number())
	if v == nil {
		return strconv.Itoa(int(e.Number()))
	}
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

// KindWord is what a record is about, as a word.
func (r Record) KindWord() string {
	if r.GetKind() == auditv1.Kind_KIND_UNSPECIFIED {
		return "call"
	}
	return word(r.GetKind(), "KIND_")
}

// What is what happened, in words that programs can rely on.
func (r Record) What() string {
	switch {
	case r.GetAction() != "":
		return r.GetAction()
	case r.GetKind() == auditv1.Kind_KIND_UNSPECIFIED:
		return r.KindWord() + "_" + word(r.GetPhase(), "PHASE_")
	}
	return r.KindWord()
}

// denied tells whether somebody was refused something.
func (r Record) denied() bool {
	return r.GetPhase() == auditv1.Phase_PHASE_REFUSED || r.GetDecision().GetVerdict() == auditv1.Verdict_VERDICT_DENIED || r.GetKind() == auditv1.Kind_KIND_SIGN_IN_FAILED
}

// failed tells whether something was allowed and did not come to its end.
func (r Record) failed() bool {
	return r.GetOutcome() > auditv1.Outcome_OUTCOME_OK || r.GetPhase() == auditv1.Phase_PHASE_COMPLETED && r.GetError() != ""
}

// SyslogSeverity is how grave it is, by RFC 5424: error for records that were lost, warning for what was refused, notice for what failed, else informational.
func (r Record) SyslogSeverity() int {
	switch {
	case r.GetKind() == auditv1.Kind_KIND_GAP:
		return 3
	case r.denied():
		return 4
	case r.failed():
		return 5
	}
	return 6
}

// sentence says a record in words.
func (r Record) sentence() string {
	who := r.Person
	if who == "" {
		who = r.GetPersonId()
	}
	if who == "" {
		who = r.GetActor().GetId()
	}
	if who == "" {
		who = "somebody"
	}
	to := r.GetTarget()
	if r.GetConnector() != "" {
		to = strings.TrimSuffix(r.GetConnector()+" "+r.GetTool(), " ")
	}
	text := strings.TrimSpace(fmt.Sprintf("%s: %s %s", who, strings.ReplaceAll(r.What(), "_", " "), to))
	if why := r.GetDecision().GetText(); why != "" && r.denied() {
		text += ": " + why
	} else if r.GetError() != "" {
		text += ": " + r.GetError()
	}
	return text
}

// Millis is when it happened, in milliseconds since 1970.
func (r Record) Millis() int64 {
	switch {
	case r.GetAt() != nil:
		return r.GetAt().AsTime().UnixMilli()
	case !r.Stored.IsZero():
		return r.Stored.UnixMilli()
	}
	return 0
}

// cut returns at most so many bytes of a text, in whole characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// hidden tells whether a terminal, an editor or a log viewer may act on a character rather than show it.
func hidden(r rune) bool {
	if ' ' <= r && r < 0x7f {
		return false
	}
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// harden writes such characters of a JSON text as escapes.
func harden(text []byte) []byte { return escape(text, hidden) }

// ASCII writes a line of JSON in US-ASCII alone.
func ASCII(line []byte) []byte {
	return escape(line, func(r rune) bool { return r >= utf8.RuneSelf })
}

// escape writes some characters of a JSON text as escapes. They stand in strings only.
func escape(text []byte, which func(rune) bool) []byte {
	if bytes.IndexFunc(text, which) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+len(text)/8)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case !which(r):
			out = append(out, text[:size]...)
		case r > 0xffff:
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[size:]
	}
	return out
}
