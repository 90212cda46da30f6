package audittest

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Hostile are texts that would do something where they are shown or read. Every output of audit is tried with them.
var Hostile = []string{
	"\x1b[2J\x1b]0;title\x07", "\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\", "a\r\nforged: yes\r\n\r\nbody", "a\nb\rc", "abc\u202Egnp.exe\u2066\u2069", "nul\x00tab\tdel\x7fnel\u0085",
	"line\u2028paragraph\u2029", "tag\U000E0041bom\uFEFF", "<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "javascript:alert(1)", "=cmd|' /C calc'!A0", "+1+cmd()", "-2+cmd()", "@SUM(A1)",
	`","id":"forged`, `"] ["forged`, "a|b=c\\d\\|e\\=f", "CEF:0|forged|forged|1|x|y|9|", "<13>1 2026-01-01T00:00:00Z forged - - - -", "\xff\xfe broken \xc3", "\xed\xa0\x80", strings.Repeat("ü=|<\x1b", 1000), " ", "",
}

// HostileRecord has a text in each field that takes one, of a kind and phase.
func HostileRecord(text string, kind auditv1.Kind, phase auditv1.Phase) *auditv1.AuditRecord {
	r := &auditv1.AuditRecord{}
	var fill func(protoreflect.Message)
	fill = func(m protoreflect.Message) {
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			switch {
			case f.Kind() == protoreflect.StringKind && f.IsList():
				l := m.NewField(f).List()
				l.Append(protoreflect.ValueOfString(text))
				m.Set(f, protoreflect.ValueOfList(l))
			case f.Kind() == protoreflect.StringKind:
				m.Set(f, protoreflect.ValueOfString(text))
			case f.Kind() == protoreflect.BytesKind && !f.IsList():
				m.Set(f, protoreflect.ValueOfBytes([]byte(text)))
			case f.Kind() == protoreflect.MessageKind && f.IsList():
				l := m.NewField(f).List()
				e := l.NewElement()
				fill(e.Message())
				l.Append(e)
				m.Set(f, protoreflect.ValueOfList(l))
			case f.Kind() == protoreflect.MessageKind && !strings.HasPrefix(string(f.Message().FullName()), "google."):
				fill(m.Mutable(f).Message())
			}
		}
	}
	fill(r.ProtoReflect())
	r.Kind, r.Phase, r.Number, r.Sealed, r.Erased = kind, phase, 1, nil, false
	r.At, r.Duration = timestamppb.Now(), durationpb.New(1)
	return r
}

// Acts says what in a text would act on a terminal, an editor or a reader of lines, rather than be shown; nil: nothing. Line breaks are the
// caller's to look at: breaks says whether there may be any.
func Acts(text []byte, breaks bool) error {
	if !utf8.Valid(text) {
		return fmt.Errorf("it is no UTF-8: %q", sample(text, 0))
	}
	at := bytes.IndexFunc(text, func(r rune) bool {
		return (unicode.IsControl(r) && (!breaks || r != '\n')) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	})
	if at >= 0 {
		return fmt.Errorf("at %d stands what may act: %q", at, sample(text, at))
	}
	return nil
}

func sample(text []byte, at int) []byte { return text[max(0, at-20):min(len(text), at+20)] }
