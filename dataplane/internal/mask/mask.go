// Package mask takes secrets that people put into arguments and results out of what audit keeps.
//
// It knows secrets by their form (tokens of well-known issuers, JWTs, private keys, card numbers, credentials in URLs
// and Authorization values) and by the name that stands before them (password, api_key, …), in JSON, in JSON inside a
// JSON string, and in plain text. It works as well as patterns can: a secret without form or name passes, and what
// looks like a secret and is none is masked. It never makes valid JSON invalid.
package mask

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"strconv"
	"unicode/utf8"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

const (
	// HeadBytes is how much of a payload audit keeps.
	HeadBytes = 4096
	// A secret that begins inside the head is recognised by what follows, up to here.
	windowBytes = 2 * HeadBytes
	replacement = "[masked]"
)

// Mask returns a JSON value with the secrets in it replaced, and whether there were any. Without any it returns its
// argument. Other text than JSON is masked too.
func Mask(json []byte) (masked []byte, changed bool) {
	seen, spans := look(json)
	if len(spans) == 0 {
		return json, false
	}
	return apply(seen, spans, len(seen)), true
}

// Payload makes the audit record's form of a JSON value: its first bytes, masked, with size and digest of the whole. These two are of the
// masked form, as far as secrets are looked for: by the digest of the whole a short secret could be found by trying. An empty value gives nil.
func Payload(raw []byte) *auditv1.Payload {
	if len(raw) == 0 {
		return nil
	}
	edge := min(len(raw), windowBytes)
	s := show(raw[:edge])
	if !s.masked {
		sum := sha256.Sum256(raw)
		return s.payload(len(raw), sum[:], edge == len(raw))
	}
	h := sha256.New()
	_, _ = h.Write(s.window) // never fails
	_, _ = h.Write(raw[edge:])
	return s.payload(len(s.window)+len(raw)-edge, h.Sum(nil), edge == len(raw))
}

// Whole is Payload, with the whole value in it where the head is not all of it, masked from end to end: size and digest are of that. A value
// of more bytes than there may be is not kept whole, and the payload says so.
func Whole(raw []byte, most int) *auditv1.Payload {
	if len(raw) <= HeadBytes {
		return Payload(raw)
	}
	if len(raw) > most {
		return TooLarge(Payload(raw), most)
	}
	s := show(raw)
	sum := sha256.Sum256(s.window)
	p := s.payload(len(s.window), sum[:], true)
	if p.GetTruncated() {
		if p.Whole = s.window; !s.masked { // else it is another already
			p.Whole = bytes.Clone(raw)
		}
	}
	return p
}

// TooLarge says of a payload that its value is not kept whole because it has more bytes than there may be.
func TooLarge(p *auditv1.Payload, most int) *auditv1.Payload {
	p.NotKept = fmt.Sprintf("it has more than %d bytes", most)
	return p
}

// WholeRecorder makes what Whole makes of what is written to it. It holds as much as there may be.
type WholeRecorder struct {
	Most     int
	recorder Recorder
	whole    []byte
	over     bool
}

// Write never fails.
func (r *WholeRecorder) Write(b []byte) (int, error) {
	if r.over = r.over || len(r.whole)+len(b) > r.Most; r.over {
		r.whole = nil
	} else {
		r.whole = append(r.whole, b...)
	}
	return r.recorder.Write(b)
}

// Payload returns what Whole returns for all that was written.
func (r *WholeRecorder) Payload() *auditv1.Payload {
	if r.over {
		return TooLarge(r.recorder.Payload(), r.Most)
	}
	return Whole(r.whole, r.Most)
}

// Recorder makes a Payload of what is written to it, without keeping more than it needs. Its zero value is ready.
type Recorder struct {
	window []byte
	// Once the window is full: what is shown of it, and the digest and size of the whole so far.
	shown  *shown
	digest hash.Hash
	size   int
}

