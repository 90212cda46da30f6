package scim

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

const (
	bulkRequestSchema  = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
	bulkResponseSchema = "urn:ietf:params:scim:api:messages:2.0:BulkResponse"
	bulkPrefix         = "bulkId:"
)

// maxBulk bounds the operations of one bulk request.
const maxBulk = 1000

// bulkOperation is one operation of a bulk request (RFC 7644, section 3.7), and what came of it.
type bulkOperation struct {
	method, path string
	id           string // the bulkId
	version      string
	data         object
	failed       *scimError // found before it was tried

	begun  bool
	result object // nil: not tried
	made   string // the id of what was created
}

// bulkRun carries the operations of one request out, one after the other: each is durable before the next.
type bulkRun struct {
	*request
	operations []*bulkOperation
	byID       map[string]*bulkOperation
	failOn     int // errors after which nothing more is tried; zero: never
	errors     int
	later      []later
}

// later is what a created group lacks since it names what was created after it.
type later struct {
	operation *bulkOperation
	members   []any
}

func bulk(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	if err := wantSchema(body, bulkRequestSchema); err != nil {
		return err
	}
	b, err := r.readBulk(body)
	if err != nil {
		return err
	}
	b.run()
	results := []object{}
	for _, o := range b.operations {
		if o.result != nil {
			results = append(results, o.result)
		}
	}
	writeJSON(r.w, http.StatusOK, object{"schemas": []string{bulkResponseSchema}, "Operations": results})
	return nil
}

func (r *request) readBulk(body object) (*bulkRun, error) {
	b := &bulkRun{request: r, byID: map[string]*bulkOperation{}}
	if v, _, found := find(body, "failOnErrors"); found && v != nil {
		n, ok := v.(float64)
		if !ok || n < 1 || n != float64(int(n)) {
			return nil, badRequest(invalidValue, "failOnErrors must be a whole number above zero")
		}
		b.failOn = int(n)
	}
	list, _, _ := find(body, "Operations")
	entries, ok := list.([]any)
	if !ok || len(entries) == 0 {
		return nil, badRequest(invalidSyntax, "a bulk request needs Operations, a list with at least one")
	}
	if len(entries) > maxBulk {
		return nil, &scimError{status: http.StatusRequestEntityTooLarge, detail: "a bulk request has at most " + strconv.Itoa(maxBulk) + " operations: send several"}
	}
	for i, entry := range entries {
		o, err := readBulkOperation(entry)
		if err != nil {
			return nil, badRequest(invalidSyntax, "operation %d: %s", i+1, err.Error())
		}
		if o.id != "" {
			if b.byID[o.id] != nil {
				return nil, badRequest(invalidValue, "the bulkId %q is there twice", short(o.id))
			}
			b.byID[o.id] = o
		}
		b.operations = append(b.operations, o)
	}
	return b, nil
}

// readBulkOperation reads one operation. What is wrong with it alone fails it alone.
func readBulkOperation(entry any) (*bulkOperation, error) {
	fields, ok := entry.(object)
	if !ok {
		return nil, badRequest(invalidSyntax, "it is not an object")
	}
	o := &bulkOperation{}
	for name, target := range map[string]*string{"method": &o.method, "path": &o.path, "bulkId": &o.id, "version": &o.version} {
		var err error
		if *target, err = text(fields, name); err != nil {
			return nil, err
		}
	}
	o.method = strings.ToUpper(o.method)
	data, _, _ := find(fields, "data")
	o.data, _ = data.(object)
	parts := strings.Split(strings.Trim(o.path, "/"), "/")
	collection := len(parts) == 1
	switch {
	case !slices.Contains([]string{"POST", "PUT", "PATCH", "DELETE"}, o.method):
		o.failed = badRequest(invalidSyntax, "method is POST, PUT, PATCH or DELETE")
	case len(parts) > 2 || parts[0] != "Users" && parts[0] != "Groups", (o.method == http.MethodPost) != collection:
		o.failed = badRequest(invalidPath, "path is /Users or /Groups to create, and /Users/{id} or /Groups/{id} otherwise")
	case o.method == "POST" && o.id == "":
		o.failed = badRequest(invalidSyntax, "a POST in a bulk request needs a bulkId")
	case o.method != "DELETE" && o.data == nil:
		o.failed = badRequest(invalidSyntax, "data must be an object")
	}
	return o, nil
}

// run tries the operations in their order, save that one that names what is created later has that created first.
func (b *bulkRun) run() {
	for _, o := range b.operations {
		if !o.begun {
			b.settle(o)
		}
	}
	b.complete()
}

// settle tries an operation after those that create what it names.
func (b *bulkRun) settle(o *bulkOperation) {
	o.begun = true
	circle := false
	for _, first := range b.named(o) {
		if !first.begun {
			b.settle(first)
		}
		circle = circle || first.result == nil && first != o
	}
	if b.over() {
		return
	}
	if circle {
		b.untie(o)
	}
	b.try(o)
}

// named returns the creations that an operation names, in their order.
func (b *bulkRun) named(o *bulkOperation) []*bulkOperation {
	ids := map[string]bool{}
	b.references(o, func(id string) string { ids[id] = true; return "" })
	if len(ids) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(b.operations), func(other *bulkOperation) bool {
		return other.id == "" || !ids[other.id] || other.method != http.MethodPost
	})
}

