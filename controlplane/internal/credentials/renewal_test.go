package credentials_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// lagging is an engine that has not read the log's newest, as at a control plane that lags; a fence reads them.
type lagging struct {
	*engine.Engine
	old *core.State
}

func (l lagging) State() *core.State { return l.old }

// laggard is a control plane's keeper that knows nothing of what happens from now on, unless it asks.
func (s *site) laggard() *credentials.Keeper {
	config := s.keeper.Config
	config.Engine = lagging{s.Engine, s.Engine.State()}
	return credentials.New(config)
}

func TestAControlPlaneThatLagsIssuesNothingForWhoIsGone(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	behind := s.laggard()
	var once sync.Once
	s.upstream.set(func() {
		s.upstream.before = func(form url.Values) int {
			if form.Get("grant_type") == "refresh_token" {
				once.Do(s.deactivate)
			}
			return 0
		}
	})
	s.later(2 * time.Hour)
	if issued, err := s.issue(behind, s.ann, credentials.Ask{}); err == nil && issued.Value != "" {
		t.Error("a control plane that lags issued a token for somebody who was deactivated while it was renewed")
	}
	s.nothingLeft()
}

func TestAControlPlaneThatLagsLinksNobodyWhoIsGone(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{}) // so that the gateway is registered
	behind := s.laggard()
	s.handler.Store(behind.Handler())
	var once sync.Once
	s.upstream.set(func() {
		s.upstream.before = func(form url.Values) int {
			if form.Get("grant_type") == "authorization_code" {
				once.Do(s.deactivate)
			}
			return 0
		}
	})
	if status, body := s.visit(signintest.NewBrowser(t), s.web.URL+"/connect/demo"); status == http.StatusOK {
		t.Errorf("linked: %s", body)
	}
	s.nothingLeft()
	// And nobody who is gone already gets so far.
	if status, body := s.visit(signintest.NewBrowser(t), s.web.URL+"/connect/demo"); status == http.StatusOK && strings.Contains(body, "connected") {
		t.Errorf("linked: %s", body)
	}
}

// TestARenewalThatDiedBeforeItWasKeptAsksThePersonAgain leaves behind what a killed control plane leaves: the upstream has rotated the refresh token, and the
// lease on the renewal is held by nobody any more. The whole-system tests kill a real process there.
func TestARenewalThatDiedBeforeItWasKeptAsksThePersonAgain(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	s.later(2 * time.Hour)
	dead, cancel := context.WithCancelCause(t.Context())
	s.vault.set(func() error { cancel(errCrash); return errCrash })
	s.upstream.set(func() { s.upstream.failRevocation = -1 }) // nor can the dead one revoke what it got
	if _, err := s.issue(s.keeper, s.ann, credentials.Ask{}); err == nil || !errors.Is(context.Cause(dead), errCrash) {
		t.Fatalf("a token was issued that was not kept: %v", err)
	}
	s.vault.set(nil)
	s.upstream.set(func() { s.upstream.failRevocation = 0 })
	issued, err := s.issue(s.second, s.ann, credentials.Ask{})
	if err != nil || issued.Connect == nil || !strings.Contains(issued.Connect.Reason, "ended the access") {
		t.Fatalf("the person is told %+v, %v", issued.Connect, err)
	}
	s.connect(credentials.Ask{})
	s.must(credentials.Ask{})
}

func TestClocksThatDifferMakeNoDifference(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"the server is ahead": 2 * time.Minute, "the gateway is ahead": -2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			client, secret := signingClient(t)
			s := newSite(t, serviceAccount(policyv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT))
			s.upstream.set(func() {
				s.upstream.clients["gateway"] = client
				s.upstream.clock, s.upstream.lives = ahead, 60
			})
			s.secret(secret)
			first := s.must(credentials.Ask{})
			// Its end is counted here, from what the server says that it lives.
			if left := time.Until(first.Expires); left > time.Minute || left < 50*time.Second {
				t.Errorf("it ends in %s", left)
			}
			s.later(51 * time.Second)
			if again := s.must(credentials.Ask{}); again.Value == first.Value {
				t.Error("a token was used in its last moments")
			}
		})
	}
}

// TestTheClocksOfControlPlanesMayDiffer: what one keeps another takes, whatever its clock says, and neither renews without end.
func TestTheClocksOfControlPlanesMayDiffer(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	config := s.keeper.Config
	config.Now = func() time.Time { return time.Now().Add(-10 * time.Minute) }
	behind := credentials.New(config)
	first := s.must(credentials.Ask{})
	got, err := s.issue(behind, s.ann, credentials.Ask{})
	if err != nil || got.Value != first.Value {
		t.Errorf("another token, %v", err)
	}
	// One that the upstream refuses is replaced, though it seems to be of the future.
	got, err = s.issue(behind, s.ann, credentials.Ask{Rejected: digest(first.Value)})
	if err != nil || got.Value == first.Value || s.upstream.refreshes != 1 {
		t.Errorf("the refused one again: %v; %s", err, s.upstream)
	}
	if got, err = s.issue(s.keeper, s.ann, credentials.Ask{}); err != nil || got.Value == first.Value || s.upstream.refreshes != 1 {
		t.Errorf("%v; %s", err, s.upstream)
	}
	enginetest.Must(t, err)
}

func TestAnAdminRenewsATokenHoweverYoungItIs(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	first := s.must(credentials.Ask{}).Value
	var id uuid.UUID
	for c := range s.Engine.State().PersonCredentials(s.ann.ID) {
		id = c.ID
	}
	status, err := s.keeper.RenewNow(t.Context(), enginetest.Actor, id)
	if second := s.must(credentials.Ask{}).Value; err != nil || second == first || s.upstream.refreshes != 1 || status.Renewed.IsZero() {
		t.Errorf("%+v, %v; %s", status, err, s.upstream)
	}
}
