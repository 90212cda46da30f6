// Package page is how Sallyport's pages look and how they are protected: one layout with one small stylesheet, for
// whoever answers a browser.
//
// A page holds no script, loads nothing, cannot be framed, is not cached, and sends forms to its own origin alone, or to
// the origins that it names. The package knows nobody's pages: a page is a body for the layout and what to fill in.
package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
)

const style = `:root{color-scheme:light dark;--line:#8884;--weak:#767676;--strong:#1257a8}
body{font:16px/1.5 system-ui,sans-serif;margin:0;padding:2rem 1rem}
main{max-width:32rem;margin:0 auto}
header{max-width:32rem;margin:0 auto 1.5rem;color:var(--weak);font-size:.9rem}
h1{font-size:1.4rem;line-height:1.25;margin:0 0 1rem}
a{color:inherit}
pre{font:.9rem/1.4 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
code{font-family:ui-monospace,monospace;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1rem;margin:1rem 0}
dt{color:var(--weak)}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid var(--line);padding:.4rem;text-align:left}
.box{border:1px solid var(--line);border-radius:.5rem;padding:1rem;margin:1rem 0}
.weak{color:var(--weak);font-size:.9rem}
.row{display:flex;gap:.75rem;flex-wrap:wrap;margin-top:1.25rem}
input[type=text],input[type=email],input[type=password],textarea{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;border:1px solid var(--line);border-radius:.35rem}
button,.button{font:inherit;padding:.5rem 1.1rem;border-radius:.35rem;border:1px solid var(--line);background:none;color:inherit;text-decoration:none;cursor:pointer;display:inline-block}
button.main,.button.main{background:var(--strong);border-color:var(--strong);color:#fff}`

const layout = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{{.Title}} · Sallyport</title>
<style>` + style + `</style>
</head>
<body>
<header>Sallyport</header>
<main>
<h1>{{.Title}}</h1>
{{template "body" .Data}}
</main>
</body>
</html>
`

var base = template.Must(template.New("layout").Parse(layout))

var styleHash = func() string {
	sum := sha256.Sum256([]byte(style))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// Body makes a page's body from an html/template text. It panics on one that cannot be parsed: a body is a constant.
func Body(text string) *template.Template {
	return template.Must(template.Must(base.Clone()).New("body").Parse(text))
}

// Page is an answer to a browser.
type Page struct {
	Title string
	// Body as made by Body, and what fills it in.
	Body *template.Template
	Data any
	// FormAction names further origins, or schemes such as "vscode:", to which the answer to a form may lead: browsers
	// hold redirects after a form against it.
	FormAction []string
	// Next is where the browser goes on by itself. The body should hold a link to it too.
	Next string
}

// Write answers with a page.
func Write(w http.ResponseWriter, status int, p Page) {
	var body bytes.Buffer
	if err := p.Body.ExecuteTemplate(&body, "layout", p); err != nil {
		http.Error(w, "This page cannot be shown.", http.StatusInternalServerError)
		return
	}
	Protect(w.Header(), p.FormAction...)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if p.Next != "" {
		w.Header().Set("Refresh", "0; url="+p.Next)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // a client that went away is all that can fail here
}

// Protect sets the headers that every answer to a browser has.
func Protect(h http.Header, formAction ...string) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+styleHash+"; form-action "+
		strings.Join(append([]string{"'self'"}, formAction...), " ")+"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: browsers would then send "Origin: null" with forms, which says less than it should.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

var message = Body(`{{range .}}<p>{{.}}</p>
{{end}}`)

// Message answers with a page of paragraphs: what happened, why, what to do next.
func Message(w http.ResponseWriter, status int, title string, paragraphs ...string) {
	Write(w, status, Page{Title: title, Body: message, Data: paragraphs})
}
