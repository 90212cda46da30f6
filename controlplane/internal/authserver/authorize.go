package authserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/page"
)

// request is an authorization request, once it is known that its answer may go to its redirect URI.
type request struct {
	client    *client
	redirect  string
	state     string
	challenge string
	resource  string
	scopes    []string
	key       string // the thumbprint of the key to which the code is bound (RFC 9449, section 10); empty: to none
	need      signin.Need
	// consent: the person is asked again. silent: nobody may be asked anything.
	consent, silent bool
}

// challengePattern is an S256 code challenge (RFC 7636, section 4.2).
var challengePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// authorize has a person sign in and let an agent in. A GET asks, a POST is the person's answer: the same request comes
// with it, in the URL, and is read anew.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		s.page(w, r, "", refuse("invalid_request", "", "the program's request cannot be read"))
		return
	}
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		s.page(w, r, q.Get("client_id"), err)
		return
	}
	// Nothing is fetched for somebody who is not signed in: else anybody could send this server anywhere.
	strange, err := s.strange(r.Context(), state, q.Get("client_id"))
	if err != nil {
		s.page(w, r, q.Get("client_id"), err)
		return
	}
	if strange {
		if _, ok := s.People.Require(w, r, signin.Need{Hint: cut(q.Get("login_hint"), 320)}); !ok {
			return
		}
	}
	// Until client and redirect URI are known to belong together, nobody is led anywhere.
	req, err := s.target(r.Context(), state, q)
	if err != nil {
		s.page(w, r, q.Get("client_id"), err)
		return
	}
	if err := s.read(state, q, req); err != nil {
		s.answerError(w, r, req, err)
		return
	}
	if req.silent { // nothing that is remembered here lets an agent in without anybody seeing a page
		s.answerError(w, r, req, &refusal{code: "interaction_required", text: "a person has to see a page"})
		return
	}
	who, ok := s.People.Require(w, r, req.need)
	if !ok {
		return
	}
	if state.Blocked(who.User.ID.String(), "", s.Now()) {
		s.answerError(w, r, req, &refusal{code: "access_denied", text: "an administrator blocked this person", action: "authorize_refused", person: who.User.ID.String()})
		return
	}
	purpose := "consent " + digest(q.Encode())
	if r.Method == http.MethodPost {
		s.decided(w, r, req, who, purpose)
		return
	}
	agreed, err := s.consented(r.Context(), req, who)
	if err != nil {
		s.page(w, r, req.client.id, err)
		return
	}
	if !agreed || req.consent {
		s.consentPage(w, r, state, req, who, purpose)
		return
	}
	s.letIn(w, r, req, who)
}

// target reads client and redirect URI. Its errors are for the person to see, never for a redirect.
func (s *Server) target(ctx context.Context, state *core.State, q url.Values) (*request, error) {
	if err := once(q, "resource"); err != nil {
		return nil, err
	}
	c, err := s.client(ctx, state, q.Get("client_id"), false)
	if err != nil {
		return nil, err
	}
	redirect := q.Get("redirect_uri")
	if redirect == "" || !redirectAllowed(c.redirects, redirect) || !c.approved && checkRedirect(redirect) != nil || dangerous(redirect) {
		return nil, refuse("invalid_request", "redirect_refused", "the program asks to be answered at an address that is not one of its own")
	}
	return &request{client: c, redirect: redirect, state: q.Get("state")}, nil
}

// dangerous schemes run what they hold: not even an admin makes them a redirect URI.
func dangerous(redirect string) bool {
	u, err := url.Parse(redirect)
	if err != nil {
		return true
	}
	switch u.Scheme {
	case "javascript", "data", "vbscript", "file", "blob", "about", "filesystem", "view-source", "":
		return true
	}
	return false
}

// read reads the rest of a request. Its errors go to the redirect URI.
func (s *Server) read(state *core.State, q url.Values, req *request) error {
	switch {
	case q.Get("request") != "" || q.Get("request_uri") != "":
		return refuse("request_not_supported", "", "request objects are not taken")
	case q.Get("response_type") != "code":
		return refuse("unsupported_response_type", "", "the response type is code")
	case q.Get("response_mode") != "" && q.Get("response_mode") != "query":
		return refuse("invalid_request", "", "the response mode is query")
	case len(req.state) > 4096:
		return refuse("invalid_request", "", "state is too long")
	case q.Get("code_challenge") == "":
		return refuse("invalid_request", "pkce_missing", "PKCE is required: send a code_challenge of method S256")
	case q.Get("code_challenge_method") != "S256" || !challengePattern.MatchString(q.Get("code_challenge")):
		return refuse("invalid_request", "pkce_weak", "the code_challenge must be of method S256")
	case len(q["resource"]) > 1:
		return refuse("invalid_target", "", "a token is for one resource")
	}
	if req.key = q.Get("dpop_jkt"); req.key != "" && !challengePattern.MatchString(req.key) {
		return refuse("invalid_request", "", "dpop_jkt is no thumbprint of a key (RFC 7638)")
	}
	req.challenge = q.Get("code_challenge")
	var err error
	if req.resource, err = s.resource(state, q.Get("resource")); err != nil {
		return err
	}
	req.scopes = scopesOf(q.Get("scope"))
	req.need = s.needOf(req.scopes)
	if seconds, err := strconv.Atoi(q.Get("max_age")); err == nil && seconds >= 0 {
		age := time.Duration(min(max(seconds, 1), 1<<30)) * time.Second
		if req.need.MaxAge == 0 || age < req.need.MaxAge {
			req.need.MaxAge = age
		}
	}
	if acr := strings.Fields(q.Get("acr_values")); len(acr) > 0 && len(req.need.ACR) == 0 {
		req.need.ACR = acr[:min(len(acr), 20)]
	}
	req.need.Hint = cut(q.Get("login_hint"), 320)
	for _, word := range strings.Fields(q.Get("prompt")) {
		switch word {
		case "none":
			req.silent = true
		case "consent", "select_account":
			req.consent = true
		case "login":
			if req.need.MaxAge == 0 || req.need.MaxAge > freshLogin {
				req.need.MaxAge = freshLogin
			}
		}
	}
	return nil
}

