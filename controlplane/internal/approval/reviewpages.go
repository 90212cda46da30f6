package approval

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/page"
)

var reviewsPage = page.Body(`{{if .Reviews}}<table>
<tr><th>Asked</th><th>Whose agent</th><th>Call</th><th></th></tr>
{{range .Reviews}}<tr><td>{{.At}}</td><td>{{.Person}}</td><td><a href="{{.Link}}"><code>{{.Tool}}</code></a> on {{.Connector}}</td><td>{{.State}}</td></tr>
{{end}}</table>{{else}}<p>No call waits for your approval.</p>{{end}}
<p class="weak">You are signed in as {{.Name}}.</p>`)

var reviewPage = page.Body(`<p>{{.Person}}'s agent asks to make this call. Who approves it approves exactly this: it is made at most once, with these arguments.</p>
<dl>
<dt>Agent</dt><dd>{{.Client}}</dd>
<dt>On</dt><dd>{{.Connector}}</dd>
<dt>Calls</dt><dd><code>{{.Tool}}</code></dd>
<dt>Asked for by</dt><dd>{{.Because}}</dd>
<dt>Good until</dt><dd>{{.Expires}}</dd>
<dt>Approvals</dt><dd>{{.Progress}}</dd>
<dt>State</dt><dd>{{.State}}</dd>
</dl>
<p>Arguments:</p>
<div class="box"><pre>{{.Arguments}}</pre></div>
<p class="weak">Digest of the arguments, by which audit knows them: <code>{{.Digest}}</code></p>
{{if .Form}}<form method="post" action="{{.Action}}">
<input type="hidden" name="form" value="{{.Form}}">
<label>Why not, if not: <input type="text" name="reason" maxlength="400"></label>
<p class="row">{{if .May}}<button class="main" name="answer" value="yes">Approve this call</button>{{end}}<button name="answer" value="no">{{if .May}}Refuse{{else}}Take it back{{end}}</button></p>
</form>{{end}}
<p class="weak">You are signed in as {{.Name}}.</p>`)

// reviewer returns who is in front of a page about reviews, as the end of the log has them, or answers.
func (s *Server) reviewer(w http.ResponseWriter, r *http.Request) (*core.State, signin.Who, bool) {
	who, ok := s.People.Require(w, r, signin.Need{})
	if !ok {
		return nil, who, false
	}
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.unavailable(w, r, err)
		return nil, who, false
	}
	return state, who, true
}

// stateOf is how far a review is, in a word.
func stateOf(state *core.State, r *core.Review, now time.Time) string {
	switch {
	case r.Used:
		return "used"
	case r.Refused != uuid.Nil:
		return "refused"
	case !now.Before(r.Expires()):
		return "expired"
	case state.Approved(r):
		return "approved"
	}
	return "pending"
}

func personName(state *core.State, id string) string {
	if parsed, err := uuid.Parse(id); err == nil {
		if u := state.User(parsed); u != nil {
			return u.UserName
		}
	}
	return id
}

func (s *Server) listReviews(w http.ResponseWriter, r *http.Request) {
	state, who, ok := s.reviewer(w, r)
	if !ok {
		return
	}
	var rows []map[string]string
	for review := range state.Reviews() {
		if own := review.Asked.GetUserId() == who.User.ID.String(); !own && !state.MayApprove(review, who.User) {
			continue
		}
		rows = append(rows, map[string]string{
			"At": review.At.UTC().Format(time.DateTime), "Person": personName(state, review.Asked.GetUserId()), "Tool": review.Asked.GetTool(),
			"Connector": connectorName(state, review.Asked.GetConnectorId()), "State": stateOf(state, review, s.Now()), "Link": s.path + "/reviews/" + review.ID(),
		})
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Calls that wait for approval", Body: reviewsPage, Data: map[string]any{"Reviews": rows, "Name": who.User.UserName}})
}

// review returns the review that a page is about, for who may approve it or asked for it, or answers.
func (s *Server) review(w http.ResponseWriter, r *http.Request) (*core.State, *core.Review, signin.Who, bool) {
	state, who, ok := s.reviewer(w, r)
	if !ok {
		return nil, nil, who, false
	}
	var review *core.Review
	if id, err := uuid.Parse(r.PathValue("id")); err == nil {
		review = state.Review(id)
	}
	if review == nil || review.Asked.GetUserId() != who.User.ID.String() && !state.MayApprove(review, who.User) {
		page.Message(w, http.StatusNotFound, "There is nothing for you to review here", "There is no such review, or you are in no group whose people may approve it. You are signed in as "+who.User.UserName+".")
		return nil, nil, who, false
	}
	return state, review, who, true
}

func reviewPurpose(r *core.Review) string {
	return "review " + r.ID() + " " + hex.EncodeToString(r.Asked.GetArgumentsSha256())
}

func (s *Server) showReview(w http.ResponseWriter, r *http.Request) {
	state, review, who, ok := s.review(w, r)
	if !ok {
		return
	}
	arguments, gone, err := s.Arguments(r.Context(), review)
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	shown := cmp.Or(policy.Shown(arguments), "none")
	if gone {
		shown = "(not kept any more)"
	}
	have, need := state.ReviewProgress(review)
	asked := review.Asked
	data := map[string]any{
		"Person": personName(state, asked.GetUserId()), "Client": clientName(state, asked.GetClientId()), "Connector": connectorName(state, asked.GetConnectorId()), "Tool": asked.GetTool(),
		"Because": strings.Join(asked.GetBecause(), " and "), "Expires": review.Expires().UTC().Format(time.DateTime) + " UTC", "Progress": fmt.Sprintf("%d of %d", have, need),
		"State": stateOf(state, review, s.Now()), "Arguments": shown, "Digest": hex.EncodeToString(asked.GetArgumentsSha256()), "Action": r.URL.EscapedPath(), "Name": who.User.UserName,
		"May": state.MayApprove(review, who.User), "Form": "",
	}
	if review.Open(s.Now()) && !gone { // nobody approves what they cannot see
		data["Form"] = who.Form(reviewPurpose(review))
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Review a call", Body: reviewPage, Data: data})
}

func (s *Server) answerReview(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	_, review, who, ok := s.review(w, r)
	if !ok {
		return
	}
	if !who.Check(reviewPurpose(review), r.PostFormValue("form")) {
		page.Message(w, http.StatusForbidden, "This form is not of use", "It was made for another browser or another call. Nothing was changed.", "Please open the review again.")
		return
	}
	id, err := uuid.Parse(review.ID())
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	yes := r.PostFormValue("answer") == "yes"
	_, err = s.Answer(r.Context(), who.User, &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_PERSON, Id: who.User.ID.String()}, id, yes, r.PostFormValue("reason"))
	var refused *core.Error
	switch {
	case errors.As(err, &refused):
		page.Message(w, http.StatusConflict, "That was not done", refused.Error()+".", "Nothing was changed.")
	case err != nil:
		s.unavailable(w, r, err)
	case yes:
		page.Message(w, http.StatusOK, "You approved the call", "It is made when the agent makes it again, once, if the rules still allow it then.", "You can close this page.")
	default:
		page.Message(w, http.StatusOK, "The call is refused", "The agent is told so, and cannot ask again for the same call until the review's end.", "You can close this page.")
	}
}
