package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/meter"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// bytesPerItem is how many bytes count as one item where items cannot be counted.
const bytesPerItem = 1024

// reserve takes what a call may use from the budgets against which it counts. False: it was refused, with when to come back.
func (g *Gateway) reserve(to *answer, x *exchange, t target, l *leg, d policy.Decision) bool {
	calls := uint64(1)
	switch {
	case x.unparks(): // the call counted when it was parked
		calls = 0
	case x.message.Method == mcp.MethodGetTask || x.message.Method == mcp.MethodTaskResult: // so did the call that became the task
		calls = 0
	case mcp.OfTask(x.message.Method): // a task can be ended when nothing is left
		x.costless = slices.ContainsFunc(d.Limits, (*policy.Limit).Sized)
		return true
	}
	var err error
	if g.Meter == nil {
		err = &meter.Unavailable{Budget: d.Limits[0].Budget}
	} else {
		x.reserved, err = g.Meter.Reserve(l.ctx, d.Limits, x.personID(), t.connector, t.label, calls)
	}
	if err == nil {
		x.used.Calls = calls
		return true
	}
	var spent *meter.Spent
	var away *meter.Unavailable
	after := meter.RetryUnavailable
	d.Allowed, d.Reason = false, auditv1.Reason_REASON_BUDGET_UNAVAILABLE
	switch {
	case errors.As(err, &spent):
		d.Reason, x.budget, after = auditv1.Reason_REASON_BUDGET_SPENT, spent.Budget, spent.After
	case errors.As(err, &away):
		x.budget = away.Budget
	default: // the call was ended meanwhile
		g.refuse(to, x, t, d, d.Text())
		return false
	}
	r := g.record(x, t, d)
	r.Decision.Text = clip(err.Error())
	g.keep(r)
	g.Metrics.Refused(d.Reason)
	seconds := int((after + time.Second - 1) / time.Second)
	if to.events == nil {
		to.w.Header()["Retry-After"] = []string{strconv.Itoa(seconds)}
	}
	to.say(fmt.Sprintf("Sallyport has not made this call: %s. Retry after %d seconds, at %s UTC, and not before: until then each such call is refused. Do not try to get around it; tell the person, who may ask an administrator for a larger budget.",
		err, seconds, g.Now().Add(time.Duration(seconds)*time.Second).UTC().Format(time.DateTime)))
	return false
}

// errTooLarge: one result is larger than a rule lets it be.
type errTooLarge struct {
	what      string
	have, may uint64
}

func (e *errTooLarge) Error() string {
	return fmt.Sprintf("Sallyport withheld the answer: it has %d %s, and one answer may have %d; ask for less, by a narrower query or a smaller page", e.have, e.what, e.may)
}

// measure counts what an upstream's answer comes to, with what it said before. An error: it is too large to be passed on.
func (x *exchange) measure(answer []byte) error {
	if x.reserved == nil || !x.reserved.Sizes {
		return nil
	}
	bytes, items := uint64(len(answer)), itemsOf(answer)
	if most := x.reserved.ResultBytes; most > 0 && bytes+x.streamed > most {
		return &errTooLarge{"bytes", bytes + x.streamed, most}
	}
	if most := x.reserved.ResultItems; most > 0 && items > most {
		return &errTooLarge{"items", items, most}
	}
	x.used.Bytes += bytes
	x.used.Items += items
	return nil
}

// measureEvent counts what an upstream says before its answer, by its bytes alone. An error: it is too much to be passed on.
func (x *exchange) measureEvent(data []byte) error {
	before := x.streamed
	x.streamed += uint64(len(data))
	if x.reserved != nil && x.reserved.ResultBytes > 0 && x.streamed > x.reserved.ResultBytes {
		return &errTooLarge{"bytes", x.streamed, x.reserved.ResultBytes}
	}
	x.used.Bytes += uint64(len(data))
	x.used.Items += x.streamed/bytesPerItem - before/bytesPerItem
	return nil
}

// maxBare bounds a member of an answer that is not counted.
const maxBare = 200

// bare leaves of an answer that is not counted, where others are, what MCP says of a task and nothing else: it would be a way around
// what is counted.
func bare(m *mcp.Message, task string) error {
	if m.Failure != nil {
		e := readFailure(m.Failure)
		e.Message = clipTo(e.Message, maxBare)
		m.Failure = failure(e)
		return nil
	}
	var err error
	m.Result, err = rewriteObject(m.Result, func(key string, value []byte) (string, []byte, error) {
		switch key {
		case "taskId", "status", "createdAt", "lastUpdatedAt", "ttl", "ttlMs", "pollInterval", "pollIntervalMs", "resultType":
			if kind := strictjson.KindOf(value); kind != strictjson.Object && kind != strictjson.Array && len(value) <= maxBare+len(task) {
				return key, value, nil
			}
		}
		return "", nil, nil
	})
	return err
}