// freshLogin is how old a sign-in may be where a new one is asked for: it must outlive the way through the pages.
const freshLogin = 2 * time.Minute

// page answers a person with an error.
func (s *Server) page(w http.ResponseWriter, r *http.Request, client string, err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		if r.Context().Err() == nil {
			s.Log.ErrorContext(r.Context(), "the authorization server could not go on", "path", r.URL.Path, "error", err)
		}
		refused = errUnavailable
	}
	s.refused(r, client, refused)
	page.Message(w, refused.status, "This program cannot be let in",
		upper(refused.text)+".", "Nothing was changed. If you did not begin this yourself just now, close this page.", "Otherwise begin again in your program, or ask your administrator.")
}

func upper(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// answerError leads back to the client with an error.
func (s *Server) answerError(w http.ResponseWriter, r *http.Request, req *request, err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		s.Log.ErrorContext(r.Context(), "the authorization server could not go on", "path", r.URL.Path, "error", err)
		refused = errUnavailable
	}
	s.refused(r, req.client.id, refused)
	s.answer(w, req, url.Values{"error": {refused.code}, "error_description": {refused.text}})
}

// answer leads back to the client. The issuer is in it, so that no other's answer passes for it (RFC 9207).
func (s *Server) answer(w http.ResponseWriter, req *request, answer url.Values) {
	answer.Set("iss", s.Issuer)
	if req.state != "" {
		answer.Set("state", req.state)
	}
	page.Protect(w.Header(), formAction(req.redirect))
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Location", lead(req.redirect, answer))
	w.WriteHeader(http.StatusSeeOther)
}

// code is what an authorization code stands for. Its key is the SHA-256 of the code.
type code struct {
	Client     string    `json:"client"`
	Redirect   string    `json:"redirect"`
	Challenge  string    `json:"challenge"`
	Resource   string    `json:"resource"`
	Scopes     []string  `json:"scopes,omitempty"`
	Person     uuid.UUID `json:"person"`
	Generation uint64    `json:"generation"`
	Session    uuid.UUID `json:"session"`
	ACR        string    `json:"acr,omitempty"`
	AMR        []string  `json:"amr,omitempty"`
	AuthTime   time.Time `json:"auth_time,omitzero"`
	Key        string    `json:"key,omitempty"`
	Expires    time.Time `json:"expires"`
}

const (
	codeFor = time.Minute
	// rememberedFor is how long a redeemed code is known, so that its second use is noticed.
	rememberedFor = 24 * time.Hour
)

func newToken(prefix string, head ...[]byte) string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it does not fail: without randomness the process ends (crypto/rand)
	var all []byte
	for _, h := range head {
		all = append(all, h...)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(append(all, secret...))
}

// letIn answers with a code.
func (s *Server) letIn(w http.ResponseWriter, r *http.Request, req *request, who signin.Who) {
	session, err := uuid.NewV7()
	if err != nil {
		s.page(w, r, req.client.id, err)
		return
	}
	c := code{
		Client: req.client.id, Redirect: req.redirect, Challenge: req.challenge, Resource: req.resource, Scopes: req.scopes,
		Person: who.User.ID, Generation: who.User.Generation, Session: session, ACR: who.ACR, AMR: who.AMR, AuthTime: who.AuthTime, Key: req.key, Expires: s.Now().Add(codeFor),
	}
	value, err := json.Marshal(c)
	text := newToken("")
	if err == nil {
		_, err = s.Store.Create(r.Context(), "code."+digest(text), value, rememberedFor)
	}
	if err != nil {
		s.page(w, r, req.client.id, fmt.Errorf("keeping a code: %w", err))
		return
	}
	s.used(r.Context(), req.client)
	s.answer(w, req, url.Values{"code": {text}})
}

// decided takes the person's answer to the consent page.
func (s *Server) decided(w http.ResponseWriter, r *http.Request, req *request, who signin.Who, purpose string) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := s.forms.Check(r); err != nil || !who.Check(purpose, r.PostFormValue("form")) {
		s.page(w, r, req.client.id, &refusal{code: "access_denied", text: "that answer was not given on Sallyport's own page, in this browser, to this question",
			status: http.StatusForbidden, action: "consent_forged", person: who.User.ID.String()})
		return
	}
	if r.PostFormValue("answer") != "yes" {
		s.answerError(w, r, req, &refusal{code: "access_denied", text: "the person did not let the program in", action: "consent_refused", person: who.User.ID.String()})
		return
	}
	err := s.Audit.Record(r.Context(), &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN, Method: "authorize", Action: "consent_given", PersonId: who.User.ID.String(), Target: "resource/" + req.resource,
		Client:   &auditv1.Client{Id: req.client.id, Name: req.client.name, Address: address.Of(r)},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	})
	if err == nil {
		err = s.agree(r.Context(), req, who)
	}
	if err != nil {
		s.page(w, r, req.client.id, err)
		return
	}
	s.letIn(w, r, req, who)
}
