package servers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Confluence is a wiki with two pages.
type Confluence struct {
	*Upstream

	mu    sync.Mutex // guards pages and last
	pages map[string]*Page
	last  int
}

// Page is one page.
type Page struct {
	ID    string `json:"id"`
	Space string `json:"space"`
	Title string `json:"title"`
	Body  string `json:"body"`
}

// NewConfluence returns the server with its data. It is stateless.
func NewConfluence() *Confluence {
	c := &Confluence{Upstream: newUpstream("confluence", "Confluence", Stateless), pages: map[string]*Page{}}
	c.add("ENG", "On call", "Page the owner first.")
	c.add("ENG", "Release", "Tag, build, watch.")
	c.tools()
	return c
}

// add needs c.mu, or no other user yet.
func (c *Confluence) add(space, title, body string) Page {
	c.last++
	p := &Page{ID: fmt.Sprintf("%d", 1000+c.last), Space: space, Title: title, Body: body}
	c.pages[p.ID] = p
	return *p
}

// Pages returns the ids of all pages, sorted.
func (c *Confluence) Pages() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.pages))
}

type pageID struct {
	PageID string `json:"page_id" jsonschema:"id of the page"`
}

type pageSearch struct {
	Query string `json:"query" jsonschema:"words in title or body"`
}

type pageList struct {
	Pages []Page `json:"pages"`
}

type newPage struct {
	Space string `json:"space" jsonschema:"key of the space"`
	Title string `json:"title"`
	Body  string `json:"body"`
}

type pageUpdate struct {
	PageID string `json:"page_id" jsonschema:"id of the page"`
	Title  string `json:"title,omitempty"`
	Body   string `json:"body"`
}

func (c *Confluence) tools() {
	tool(c.Upstream, reads, "get_page", "Read a page.",
		func(_ context.Context, _ *mcp.CallToolRequest, in pageID) (Page, error) {
			return c.change(in.PageID, func(*Page) {})
		})
	tool(c.Upstream, reads, "search", "Search pages.",
		func(_ context.Context, _ *mcp.CallToolRequest, in pageSearch) (pageList, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			out := pageList{Pages: []Page{}}
			for _, id := range slices.Sorted(maps.Keys(c.pages)) {
				p := c.pages[id]
				if strings.Contains(strings.ToLower(p.Title+" "+p.Body), strings.ToLower(in.Query)) {
					out.Pages = append(out.Pages, *p)
				}
			}
			return out, nil
		})
	tool(c.Upstream, writes, "create_page", "Create a page.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newPage) (Page, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.add(in.Space, in.Title, in.Body), nil
		})
	tool(c.Upstream, destroys, "update_page", "Replace a page's body.",
		func(_ context.Context, _ *mcp.CallToolRequest, in pageUpdate) (Page, error) {
			return c.change(in.PageID, func(p *Page) {
				p.Body = in.Body
				if in.Title != "" {
					p.Title = in.Title
				}
			})
		})
	tool(c.Upstream, destroys, "delete_page", "Delete a page for good.",
		func(_ context.Context, _ *mcp.CallToolRequest, in pageID) (done, error) {
			if _, err := c.change(in.PageID, func(p *Page) { delete(c.pages, p.ID) }); err != nil {
				return done{}, err
			}
			return done{Status: "deleted " + in.PageID}, nil
		})
}

func (c *Confluence) change(id string, f func(*Page)) (Page, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pages[id]
	if p == nil {
		return Page{}, fmt.Errorf("page %q not found", id)
	}
	f(p)
	return *p, nil
}
