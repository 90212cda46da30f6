package authserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/text/unicode/norm"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// client is an agent's program, as it was described, described itself or registered.
type client struct {
	id   string
	name string
	// host is where its metadata document lies; empty for others.
	host      string
	redirects []string
	secret    []byte // SHA-256; nil: it has none
	// keys are those by which it proves who it is. Where it has some, nothing else does.
	keys []provingKey
	// bound: its tokens are bound to a key of its own (RFC 9449), always.
	bound bool
	// account is the service account that it is; nil: people's agents.
	account  *core.User
	refresh  bool // it wants refresh tokens
	approved bool
	// registered: the id is of a registration that anybody could make. document: it is the URL of a document that is kept.
	registered, document bool
}

// software names a program to consent: by its document, by its description, or, since some register anew each time, by
// what it calls itself. What it is sent to is beside it in the consent's key.
func (c *client) software() string {
	if c.registered {
		return "registered\x00" + c.name
	}
	return "client\x00" + c.id
}

// display is a client's name for people.
func (c *client) display() string {
	if c.name != "" {
		return c.name
	}
	if c.host != "" {
		return c.host
	}
	return c.id
}

var errUnknownClient = &refusal{code: "invalid_client", text: "this client is not known here, or its registration expired: register again", status: http.StatusUnauthorized, action: "client_refused"}

func clientRefused(text string) *refusal {
	return &refusal{code: "unauthorized_client", text: text, status: http.StatusForbidden, action: "client_refused"}
}

// client finds a client by its id and refuses those that admins do not let in. Known: it is one that somebody let in before.
func (s *Server) client(ctx context.Context, state *core.State, id string, known bool) (*client, error) {
	if id == "" || len(id) > 500 || !printable(id) {
		return nil, errUnknownClient
	}
	if state.Blocked("", id, s.Now()) {
		return nil, clientRefused("an administrator blocked this client")
	}
	if c := accountClient(state, id); c != nil {
		return c, nil
	}
	said := state.Client(id)
	document := isDocument(id)
	if said != nil && len(said.GetRedirectUris()) > 0 {
		c := &client{id: id, name: said.GetName(), redirects: said.GetRedirectUris(), secret: said.GetSecretSha256(), keys: keysOfSet(said.GetJwks()), bound: said.GetDpopBoundAccessTokens(), refresh: true, approved: true}
		if document {
			c.host = hostOf(id)
		}
		return c, nil
	}
	policy := state.AuthorizationPolicy()
	if document {
		if err := admitted(policy.GetMetadataDocuments(), said != nil); err != nil {
			return nil, err
		}
		if host := hostOf(id); !hostAllowed(policy, host) {
			return nil, clientRefused("clients of " + cut(host, 100) + " are not let in here")
		}
		c, err := s.document(ctx, id, known)
		if err != nil {
			return nil, err
		}
		c.approved, c.bound = said != nil, c.bound || said.GetDpopBoundAccessTokens()
		return c, nil
	}
	c, err := s.registered(ctx, id)
	if err != nil {
		return nil, err
	}
	c.approved, c.bound = said != nil, c.bound || said.GetDpopBoundAccessTokens()
	return c, admitted(policy.GetDynamicRegistration(), c.approved)
}

func admitted(a policyv1.Admission, approved bool) error {
	switch {
	case a == policyv1.Admission_ADMISSION_OFF:
		return clientRefused("this way for a client to name itself is switched off here: ask an administrator to describe the client")
	case a == policyv1.Admission_ADMISSION_APPROVED && !approved:
		return clientRefused("this client waits for an administrator's approval: sallyport clients approve")
	}
	return nil
}

func hostOf(id string) string {
	u, err := url.Parse(id)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

func hostAllowed(p *policyv1.AuthorizationPolicy, host string) bool {
	among := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			below, wild := strings.CutPrefix(p, "*.")
			return host == p || wild && strings.HasSuffix(host, "."+below)
		})
	}
	return !among(p.GetDenyHosts()) && (len(p.GetAllowHosts()) == 0 || among(p.GetAllowHosts()))
}

// registration is a client that registered itself, as it lies in the store.
type registration struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Redirects []string  `json:"redirects"`
	Refresh   bool      `json:"refresh"`
	Bound     bool      `json:"bound,omitempty"`
	At        time.Time `json:"at"`
	Expires   time.Time `json:"expires"`
	Used      bool      `json:"used,omitempty"`
}

const (
	// unusedFor is how long a registration lives that was never used, usedFor one since its last use.
	unusedFor = 24 * time.Hour
	usedFor   = 90 * 24 * time.Hour
	// usedAgain is how long a use counts before another is written down.
	usedAgain = 12 * time.Hour
)

