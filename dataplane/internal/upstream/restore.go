package upstream

import (
	"errors"
	"io"

	"sallyport.dev/dataplane/internal/mcp"
)

// restorer passes a large JSON-RPC response on as it comes, puts the agent's id in the place of the one that was sent and, where
// that is asked for, completes the result as mcp.Edit does. It looks no further than it must: servers write "id" first or last.
type restorer struct {
	from         io.Reader
	rest         []byte // read from from, not yet looked at
	sent, answer []byte
	complete     bool // the result is to be completed, and was not yet
	fail         func(reason string) error

	out   []byte // looked at, not yet returned: a part of kept
	kept  []byte
	ended bool // from is at its end
	found bool // the id

	depth    int
	inString bool
	escaped  bool // the next byte of the string is
	inResult bool // what is watched are the members of the result
	state    restoreState
	word     []byte // of the members that are watched: the key, or the id's value
}

type restoreState uint8

const (
	beforeMessage restoreState = iota
	beforeKey
	inKey
	afterKey
	beforeID
	inID
	beforeResult
	inValue
)

// maxWord bounds a key or id that is kept: longer ones cannot be the right one.
const maxWord = 2048

func (r *restorer) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.done() {
			return r.pass(p)
		}
		if len(r.rest) == 0 {
			if r.ended && r.found {
				return 0, io.EOF
			}
			if r.ended {
				return 0, r.fail("it has no id")
			}
			if err := r.fill(); err != nil {
				return 0, err
			}
			continue
		}
		if err := r.look(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// done tells whether all that is to be changed was.
func (r *restorer) done() bool { return r.found && !r.complete }

// pass returns what comes after that.
func (r *restorer) pass(p []byte) (int, error) {
	if len(r.rest) > 0 {
		n := copy(p, r.rest)
		r.rest = r.rest[n:]
		return n, nil
	}
	if r.ended {
		return 0, io.EOF
	}
	return r.from.Read(p)
}

func (r *restorer) fill() error {
	if cap(r.rest) < small {
		r.rest = make([]byte, 0, small)
	}
	n, err := r.from.Read(r.rest[:cap(r.rest)])
	r.rest = r.rest[:n]
	if errors.Is(err, io.EOF) {
		r.ended, err = true, nil
	}
	return err
}

// look goes through rest, up to the last change, and moves what it passed to out.
func (r *restorer) look() error {
	kept, start := r.kept[:0], 0
	defer func() { r.kept, r.out = kept, kept }()
	for i := 0; i < len(r.rest); i++ {
		if r.inString && r.state == inValue {
			i += r.skip(r.rest[i:])
			if i == len(r.rest) {
				break
			}
		}
		c := r.rest[i]
		if r.state == beforeID && !isSpace(c) {
			kept = append(kept, r.rest[start:i]...)
			r.state, start = inID, i
		}
		if r.state == inID && !r.inString && (c == ',' || c == '}' || isSpace(c)) {
			if !sameID(r.word, r.sent) {
				return r.fail(answersAnother)
			}
			kept = append(kept, r.answer...)
			start, r.state, r.found = i, inValue, true
		}
		if r.inResult && r.depth == 2 && !r.inString && c == '}' {
			kept = append(kept, r.rest[start:i]...)
			if r.complete && r.state != beforeKey { // a member came before
				kept = append(kept, ',')
			}
			if r.complete {
				kept = append(kept, mcp.Complete...)
			}
			start, r.state, r.inResult, r.complete = i, inValue, false, false
		}
		if r.done() {
			kept = append(kept, r.rest[start:i]...)
			r.rest = r.rest[i:]
			return nil
		}
		if !r.step(c) {
			return r.fail("it is not a valid JSON-RPC message")
		}
	}
	if r.state != inID {
		kept = append(kept, r.rest[start:]...)
	}
	r.rest = r.rest[:0]
	return nil
}

// skip returns how many bytes of a string, of which no byte matters, come before its end, or before an escape that is cut off.
func (r *restorer) skip(b []byte) int {
	if r.escaped {
		return 0
	}
	for i := 0; ; i++ {
		switch {
		case i >= len(b):
			return len(b)
		case b[i] == '"', b[i] == '\\' && i+1 == len(b):
			return i
		case b[i] == '\\':
			i++
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// step takes one byte into account. It is false for one that shows that this is no JSON object; of the rest, the message's
// own members are all that is watched.
func (r *restorer) step(c byte) bool {
	keep := r.state == inKey || r.state == inID
	if r.inString {
		switch {
		case r.escaped:
			r.escaped = false
		case c == '\\':
			r.escaped = true
		case c == '"':
			r.inString = false
			if r.state == inKey {
				r.state, keep = afterKey, false
			}
		}
		return !keep || r.keep(c)
	}
	switch {
	case isSpace(c):
	case r.state == beforeMessage:
		r.depth, r.state = 1, beforeKey
		return c == '{'
	case r.state == beforeKey:
		r.inString, r.state, r.word = true, inKey, r.word[:0]
		return c == '"'
	case r.state == afterKey:
		r.meet(string(r.word))
		return c == ':'
	case r.state == beforeResult:
		if r.state = inValue; c == '{' {
			r.depth, r.inResult, r.state = 2, true, beforeKey
		}
		return c == '{'
	case c == '"':
		r.inString = true
		return !keep || r.keep(c)
	case c == '{' || c == '[':
		r.depth++
		return r.state == inValue
	case c == '}' || c == ']':
		r.depth--
		return r.depth >= 0
	case c == ',' && (r.depth == 1 || r.inResult && r.depth == 2):
		r.state = beforeKey
	case keep:
		return r.keep(c)
	}
	return r.depth > 0 || isSpace(c)
}

// meet decides by a key what its value is.
func (r *restorer) meet(key string) {
	r.state = inValue
	switch {
	case r.inResult && key == "resultType":
		r.complete = false
	case r.inResult:
	case key == "id" && !r.found:
		r.state, r.word = beforeID, r.word[:0]
	case key == "result" && r.complete:
		r.state = beforeResult
	case key == "error":
		r.complete = false
	}
}

func (r *restorer) keep(c byte) bool {
	r.word = append(r.word, c)
	return len(r.word) <= maxWord || r.state == inKey && r.cut()
}

// cut forgets the end of a key that is too long to be one that is looked for.
func (r *restorer) cut() bool {
	r.word = r.word[:maxWord]
	return true
}
