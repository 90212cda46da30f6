package servers

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Call is one tools/call that reached a server.
type Call struct {
	Tool      string
	Arguments json.RawMessage
	// Authorization is the header that the call came with.
	Authorization string
	Began         time.Time
	// Ended is zero while the call runs.
	Ended time.Time
	// Failed says that the tool answered with an error.
	Failed bool
	// Cancelled says that the caller let go before the tool was done.
	Cancelled bool
}

// Calls is a log of calls, in the order that they came. Safe for concurrent use.
type Calls struct {
	mu  sync.Mutex // guards all
	all []Call
}

// All returns what was logged.
func (c *Calls) All() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// Count returns how many calls of a tool came; of all tools with an empty name.
func (c *Calls) Count(tool string) int {
	n := 0
	for _, call := range c.All() {
		if tool == "" || call.Tool == tool {
			n++
		}
	}
	return n
}

// record is the middleware that writes the log.
func (c *Calls) record(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		call, ok := req.(*mcp.CallToolRequest)
		if !ok || call.Params == nil {
			return next(ctx, method, req)
		}
		entry := Call{Tool: call.Params.Name, Arguments: slices.Clone(call.Params.Arguments), Began: time.Now()}
		if call.Extra != nil {
			entry.Authorization = call.Extra.Header.Get("Authorization")
		}
		c.mu.Lock()
		at := len(c.all)
		c.all = append(c.all, entry)
		c.mu.Unlock()

		result, err := next(ctx, method, req)

		c.mu.Lock()
		defer c.mu.Unlock()
		c.all[at].Ended = time.Now()
		c.all[at].Cancelled = ctx.Err() != nil
		res, isResult := result.(*mcp.CallToolResult)
		c.all[at].Failed = err != nil || (isResult && res.IsError)
		return result, err
	}
}
