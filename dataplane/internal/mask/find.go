package mask

import (
	"bytes"
	"strings"
)

// Classes of bytes: a word is a run of letters, digits, '_' and '-'.
const (
	isWord = 1 << iota
	isStop // a byte that the scan between words must look at
)

var class = func() (t [256]byte) {
	for c := range 256 {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			t[c] = isWord
		}
	}
	t['"'], t['\\'], t[':'] = isStop, isStop, isStop
	return t
}()

// finder walks over a text once. inString says whether the current byte lies in a JSON string.
type finder struct {
	b        []byte
	spans    []span
	inString bool
}

// find returns the secrets in b, ascending and apart.
func find(b []byte) []span {
	f := finder{b: b}
	for i := 0; i < len(b); {
		switch class[b[i]] {
		case 0:
			i++
		case isWord:
			j := i + 1
			for j < len(b) && class[b[j]] == isWord {
				j++
			}
			i = f.word(i, j)
		default:
			i = f.stop(i)
		}
	}
	return f.spans
}

// stop handles a byte that is a JSON delimiter or begins a pattern, and returns where to go on.
func (f *finder) stop(i int) int {
	switch f.b[i] {
	case '"':
		f.inString = !f.inString
	case '\\':
		return f.escape(i)
	case ':':
		return f.userinfo(i)
	}
	return i + 1
}

// escape steps over an escape sequence, so that its letter is not taken for the start of a word. In JSON inside a JSON
// string the backslashes are doubled.
func (f *finder) escape(i int) int {
	from := i
	for i < len(f.b) && f.b[i] == '\\' {
		i++
	}
	if i == len(f.b) {
		return i
	}
	switch f.b[i] {
	case 'n', 't', 'r', 'b', 'f':
		return i + 1
	case 'u':
		return min(i+5, len(f.b))
	case '"':
		if (i-from)%2 == 1 {
			return i + 1
		}
	}
	return i
}

// userinfo masks the password in "scheme://user:password@host". i is at the first colon.
func (f *finder) userinfo(i int) int {
	b := f.b
	if !bytes.HasPrefix(b[i:], []byte("://")) && !bytes.HasPrefix(b[i:], []byte(`:\/\/`)) {
		return i + 1
	}
	start := i + bytes.LastIndexByte(b[i:min(i+5, len(b))], '/') + 1
	colon := 0
	for j := start; j < len(b) && j < start+1024; j++ {
		switch c := b[j]; {
		case c == ':' && colon == 0:
			colon = j
		case c == '@':
			if colon > 0 && j > colon+1 && !masked(b[colon+1:]) {
				f.add(colon+1, j)
				return j
			}
			return start
		case c == '/' || c == '"' || c == '\\' || c == '?' || c <= ' ':
			return start
		}
	}
	return start
}

func masked(b []byte) bool { return bytes.HasPrefix(b, []byte(replacement)) }

func (f *finder) add(start, end int) { f.spans = append(f.spans, span{start: start, end: end}) }

// word looks at the word from i to j, and returns where to go on.
func (f *finder) word(i, j int) int {
	b := f.b
	if end := secretEnd(b, i, j); end > i {
		f.add(i, end)
		return end
	}
	if c := b[i]; (c >= '0' && c <= '9' || c == '-') && (i == 0 || b[i-1] != '.' && b[i-1] != '+') {
		if end, ok := f.card(i); ok {
			return end
		}
	}
	if b[i] == '-' {
		if end := privateKeyEnd(b, i); end > 0 {
			f.add(i, end)
			return end
		}
	}
	if start, end := credential(b, i, j); end > 0 {
		f.add(start, end)
		return end
	}
	if j-i >= 3 && secretName(b[i:j]) {
		return f.named(j)
	}
	return j
}

// named masks the value that follows a secret's name, which ends at j, and returns where to go on.
func (f *finder) named(j int) int {
	b := f.b
	p, depth, quoted := f.quote(j)
	// A name that is a member of the JSON value itself, not of text or JSON inside a string.
	member := quoted && depth == 0 && b[j] == '"'
	p = skipSpace(b, p)
	if p >= len(b) || b[p] != ':' && b[p] != '=' {
		return j
	}
	sign := b[p]
	p = skipSpace(b, p+1)
	if p >= len(b) {
		return j
	}
	if quoted && b[p] == '[' {
		return f.namedArray(p, depth, j)
	}
	if q, k, ok := f.quote(p); ok {
		if k == 0 && b[q-1] == '"' && f.inString && !member {
			return j // the end of the string that the name lies in
		}
		end := closing(b, q, b[q-1], k)
		f.value(q, end)
		// At the closing quote, or at its backslashes. With depth 0 in JSON the main scan closes the string.
		f.inString = f.inString || k == 0
		return end
	}
	return f.unquoted(p, sign, quoted, member, j)
}

// namedArray masks the strings of an array.
func (f *finder) namedArray(p, depth, j int) int {
	b := f.b
	next := j
	for p++; ; p++ {
		p = skipSpace(b, p)
		q, k, ok := f.quote(p)
		if !ok || k != depth {
			return next
		}
		end := closing(b, q, b[q-1], k)
		f.value(q, end)
		f.inString = f.inString || k == 0
		next = end
		if p = skipSpace(b, min(end+k+1, len(b))); p >= len(b) || b[p] != ',' {
			return next
		}
	}
}

// unquoted masks a value without quotes: a JSON number, or what follows "name=" or "name:" in text.
func (f *finder) unquoted(p int, sign byte, quoted, member bool, j int) int {
	b := f.b
	end, digits := p, 0
	for end < len(b) && end < p+4096 && b[end] > ' ' && strings.IndexByte("\"'\\,;&{}[]()<>", b[end]) < 0 {
		if b[end] >= '0' && b[end] <= '9' {
			digits++
		}
		end++
	}
	switch n := end - p; {
	case n == 0 || masked(b[p:]):
		return j
	case quoted:
		// A member of an object: a number is masked, true, false and null say nothing.
		if c := b[p]; c != '-' && (c < '0' || c > '9') {
			return j
		}
		f.spans = append(f.spans, span{p, end, member})
		if member {
			f.inString = false // the name's closing quote was stepped over
		}
		return end
	case sign == '=' && n >= 4, n >= 8 && digits > 0:
		f.add(p, end)
		return end
	}
	return j
}

// value masks the content of a quoted value, if there is something to mask.
func (f *finder) value(start, end int) {
	if end > start && !bytes.Equal(f.b[start:end], []byte(replacement)) {
		f.add(start, end)
	}
}

// quote reads a quotation mark with the backslashes before it, and returns the position behind it.
func (f *finder) quote(i int) (after, backslashes int, ok bool) {
	p := i
	for p < len(f.b) && f.b[p] == '\\' {
		p++
	}
	if p < len(f.b) && (f.b[p] == '"' || f.b[p] == '\'') {
		return p + 1, p - i, true
	}
	return i, 0, false
}

// closing returns the end of the content of a string that begins at i and was opened by a quotation mark behind k
// backslashes. Where strings are nested n deep, k is 2^n-1, and a quote inside has more backslashes, counted modulo
// 2^(n+1) since the content may end in some.
func closing(b []byte, i int, mark byte, k int) int {
	run := 0
	for p := i; p < len(b); p++ {
		if b[p] == '\\' {
			run++
			continue
		}
		if b[p] == mark && run%(2*(k+1)) == k {
			return p - k
		}
		if b[p] == '"' && run%2 == 0 {
			return p // the JSON string around it ends
		}
		run = 0
	}
	return len(b)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}
