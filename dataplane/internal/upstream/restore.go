package upstream

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// restorer passes a large JSON-RPC response on as it comes, puts the agent's id in the place of the one that was sent and, where
// that is asked for, completes the result as mcp.Edit does. It looks no further than it must: servers write "id" first or last. Of an
// agent that can be asked for input the members of the message and its result are watched to the end, since an answer that asks must be read
// whole.
type restorer struct {
	from         io.Reader
	rest         []byte // read from from, not yet looked at
	sent, answer []byte
	complete     bool // the result is to be completed, and was not yet
	asked        bool // the agent can be asked for input
	fail         func(reason string) error

	out   []byte // looked at, not yet returned: a part of kept
	kept  []byte
	ended bool // from is at its end
	found bool // the id

	depth    int
	inString bool
	escaped  bool // the next byte of the string is
	inResult bool // what is watched are the members of the result
	answered bool // the result was met
	typed    bool // its type was
	state    restoreState
	word     []byte // of the members that are watched: the key, or the value of the id or the type

	// special: it is an error, or a result that is not complete, or may be read as one. It passes only if it is read whole.
	special, whole bool
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
	beforeType
	inType
	inValue
)

// maxWord bounds a key or id that is kept: longer ones cannot be the right one.
const maxWord = 2048

func (r *restorer) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.special && !r.whole {
			return 0, r.fail(tooLateSpecial)
		}
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
	if r.special && !r.whole {
		return 0, r.fail(tooLateSpecial)
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// Reasons of failures.
const (
	tooLateSpecial = "it is large, and turns out to be no plain result"
	notJSONRPC     = "it is not a valid JSON-RPC message"
)

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
	n, err := r.from.Read(p)
	if !r.asked {
		return n, err
	}
	if !r.watch(p[:n]) {
		return 0, r.fail(notJSONRPC)
	}
	if r.special && !r.whole {
		return 0, r.fail(tooLateSpecial)
	}
	return n, err
}

// watch goes through what passes as it is.
func (r *restorer) watch(b []byte) bool {
	for i := 0; i < len(b); i++ {
		if r.state == inValue {
			if i += r.skip(b[i:]); i == len(b) {
				break
			}
		}
		if !r.step(b[i]) {
			return false
		}
	}
	return true
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
			start, r.state, r.complete = i, inValue, false
		}
		if r.done() {
			kept = append(kept, r.rest[start:i]...)
			if r.rest = r.rest[i:]; !r.watch(r.rest) {
				return r.fail(notJSONRPC)
			}
			return nil
		}
		if !r.step(c) {
			return r.fail(notJSONRPC)
		}
	}
	if r.state != inID {
		kept = append(kept, r.rest[start:]...)
	}
	r.rest = r.rest[:0]
	return nil
}

// skip returns how many bytes of a value come before one that matters: in a string its end, or an escape that is cut off; else what
// begins or ends something, and between members that are watched what parts them.
func (r *restorer) skip(b []byte) int {
	switch {
	case r.escaped || r.depth == 0:
		return 0
	case r.inString:
		return stringEnd(b)
	}
	watched := 1
	if r.inResult {
		watched = 2
	}
	i := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			end := i + 1 + stringEnd(b[i+1:])
			if end >= len(b) || b[end] != '"' { // it goes on in what comes next
				return i
			}
			i = end
		case '{', '[':
			if r.depth == watched {
				return i
			}
			r.depth++
		case '}', ']':
			if r.depth <= watched+1 {
				return i
			}
			r.depth--
		case ',':
			if r.depth == watched {
				return i
			}
		}
	}
	return i
}

// stringEnd returns where a string ends that began before b: at its quote, or at the end of b, or at an escape that is cut off there.
func stringEnd(b []byte) int {
	const byOne = 32 // bytes: where it is dense, looking further ahead costs more
	for i := 0; ; {
		for to := min(i+byOne, len(b)); i < to; i++ {
			switch {
			case b[i] == '"', b[i] == '\\' && i+1 == len(b):
				return i
			case b[i] == '\\':
				i++
			}
		}
		if i >= len(b) {
			return len(b)
		}
		ahead := b[i:min(i+4096, len(b))]
		if at := bytes.IndexByte(ahead, '"'); at >= 0 {
			ahead = ahead[:at]
		}
		if at := bytes.IndexByte(ahead, '\\'); at >= 0 {
			ahead = ahead[:at]
		}
		i += len(ahead)
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// step takes one byte into account. It is false for one that shows that this is no JSON object; of the rest, the message's
// own members are all that is watched.
func (r *restorer) step(c byte) bool {
	keep := r.state == inKey || r.state == inID || r.state == inType
	if r.inString {
		switch {
		case r.escaped:
			r.escaped = false
		case c == '\\':
			r.escaped = true
		case c == '"':
			r.inString = false
			switch r.state {
			case inKey:
				r.state, keep = afterKey, false
			case inType:
				r.special = r.special || unquoted(r.word) != "complete"
				r.state, keep = inValue, false
			}
		}
		return !keep || r.keep(c)
	}
	switch {
	case isSpace(c):
	case r.state == inValue && r.depth == 0: // behind the message
		return false
	case r.state == beforeMessage:
		r.depth, r.state = 1, beforeKey
		return c == '{'
	case r.state == beforeKey && c == '}' && r.depth == 2: // an empty result
		r.state = inValue
		return r.step(c)
	case r.state == beforeKey:
		r.inString, r.state, r.word = true, inKey, r.word[:0]
		return c == '"'
	case r.state == afterKey:
		r.meet(unquoted(r.word))
		return c == ':'
	case r.state == beforeResult && c == '{':
		r.depth, r.inResult, r.state = 2, true, beforeKey
	case r.state == beforeResult:
		if r.state = inValue; r.complete {
			return false
		}
		return r.step(c)
	case r.state == beforeType && c == '"':
		r.inString, r.state, r.word = true, inType, r.word[:0]
	case r.state == beforeType:
		r.special, r.state = true, inValue
		return r.step(c)
	case c == '"':
		r.inString = true
		return !keep || r.keep(c)
	case c == '{' || c == '[':
		r.depth++
		return r.state == inValue
	case c == '}' || c == ']':
		r.depth--
		r.inResult = r.inResult && r.depth > 1
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
		r.special = r.special || r.typed
		r.complete, r.typed, r.state = false, true, beforeType
	case r.inResult:
		r.special = r.special || strings.EqualFold(key, "resultType") || strings.EqualFold(key, "inputRequests")
	case key == "id" && !r.found:
		r.state, r.word = beforeID, r.word[:0]
	case key == "result" && !r.answered:
		r.answered, r.state = true, beforeResult
	case strings.EqualFold(key, "result"), strings.EqualFold(key, "error"):
		r.complete = r.complete && key != "error"
		r.special = true
	}
}

// unquoted returns what stands between two quotes, without its escapes.
func unquoted(word []byte) string {
	if bytes.IndexByte(word, '\\') < 0 {
		return string(word)
	}
	text, _ := strictjson.Text(slices.Concat([]byte{'"'}, word, []byte{'"'}))
	return text
}

func (r *restorer) keep(c byte) bool {
	r.word = append(r.word, c)
	return len(r.word) <= maxWord || r.state != inID && r.cut()
}

// cut forgets the end of a word that is too long to be one that is looked for.
func (r *restorer) cut() bool {
	r.word = r.word[:maxWord]
	return true
}
