package gateway

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/upstream"
	"sallyport.dev/dataplane/policy"
)

// A task is a call whose answer is asked for later. What an agent knows it by is a handle, sealed for the region: whose task it is, at
// which connector, and on which rule the call rested. Each use of it is decided by that rule, recorded and sent on as a call is, and is
// in flight meanwhile.

// taskLabel is what handles are sealed for.
const taskLabel = "sallyport task "

// handle is what an agent knows a task by.
type handle struct {
	person, client, connector string
	// tool is the label of the tool that was called, id the upstream's own id of the task.
	tool, id string
	basis    policy.Basis
	// home is the proxy whose session with the upstream the task was made in; empty: any proxy finds it.
	home string
	// generation is the person's when the task was made.
	generation uint64
}

func (h *handle) texts() []*string {
	return []*string{&h.person, &h.client, &h.connector, &h.tool, &h.id, &h.home}
}

func (h *handle) seal(s *mcp.Sealer) string {
	var plain []byte
	for _, text := range h.texts() {
		plain = append(binary.AppendUvarint(plain, uint64(len(*text))), *text...)
	}
	plain = append(binary.AppendUvarint(plain, h.generation), h.basis[:]...)
	return s.SealAs(taskLabel, plain)
}

func openHandle(s *mcp.Sealer, sealed string) (h handle, ok bool) {
	if s == nil {
		return h, false
	}
	plain, err := s.OpenAs(taskLabel, sealed)
	if err != nil {
		return h, false
	}
	for _, into := range h.texts() {
		length, n := binary.Uvarint(plain)
		if n <= 0 || length > uint64(len(plain)-n) {
			return h, false
		}
		plain = plain[n:]
		*into, plain = string(plain[:length]), plain[length:]
	}
	generation, n := binary.Uvarint(plain)
	if n <= 0 || len(plain)-n != len(h.basis) {
		return h, false
	}
	h.generation = generation
	copy(h.basis[:], plain[n:])
	return h, true
}

// errNoTask answers a handle that is none, is another's, or whose task is gone, without telling which.
var errNoTask = mcp.InvalidParams("there is no such task: it was never made, is another's, or has ended")

// taskOf reads the handle of a message: its own caller's, at this endpoint.
func (g *Gateway) taskOf(x *exchange) (target, policy.Basis, *mcp.Error) {
	if x.revision.Stateless() && !mcp.DeclaresTasks(x.message.Meta.Capabilities) {
		return target{}, policy.Basis{}, mcp.NeedsTasks()
	}
	h, ok := openHandle(g.sealer.Load(), x.message.Name)
	own := subtle.ConstantTimeCompare([]byte(h.person), []byte(x.personID())) & subtle.ConstantTimeCompare([]byte(h.client), []byte(x.ClientID))
	if !ok || own != 1 || h.generation != x.Generation || x.connector != "" && x.connector != h.connector || h.basis == (policy.Basis{}) {
		return target{}, policy.Basis{}, errNoTask
	}
	return target{connector: h.connector, label: h.tool, name: h.id}, h.basis, nil
}

// homeOfTask is the proxy at which a task of the stateless era's agents is known alone; empty: any.
func (g *Gateway) homeOfTask(m *mcp.Message) string {
	h, _ := openHandle(g.sealer.Load(), m.Name)
	return h.home
}

// asTask tells whether an agent of the stateless era gets a task of an upstream of the session era for its answer: where the pinned
// definition says that there is no other. An agent that knows no tasks is told so.
func (x *exchange) asTask(t target) (bool, *mcp.Error) {
	if x.message.Method != mcp.MethodCallTool || !x.revision.Stateless() {
		return false, nil
	}
	definition := x.table.Definition(t.connector, t.label)
	if !bytes.Contains(definition, []byte("taskSupport")) || !mcp.MustBeTask(definition) {
		return false, nil
	}
	if !mcp.DeclaresTasks(x.message.Meta.Capabilities) {
		return false, mcp.NeedsTasks()
	}
	return true, nil
}

// taskResult returns the result that an agent gets in place of an upstream's where a task is named in it; nil: it is passed as it came.
func (g *Gateway) taskResult(l *leg, x *exchange, t target, response *upstream.Response, result []byte) ([]byte, *mcp.Error) {
	if mcp.OfTask(x.message.Method) {
		return g.known(x, t, mcp.RenameTask(result, t.name, x.message.Name))
	}
	if x.message.Method != mcp.MethodCallTool || !bytes.Contains(result, []byte("task")) && bytes.IndexByte(result, '\\') < 0 {
		return nil, nil
	}
	id := mcp.MadeTask(result, response.Session())
	if id == "" {
		return nil, nil
	}
	if !response.Session() && !x.revision.Stateless() {
		return nil, &mcp.Error{Code: mcp.CodeInternal, Message: "this tool answers by a task as MCP 2026-07-28 has it, which this client's protocol version does not know"}
	}
	sealed, e := g.sealTask(l, x, t, id, response.Session())
	if e != nil {
		return nil, e
	}
	result = mcp.RenameTask(result, id, sealed)
	if response.Session() && x.revision.Stateless() {
		return mcp.TaskForStateless(result, "task", nil)
	}
	return result, nil
}

// sealTask makes the handle of a task that a call of this agent's has become.
func (g *Gateway) sealTask(l *leg, x *exchange, t target, id string, session bool) (string, *mcp.Error) {
	h := handle{person: x.personID(), client: x.ClientID, connector: t.connector, tool: t.label, id: id, generation: x.Generation}
	if session && x.revision.Stateless() {
		h.home = g.Proxy
	}
	ask := *l.flight.call
	ask.Now = g.Now()
	for range 3 { // a change of the policy may come between the two
		table, err := g.Replica.Usable(ask.Now)
		if err != nil {
			break
		}
		if h.basis = table.Basis(ask, table.Decide(ask)); h.basis != (policy.Basis{}) {
			break
		}
	}
	sealer := g.sealer.Load()
	if h.basis == (policy.Basis{}) || sealer == nil {
		return "", &mcp.Error{Code: mcp.CodeInternal, Message: "access was taken away before the task could be handed over"}
	}
	return h.seal(sealer), nil
}

