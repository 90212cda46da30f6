package gateway_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
)

func TestAListIsPagedInAnOrderThatStays(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.PageSize = 2 }})
	want := []string{"demo__echo", "demo__fail", "demo__wait", "other__echo"}
	for _, revision := range []mcp.Revision{mcp.LatestStateless, mcp.LatestSession} {
		a := w.stateless(ada, "/mcp")
		if !revision.Stateless() {
			a = w.opened(ada, "/mcp", revision)
		}
		var all []string
		var pages []answer
		for cursor := ""; ; {
			params := `{}`
			if cursor != "" {
				params = fmt.Sprintf(`{"cursor":%q}`, cursor)
			}
			got := a.ask("tools/list", params)
			pages = append(pages, got)
			all = append(all, names(got, "result", "tools")...)
			next, more := got.field("result", "nextCursor").(string)
			if revision.Stateless() && got.field("result", "cacheScope") != "private" {
				t.Errorf("the page is %v", got.field("result", "cacheScope"))
			}
			if cursor = next; !more {
				break
			}
		}
		if !slices.Equal(all, want) || len(pages) != 2 {
			t.Fatalf("%s: %d pages list %q", revision, len(pages), all)
		}
		// What a cursor stands behind may go: what comes after it is the same.
		cursor, _ := pages[0].field("result", "nextCursor").(string)
		w.set(grantEntry(1, "demo", allow("echo", "wait")))
		if got := names(a.ask("tools/list", fmt.Sprintf(`{"cursor":%q}`, cursor)), "result", "tools"); !slices.Equal(got, want[2:]) {
			t.Errorf("%s: behind what is gone there is %q", revision, got)
		}
		for _, wrong := range []string{"x", "%", "ZGVtbw"} {
			if got := a.ask("tools/list", fmt.Sprintf(`{"cursor":%q}`, wrong)); got.field("error", "code") != float64(mcp.CodeInvalidParams) {
				t.Errorf("%s: cursor %s: %+v", revision, wrong, got)
			}
		}
		w.set(grantEntry(1, "demo", allow("echo", "wait", "fail", "forbidden"), deny("forbidden")))
	}
}

func TestResourcesAreKnownByTheirConnectorAtTheEndpointOfAll(t *testing.T) {
	eras(t, nil, func(t *testing.T, w *world, revision mcp.Revision, _ bool) {
		a := w.stateless(ada, "/mcp")
		if !revision.Stateless() {
			a = w.opened(ada, "/mcp", revision)
		}
		uri := "lib+doc://open/1"
		got := lastOf(a.w.request(http.MethodPost, a.path, a.header("resources/read", uri), a.message("7", "resources/read", fmt.Sprintf(`{"uri":%q}`, uri))))
		contents, _ := got.field("result", "contents").([]any)
		if len(contents) != 1 || contents[0].(map[string]any)["uri"] != uri || revision.Stateless() && got.field("result", "resultType") != "complete" {
			t.Errorf("got %s", got.body)
		}
	})
}

func TestNoHeaderOfAnUpstreamReachesTheAgent(t *testing.T) {
	for _, revision := range []mcp.Revision{mcp.LatestStateless, mcp.LatestSession} {
		got := asking(t, revision, `{}`, `"result":{"content":[]}`, nil)()
		if got.field("result") == nil {
			t.Fatalf("got %+v", got)
		}
		for name := range got.header {
			if !slices.Contains([]string{"Cache-Control", "Content-Length", "Content-Type", "Date"}, name) {
				t.Errorf("%s came through", name)
			}
		}
	}
}
