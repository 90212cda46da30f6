package gateway

import (
	"strings"
	"testing"
)

func TestItemsAreCountedWhereverTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		result string
		items  uint64
	}{
		"structured":                     {`{"structuredContent":{"a":[1,2,3],"b":{"c":[1,2,3,4]}},"content":[{"type":"text","text":"x"}]}`, 4},
		"keyed by ids":                   {`{"structuredContent":{"1":{"n":1},"2":{"n":2},"3":{"n":3}},"content":[]}`, 3},
		"a record is no list":            {`{"structuredContent":{"a":1,"b":{"c":2}},"content":[]}`, 0},
		"JSON in a text":                 {`{"content":[{"type":"text","text":"{\"rows\":[1,2,3,4,5]}"}]}`, 5},
		"brackets in texts do not count": {`{"content":[{"type":"text","text":"[\"],[\",\"\\\"[\"]"}]}`, 2},
		"CSV":                            {`{"content":[{"type":"text","text":"id,name\n1,a\n2,b\n\n"}]}`, 3},
		"a block each":                   {`{"content":[{"type":"text","text":"{}"},{"type":"text","text":"{}"},{"type":"text","text":"{}"}]}`, 3},
		"the more of both":               {`{"structuredContent":{"a":[1]},"content":[{"type":"text","text":"[1,2,3]"}]}`, 3},
		"prose by its bytes":             {`{"content":[{"type":"text","text":"` + strings.Repeat("x", 5000) + `"}]}`, 5},
		"bytes":                          {`{"content":[{"type":"image","data":"` + strings.Repeat("A", 4094) + `"}]}`, 4},
		"a resource":                     {`{"contents":[{"uri":"a:b","text":"[1,2]"},{"uri":"a:c","text":"1\n2\n3"}]}`, 5},
		"an embedded one":                {`{"content":[{"type":"resource","resource":{"uri":"a:b","text":"[1,2,3]"}}]}`, 3},
		"a task's":                       {`{"taskId":"x","result":{"content":[{"type":"text","text":"[1,2,3]"}]}}`, 3},
		"a prompt's":                     {`{"messages":[{"role":"user","content":{"type":"text","text":"[1,2]"}}]}`, 2},
		"a completion's":                 {`{"completion":{"values":["a","b","c"],"total":900,"hasMore":true}}`, 3},
		"what MCP has no place for":      {`{"rows":[1,2,3],"_meta":{"a":{"b":{}}}}`, 3},
		"a task under way":               {`{"taskId":"x","status":"working","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"x"}}}`, 0},
		"a task that says much":          {`{"taskId":"x","status":"working","statusMessage":"` + strings.Repeat("x", 3000) + `"}`, 2},
		"an error that says much":        {`{"code":1,"message":"` + strings.Repeat("x", 3000) + `"}`, 2},
		"what cannot be read":            {`{"content":[{"type":"text"`, 1},
	} {
		if got := itemsOf([]byte(c.result)); got != c.items {
			t.Errorf("%s: %d items, want %d", name, got, c.items)
		}
	}
}

func FuzzItemsOf(f *testing.F) {
	f.Add(`{"content":[{"type":"text","text":"[1,{\"a\":[]}]"}],"structuredContent":{"a":[1]}}`)
	f.Fuzz(func(_ *testing.T, result string) { itemsOf([]byte(result)) })
}