// Write never fails.
func (r *Recorder) Write(b []byte) (int, error) {
	n := min(len(b), windowBytes-len(r.window))
	r.window = append(r.window, b[:n]...)
	if n == len(b) {
		return n, nil
	}
	if r.shown == nil {
		s := show(r.window)
		r.shown, r.digest, r.size = &s, sha256.New(), len(s.window)
		_, _ = r.digest.Write(s.window) // never fails
	}
	_, _ = r.digest.Write(b[n:])
	r.size += len(b) - n
	return len(b), nil
}

// Payload returns what Payload returns for all that was written.
func (r *Recorder) Payload() *auditv1.Payload {
	if r.shown == nil {
		return Payload(r.window)
	}
	return r.shown.payload(r.size, r.digest.Sum(nil), false)
}

// shown is what is kept of a value, as far as secrets are looked for in it.
type shown struct {
	head   []byte
	window []byte // masked
	masked bool
	all    bool // head is all of window
}

// show masks the window of a value and takes its head. A secret that the edge cuts is masked whole.
func show(window []byte) shown {
	seen, spans := look(window)
	if len(spans) == 0 {
		edge := cut(window)
		return shown{head: bytes.Clone(window[:edge]), window: window, all: edge == len(window)}
	}
	s := shown{window: apply(seen, spans, len(seen)), masked: true}
	edge := cut(seen)
	for i, one := range spans {
		if one.start >= edge {
			spans = spans[:i]
			break
		}
	}
	head := apply(seen, spans, edge)
	end := cut(head)
	s.head, s.all = head[:end], edge == len(seen) && end == len(head)
	return s
}

func (s *shown) payload(size int, sum []byte, whole bool) *auditv1.Payload {
	return &auditv1.Payload{Head: s.head, Size: uint64(size), Sha256: sum, Truncated: !whole || !s.all, Masked: s.masked}
}

// look finds the secrets of a text, also those whose letters are written as escapes: the text in which they stand is returned.
func look(b []byte) ([]byte, []span) {
	if plain := unhidden(b); len(plain) != len(b) {
		if spans := find(plain); len(spans) > 0 {
			return plain, spans
		}
	}
	return b, find(b)
}

// unhidden writes letters, digits and signs plainly that a JSON string has as \u00XX, without need.
func unhidden(b []byte) []byte {
	at := bytes.Index(b, []byte(`\u00`))
	if at < 0 {
		return b
	}
	out := append(make([]byte, 0, len(b)), b[:at]...)
	for i := at; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		if c, ok := escaped(b[i:]); ok {
			out = append(out, c)
			i += 5
			continue
		}
		out = append(out, b[i])
		if i++; i < len(b) { // whatever is escaped is no beginning of an escape
			out = append(out, b[i])
		}
	}
	return out
}

// escaped reads \u00XX of a printable ASCII character that needs no escape.
func escaped(b []byte) (byte, bool) {
	if len(b) < 6 || b[1] != 'u' || b[2] != '0' || b[3] != '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[4:6]), 16, 8)
	return byte(n), err == nil && n >= 0x20 && n < 0x7f && n != '"' && n != '\\'
}

// cut returns where to cut b so that at most HeadBytes are left and no character is split.
func cut(b []byte) int {
	if len(b) <= HeadBytes {
		return len(b)
	}
	edge := HeadBytes
	for edge > HeadBytes-utf8.UTFMax && !utf8.RuneStart(b[edge]) {
		edge--
	}
	return edge
}

// span is a secret: bytes start to end, and whether the replacement needs quotes to stay JSON.
type span struct {
	start, end int
	bare       bool
}

// apply copies b up to edge, with the spans replaced.
func apply(b []byte, spans []span, edge int) []byte {
	out := make([]byte, 0, edge+len(spans)*(len(replacement)+2))
	at := 0
	for _, s := range spans {
		out = append(out, b[at:s.start]...)
		if s.bare {
			out = append(out, '"')
		}
		out = append(out, replacement...)
		if s.bare {
			out = append(out, '"')
		}
		at = s.end
	}
	if at < edge {
		out = append(out, b[at:edge]...)
	}
	return out
}