// over tells whether no more is tried: too much failed, or nobody waits for the answer.
func (b *bulkRun) over() bool {
	return b.failOn > 0 && b.errors >= b.failOn || b.Context().Err() != nil
}

// references visits each bulkId that an operation names; a text that is returned takes its place.
func (b *bulkRun) references(o *bulkOperation, visit func(id string) string) {
	if collection, id, ok := strings.Cut(o.path, "/"+bulkPrefix); ok {
		if with := visit(id); with != "" {
			o.path = collection + "/" + with
		}
	}
	visitReferences(o.data, visit)
}

// visitReferences finds them where ids of resources stand: in members named "value".
func visitReferences(v any, visit func(id string) string) {
	switch v := v.(type) {
	case object:
		for name, inner := range v {
			text, _ := inner.(string)
			id, ok := strings.CutPrefix(text, bulkPrefix)
			if !ok || !strings.EqualFold(name, "value") {
				visitReferences(inner, visit)
			} else if with := visit(id); with != "" {
				v[name] = with
			}
		}
	case []any:
		for _, inner := range v {
			visitReferences(inner, visit)
		}
	}
}

// untie makes an operation one that can come first in its circle: the creation of a group, which gets the members that
// are still to be created in the end. Any other stays, and fails for naming them.
func (b *bulkRun) untie(o *bulkOperation) {
	list, name, _ := find(o.data, "members")
	members, _ := list.([]any)
	if o.method != http.MethodPost || len(members) == 0 {
		return
	}
	var kept, missing []any
	for _, m := range members {
		alone := &bulkOperation{data: object{"member": m}}
		if slices.ContainsFunc(b.named(alone), func(first *bulkOperation) bool { return first.result == nil }) {
			missing = append(missing, m)
		} else {
			kept = append(kept, m)
		}
	}
	o.data[name] = kept
	b.later = append(b.later, later{o, missing})
}

// complete adds to groups of circles what they lack.
func (b *bulkRun) complete() {
	for _, l := range b.later {
		if l.operation.made == "" {
			continue
		}
		more := &bulkOperation{method: http.MethodPatch, path: "/Groups/" + l.operation.made, data: object{
			"schemas":    []any{patchSchema},
			"Operations": []any{object{"op": "add", "path": "members", "value": l.members}},
		}}
		b.try(more)
		if status, _ := more.result["status"].(string); status != strconv.Itoa(http.StatusNoContent) {
			l.operation.result["status"], l.operation.result["response"] = status, more.result["response"]
		}
	}
}

// try carries one operation out and notes what came of it.
func (b *bulkRun) try(o *bulkOperation) {
	b.references(o, func(id string) string {
		if named := b.byID[id]; named != nil && named.made != "" {
			return named.made
		}
		if o.failed == nil {
			o.failed = &scimError{status: http.StatusConflict, detail: "the bulkId " + strconv.Quote(short(id)) + " names nothing that was created"}
		}
		return ""
	})
	answer := &bulkAnswer{header: http.Header{}}
	inner, err := b.inner(o)
	switch {
	case o.failed != nil:
		writeError(answer, o.failed)
	case err != nil:
		writeError(answer, badRequest(invalidSyntax, "data cannot be read"))
	default:
		b.server.mux.ServeHTTP(answer, inner)
	}
	o.result = object{"method": o.method, "status": strconv.Itoa(answer.code)}
	if o.id != "" {
		o.result["bulkId"] = o.id
	}
	if tag := answer.header.Get("ETag"); tag != "" {
		o.result["version"] = tag
	}
	var body object
	_ = json.Unmarshal(answer.body.Bytes(), &body) // an answer without a body has nothing to tell
	switch {
	case answer.code >= http.StatusBadRequest:
		b.errors++
		o.result["response"] = body
		scimType, _ := body["scimType"].(string)
		b.server.note(b.token.ID, b.directory, inner, answer.code, scimType)
	case o.method == http.MethodPost:
		o.made, _ = body["id"].(string)
		o.result["location"] = answer.header.Get("Location")
	}
	if o.method != http.MethodPost {
		o.result["location"] = b.base + "/" + strings.Trim(o.path, "/")
	}
}

// inner is an operation as a request of its own.
func (b *bulkRun) inner(o *bulkOperation) (*http.Request, error) {
	data, err := marshal(o.data)
	r := b.Clone(b.Context())
	r.Method, r.Body, r.ContentLength = o.method, io.NopCloser(bytes.NewReader(data)), int64(len(data))
	prefix := strings.TrimSuffix(b.URL.Path, "/Bulk")
	r.URL = &url.URL{Path: prefix + "/" + strings.Trim(o.path, "/")}
	if o.method == http.MethodPost || o.method == http.MethodPut { // all that is needed of the answer
		r.URL.RawQuery = "attributes=id"
	}
	r.Header.Del("If-Match")
	r.Header.Del("If-None-Match")
	if o.version != "" {
		r.Header.Set("If-Match", o.version)
	}
	return r, err
}

// bulkAnswer keeps the answer to one operation.
type bulkAnswer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *bulkAnswer) Header() http.Header { return a.header }

func (a *bulkAnswer) WriteHeader(code int) { a.code = code }

func (a *bulkAnswer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return a.body.Write(p)
}
