package okta

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"html/template"
	"net/http"
)

const (
	loginCookie = "okta-login"
	maxForm     = 16 << 10
)

// loginPage is where a person proves who they are, between the authorize request and its redirect.
type loginPage struct {
	store    *storage
	callback func(ctx context.Context, requestID string) string
}

var loginTemplate = template.Must(template.New("login").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"/><title>Sign in</title></head>
<body>
<h1>Acme: sign in</h1>
{{if .Error}}<p role="alert">{{.Error}}</p>{{end}}
<form method="post" action="/login">
<input type="hidden" name="request" value="{{.Request}}"/>
<input type="hidden" name="token" value="{{.Token}}"/>
<p><label>Email <input type="email" name="email" value="{{.Email}}" autofocus="autofocus" required="required"/></label></p>
<p><label>Password <input type="password" name="password" value="{{.Password}}"/></label></p>
<p>This is a demo: everybody has the password that is already filled in.</p>
<p><button type="submit">Sign in</button></p>
</form>
</body>
</html>
`))

type loginView struct {
	Request, Token, Email, Password, Error string
}

func (l *loginPage) show(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("request")
	if _, err := l.store.AuthRequestByID(r.Context(), id); err != nil {
		http.Error(w, "This sign-in is unknown or took too long. Please begin again in your application.", http.StatusBadRequest)
		return
	}
	l.render(w, http.StatusOK, loginView{Request: id, Token: l.bind(w)})
}

func (l *loginPage) submit(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The form could not be read.", http.StatusBadRequest)
		return
	}
	cookie, err := r.Cookie(loginCookie)
	if err != nil || subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(r.PostForm.Get("token"))) != 1 {
		http.Error(w, "The form belongs to another browser. Please begin again in your application.", http.StatusForbidden)
		return
	}
	id, email := r.PostForm.Get("request"), r.PostForm.Get("email")
	if !l.store.signIn(id, email, r.PostForm.Get("password")) {
		l.render(w, http.StatusUnauthorized, loginView{Request: id, Token: l.bind(w), Email: email, Error: "Unable to sign in"})
		return
	}
	http.Redirect(w, r, l.callback(r.Context(), id), http.StatusSeeOther)
}

// bind ties the form to the browser that asked for it.
func (l *loginPage) bind(w http.ResponseWriter) string {
	token := rand.Text()
	http.SetCookie(w, &http.Cookie{Name: loginCookie, Value: token, Path: "/login", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return token
}

func (l *loginPage) render(w http.ResponseWriter, status int, v loginView) {
	v.Password = Password
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Frame-Options", "DENY")
	w.WriteHeader(status)
	// The status is out: a client that went away is all that can fail here.
	_ = loginTemplate.Execute(w, v)
}
