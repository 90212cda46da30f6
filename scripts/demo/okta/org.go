package okta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNotFound says that the org has no such person or group.
var ErrNotFound = errors.New("not found in the org")

// Password is the one password of everybody in the org.
const Password = "correct horse battery staple"

// Config makes an org.
type Config struct {
	// Audience is the `aud` of access tokens: the gateway's URL.
	Audience string
	// ClientID is the sign-in app's id. Default: DefaultClientID.
	ClientID string
	// APIToken opens the management API for reading. Empty: nothing does.
	APIToken string
	// TokenLifetime of access and ID tokens. Default: 1 hour, as at Okta.
	TokenLifetime time.Duration
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Wait waits between tries of a push. Default: a timer that the context ends.
	Wait func(ctx context.Context, d time.Duration) error
	// Log gets what the provisioning engine did. Default: nothing is logged.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = DefaultClientID
	}
	if c.TokenLifetime == 0 {
		c.TokenLifetime = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Wait == nil {
		c.Wait = wait
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Push is what a change sent to the SCIM server, or to the receiver of signals.
type Push struct {
	// Requests by SCIM that were answered with success.
	Requests int `json:"requests"`
	// Signals that a receiver took.
	Signals int `json:"signals,omitempty"`
	// Took is the time from the first request's start to the last answer.
	Took time.Duration `json:"took"`
	// Answered is when the last answer was in. Zero: nothing was sent.
	Answered time.Time `json:"answered"`
}

// Org is one Okta org: its people, its groups, and its SCIM app. Safe for concurrent use.
type Org struct {
	cfg Config

	// changing makes one admin change, with what it pushes, end before the next begins.
	changing sync.Mutex

	// mu guards what follows. People and groups are written under both locks and read under either.
	mu     sync.Mutex
	people map[string]*person
	logins map[string]*person
	groups map[string]*group // by folded name
	app    *scimApp          // nil: not connected
	// webApps are the OIDC web applications, by client id.
	webApps map[string]webApp
	// connected are other apps' authorization servers that this org's apps may reach as a person, with their client ids there.
	connected map[string]string
	receiver  Receiver
	// baseURL and key are those of the web face. Without them it was not started.
	baseURL string
	key     signingKey
}

// NewOrg returns an empty org whose SCIM app is not connected yet.
func NewOrg(cfg Config) *Org {
	return &Org{
		cfg:    cfg.withDefaults(),
		people: map[string]*person{},
		logins: map[string]*person{},
		groups: map[string]*group{},

		webApps: map[string]webApp{},
	}
}

// ConnectSCIM points the SCIM app at a server and tests the connection, as an admin does in Okta's console.
func (o *Org) ConnectSCIM(ctx context.Context, baseURL, token string) (Push, error) {
	return o.change(func(s *session) error {
		app := newSCIMApp(strings.TrimSuffix(baseURL, "/"), token, o.cfg)
		s.app = app
		if err := s.testConnection(ctx); err != nil {
			return fmt.Errorf("connection test: %w", err)
		}
		o.mu.Lock()
		o.app = app
		o.mu.Unlock()
		return nil
	})
}

// AddUser adds an active person to the org. Nothing is pushed before the person is assigned.
func (o *Org) AddUser(p Profile) (Person, error) {
	if err := validLogin(p.Login); err != nil {
		return Person{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.logins[fold(p.Login)] != nil {
		return Person{}, fmt.Errorf("a person with login %q exists", p.Login)
	}
	u := &person{id: identifier("00u", fold(p.Login)), status: Active, profile: p}
	o.people[u.id] = u
	o.logins[fold(p.Login)] = u
	return o.view(u), nil
}

// UpdateProfile changes a person's attributes; the app gets the whole object. The user id stays.
func (o *Org) UpdateProfile(ctx context.Context, login string, p Profile) (Push, error) {
	if err := validLogin(p.Login); err != nil {
		return Push{}, err
	}
	return o.change(func(s *session) error {
		o.mu.Lock()
		u := o.logins[fold(login)]
		other := o.logins[fold(p.Login)]
		if u == nil || (other != nil && other != u) {
			o.mu.Unlock()
			if u == nil {
				return notFound("person", login)
			}
			return fmt.Errorf("a person with login %q exists", p.Login)
		}
		delete(o.logins, fold(u.profile.Login))
		u.profile = p
		o.logins[fold(p.Login)] = u
		send := u.status == Active && u.live
		o.mu.Unlock()
		if !send {
			return nil
		}
		return s.putUser(ctx, u, true)
	})
}

// Deactivate ends a person's employment: no sign-in, and the app is told `active: false`.
func (o *Org) Deactivate(ctx context.Context, login string) (Push, error) {
	return o.change(func(s *session) error {
		u, err := o.setStatus(login, Deprovisioned, Active, Suspended)
		if err != nil {
			return err
		}
		return s.deactivateUser(ctx, u)
	})
}

// Reactivate brings a person back. The app gets the whole object with `active: true`. Okta does not assert again the
// memberships that stayed the same meanwhile; PushGroup does.
func (o *Org) Reactivate(ctx context.Context, login string) (Push, error) {
	return o.change(func(s *session) error {
		u, err := o.setStatus(login, Active, Deprovisioned)
		if err != nil {
			return err
		}
		if !o.isAssigned(u) {
			return nil
		}
		return s.provisionUser(ctx, u)
	})
}

// Suspend stops a person from signing in. Nothing is sent by SCIM; a receiver of events is told that the sessions are over.
func (o *Org) Suspend(ctx context.Context, login string) (Push, error) {
	return o.change(func(s *session) error {
		u, err := o.setStatus(login, Suspended, Active)
		if err != nil {
			return err
		}
		return s.revokeSessions(ctx, u)
	})
}

// Unsuspend lets a suspended person sign in again. Apps are told nothing.
func (o *Org) Unsuspend(login string) error {
	o.changing.Lock()
	defer o.changing.Unlock()
	_, err := o.setStatus(login, Active, Suspended)
	return err
}

// Person returns a person by login.
func (o *Org) Person(login string) (Person, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.logins[fold(login)]
	if u == nil {
		return Person{}, notFound("person", login)
	}
	return o.view(u), nil
}

// People returns everybody, by login.
func (o *Org) People() []Person {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Person, 0, len(o.people))
	for _, u := range o.people {
		out = append(out, o.view(u))
	}
	slices.SortFunc(out, func(a, b Person) int { return strings.Compare(a.Profile.Login, b.Profile.Login) })
	return out
}

func (o *Org) setStatus(login string, to Status, from ...Status) (*person, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.logins[fold(login)]
	if u == nil {
		return nil, notFound("person", login)
	}
	if !slices.Contains(from, u.status) {
		return nil, fmt.Errorf("%s is %s", login, u.status)
	}
	u.status = to
	return u, nil
}

// authenticate is what the login page asks: an active person and the right password.
func (o *Org) authenticate(login, password string) (id string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.logins[fold(login)]
	if u == nil || u.status != Active || password != Password {
		return "", false
	}
	return u.id, true
}

// active returns the profile of a person who may hold tokens.
func (o *Org) active(id string) (Profile, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.people[id]
	if u == nil || u.status != Active {
		return Profile{}, false
	}
	return u.profile, true
}

func (o *Org) isAssigned(u *person) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.assigned(u)
}

// assigned needs o.mu.
func (o *Org) assigned(u *person) bool {
	for _, g := range o.groups {
		if g.assigns && g.members[u.id] != nil {
			return true
		}
	}
	return false
}

// view needs o.mu.
func (o *Org) view(u *person) Person {
	return Person{ID: u.id, Status: u.status, Profile: u.profile, Assigned: o.assigned(u), SCIMID: u.scimID}
}

// change runs one admin change with a session that counts what it sends.
func (o *Org) change(f func(*session) error) (Push, error) {
	o.changing.Lock()
	defer o.changing.Unlock()
	o.mu.Lock()
	s := &session{org: o, app: o.app}
	o.mu.Unlock()
	err := f(s)
	return s.push, err
}

func notFound(what, name string) error {
	return fmt.Errorf("%s %q: %w", what, name, ErrNotFound)
}
