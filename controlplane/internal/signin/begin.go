package signin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/core"
)

const (
	// pendingFor is how long a person may take at the provider.
	pendingFor = 15 * time.Minute
	maxTarget  = 8 << 10
)

// pending is a sign-in that has begun. Its key is the SHA-256 of its state parameter. What must stay secret, the PKCE
// verifier and the nonce, is derived from the browser's own secret and the state, and lies nowhere.
type pending struct {
	Directory string `json:"directory"`
	// Issuer, so that a directory whose provider changes meanwhile does not take another's answer.
	Issuer string `json:"issuer"`
	// Browser is the SHA-256 of the secret of the browser that began.
	Browser string    `json:"browser"`
	To      string    `json:"to"`
	Need    Need      `json:"need"`
	Begun   time.Time `json:"begun"`
	// Done: the answer came. There is no second.
	Done bool `json:"done,omitempty"`
}

func pendingKey(state string) string { return "signin.pending." + digest([]byte(state)) }

// local returns where to go after a sign-in: a path of this server, or its root.
func (s *Server) local(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || len(to) > maxTarget ||
		!strings.HasPrefix(to, s.path+"/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return s.path + "/"
	}
	return to
}

// redirect leads the browser on. Not by http.Redirect, which writes a body and rewrites paths.
func (s *Server) redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// begin leads to the provider of the directory that is asked for, that an email address belongs to, or that is the only
// one; where none of these says which, it asks. What it is told of the need may have been changed on its way: whoever
// needs something looks at what the sign-in was.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	need := Need{Directory: q.Get("directory"), ACR: capped(q["acr"]), AMR: capped(q["amr"]), Hint: q.Get("hint")}
	if seconds, err := strconv.Atoi(q.Get("max_age")); err == nil && seconds > 0 {
		need.MaxAge = time.Duration(min(seconds, 1<<30)) * time.Second
	}
	if len(need.Hint) > 320 {
		need.Hint = ""
	}
	to := s.local(q.Get("to"))
	d, all := s.choose(state, need.Directory, need.Hint)
	switch {
	case len(all) == 0:
		s.nobodyPage(w)
	case d == nil:
		s.choicePage(w, all, to, need, q.Has("hint"))
	default:
		s.send(w, r, d, to, need, q.Has("ask"))
	}
}

func capped(all []string) []string { return all[:min(len(all), 20)] }

// choose returns the directory at whose provider to sign in, or those among which to choose.
func (s *Server) choose(state *core.State, id, hint string) (*policyv1.Directory, []*policyv1.Directory) {
	var all []*policyv1.Directory
	_, domain, _ := strings.Cut(strings.ToLower(strings.TrimSpace(hint)), "@")
	for d := range state.Directories() {
		if d.GetSignIn() == nil {
			continue
		}
		if d.GetId() == id || id == "" && domain != "" && slices.Contains(d.GetSignIn().GetEmailDomains(), domain) {
			return d, []*policyv1.Directory{d}
		}
		all = append(all, d)
	}
	if len(all) == 1 && id == "" {
		return all[0], all
	}
	return nil, all
}

// send begins a sign-in at a provider. After a form the browser is led on by a page, since a redirect after a form may
// lead only to hosts that are known before.
func (s *Server) send(w http.ResponseWriter, r *http.Request, d *policyv1.Directory, to string, need Need, afterForm bool) {
	if !s.begun.Allow(address.Of(r), s.Now()) {
		s.tooManyPage(w)
		return
	}
	in := d.GetSignIn()
	p, err := s.providers.get(r.Context(), in.GetIssuer(), reachedFor)
	if err != nil {
		s.Log.WarnContext(r.Context(), "an identity provider cannot be reached: nobody of its directory can sign in", "directory", d.GetId(), "issuer", in.GetIssuer(), "error", err)
		s.record(r, Event{Directory: d.GetId(), Outcome: Unreachable})
		s.unreachablePage(w, d)
		return
	}
	methods := len(need.AMR) > 0
	need = need.with(in.GetAssurance())
	browser := s.cookie(r, browserCookie)
	if browser == nil {
		browser = newSecret()
	}
	state := digest(newSecret())
	held := pending{Directory: d.GetId(), Issuer: in.GetIssuer(), Browser: digest(browser), To: to, Need: need, Begun: s.Now()}
	value, err := json.Marshal(held)
	if err == nil {
		_, err = s.Store.Create(r.Context(), pendingKey(state), value, pendingFor)
	}
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	s.setCookie(w, browserCookie, browser, 24*time.Hour)
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(derive(browser, "pkce", state)), oidc.Nonce(derive(browser, "nonce", state))}
	if need.MaxAge > 0 {
		// The provider is told exactly; what it says is held against it when the answer comes.
		options = append(options, oauth2.SetAuthURLParam("max_age", strconv.Itoa(max(int(need.MaxAge/time.Second), 1))))
	}
	if len(need.ACR) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(need.ACR, " ")))
	}
	if methods { // nothing tells the provider which methods: without a new sign-in it would answer with the old one
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"))
	}
	if need.Hint != "" {
		options = append(options, oauth2.SetAuthURLParam("login_hint", need.Hint))
	}
	at := s.client(p, d, "").AuthCodeURL(state, options...)
	if afterForm {
		s.onwardPage(w, d, at)
		return
	}
	s.redirect(w, at)
}

var errForged = errors.New("the answer was not asked for by this browser, came too late, or came a second time")
