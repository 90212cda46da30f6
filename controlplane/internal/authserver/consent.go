package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/page"
)

// consentFor is how long a person is not asked again for the same program, redirect and resource.
const consentFor = 90 * 24 * time.Hour

// consent is what a person agreed to, at what generation of theirs.
type consent struct {
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`
}

func consentKey(req *request, who signin.Who) string {
	return "consent." + who.User.ID.String() + "." + digest(req.client.software()+"\x00"+withoutPort(req.redirect)+"\x00"+req.resource)
}

func (s *Server) consented(ctx context.Context, req *request, who signin.Who) (bool, error) {
	entry, err := s.Store.Get(ctx, consentKey(req, who))
	if errors.Is(err, kv.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var c consent
	if err := json.Unmarshal(entry.Value, &c); err != nil {
		return false, fmt.Errorf("reading a consent: %w", err)
	}
	return c.Generation == who.User.Generation && s.Now().Sub(c.At) < consentFor, nil
}

func (s *Server) agree(ctx context.Context, req *request, who signin.Who) error {
	value, err := json.Marshal(consent{who.User.Generation, s.Now()})
	if err != nil {
		return err
	}
	if _, err := s.Store.Change(ctx, consentKey(req, who), consentFor, func([]byte) ([]byte, error) { return value, nil }); err != nil {
		return fmt.Errorf("keeping a consent: %w", err)
	}
	return nil
}

var consentBody = page.Body(`<p>{{.Person}}, this program wants to act as you:</p>
<dl class="box">
<dt>Program</dt><dd><strong>{{.Name}}</strong>{{if .Host}}, described at {{.Host}}{{end}}</dd>
<dt>Is sent to</dt><dd>{{.Sent}}</dd>
<dt>May use</dt><dd>{{.May}}</dd>
</dl>
<p class="weak">{{.Vouched}}</p>
{{if .Local}}<p class="weak">The answer goes to a program on this computer. Say yes only if you started it yourself just now.</p>{{end}}
<form method="post" action="{{.Action}}">
<input type="hidden" name="form" value="{{.Form}}">
<p class="row"><button class="main" type="submit" name="answer" value="yes">Let it in</button> <button type="submit" name="answer" value="no">Do not</button></p>
</form>
<p class="weak">Each thing that it does is decided by your company's policy, and recorded.</p>`)

// consentPage names the client, where it is sent and what it may do.
func (s *Server) consentPage(w http.ResponseWriter, r *http.Request, state *core.State, req *request, who signin.Who, purpose string) {
	person := who.User.DisplayName
	if person == "" {
		person = who.User.UserName
	}
	may := "every tool here that you may use"
	for _, base := range s.Resources {
		if id, below := strings.CutPrefix(req.resource, base+"/"); below {
			may = "the tools of " + id + " that you may use"
			if c := state.Connector(id); c != nil && c.Settings.GetTitle() != "" {
				may = "the tools of " + c.Settings.GetTitle() + " that you may use"
			}
		}
	}
	vouched := "Nobody has checked this program: the name is what it calls itself."
	switch {
	case req.client.approved:
		vouched = "Your administrator approved this program."
	case req.client.host != "":
		vouched = "Whoever runs " + req.client.host + " describes this program so. Your administrator has not checked it."
	}
	sent, local := "the program of its own on this computer", true
	if u, err := url.Parse(req.redirect); err == nil {
		switch u.Scheme {
		case "http":
			sent = "a program on this computer (" + u.Host + ")"
		case "https":
			sent, local = u.Host, false
		default:
			sent = "the program that opens " + u.Scheme + ": on this computer"
		}
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Let a program in?", Body: consentBody, FormAction: []string{formAction(req.redirect)}, Data: map[string]any{
		"Person": person, "Name": req.client.display(), "Host": req.client.host, "Sent": sent, "May": may, "Vouched": vouched, "Local": local,
		"Action": s.path + "/oauth/authorize?" + r.URL.Query().Encode(), "Form": who.Form(purpose),
	}})
}
