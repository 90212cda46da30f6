package mcp_test

import (
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

func TestOnlyWhatMayBeAskedIsDeclared(t *testing.T) {
	const all = `{"roots":{"listChanged":true},"sampling":{"tools":{}},"elicitation":{"form":{},"url":{}},"experimental":{"x":{}}}`
	for _, c := range []struct {
		may  mcp.Asks
		kept string
	}{
		{mcp.Asks{}, `{}`},
		{mcp.Asks{Roots: true}, `{"roots":{}}`},
		{mcp.Asks{Sampling: true, Elicitation: true}, `{"sampling":{"tools":{}},"elicitation":{"form":{},"url":{}}}`},
	} {
		if has, kept := mcp.ReadCapabilities([]byte(all), c.may, strictjson.Limits{}); string(kept) != c.kept || has.Roots != c.may.Roots || has.Form != c.may.Elicitation {
			t.Errorf("%+v: %+v, %s", c.may, has, kept)
		}
	}
}
