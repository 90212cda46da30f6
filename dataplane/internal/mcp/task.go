package mcp

import (
	"encoding/json"
	"slices"

	"sallyport.dev/dataplane/internal/strictjson"
)

// A task is a call whose answer is asked for later. In the session era a client asks for one (2025-11-25, tasks); in the stateless era a
// server makes one for a client that declares the extension (io.modelcontextprotocol/tasks, 2026-07-28). What is the same is that an
// id finds it again, which the gateway replaces by one of its own.

const (
	// TasksExtension is the extension's name among capabilities.
	TasksExtension = metaPrefix + "tasks"
	// metaRelatedTask is the member of _meta that says of which task a message is.
	metaRelatedTask = metaPrefix + "related-task"
	// tasksDeclared is how a client or a server of the stateless era declares the extension.
	tasksDeclared = `{"extensions":{"` + TasksExtension + `":{}}}`
)

// OfTask tells whether a method acts on a task.
func OfTask(method string) bool { return naming(method) == "taskId" }

// NeedsTasks answers a client of the stateless era that did not declare the extension.
func NeedsTasks() *Error { return MissingCapability([]byte(tasksDeclared)) }

// DeclaresTasks tells whether a client's capabilities, a raw object, name the extension.
func DeclaresTasks(capabilities []byte) bool {
	return strictjson.KindOf(lookup(capabilities, []string{"extensions", TasksExtension})) == strictjson.Object
}

// MustBeTask tells whether a tool's definition, JSON, says that it answers by a task only.
func MustBeTask(definition []byte) bool {
	return isText(lookup(definition, []string{"execution", "taskSupport"}), "required")
}

// MadeTask returns the id of the task that a result of tools/call, read strictly, stands for; empty: none. session tells of which era
// the result is.
func MadeTask(result []byte, session bool) string {
	path := []string{"taskId"}
	switch {
	case session:
		path = []string{"task", "taskId"}
	case !isText(lookup(result, []string{"resultType"}), "task"):
		return ""
	}
	id, _ := strictjson.Text(lookup(result, path))
	return id
}

// TaskStatus is the status that a raw task has.
func TaskStatus(task []byte) string {
	status, _ := strictjson.Text(lookup(task, []string{"status"}))
	return status
}

// splices of a raw object where it names a task: the members taskId of itself and of those of its members that say of which task it is.
func taskSplices(raw []byte, was, now string) []splice {
	limits := strictjson.Limits{MaxBytes: len(raw), MaxDepth: 1 << 20, MaxKeys: len(raw)}
	var found []splice
	var r strictjson.Reader
	r.Reset(raw, limits)
	note := func() {
		value := r.Value()
		if text, ok := strictjson.Text(value); ok && text == was {
			found = append(found, splice{spanOf(&r, value), strictjson.Quote(nil, now)})
		}
	}
	within := func(key string) {
		for r.Enter(); r.Next(); {
			if string(r.Key()) == key {
				note()
			} else {
				r.Value()
			}
		}
	}
	meta := func() {
		for r.Enter(); r.Next(); {
			if string(r.Key()) == metaRelatedTask && r.Kind() == strictjson.Object {
				within("taskId")
			} else {
				r.Value()
			}
		}
	}
	for r.Enter(); r.Next(); {
		switch key := string(r.Key()); {
		case key == "taskId":
			note()
		case r.Kind() != strictjson.Object:
			r.Value()
		case key == "task":
			within("taskId")
		case key == "_meta":
			meta()
		case key == "result": // of the call that became the task
			for r.Enter(); r.Next(); {
				if string(r.Key()) == "_meta" && r.Kind() == strictjson.Object {
					meta()
				} else {
					r.Value()
				}
			}
		default:
			r.Value()
		}
	}
	return found
}

// RenameTask returns a raw result or params object in which a task has another id. It is raw itself where the task is not named.
func RenameTask(raw []byte, was, now string) []byte {
	found := taskSplices(raw, was, now)
	if len(found) == 0 {
		return raw
	}
	slices.SortFunc(found, func(a, b splice) int { return a.at.start - b.at.start })
	var out []byte
	from := 0
	for _, s := range found {
		out = append(append(out, raw[from:s.at.start]...), s.with...)
		from = s.at.end
	}
	return append(out, raw[from:]...)
}

// TaskForStateless returns a task of the session era, as a raw object, as the stateless era has it, with the members of more, raw, added
// or put in place. It leaves out what belongs to no task.
func TaskForStateless(task []byte, resultType string, more map[string]json.RawMessage) ([]byte, *Error) {
	var is map[string]json.RawMessage
	if err := json.Unmarshal(task, &is); err != nil {
		return nil, &Error{Code: CodeInternal, Message: "the upstream's task cannot be read"}
	}
	if nested := is["task"]; nested != nil {
		is = nil
		if err := json.Unmarshal(nested, &is); err != nil {
			return nil, &Error{Code: CodeInternal, Message: "the upstream's task cannot be read"}
		}
	}
	out := map[string]json.RawMessage{"resultType": strictjson.Quote(nil, resultType), "ttlMs": json.RawMessage("null")}
	for was, key := range map[string]string{
		"taskId": "taskId", "status": "status", "statusMessage": "statusMessage", "createdAt": "createdAt", "lastUpdatedAt": "lastUpdatedAt",
		"ttl": "ttlMs", "pollInterval": "pollIntervalMs",
	} {
		if value := is[was]; value != nil {
			out[key] = value
		}
	}
	for key, value := range more {
		out[key] = value
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, &Error{Code: CodeInternal, Message: "the upstream's task cannot be read"}
	}
	return data, nil
}

// ReadTaskInput reads what a task of the stateless era asks for.
func ReadTaskInput(task []byte) ([]Asked, *Error) {
	requests := lookup(task, []string{"inputRequests"})
	if requests == nil {
		return nil, nil
	}
	return readAsked(requests)
}

// WithTaskInput returns a task of the stateless era, raw, that asks for this in place of what it asked for.
func WithTaskInput(task []byte, asked []Asked) ([]byte, *Error) {
	var is map[string]json.RawMessage
	if err := json.Unmarshal(task, &is); err != nil {
		return nil, &Error{Code: CodeInternal, Message: "the upstream's task cannot be read"}
	}
	is["inputRequests"] = appendAsked(nil, asked)
	data, err := json.Marshal(is)
	if err != nil {
		return nil, &Error{Code: CodeInternal, Message: "the upstream's task cannot be read"}
	}
	return data, nil
}
