package approval

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/page"
)

var confirmPage = page.Body(`<p>An agent of yours asks to make this call. Say yes only if you want exactly this to happen: it is made once, with these arguments.</p>
<dl>
<dt>Agent</dt><dd>{{.Client}}</dd>
<dt>On</dt><dd>{{.Connector}}</dd>
<dt>Calls</dt><dd><code>{{.Tool}}</code></dd>
<dt>You are asked by</dt><dd>{{.Because}}</dd>
<dt>Good until</dt><dd>{{.Expires}}</dd>
</dl>
<p>Arguments:</p>
<div class="box"><pre>{{.Arguments}}</pre></div>
<p class="weak">Digest of the arguments, by which audit knows them: <code>{{.Digest}}</code></p>
<form method="post" action="{{.Action}}">
<input type="hidden" name="form" value="{{.Form}}">
<p class="row"><button class="main" name="answer" value="yes">Yes, make this call</button><button name="answer" value="no">No</button></p>
</form>
<p class="weak">You are signed in as {{.Name}}.</p>`)

// open returns the open confirmation that a page is about, for its own person, or answers.
func (s *Server) open(w http.ResponseWriter, r *http.Request) (*confirmation, uint64, signin.Who, bool) {
	who, ok := s.People.Require(w, r, signin.Need{})
	if !ok {
		return nil, 0, who, false
	}
	call := r.PathValue("key")
	if len(call) != 43 {
		gone(w)
		return nil, 0, who, false
	}
	c, revision, err := s.confirmation(r.Context(), call)
	switch {
	case err != nil:
		s.unavailable(w, r, err)
		return nil, 0, who, false
	case c != nil && c.Person != who.User.ID:
		s.noteConfirmation("confirmation_foreign", c, nil, who.User)
		page.Message(w, http.StatusForbidden, "This is not yours to confirm", "The call is that of somebody else's agent. You are signed in as "+who.User.UserName+". Nothing was changed.",
			"If the agent is yours, sign in as the person it acts for. If somebody sent you this link, tell your administrator.")
		return nil, 0, who, false
	case c == nil || c.State != pending || c.Generation != who.User.Generation || !s.Now().Before(c.Expires):
		gone(w)
		return nil, 0, who, false
	}
	return c, revision, who, true
}

func gone(w http.ResponseWriter) {
	page.Message(w, http.StatusNotFound, "There is nothing to confirm here", "What this page was about was answered already, or has ended.", "If the call was not made, have your agent make it again: you are then asked again.")
}

func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.Log.ErrorContext(r.Context(), "a page about a call could not be shown", "error", err)
	}
	page.Message(w, http.StatusServiceUnavailable, "Not possible right now", "Sallyport cannot look up what is asked at the moment. Nothing was changed.", "Please try again in a minute.")
}

// purpose binds a form to the very question, so that an old form answers no new one.
func (c *confirmation) purpose() string { return "confirm " + c.ID.String() }

func (s *Server) showConfirmation(w http.ResponseWriter, r *http.Request) {
	c, _, who, ok := s.open(w, r)
	if !ok {
		return
	}
	arguments, erased, err := s.Seals.Open(r.Context(), c.Person, c.Arguments)
	if err != nil || erased {
		s.unavailable(w, r, err)
		return
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Confirm a call of your agent", Body: confirmPage, Data: map[string]string{
		"Client": clientName(s.Engine.State(), c.Client), "Connector": connectorName(s.Engine.State(), c.Connector), "Tool": c.Tool, "Because": strings.Join(c.Because, " and "),
		"Expires": c.Expires.UTC().Format(time.TimeOnly) + " UTC", "Arguments": cmp.Or(policy.Shown(arguments), "none"), "Digest": c.Digest,
		"Action": r.URL.EscapedPath(), "Form": who.Form(c.purpose()), "Name": who.User.UserName,
	}})
}

func (s *Server) answerConfirmation(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	c, revision, who, ok := s.open(w, r)
	if !ok {
		return
	}
	if !who.Check(c.purpose(), r.PostFormValue("form")) {
		page.Message(w, http.StatusForbidden, "This form is not of use", "It was made for another browser, or for a question that was asked before this one. Nothing was changed.", "Please open the link again.")
		return
	}
	to, action := refused, "confirmation_refused"
	if r.PostFormValue("answer") == "yes" {
		to, action = given, "confirmation_given"
	}
	if err := s.settle(r.Context(), r.PathValue("key"), c, revision, to, action, who.User, who.User); err != nil {
		s.unavailable(w, r, err)
		return
	}
	if to == refused {
		page.Message(w, http.StatusOK, "The call is not made", "You said no. Your agent is told so.", "You can close this page.")
		return
	}
	page.Message(w, http.StatusOK, "You said yes", "The call is made when your agent makes it again, once, within five minutes.", "Go back to your agent. You can close this page.")
}

// clientName is what people call an agent's program.
func clientName(state *core.State, id string) string {
	if c := state.Client(id); c.GetName() != "" {
		return c.GetName() + " (" + id + ")"
	}
	return cmp.Or(id, "unknown")
}

// connectorName is what people call a connector.
func connectorName(state *core.State, id string) string {
	if c := state.Connector(id); c != nil && c.Settings.GetTitle() != "" {
		return c.Settings.GetTitle() + " (" + id + ")"
	}
	return id
}
