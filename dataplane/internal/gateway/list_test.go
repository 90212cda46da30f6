package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

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

func TestAListIsRecordedOnceAMinuteWithHowOftenItWasAskedFor(t *testing.T) {
	var later atomic.Int64
	w := newWorld(t, &options{gateway: func(c *gateway.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	}})
	lists := func(n int) []*auditv1.AuditRecord {
		t.Helper()
		return w.plane.WaitAudit(t, func(all []*auditv1.AuditRecord) bool {
			return len(all)-len(withoutLists(all)) >= n
		})
	}
	a := w.stateless(ada, "/mcp/demo")
	for range 5 {
		a.ask("tools/list", `{}`)
	}
	w.stateless(ada, "/mcp").ask("tools/list", `{}`)
	w.set(grantEntry(1, "demo", allow("echo")))
	a.ask("tools/list", `{}`)
	all := lists(3)
	if len(all) != 3 {
		t.Fatalf("%d records: %v", len(all), all)
	}
	first := all[0]
	if first.GetMethod() != "tools/list" || first.GetConnector() != "demo" || first.GetPersonId() != ada.String() || !slices.Equal(first.GetGroups(), []string{"okta/Engineers"}) ||
		first.GetClient().GetId() != "agent" || first.GetResult().GetSize() == 0 || len(first.GetResult().GetSha256()) != 32 || first.GetRequestBytes() == 0 || len(first.GetDetails()) != 0 {
		t.Errorf("the first is %v", first)
	}
	if all[2].GetConnector() != "demo" || all[2].GetResult().GetSize() >= first.GetResult().GetSize() {
		t.Errorf("a list that became another is told as %v", all[2])
	}
	later.Store(int64(2 * time.Minute))
	all = lists(4)
	if d := all[3].GetDetails(); len(all) != 4 || len(d) != 2 || d[0].GetKey() != "repeated" || d[0].GetValue() != "4" || d[1].GetValue() != first.GetCallId() || all[3].GetCallId() == first.GetCallId() {
		t.Errorf("after a minute: %v", all[3:])
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

// TestALargeResultLeadsToResourcesAsASmallOneDoes at the endpoint of all connectors.
func TestALargeResultLeadsToResourcesAsASmallOneDoes(t *testing.T) {
	for _, length := range []int{1, 200_000} {
		w := newWorld(t, &options{})
		catalogue := catalogueEntry("demo", "echo")
		catalogue.GetCatalogue().Tools = append(catalogue.GetCatalogue().Tools, &policyv1.Tool{Kind: policyv1.Kind_KIND_RESOURCE, Name: "doc://1", Definition: []byte(`{"name":"n","uri":"doc://1"}`)})
		says := `"result":{"content":[{"type":"text","text":"` + strings.Repeat("y", length) + `"},{"type":"resource_link","name":"n","uri":"doc://1"}]}`
		w.set(connectorEntry("demo", oracle(t, says, false).URL, ""), catalogue, grantEntry(1, "demo", allow("echo", "resource:doc://1")))
		got := w.stateless(ada, "/mcp").call("demo__echo", `{}`)
		content, _ := got.field("result", "content").([]any)
		if len(content) != 2 || content[1].(map[string]any)["uri"] != "demo+doc://1" {
			t.Errorf("with %d bytes: …%s", length, got.body[max(0, len(got.body)-200):])
		}
	}
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

func TestAListIsTheSameCompressed(t *testing.T) {
	w := newWorld(t, &options{})
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("tool_%02d", i))
	}
	w.set(connectorEntry("many", "http://127.0.0.1:9/mcp", ""), catalogueEntry("many", many...), grantEntry(1, "many", allow("*")))
	for _, revision := range []mcp.Revision{mcp.LatestStateless, mcp.LatestSession} {
		a := w.stateless(ada, "/mcp/many")
		if !revision.Stateless() {
			a = w.opened(ada, "/mcp/many", revision)
		}
		list := func(accept, id string) answer {
			header := a.header("tools/list", "")
			if header.Del("Accept-Encoding"); accept != "" {
				header.Set("Accept-Encoding", accept)
			}
			return lastOf(w.request(http.MethodPost, a.path, header, a.message(id, "tools/list", "{}")))
		}
		for _, id := range []string{"7", `"a \"long\" id"`, `"` + strings.Repeat("x", 1000) + `"`} {
			plain := list("identity", id)
			if got := names(plain, "result", "tools"); len(got) != len(many) || plain.header.Get("Content-Encoding") != "" || plain.header.Get("Vary") != "Accept-Encoding" {
				t.Fatalf("%d tools, %v", len(got), plain.header)
			}
			for accept, compressed := range map[string]bool{
				"gzip": true, "br, GZIP;q=0.5": true, "gzip, deflate": true, "deflate, gzip ; q=1.0": true,
				"gzip;q=0": false, "gzip;q=0.000": false, "gzip;q=x": false, "br": false, "xgzip": false,
			} {
				got := list(accept, id)
				if (got.header.Get("Content-Encoding") == "gzip") != compressed || got.header.Get("Vary") != "Accept-Encoding" {
					t.Fatalf("to %q: %v", accept, got.header)
				}
				body := []byte(got.body)
				if compressed {
					if len(body) > len(plain.body)/3 && len(id) < 100 {
						t.Errorf("%d bytes are %d compressed", len(plain.body), len(body))
					}
					in := bytes.NewReader(body)
					r, err := gzip.NewReader(in)
					if err != nil {
						t.Fatal(err)
					}
					r.Multistream(false) // as of clients that read one member
					if body, err = io.ReadAll(r); err != nil || in.Len() > 0 {
						t.Fatalf("%v, with %d bytes behind", err, in.Len())
					}
				}
				if string(body) != plain.body {
					t.Fatalf("to %q: %s, and plainly %s", accept, body, plain.body)
				}
			}
		}
	}
}

func TestAdminsAreToldOfNamesThatAreHidden(t *testing.T) {
	var told atomic.Int64
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Log = slog.New(counting{"would have the same name at /mcp", &told}) }})
	long := strings.Repeat("long_", 20)
	w.set(connectorEntry("many", "http://127.0.0.1:9/mcp", ""), catalogueEntry("many", "b", long), grantEntry(1, "many", allow("*")))
	a := w.stateless(ada, "/mcp")
	listed := func() (all []string) {
		for _, name := range names(a.ask("tools/list", `{}`), "result", "tools") {
			if strings.HasPrefix(name, "many__") {
				all = append(all, name)
			}
		}
		return all
	}
	before := listed()
	if len(before) != 2 || len(before[1]) != 64 {
		t.Fatalf("listed %q", before)
	}
	w.set(catalogueEntry("many", "b", long, strings.TrimPrefix(before[1], "many__")))
	if got := listed(); !slices.Equal(got, before[:1]) {
		t.Errorf("listed %q", got)
	}
	if got := a.call(before[1], `{}`); got.field("error", "code") != float64(mcp.CodeInvalidParams) {
		t.Errorf("called by a name of two: %+v", got)
	}
	if got := w.gateway.Troubles().GetTroubles(); len(got) != 1 || got[0].GetHiddenName() != before[1] || w.gateway.Hidden() != 1 {
		t.Errorf("troubles: %v", got)
	}
	for deadline := time.Now().Add(time.Minute); told.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log says nothing")
		}
	}
	w.set(catalogueEntry("many", "b", long))
	if got := listed(); !slices.Equal(got, before) || len(w.gateway.Troubles().GetTroubles()) != 0 {
		t.Errorf("listed afterwards: %q", got)
	}
}

// counting is a log of which is counted what holds a text.
type counting struct {
	text string
	n    *atomic.Int64
}

func (counting) Enabled(context.Context, slog.Level) bool { return true }
func (c counting) WithAttrs([]slog.Attr) slog.Handler     { return c }
func (c counting) WithGroup(string) slog.Handler          { return c }
func (c counting) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, c.text) {
		c.n.Add(1)
	}
	return nil
}
