// Package adminsession signs admins in for the command line: a person signs in with a browser at the directory that is
// named for admins, agrees on a page, and the command line gets a session's token at a loopback address.
//
// What is handed over is a code for one use, bound by PKCE to the command that began. A session lasts an hour and ends
// with the person's generation; what its person may do is asked of the state at each use, never kept. The package decides
// who is there: what an admin may do is the admin API's.
package adminsession

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/page"
)

const (
	// Lasts is how long a session lasts.
	Lasts = time.Hour
	// fresh is how long ago the person may have proved who they are to the provider.
	fresh = 10 * time.Minute
	// codeFor is how long a code may be redeemed.
	codeFor = 2 * time.Minute

	prefix  = "sallyport_session_"
	purpose = "admin-login"
)

// Engine is what is needed of the engine.
type Engine interface {
	State() *core.State
	Fence(ctx context.Context) (*core.State, error)
}

// Store is what is needed of key-value.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	Purge(ctx context.Context, key string) error
}

// People signs people in with a browser: *signin.Server.
type People interface {
	Require(w http.ResponseWriter, r *http.Request, need signin.Need) (signin.Who, bool)
}

// Sessions keeps admins' sessions. It is safe for concurrent use.
type Sessions struct {
	Engine Engine
	Store  Store
	People People
	// URL is how browsers reach the sign-in listener.
	URL string
	Now func() time.Time
}

// session is what a token stands for. Its key is the token's SHA-256.
type session struct {
	Person     uuid.UUID `json:"person"`
	Generation uint64    `json:"generation"`
	Directory  string    `json:"directory"`
	Expires    time.Time `json:"expires"`
}

// grant is what a code stands for.
type grant struct {
	session
	Challenge string `json:"challenge"`
	Used      bool   `json:"used,omitempty"`
}

// Find returns who holds a session's token, or nil. Fenced: as the end of the log has it.
func (s *Sessions) Find(ctx context.Context, token string, fenced bool) (*core.AdminPerson, error) {
	if !strings.HasPrefix(token, prefix) || len(token) > 200 {
		return nil, nil
	}
	entry, err := s.Store.Get(ctx, sessionKey(token))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an admin's session: %w", err)
	}
	var held session
	if err := json.Unmarshal(entry.Value, &held); err != nil {
		return nil, fmt.Errorf("reading an admin's session: %w", err)
	}
	state := s.Engine.State()
	if fenced {
		if state, err = s.Engine.Fence(ctx); err != nil {
			return nil, fmt.Errorf("proving that the state is current: %w", err)
		}
	}
	u := state.User(held.Person)
	if u == nil || !u.Active || u.Generation != held.Generation || held.Directory != state.AdminDirectory() || !s.Now().Before(held.Expires) {
		return nil, nil
	}
	role := state.RoleOf(u)
	if role == policyv1.Role_ROLE_UNSPECIFIED {
		return nil, nil
	}
	return &core.AdminPerson{User: u, Role: role, Expires: held.Expires}, nil
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func sessionKey(token string) string { return "admin.session." + digest(token) }
func codeKey(code string) string     { return "admin.code." + digest(code) }

// PagePath is the path of the page on the sign-in listener.
func (s *Sessions) PagePath() string {
	u, err := url.Parse(strings.TrimRight(s.URL, "/"))
	if err != nil {
		return "/admin/login"
	}
	return u.Path + "/admin/login"
}

// PageHandler serves the page, on the sign-in listener.
func (s *Sessions) PageHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+s.PagePath(), s.ask)
	mux.HandleFunc("POST "+s.PagePath(), s.agree)
	return mux
}

// Handler serves, on the admin listener, what the command line calls: GET /login, which leads a browser to the page, POST
// /login/token, which redeems a code, and POST /login/out, which ends a session.
func (s *Sessions) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", strings.TrimRight(s.URL, "/")+"/admin/login?"+r.URL.RawQuery)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusSeeOther)
	})
	mux.HandleFunc("POST /login/token", s.redeem)
	mux.HandleFunc("POST /login/out", s.out)
	return mux
}

// request is what the command line asks for.
type request struct{ redirect, state, challenge string }

// read reads a request, whose answer goes to a loopback address alone (RFC 8252, section 7.3).
func read(q url.Values) (request, error) {
	r := request{redirect: q.Get("redirect_uri"), state: q.Get("state"), challenge: q.Get("code_challenge")}
	u, err := url.Parse(r.redirect)
	ip := net.IP(nil)
	if err == nil {
		ip = net.ParseIP(u.Hostname())
	}
	if err != nil || u.Scheme != "http" || ip == nil || !ip.IsLoopback() || u.Port() == "" || u.Path != "/callback" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil || u.Opaque != "" {
		return r, errors.New("the answer may go to http://127.0.0.1:PORT/callback alone")
	}
	if len(r.challenge) != 43 || len(r.state) < 20 || len(r.state) > 200 {
		return r, errors.New("state or code_challenge is missing")
	}
	return r, nil
}

var agreePage = page.Body(`<p>The command line <code>sallyport</code> on this computer asks to act as <strong>{{.Name}}</strong>, with the role <strong>{{.Role}}</strong>, for an hour.</p>
<p>Go on only if you have just run <code>sallyport login</code> yourself.</p>
<form method="post" action="{{.Action}}">
<input type="hidden" name="form" value="{{.Form}}">
<p class="row"><button class="main">Sign the command line in</button></p>
</form>
<p class="weak">The answer goes to {{.Redirect}}.</p>`)

