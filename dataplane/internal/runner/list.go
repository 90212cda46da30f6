package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// List starts one of a configuration's programs and returns what it offers, a JSON object of MCP's lists.
func List(ctx context.Context, c Config, name string, log *slog.Logger) ([]byte, error) {
	var server *Server
	for i := range c.Servers {
		if c.Servers[i].Name == name {
			server = &c.Servers[i]
		}
	}
	if server == nil {
		return nil, fmt.Errorf("the configuration names no server %q", name)
	}
	p, err := start(server, "", log)
	if err != nil {
		return nil, err
	}
	defer p.end()
	hello := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + string(mcp.LatestSession) + `","capabilities":{},"clientInfo":{"name":"sallyport","version":"1"}}}`
	var m mcp.Message
	if e := mcp.ReadMessage([]byte(hello), strictjson.Limits{}, &m); e != nil {
		return nil, e
	}
	answer, err := p.initialize(ctx, &m, true)
	if err != nil {
		return nil, err
	}
	var said struct {
		Capabilities struct{ Tools, Prompts, Resources *struct{} } `json:"capabilities"`
	}
	if err := json.Unmarshal(answer, &said); err != nil {
		return nil, fmt.Errorf("reading what the program can do: %w", err)
	}
	out := map[string][]json.RawMessage{}
	for _, list := range []struct {
		has            bool
		method, member string
	}{
		{said.Capabilities.Tools != nil, mcp.MethodListTools, "tools"}, {said.Capabilities.Prompts != nil, mcp.MethodListPrompts, "prompts"},
		{said.Capabilities.Resources != nil, mcp.MethodListResources, "resources"},
		{said.Capabilities.Resources != nil, mcp.MethodListResourceTemplates, "resourceTemplates"},
	} {
		if !list.has {
			continue
		}
		all, err := p.listAll(ctx, list.method, list.member)
		if err != nil {
			return nil, fmt.Errorf("asking for %s: %w", list.method, err)
		}
		if len(all) > 0 {
			out[list.member] = all
		}
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing down what the program offers: %w", err)
	}
	return data, nil
}

// maxPages bounds the pages of one list.
const maxPages = 100

func (p *process) listAll(ctx context.Context, method, member string) ([]json.RawMessage, error) {
	var all []json.RawMessage
	params := "{}"
	for range maxPages {
		result, err := p.askOnce(ctx, `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`)
		if err != nil {
			return nil, err
		}
		page := map[string]json.RawMessage{}
		if err := json.Unmarshal(result, &page); err != nil {
			return nil, fmt.Errorf("reading a page: %w", err)
		}
		var some []json.RawMessage
		if err := json.Unmarshal(page[member], &some); err != nil {
			return nil, fmt.Errorf("reading a page: %w", err)
		}
		all = append(all, some...)
		if len(page["nextCursor"]) == 0 || bytes.Equal(page["nextCursor"], []byte(`""`)) {
			return all, nil
		}
		params = `{"cursor":` + string(page["nextCursor"]) + `}`
	}
	return nil, errors.New("the list has no end")
}

// askOnce asks the program something of the runner's own, and returns the result, raw.
func (p *process) askOnce(ctx context.Context, message string) ([]byte, error) {
	var m mcp.Message
	if e := mcp.ReadMessage([]byte(message), p.limits(), &m); e != nil {
		return nil, e
	}
	c, err := p.ask(nil, &m)
	if err != nil {
		return nil, err
	}
	defer p.forget(c)
	timer := time.NewTimer(time.Duration(p.server.Limits.Start))
	defer timer.Stop()
	select {
	case <-c.last:
		var answer mcp.Message
		if e := mcp.ReadMessage(c.answer, p.limits(), &answer); e != nil {
			return nil, e
		}
		if answer.Result == nil {
			return nil, errors.New("the program refuses it")
		}
		return bytes.Clone(answer.Result), nil
	case <-timer.C:
		return nil, errors.New("the program did not answer in time")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
