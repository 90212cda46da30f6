package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

const (
	maxPage = 1 << 20
	// maxPages is how many forms a person fills in before giving up.
	maxPages = 8
)

// Person is who sits at a browser.
type Person struct {
	Email    string
	Password string
}

// Browser is a person at a browser, by script: it keeps cookies, follows redirects, and answers the pages that it meets as the
// person would who wants to get in, with email address, password, and the main button of each page.
type Browser struct {
	person Person
	client *http.Client
}

// Page is what a browser shows at the end.
type Page struct {
	URL    *url.URL
	Status int
	Title  string
	// Text is what a person reads, a space for each run of white space.
	Text string
}

// NewBrowser returns a browser in which nobody is signed in yet.
func NewBrowser(who Person) (*Browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("make a cookie jar: %w", err)
	}
	return &Browser{person: who, client: &http.Client{Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 20 {
			return errors.New("the pages lead on and on")
		}
		return nil
	}}}, nil
}

// Open opens a URL and goes on from page to page until one asks for nothing more, or says that something is wrong.
func (b *Browser) Open(ctx context.Context, target string) (Page, error) {
	defer b.client.CloseIdleConnections()
	shown, err := b.fetch(ctx, http.MethodGet, target, nil, "")
	for range maxPages {
		switch {
		case err != nil:
			return Page{}, err
		case shown.Status != http.StatusOK || shown.form == nil && shown.next == "":
			return shown.Page, nil
		case shown.next != "":
			shown, err = b.fetch(ctx, http.MethodGet, shown.next, nil, "")
		default:
			shown, err = b.answer(ctx, shown)
		}
	}
	return Page{}, fmt.Errorf("the pages ask again and again, at last %q", shown.Title)
}

// answer fills in a page's form and sends it.
func (b *Browser) answer(ctx context.Context, at shown) (shown, error) {
	f := at.form
	for name, kind := range f.kinds {
		switch kind {
		case "email":
			f.fields.Set(name, b.person.Email)
		case "password":
			f.fields.Set(name, b.person.Password)
		}
	}
	target, err := at.URL.Parse(f.action)
	if err != nil {
		return shown{}, fmt.Errorf("read the form's action: %w", err)
	}
	if f.method == http.MethodGet {
		target.RawQuery = f.fields.Encode()
		return b.fetch(ctx, http.MethodGet, target.String(), nil, "")
	}
	return b.fetch(ctx, http.MethodPost, target.String(), f.fields, at.URL.Scheme+"://"+at.URL.Host)
}

// shown is a page with what it asks for.
type shown struct {
	Page
	// next is where the page leads by itself.
	next string
	form *form
}

func (b *Browser) fetch(ctx context.Context, method, target string, fields url.Values, origin string) (shown, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(fields.Encode()))
	if err != nil {
		return shown{}, fmt.Errorf("make the request for a page: %w", err)
	}
	if fields != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", origin)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return shown{}, fmt.Errorf("browse: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return shown{}, fmt.Errorf("browse: %w", err)
	}
	out := shown{Page: Page{URL: resp.Request.URL, Status: resp.StatusCode}}
	if _, next, ok := strings.Cut(resp.Header.Get("Refresh"), "url="); ok {
		out.next = next
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		out.Text = strings.Join(strings.Fields(string(data)), " ")
		return out, nil
	}
	root, err := html.Parse(strings.NewReader(string(data)))
	if err != nil {
		return shown{}, fmt.Errorf("read a page: %w", err)
	}
	out.read(root)
	return out, nil
}

// form is one that a person would fill in: it asks for an email address or a password, or has a main button.
type form struct {
	action, method string
	fields         url.Values
	kinds          map[string]string // of the fields, by name
	asks           bool
}

func (s *shown) read(root *html.Node) {
	var words []string
	for n := range root.Descendants() {
		switch {
		case n.Type == html.TextNode && n.Parent.DataAtom == atom.Title:
			s.Title = strings.TrimSpace(n.Data)
		case n.Type == html.TextNode && n.Parent.DataAtom != atom.Style && n.Parent.DataAtom != atom.Script:
			words = append(words, strings.Fields(n.Data)...)
		case n.DataAtom == atom.Form && s.form == nil:
			if f := readForm(n); f.asks {
				s.form = f
			}
		}
	}
	s.Text = strings.Join(words, " ")
}

func readForm(node *html.Node) *form {
	f := &form{action: attribute(node, "action"), method: strings.ToUpper(attribute(node, "method")), fields: url.Values{}, kinds: map[string]string{}}
	if f.method == "" {
		f.method = http.MethodGet
	}
	pressed := false
	for n := range node.Descendants() {
		name, kind := attribute(n, "name"), attribute(n, "type")
		switch {
		case n.DataAtom == atom.Input && name != "":
			f.fields.Set(name, attribute(n, "value"))
			f.kinds[name] = kind
			f.asks = f.asks || kind == "email" || kind == "password"
		case n.DataAtom == atom.Button && !pressed && strings.Contains(" "+attribute(n, "class")+" ", " main "):
			pressed, f.asks = true, true
			if name != "" {
				f.fields.Set(name, attribute(n, "value"))
			}
		}
	}
	return f
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
