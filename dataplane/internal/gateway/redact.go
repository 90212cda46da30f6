package gateway

import (
	"bytes"
	"errors"
	"strings"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mask"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// What the policy redacts is looked for in structured content, in each text that is a JSON object or array, and in whatever else a result
// holds that is JSON. Prose, pictures and bytes cannot be looked through: where something is to be taken out they are withheld.

// withheldText stands in place of what could not be looked through.
const withheldText = "[withheld by Sallyport: this is not JSON, so that what the policy takes out cannot be found in it]"

// errWithheld: nothing is left of a result.
var errWithheld = errors.New("Sallyport withheld the answer: the policy takes something out of this tool's results, and this one could not be read as JSON in one way alone; ask an administrator") //nolint:staticcheck // a name begins it

// errNoQuestions refuses what an upstream asks while results are redacted.
var errNoQuestions = &mcp.Error{Code: mcp.CodeMethodNotFound, Message: "the gateway lets nothing be asked of this client in this call, since its policy takes something out of the results"}

// argumentsKept is what audit keeps of arguments.
func (x *exchange) argumentsKept(r *policy.Redaction, raw []byte) *auditv1.Payload {
	if r == nil || r.Arguments == nil {
		return x.payload(raw)
	}
	redacted, found, err := r.Arguments.Redact(raw)
	if err != nil {
		return withheldPayload()
	}
	return x.redactedPayload(redacted, found)
}

// resultKept is what audit keeps of a result, failureKept of an error, in the form that the agent got.
func (x *exchange) resultKept(raw []byte) *auditv1.Payload { return x.kept(raw, (*shears).result) }

func (x *exchange) failureKept(raw []byte) *auditv1.Payload { return x.kept(raw, (*shears).failure) }

func (x *exchange) kept(raw []byte, cut func(*shears, []byte) ([]byte, error)) *auditv1.Payload {
	if x.redaction == nil || x.redaction.Results == nil {
		return x.payload(raw)
	}
	s := shears{paths: x.redaction.Results}
	redacted, err := cut(&s, raw)
	if err != nil {
		return withheldPayload()
	}
	return x.redactedPayload(redacted, s.found || s.unread > 0 || x.redaction.Agent != nil)
}

func (x *exchange) redactedPayload(raw []byte, redacted bool) *auditv1.Payload {
	p := x.payload(raw)
	if p != nil {
		p.Redacted = redacted
	}
	return p
}

func withheldPayload() *auditv1.Payload {
	p := mask.Payload([]byte(policy.Redacted))
	p.Redacted = true
	return p
}

// readsResults tells whether results are needed whole.
func (x *exchange) readsResults() bool {
	return x.redaction != nil && x.redaction.Results != nil || x.reserved != nil && x.reserved.Sizes
}

// forAgent is what is taken out of results for the agent too; nil: nothing.
func (x *exchange) forAgent() *policy.Paths {
	if x.redaction == nil {
		return nil
	}
	return x.redaction.Agent
}

// redact takes out of an upstream's answer what the agent is not to have. changed: the message is to be written anew.
func (x *exchange) redact(m *mcp.Message) (changed bool, err error) {
	paths := x.forAgent()
	if paths == nil {
		return false, nil
	}
	s := shears{paths: paths}
	if m.Failure != nil {
		m.Failure, err = s.failure(m.Failure)
	} else {
		m.Result, err = s.result(m.Result)
	}
	if err == nil && s.unread > 0 && s.read == 0 && m.Failure == nil {
		err = errWithheld
	}
	return true, err
}

// progress is a notification of progress without its words; nil: it is not passed on.
func (x *exchange) progress(m *mcp.Message) []byte {
	if m.Method != mcp.NotifyProgress {
		return nil
	}
	params, err := rewriteObject(m.Params, func(key string, value []byte) (string, []byte, error) {
		switch key {
		case "progressToken", "progress", "total":
			return key, value, nil
		}
		return "", nil, nil
	})
	if err != nil {
		return nil
	}
	return mcp.AppendNotification(nil, m.Method, params)
}

// shears cut what paths find out of results.
type shears struct {
	paths *policy.Paths
	found bool
	// How many parts of the content were looked through, and how many of the whole could not be.
	read, unread int
	depth        int
}

// maxResults bounds how deep results lie in results, and blocks in blocks.
const maxResults = 8

func (s *shears) deeper() error {
	if s.depth++; s.depth > maxResults {
		return errWithheld
	}
	return nil
}

// result cuts a result, of whatever was called, and of a task.
func (s *shears) result(raw []byte) ([]byte, error) {
	if err := s.deeper(); err != nil {
		return nil, err
	}
	defer func() { s.depth-- }()
	return rewriteObject(raw, func(key string, value []byte) (string, []byte, error) {
		var err error
		kind := strictjson.KindOf(value)
		switch key {
		case "content", "contents", "messages":
			value, err = s.blocks(value)
		case "result":
			if kind == strictjson.Object {
				value, err = s.result(value)
				break
			}
			value, err = s.any(value)
		case "error":
			value, err = s.failure(value)
		case "resultType", "taskId", "status", "createdAt", "lastUpdatedAt", "nextCursor": // of the protocol
			value, err = s.json(value)
		case "completion": // values that stand under no name of theirs, so that nothing tells which are to be taken out
			s.unread++
			value = []byte(`{"values":[]}`)
		case "structuredContent":
			s.read++
			value, err = s.any(value)
		default:
			value, err = s.any(value)
		}
		return key, value, err
	})
}

// failure cuts an error.
func (s *shears) failure(raw []byte) ([]byte, error) {
	if strictjson.KindOf(raw) != strictjson.Object {
		return s.any(raw)
	}
	return rewriteObject(raw, func(key string, value []byte) (string, []byte, error) {
		value, err := s.any(value)
		return key, value, err
	})
}

// blocks cuts content: a block, or an array of them.
func (s *shears) blocks(raw []byte) ([]byte, error) {
	if err := s.deeper(); err != nil {
		return nil, err
	}
	defer func() { s.depth-- }()
	switch strictjson.KindOf(raw) {
	case strictjson.Object:
		return s.block(raw)
	case strictjson.Array:
	default:
		return s.any(raw)
	}
	all, err := strictjson.Elements(raw, limitsOf(raw), len(raw))
	if err != nil {
		return nil, errWithheld
	}
	for i := range all {
		if strictjson.KindOf(all[i]) != strictjson.Object {
			all[i], err = s.any(all[i])
		} else {
			all[i], err = s.block(all[i])
		}
		if err != nil {
			return nil, err
		}
	}
	return mcp.AppendArray(nil, all), nil
}

// block cuts one block of content, the content of a resource, or a message of a prompt.
func (s *shears) block(raw []byte) ([]byte, error) {
	opaque := false
	var uri []byte
	out, err := rewriteObject(raw, func(key string, value []byte) (string, []byte, error) {
		var err error
		switch key {
		case "data", "blob":
			opaque = true
		case "content", "resource":
			value, err = s.blocks(value)
		case "type", "mimeType", "role":
			value, err = s.json(value)
		case "uri":
			value, err = s.json(value)
			uri = value
			s.read++
		default:
			value, err = s.any(value)
		}
		return key, value, err
	})
	if err != nil || !opaque {
		return out, err
	}
	s.unread++
	if uri != nil {
		s.read--
	}
	note := strictjson.Quote(nil, withheldText)
	if uri != nil {
		return bytes.Join([][]byte{[]byte(`{"uri":`), uri, []byte(`,"mimeType":"text/plain","text":`), note, []byte(`}`)}, nil), nil
	}
	return bytes.Join([][]byte{[]byte(`{"type":"text","text":`), note, []byte(`}`)}, nil), nil
}

// any cuts a value: of a text, what is JSON; any other text is withheld.
func (s *shears) any(raw []byte) ([]byte, error) {
	if strictjson.KindOf(raw) != strictjson.String {
		return s.json(raw)
	}
	text, _ := strictjson.Text(raw)
	if inner := strings.TrimLeft(text, " \t\r\n"); inner != "" && (inner[0] == '{' || inner[0] == '[') {
		if cut, err := s.json([]byte(text)); err == nil {
			s.read++
			return strictjson.Quote(nil, string(cut)), nil
		}
	}
	s.unread++
	return strictjson.Quote(nil, withheldText), nil
}

func (s *shears) json(raw []byte) ([]byte, error) {
	cut, found, err := s.paths.Redact(raw)
	if err != nil {
		return nil, errWithheld
	}
	s.found = s.found || found
	return cut, nil
}

// rewriteObject writes an object anew, each member as it is given back; without a name it is left out.
func rewriteObject(raw []byte, member func(key string, value []byte) (string, []byte, error)) ([]byte, error) {
	out := []byte{'{'}
	var r strictjson.Reader
	r.Reset(raw, limitsOf(raw))
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		value := r.Value()
		if value == nil {
			break
		}
		key, value, err := member(key, value)
		if err != nil {
			return nil, err
		}
		if key == "" && value == nil {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(strictjson.Quote(out, key), ':'), value...)
	}
	if r.End() != nil {
		return nil, errWithheld
	}
	return append(out, '}'), nil
}

func limitsOf(raw []byte) strictjson.Limits {
	return strictjson.Limits{MaxBytes: len(raw), MaxDepth: maxResultDepth, MaxKeys: len(raw)}
}