// readFailure reads an upstream's error.
func readFailure(raw []byte) *mcp.Error {
	var said struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(raw, &said) // what it cannot say it does not
	return &mcp.Error{Code: said.Code, Message: said.Message}
}

// itemsOf is how many items a result has: the longest array at any depth in structured content, or what its texts, resources and
// messages have together, whichever is more. What cannot be counted counts by its bytes.
func itemsOf(result []byte) uint64 {
	var structured, content uint64
	var r strictjson.Reader
	r.Reset(result, limitsOf(result))
	for r.Enter(); r.Next(); {
		key, value := string(r.Key()), r.Value()
		switch key {
		case "content", "contents", "messages":
			content += itemsOfBlocks(value)
		case "structuredContent":
			structured = max(structured, longest(value))
		case "result", "task":
			if strictjson.KindOf(value) == strictjson.Object {
				content += itemsOf(value)
			}
		case "completion":
			content += longest(value)
		default: // what a tool's result has no place for, and of a task and an error the words
			n := uint64(len(value)) / bytesPerItem
			if strictjson.KindOf(value) == strictjson.Array {
				n = max(n, longest(value))
			}
			content += n
		}
	}
	if r.End() != nil {
		return bySize(len(result))
	}
	return max(structured, content)
}

func bySize(n int) uint64 { return uint64(n+bytesPerItem-1) / bytesPerItem }

// itemsOfBlocks counts content, block by block; each has one item at least.
func itemsOfBlocks(raw []byte) uint64 {
	if strictjson.KindOf(raw) != strictjson.Array {
		return itemsOfBlock(raw)
	}
	all, err := strictjson.Elements(raw, limitsOf(raw), len(raw))
	if err != nil {
		return bySize(len(raw))
	}
	var n uint64
	for _, block := range all {
		n += itemsOfBlock(block)
	}
	return n
}

func itemsOfBlock(raw []byte) uint64 {
	if strictjson.KindOf(raw) != strictjson.Object {
		return bySize(len(raw))
	}
	n := uint64(1)
	var r strictjson.Reader
	r.Reset(raw, limitsOf(raw))
	for r.Enter(); r.Next(); {
		key, value := string(r.Key()), r.Value()
		switch key {
		case "text":
			text, _ := strictjson.Text(value)
			n = max(n, itemsOfText(text))
		case "data", "blob":
			n = max(n, bySize(len(value)))
		case "resource", "content":
			n = max(n, itemsOfBlocks(value))
		}
	}
	return n
}

// itemsOfText counts a text: JSON by its longest array, anything else by its lines, of which one of CSV is a row.
func itemsOfText(text string) uint64 {
	raw := []byte(text)
	if strictjson.Validate(raw, limitsOf(raw)) == nil {
		return max(1, longest(bytes.TrimSpace(raw)))
	}
	var lines uint64
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	if lines <= 1 {
		return max(1, bySize(len(text)))
	}
	return lines
}

// longest is how many elements the longest array has, at any depth, in JSON that was read; of an object that holds objects alone, as
// one does that is keyed by ids, each is an element too.
func longest(raw []byte) uint64 {
	type open struct {
		array, others bool
		n             uint64
	}
	var stack []open
	var most uint64
	count := func(object bool) { // a value begins
		if len(stack) > 0 {
			top := &stack[len(stack)-1]
			top.n++
			top.others = top.others || !object
		}
	}
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case '{', '[':
			count(c == '{')
			stack = append(stack, open{array: c == '['})
			i++
		case '}', ']':
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if top.array || !top.others {
				most = max(most, top.n)
			}
			i++
		case '"':
			end := i + 1
			for raw[end] != '"' {
				if raw[end] == '\\' {
					end++
				}
				end++
			}
			i = end + 1
			for i < len(raw) && raw[i] <= ' ' {
				i++
			}
			if i < len(raw) && raw[i] == ':' { // a name
				i++
				continue
			}
			count(false)
		case ' ', '\t', '\n', '\r', ',', ':':
			i++
		default:
			count(false)
			for i < len(raw) && !strings.ContainsRune(" \t\r\n,]}", rune(raw[i])) {
				i++
			}
		}
	}
	return most
}