func clientKey(id string) string { return "client." + digest(id) }

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (s *Server) registered(ctx context.Context, id string) (*client, error) {
	entry, err := s.Store.Get(ctx, clientKey(id))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, errUnknownClient
	}
	if err != nil {
		return nil, err
	}
	var r registration
	if err := json.Unmarshal(entry.Value, &r); err != nil {
		return nil, fmt.Errorf("reading a registration: %w", err)
	}
	if !s.Now().Before(r.Expires) {
		return nil, errUnknownClient
	}
	return &client{id: id, name: r.Name, redirects: r.Redirects, refresh: r.Refresh, bound: r.Bound, registered: true}, nil
}

// used keeps a registration, or what is kept of a document, from expiring, now that a person let its client in or it goes on.
func (s *Server) used(ctx context.Context, c *client) {
	var err error
	switch {
	case c.document:
		err = s.keepDocument(ctx, c.id, usedFor, func(d *document) error {
			if d.ClientID == "" {
				return errors.New("it expired")
			}
			if s.Now().Sub(d.Used) < usedAgain {
				return errFresh
			}
			d.Used = s.Now()
			return nil
		})
	case c.registered:
		err = s.keepRegistration(ctx, c)
	}
	if err != nil && !errors.Is(err, errFresh) {
		s.Log.WarnContext(ctx, "what is kept of a client could not be kept for longer", "client", c.id, "error", err)
	}
}

func (s *Server) keepRegistration(ctx context.Context, c *client) error {
	_, err := s.Store.Change(ctx, clientKey(c.id), usedFor, func(value []byte) ([]byte, error) {
		var r registration
		if value == nil {
			return nil, errors.New("it expired")
		}
		if err := json.Unmarshal(value, &r); err != nil {
			return nil, err
		}
		if r.Used && r.Expires.Sub(s.Now()) > usedFor-usedAgain {
			return nil, errFresh
		}
		r.Used, r.Expires = true, s.Now().Add(usedFor)
		return json.Marshal(r)
	})
	return err
}

var errFresh = errors.New("it was used lately")

// authenticate returns the client of a request to the token or revocation endpoint, which proved to be it: by its key, by its secret,
// or, if it has neither, by nothing but its name.
func (s *Server) authenticate(r *http.Request, state *core.State, f url.Values) (*client, error) {
	id, secret, basic := r.BasicAuth()
	proof := f.Has("client_assertion") || f.Has("client_assertion_type")
	var jws *jose.JSONWebSignature
	var err error
	switch {
	case basic:
		var errs [2]error
		id, errs[0] = url.QueryUnescape(id)
		secret, errs[1] = url.QueryUnescape(secret)
		if errors.Join(errs[:]...) != nil || proof || f.Has("client_secret") || f.Has("client_id") && f.Get("client_id") != id {
			return nil, refuse("invalid_request", "", "the client authenticates in more than one way")
		}
	case r.Header.Get("Authorization") != "":
		return nil, errUnknownClient
	case proof && f.Has("client_secret"):
		return nil, refuse("invalid_request", "", "the client authenticates in more than one way")
	case proof:
		if jws, id, err = asserted(f); err != nil {
			return nil, err
		}
	default:
		id, secret = f.Get("client_id"), f.Get("client_secret")
	}
	c, err := s.client(r.Context(), state, id, true)
	if err != nil {
		return nil, err
	}
	if proof || c.keys != nil || c.account != nil {
		if jws == nil {
			return nil, &refusal{code: "invalid_client", text: "this client proves who it is by a client_assertion that its key signs", status: http.StatusUnauthorized, action: "client_refused"}
		}
		return c, s.prove(r.Context(), c, jws)
	}
	sum := sha256.Sum256([]byte(secret))
	if c.secret != nil && subtle.ConstantTimeCompare(c.secret, sum[:]) != 1 || c.secret == nil && secret != "" {
		return nil, &refusal{code: "invalid_client", text: "the client's secret is missing or wrong", status: http.StatusUnauthorized, action: "client_refused"}
	}
	return c, nil
}

// unseen are characters that print nothing, though they count as letters, marks or symbols.
var unseen = []*unicode.RangeTable{unicode.Bidi_Control, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, {R16: []unicode.Range16{{Lo: 0x2800, Hi: 0x2800, Stride: 1}}}}

// cleanName makes a client's name for itself fit to be shown, and to be known by: one line, nothing that is not seen, no
// towers of marks, not long.
func cleanName(name string) string {
	marks := 0
	name = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			marks++
		} else {
			marks = 0
		}
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case !unicode.IsPrint(r) || unicode.In(r, unseen...) || marks > 2:
			return -1
		}
		return r
	}, norm.NFC.String(name[:min(len(name), 4096)]))
	name = strings.Join(strings.Fields(name), " ")
	if runes := []rune(name); len(runes) > 60 {
		name = string(runes[:59]) + "…"
	}
	return name
}
