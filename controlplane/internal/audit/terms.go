package audit

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// A term is a thing by which a record can be found, as a number: a word, a value in its arguments, a group, a client. An
// index keeps the terms of each record; whether a record that has all terms of a filter matches is decided on the record.

// The sorts of terms.
const (
	termWord     = 'w'
	termArgument = 'a'
	termGroup    = 'g'
	termClient   = 'c'
	termGrant    = 'r'
	termRule     = 'R'
	termSession  = 's'
	termMethod   = 'm'
	termAction   = 'd'
	termTarget   = 't'
	termTrace    = 'i'
	termOutcome  = 'o'
)

// term is FNV-1a of 64 bits. Whoever makes two things collide makes an index look at a record in vain.
func term(sort byte, parts ...string) int64 {
	h := uint64(14695981039346656037)
	h = (h ^ uint64(sort)) * 1099511628211
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211
	}
	return int64(h)
}

func rule(group string, number uint32) []string {
	return []string{group, strconv.FormatUint(uint64(number), 10)}
}

// Terms are all terms of a record, ascending, each once.
func Terms(r *auditv1.AuditRecord) []int64 {
	all := make([]int64, 0, 64)
	add := func(sort byte, text string) {
		if text != "" {
			all = append(all, term(sort, text))
		}
	}
	for _, g := range r.GetGroups() {
		add(termGroup, g)
	}
	add(termClient, r.GetClient().GetId())
	add(termClient, r.GetClient().GetName())
	if d := r.GetDecision(); d.GetGroup() != "" {
		add(termGrant, d.GetGroup())
		all = append(all, term(termRule, rule(d.GetGroup(), d.GetRule())...))
	}
	add(termSession, r.GetSession())
	add(termMethod, r.GetMethod())
	add(termAction, r.GetAction())
	add(termTarget, r.GetTarget())
	add(termTrace, r.GetTraceId())
	if r.GetOutcome() != 0 {
		add(termOutcome, strconv.Itoa(int(r.GetOutcome())))
	}
	values(r.GetArguments().GetHead(), func(v value) {
		if v.form != "" {
			all = append(all, term(termArgument, v.path, v.form))
		}
	})
	eachText(r, func(text string) bool {
		words(text, func(w string) bool {
			all = append(all, term(termWord, w))
			return true
		})
		return true
	})
	slices.Sort(all)
	return slices.Compact(all)
}

// eachText calls fn with each text of a record in which words are looked for, until it returns false.
func eachText(r *auditv1.AuditRecord, fn func(string) bool) {
	more := true
	for _, text := range []string{
		r.GetTool(), r.GetConnector(), r.GetMethod(), r.GetAction(), r.GetTarget(), r.GetError(), r.GetDecision().GetText(), r.GetClient().GetName(),
	} {
		if more = more && fn(text); !more {
			return
		}
	}
	for _, d := range r.GetDetails() {
		more = more && fn(d.GetKey()) && fn(d.GetValue())
	}
	for _, p := range []*auditv1.Payload{r.GetArguments(), r.GetResult()} {
		values(p.GetHead(), func(v value) { more = more && fn(v.text) })
	}
}

// maxWord is the longest word, in bytes, as it is compared: of a longer one the beginning.
const maxWord = 64

// words calls fn with each run of letters and digits of a text, in small letters, until it returns false.
func words(text string, fn func(string) bool) {
	for text != "" {
		from := strings.IndexFunc(text, wordRune)
		if from < 0 {
			return
		}
		text = text[from:]
		end := strings.IndexFunc(text, func(r rune) bool { return !wordRune(r) })
		if end < 0 {
			end = len(text)
		}
		if !fn(word(text[:end])) {
			return
		}
		text = text[end:]
	}
}

func word(s string) string {
	if len(s) > maxWord {
		s = s[:maxWord]
	}
	return strings.ToLower(strings.ToValidUTF8(s, ""))
}

func wordRune(r rune) bool {
	return r != unicode.ReplacementChar && (unicode.IsLetter(r) || unicode.IsDigit(r))
}
