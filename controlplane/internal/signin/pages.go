package signin

import (
	"net/http"
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/signin/page"
)

// record tells audit, with the request that an event ended with.
func (s *Server) record(r *http.Request, e Event) {
	e.Request = r
	s.Record(r.Context(), e)
}

func title(d *policyv1.Directory) string {
	if t := d.GetSignIn().GetTitle(); t != "" {
		return t
	}
	return d.GetId()
}

func contact(d *policyv1.Directory) string {
	if c := d.GetSignIn().GetContact(); c != "" {
		return c
	}
	return "your administrator"
}

// unavailable answers that the sign-in's own parts fail.
func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.Log.ErrorContext(r.Context(), "a sign-in could not go on", "error", err)
	}
	page.Message(w, http.StatusServiceUnavailable, "Not possible right now",
		"Sallyport cannot look up or keep sign-ins at the moment. Agents that are signed in go on working.",
		"Please try again in a minute. If it stays like this, tell your administrator: the control plane's log says why.")
}

func (s *Server) unreachable(w http.ResponseWriter, r *http.Request, d *policyv1.Directory, err error) {
	s.Log.WarnContext(r.Context(), "an identity provider did not finish a sign-in", "directory", d.GetId(), "error", err)
	s.record(r, Event{Directory: d.GetId(), Outcome: Unreachable})
	s.unreachablePage(w, d)
}

func (s *Server) unreachablePage(w http.ResponseWriter, d *policyv1.Directory) {
	page.Message(w, http.StatusBadGateway, title(d)+" cannot be reached",
		"People sign in at "+title(d)+", and it does not answer Sallyport now, so that nobody new can sign in.",
		"Agents that are signed in go on working. Please try again in a few minutes. If it stays like this, ask "+contact(d)+".")
}

func (s *Server) tooManyPage(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "10")
	page.Message(w, http.StatusTooManyRequests, "Too many sign-ins at once",
		"More people begin to sign in from your network than Sallyport takes at once.", "Please try again in a few seconds.")
}

func (s *Server) nobodyPage(w http.ResponseWriter) {
	page.Message(w, http.StatusServiceUnavailable, "Sign-in is not set up",
		"No identity provider is connected to this Sallyport for signing in.",
		"An administrator sets one up with: sallyport directories sign-in DIRECTORY --issuer URL --client-id ID.")
}

func (s *Server) forgedPage(w http.ResponseWriter) {
	page.Message(w, http.StatusBadRequest, "This sign-in cannot be finished",
		"The answer that came back was not asked for by this browser, took too long, or was used already. Nothing was changed.",
		"Please begin again in your application, in one browser, with cookies allowed for this site.")
}

func (s *Server) endedPage(w http.ResponseWriter) {
	page.Message(w, http.StatusUnauthorized, "You are signed out",
		"Your sign-in ended before you sent this form, or what you do needs a fresh one. Nothing was changed.",
		"Please go back to where you came from and begin again.")
}

var refused = page.Body(`<p>{{.Title}} did not sign you in{{with .Code}} (<code>{{.}}</code>){{end}}. Nothing was changed.</p>
<p>If you cancelled, you can try again. If you should have access, ask {{.Contact}}: the application must be assigned to you at {{.Title}}.</p>
<p class="row"><a class="button main" href="{{.Again}}">Try again</a></p>`)

func (s *Server) refusedPage(w http.ResponseWriter, d *policyv1.Directory, code, again string) {
	page.Write(w, http.StatusForbidden, page.Page{Title: "You were not signed in", Body: refused, Data: map[string]string{
		"Title": title(d), "Contact": contact(d), "Code": word(code), "Again": again,
	}})
}

// word is an error code from outside, if it is one that can be shown.
func word(code string) string {
	if len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return code
}

var stranger = page.Body(`{{range .Why}}<p>{{.}}</p>
{{end}}
<dl class="box">
<dt>Signed in at</dt><dd>{{.Title}}</dd>
<dt>As</dt><dd><code>{{.Subject}}</code></dd>
<dt>Directory</dt><dd>{{.Directory}}</dd>
{{with .Missing}}<dt>Needed</dt><dd>{{.}}</dd>{{end}}
</dl>
<p class="weak">Show this to whoever helps you. It holds no secret.</p>`)

