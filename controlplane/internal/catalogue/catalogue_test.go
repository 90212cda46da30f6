package catalogue_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/durationpb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/catalogue"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/discover"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// open are upstreams that want nothing to be seen.
type open struct{}

func (open) ForDiscovery(context.Context, *core.Connector, *core.User) (credentials.Issued, error) {
	return credentials.Issued{}, nil
}

// trail keeps what is said in audit.
type trail struct {
	mu      sync.Mutex
	actions []string
}

func (t *trail) Note(r *auditv1.AuditRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.actions = append(t.actions, r.GetAction())
}

func (t *trail) has(action string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Count(strings.Join(t.actions, " "), action)
}

// shop is a real MCP server whose tools change while it runs.
type shop struct {
	*mcp.Server
	url   string
	asked atomic.Int64 // requests
	each  func(n int64)
}

func newShop(t *testing.T, stateless bool) *shop {
	s := &shop{Server: mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "1"}, nil)}
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.Server }, &mcp.StreamableHTTPOptions{Stateless: stateless})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := s.asked.Add(1); s.each != nil {
			s.each(n)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.url = server.URL
	return s
}

func (s *shop) sells(name, description string) {
	mcp.AddTool(s.Server, &mcp.Tool{Name: name, Description: description}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{}, nil, nil
	})
}

// follow follows the shop as connector "shop" until the test ends.
func follow(t *testing.T, s *shop, every time.Duration) (*enginetest.Plane, *catalogue.Follower, *trail) {
	p := enginetest.New(t).Start(nil)
	p.Do(core.NewApplyPolicy([]*policyv1.Connector{{
		Id: "shop", Url: s.url, AllowedRanges: []string{"127.0.0.0/8"}, Catalogue: &policyv1.CatalogueSettings{Every: durationpb.New(every)},
	}}, nil))
	said := &trail{}
	f := catalogue.New(catalogue.Config{Engine: p.Engine, Store: p.Shared, Upstreams: discover.Discoverer{}, Credentials: open{}, Trail: said, Name: "cp", Log: p.Log})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return p, f, said
}

func offered(p *enginetest.Plane, name string) bool {
	c := p.Engine.State().Connector("shop")
	if c.Offer == nil {
		return false
	}
	for _, t := range c.Offer.Tools {
		if t.GetName() == name {
			return true
		}
	}
	return false
}

// TestAnUpstreamIsAskedSoonOnceItSaysThatItsListChanged: it is asked once an hour, and heard meanwhile.
func TestAnUpstreamIsAskedSoonOnceItSaysThatItsListChanged(t *testing.T) {
	t.Parallel()
	for _, stateless := range []bool{true, false} {
		t.Run(fmt.Sprintf("stateless %v", stateless), func(t *testing.T) {
			s := newShop(t, stateless)
			s.sells("first", "Sells.")
			p, _, _ := follow(t, s, time.Hour)
			enginetest.Eventually(t, "it is asked at first", func() bool { return offered(p, "first") })
			// It may be heard only in a moment, so that it changes until it is.
			n := 0
			enginetest.Eventually(t, "it is asked again", func() bool {
				s.sells(fmt.Sprintf("more%d", n), "Sells more.")
				n++
				return offered(p, "more0")
			})
			// Of all that it says since, one question comes.
			before := s.asked.Load()
			for i := range 500 {
				s.sells(fmt.Sprintf("last%d", i), "Sells.")
			}
			if most := s.asked.Load() - before; most > 40 {
				t.Errorf("500 changes led to %d requests", most)
			}
		})
	}
}

// TestAHostileUpstreamFillsNoLog: one whose list is another each time is followed so far, and then an alarm says so once.
func TestAHostileUpstreamFillsNoLog(t *testing.T) {
	t.Parallel()
	s := newShop(t, true)
	s.each = func(i int64) {
		numbers := make([]int64, 2500) // in which nobody looks for hidden instructions, so that it goes fast
		for at := range numbers {
			numbers[at] = 1_000_000_000 + i*int64(len(numbers)) + int64(at)
		}
		for n := range 29 {
			s.AddTool(&mcp.Tool{Name: fmt.Sprintf("tool%d", n), InputSchema: map[string]any{"type": "object", "properties": map[string]any{"n": map[string]any{"enum": numbers}}}}, nil)
		}
	}
	p, f, said := follow(t, s, time.Second)
	for deadline := time.Now().Add(2 * time.Minute); said.has("catalogue_unsettled") == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nobody is told that it changes too often: %+v", p.Engine.State().Connector("shop").Offer.Tally)
		}
	}
	c := p.Engine.State().Connector("shop")
	if !c.Offer.Unsettled || said.has("catalogue_unsettled") != 1 || said.has("catalogue_offered") < 2 {
		t.Errorf("audit has %q", said.actions)
	}
	if c.Offer.Tally.GetBytes() > 8<<20 {
		t.Errorf("%d bytes were written", c.Offer.Tally.GetBytes())
	}
	if f.Problem("shop") != "" {
		t.Errorf("it cannot be asked: %s", f.Problem("shop"))
	}
}