// ask shows the page on which an admin agrees.
func (s *Sessions) ask(w http.ResponseWriter, r *http.Request) {
	req, who, role, ok := s.admin(w, r)
	if !ok {
		return
	}
	target := strings.TrimSuffix(req.redirect, "/callback")
	page.Write(w, http.StatusOK, page.Page{Title: "Sign in to the command line", Body: agreePage, FormAction: []string{target}, Data: map[string]string{
		"Name": who.User.UserName, "Role": strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_")), "Action": r.URL.RequestURI(),
		"Form": who.Form(purpose + req.challenge), "Redirect": target,
	}})
}

// agree hands a code over.
func (s *Sessions) agree(w http.ResponseWriter, r *http.Request) {
	req, who, _, ok := s.admin(w, r)
	if !ok {
		return
	}
	if !who.Check(purpose+req.challenge, r.PostFormValue("form")) {
		page.Message(w, http.StatusForbidden, "This form is not yours", "It was made for another browser or another sign-in. Nothing was done.", "Run sallyport login again.")
		return
	}
	code := rand.Text() + rand.Text()
	held := grant{session: session{Person: who.User.ID, Generation: who.User.Generation, Directory: who.User.Directory}, Challenge: req.challenge}
	value, err := json.Marshal(held)
	if err == nil {
		_, err = s.Store.Create(r.Context(), codeKey(code), value, codeFor)
	}
	if err != nil {
		page.Message(w, http.StatusServiceUnavailable, "Not possible right now", "The sign-in cannot be kept now. Please try again in a minute.")
		return
	}
	w.Header().Set("Location", req.redirect+"?"+url.Values{"code": {code}, "state": {req.state}}.Encode())
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// admin returns the admin in front of a page, or answers.
func (s *Sessions) admin(w http.ResponseWriter, r *http.Request) (request, signin.Who, policyv1.Role, bool) {
	none := policyv1.Role_ROLE_UNSPECIFIED
	req, err := read(r.URL.Query())
	if err != nil {
		page.Message(w, http.StatusBadRequest, "This sign-in cannot begin", "What asks for it is not the command line: "+err.Error()+".", "Run sallyport login.")
		return req, signin.Who{}, none, false
	}
	directory := s.Engine.State().AdminDirectory()
	if directory == "" {
		page.Message(w, http.StatusForbidden, "Nobody signs in as an admin", "No directory is named for admins.",
			"An owner names one with: sallyport admins directory DIRECTORY, and gives its groups roles with: sallyport admins grant GROUP ROLE.")
		return req, signin.Who{}, none, false
	}
	who, ok := s.People.Require(w, r, signin.Need{Directory: directory, MaxAge: fresh})
	if !ok {
		return req, who, none, false
	}
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		page.Message(w, http.StatusServiceUnavailable, "Not possible right now", "It cannot be looked up what you may do. Please try again in a minute.")
		return req, who, none, false
	}
	role := none
	if u := state.User(who.User.ID); u != nil {
		role = state.RoleOf(u)
	}
	if role == none {
		page.Message(w, http.StatusForbidden, "You are no admin", "You are signed in as "+who.User.UserName+", and none of your groups gives a role.",
			"Ask an owner of this installation to put you into a group that does.")
		return req, who, none, false
	}
	return req, who, role, true
}

// problem answers the command line with what it shows.
func problem(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"error": text})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that went away is all that can fail here
}

// redeem exchanges a code, once, for a session's token.
func (s *Sessions) redeem(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	ctx, code, verifier := r.Context(), r.PostFormValue("code"), r.PostFormValue("code_verifier")
	entry, err := s.Store.Get(ctx, codeKey(code))
	var held grant
	if err == nil {
		err = json.Unmarshal(entry.Value, &held)
	}
	void := "the code is not valid, was used, or is too old: run sallyport login again"
	switch {
	case errors.Is(err, kv.ErrNotFound):
		problem(w, http.StatusBadRequest, void)
		return
	case err != nil:
		problem(w, http.StatusServiceUnavailable, "the sign-in cannot be read now: try again in a minute")
		return
	case held.Used || len(verifier) < 43 || subtle.ConstantTimeCompare([]byte(digest(verifier)), []byte(held.Challenge)) != 1:
		problem(w, http.StatusBadRequest, void)
		return
	}
	held.Used = true
	value, err := json.Marshal(held)
	if err == nil {
		_, err = s.Store.Update(ctx, codeKey(code), value, entry.Revision, codeFor)
	}
	if err != nil { // another was faster, or nothing can be kept
		problem(w, http.StatusBadRequest, void)
		return
	}
	token := prefix + rand.Text() + rand.Text()
	held.Expires = s.Now().Add(Lasts)
	if value, err = json.Marshal(held.session); err == nil {
		_, err = s.Store.Create(ctx, sessionKey(token), value, Lasts)
	}
	if err != nil {
		problem(w, http.StatusServiceUnavailable, "the session cannot be kept now: run sallyport login again in a minute")
		return
	}
	answer(w, http.StatusOK, map[string]any{"token": token, "expires": held.Expires})
}

// out ends a session.
func (s *Sessions) out(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !strings.HasPrefix(token, prefix) {
		problem(w, http.StatusBadRequest, "this is no session's token")
		return
	}
	if err := s.Store.Purge(r.Context(), sessionKey(token)); err != nil {
		problem(w, http.StatusServiceUnavailable, "the session could not be ended; it ends by its time")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