// strangerPage tells somebody whom the provider knows why they have no access, and whom to ask.
func (s *Server) strangerPage(w http.ResponseWriter, d *policyv1.Directory, e Event, token idToken) {
	ask := contact(d)
	head, why, missing := "You have no access yet", []string{
		title(d) + " signed you in, but has not told Sallyport about you: nobody assigned you to Sallyport's provisioning app there, or you were assigned just now.",
		"Ask " + ask + " to assign you, then try again.",
	}, ""
	switch e.Outcome {
	case Deactivated:
		head, why = "Your access was ended", []string{
			title(d) + " signed you in, but has told Sallyport that you are deactivated.", "If that is a mistake, ask " + ask + " to activate you at " + title(d) + ".",
		}
	case TooWeak:
		head, why = "A stronger sign-in is needed", []string{
			"What you want to do needs a stronger or fresher sign-in than the one " + title(d) + " vouches for.",
			"Try again and use another factor. If you are not asked for one, ask " + ask + ": the policy of the application at " + title(d) + " must demand it.",
		}
		missing = "another authentication context or method, or a sign-in just now"
	}
	page.Write(w, http.StatusForbidden, page.Page{Title: head, Body: stranger, Data: map[string]any{
		"Why": why, "Title": title(d), "Subject": token.subject, "Directory": d.GetId(), "Missing": missing,
	}})
}

var choice = page.Body(`{{if .Unknown}}<p role="alert">No directory belongs to that address. Choose one, or ask your administrator.</p>{{end}}
<form action="{{.Action}}" method="get">
{{range .Fields}}<input type="hidden" name="{{.Name}}" value="{{.Value}}">{{end}}
<input type="hidden" name="ask" value="1">
<label for="hint">Your work email address</label>
<input id="hint" type="email" name="hint" autocomplete="username" required autofocus>
<p class="row"><button class="main" type="submit">Continue</button></p>
</form>
<p class="weak">or choose where you sign in</p>
<p class="row">{{range .Directories}}<a class="button" href="{{.URL}}">{{.Title}}</a>{{end}}</p>`)

type field struct{ Name, Value string }

func (s *Server) choicePage(w http.ResponseWriter, all []*policyv1.Directory, to string, need Need, asked bool) {
	type option struct{ Title, URL string }
	data := struct {
		Action      string
		Unknown     bool
		Fields      []field
		Directories []option
	}{Action: s.path + "/signin", Unknown: asked && need.Hint != ""}
	need.Directory, need.Hint = "", ""
	for name, values := range s.parameters(to, need) {
		for _, v := range values {
			data.Fields = append(data.Fields, field{name, v})
		}
	}
	for _, d := range all {
		need.Directory = d.GetId()
		data.Directories = append(data.Directories, option{title(d), s.beginURL(to, need)})
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Sign in", Body: choice, Data: data})
}

var onward = page.Body(`<p><a class="button main" href="{{.URL}}">Continue to {{.Title}}</a></p>`)

func (s *Server) onwardPage(w http.ResponseWriter, d *policyv1.Directory, at string) {
	page.Write(w, http.StatusOK, page.Page{Title: "Sign in", Body: onward, Data: map[string]string{"URL": at, "Title": title(d)}, Next: at})
}

var accountBody = page.Body(`<p>You are signed in as <strong>{{.Name}}</strong> of {{.Directory}}.</p>
<form action="{{.Action}}" method="post">
<input type="hidden" name="form" value="{{.Form}}">
<p class="row"><button type="submit">Sign out of this browser</button></p>
</form>
<p class="weak">Agents that you let in stay signed in. An administrator can end those.</p>`)

// account says who is signed in with this browser, and lets them sign out.
func (s *Server) account(w http.ResponseWriter, r *http.Request) {
	who, ok := s.Require(w, r, Need{})
	if !ok {
		return
	}
	name := who.User.DisplayName
	if name == "" {
		name = who.User.UserName
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Signed in", Body: accountBody, Data: map[string]string{
		"Name": name, "Directory": who.User.Directory, "Form": who.Form("sign out"), "Action": s.path + "/signin/out",
	}})
}

// signOut ends this browser's session.
func (s *Server) signOut(w http.ResponseWriter, r *http.Request) {
	who, ok := s.Require(w, r, Need{})
	if !ok {
		return
	}
	if s.forms.Check(r) != nil || !who.Check("sign out", r.PostFormValue("form")) {
		page.Message(w, http.StatusForbidden, "Not done", "That form was not sent from Sallyport's own page. Nothing was changed.")
		return
	}
	if err := s.Store.Purge(r.Context(), sessionKey(who.Session)); err != nil {
		s.unavailable(w, r, err)
		return
	}
	s.setCookie(w, sessionCookie, nil, 0)
	s.record(r, Event{Directory: who.User.Directory, Person: who.User, Outcome: SignedOut})
	page.Message(w, http.StatusOK, "Signed out", "You are signed out of Sallyport in this browser. At your identity provider you may still be signed in.")
}
