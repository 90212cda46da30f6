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
	"hash"
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
	spans := find(json)
	if len(spans) == 0 {
		return json, false
	}
	return apply(json, spans, len(json)), true
}

// Payload makes the audit record's form of a JSON value: its first bytes, masked, with size and digest of the whole.
// An empty value gives nil.
func Payload(raw []byte) *auditv1.Payload {
	if len(raw) == 0 {
		return nil
	}
	sum := sha256.Sum256(raw)
	head, masked, whole := head(raw)
	return &auditv1.Payload{
		Head: head, Size: uint64(len(raw)), Sha256: sum[:], Truncated: !whole, Masked: masked,
	}
}

// Recorder makes a Payload of what is written to it, without keeping more than it needs. Its zero value is ready.
type Recorder struct {
	window []byte
	size   uint64
	digest hash.Hash
}

// Write never fails.
func (r *Recorder) Write(b []byte) (int, error) {
	if r.digest == nil {
		r.digest = sha256.New()
	}
	_, _ = r.digest.Write(b) // never fails
	r.size += uint64(len(b))
	r.window = append(r.window, b[:min(len(b), windowBytes-len(r.window))]...)
	return len(b), nil
}

// Payload returns what Payload returns for all that was written.
func (r *Recorder) Payload() *auditv1.Payload {
	if r.size == 0 {
		return nil
	}
	head, masked, whole := head(r.window)
	return &auditv1.Payload{
		Head: head, Size: r.size, Sha256: r.digest.Sum(nil), Truncated: !whole, Masked: masked,
	}
}

// head returns the first HeadBytes of a value, masked, as a copy, and whether that is all of it. A secret that the
// edge cuts is masked whole.
func head(raw []byte) (head []byte, masked, whole bool) {
	window := raw[:min(len(raw), windowBytes)]
	edge := cut(raw)
	spans := find(window)
	for i, s := range spans {
		if s.start >= edge {
			spans = spans[:i]
			break
		}
	}
	whole = edge == len(raw)
	if len(spans) == 0 {
		return bytes.Clone(raw[:edge]), false, whole
	}
	head = apply(window, spans, edge)
	end := cut(head)
	return head[:end], true, whole && end == len(head)
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