// known has a task of the stateless era ask for what it may ask for, whatever else it says of itself.
func (g *Gateway) known(x *exchange, t target, task []byte) ([]byte, *mcp.Error) {
	if !x.revision.Stateless() {
		return task, nil
	}
	asked, e := mcp.ReadTaskInput(task)
	if e != nil || len(asked) == 0 {
		return task, e
	}
	settings, _ := x.table.Connector(t.connector)
	for i, a := range asked {
		if asked[i], e = g.question(x, settings, a); e != nil {
			return nil, &mcp.Error{Code: mcp.CodeInternal, Message: "the task waits for something that it may not ask for (" + e.Message + "): cancel it"}
		}
	}
	return mcp.WithTaskInput(task, asked)
}

// forwardTask asks after a task of an agent of the stateless era at an upstream of the session era. What is there for both sides to say
// the same is passed on; the answer of a task that has ended, which the one asks for apart, is put in.
func (g *Gateway) forwardTask(l *leg, to *answer, x *exchange, t target, up *upstream.Upstream, call upstream.Call) ending {
	if x.message.Method == mcp.MethodUpdateTask {
		return g.failed(l.ctx, to, &mcp.Error{Message: "what a task of this connector's asks for cannot be answered, since its server's protocol version asks for it on a stream that this client's does not have"})
	}
	task, e, err := g.wholeResult(l.ctx, up, call)
	if err != nil || e != nil {
		return g.failedOr(l.ctx, to, x, e, err)
	}
	if x.message.Method == mcp.MethodCancelTask {
		to.last(http.StatusOK, mcp.AppendResult(nil, x.message.ID, []byte(`{`+mcp.Complete+`}`)))
		return ending{outcome: auditv1.Outcome_OUTCOME_OK}
	}
	more := map[string]json.RawMessage{"taskId": strictjson.Quote(nil, x.message.Name)}
	switch mcp.TaskStatus(task) {
	case "completed", "failed":
		call.Message = g.own(mcp.MethodTaskResult, `{"taskId":`+quote(t.name)+`}`)
		result, e, err := g.wholeResult(l.ctx, up, call)
		switch {
		case err != nil:
			return g.failed(l.ctx, to, err)
		case e != nil:
			more["error"], more["status"] = failure(e), json.RawMessage(`"failed"`)
		default: // a result that says that it is an error is one, and the task is completed (2026-07-28, tasks)
			more["result"], more["status"] = mcp.RenameTask(result, t.name, x.message.Name), json.RawMessage(`"completed"`)
		}
	case "input_required":
		return g.failed(l.ctx, to, &mcp.Error{Message: "the task asks for something on a stream that this client's protocol version does not have: cancel it"})
	}
	said, e := mcp.TaskForStateless(task, "complete", more)
	if e != nil {
		return g.failed(l.ctx, to, e)
	}
	if paths := x.forAgent(); paths != nil {
		cut := shears{paths: paths}
		if said, err = cut.result(said); err != nil {
			return g.failed(l.ctx, to, err)
		}
	}
	if err := x.measure(said); err != nil {
		x.withheld = true
		return g.failed(l.ctx, to, err)
	}
	to.last(http.StatusOK, mcp.AppendResult(nil, x.message.ID, said))
	return ending{outcome: auditv1.Outcome_OUTCOME_OK, result: x.resultKept(said)}
}

// failure is an error as a task holds it.
func failure(e *mcp.Error) json.RawMessage {
	data, err := json.Marshal(map[string]any{"code": e.Code, "message": e.Message})
	if err != nil {
		return json.RawMessage("{}")
	}
	return data
}

// wholeResult makes a call of the gateway's own making and returns its result, or the upstream's error.
func (g *Gateway) wholeResult(ctx context.Context, up *upstream.Upstream, call upstream.Call) ([]byte, *mcp.Error, error) {
	response, err := up.Call(ctx, call)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Close() }()
	m, err := response.All(g.MaxResult)
	if err != nil {
		return nil, nil, err
	}
	if m.Failure != nil {
		return nil, readFailure(m.Failure), nil
	}
	return slices.Clone(m.Result), nil, nil
}

// failedOr answers with the upstream's own error, or says that there was none.
func (g *Gateway) failedOr(ctx context.Context, to *answer, x *exchange, e *mcp.Error, err error) ending {
	if err != nil {
		return g.failed(ctx, to, err)
	}
	if x.costless {
		e.Message = clipTo(e.Message, maxBare)
	}
	said := failure(e)
	if paths := x.forAgent(); paths != nil {
		cut := shears{paths: paths}
		if said, err = cut.failure(said); err != nil {
			return g.failed(ctx, to, err)
		}
	}
	if err := x.measure(said); err != nil {
		x.withheld = true
		return g.failed(ctx, to, err)
	}
	to.last(http.StatusOK, mcp.AppendFailure(nil, x.message.ID, said))
	return ending{outcome: auditv1.Outcome_OUTCOME_TOOL_ERROR, result: x.failureKept(said)}
}

// question is what an upstream asks, as the agent may be asked it.
func (g *Gateway) question(x *exchange, settings *policyv1.Connector, a mcp.Asked) (mcp.Asked, *mcp.Error) {
	may, _ := mcp.ReadCapabilities(x.offers(), consented(settings), g.JSON)
	return question(settings, may, a)
}
