package quickstart

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

// suspensionStory ends what somebody has by the two ways that an Okta org has beside SCIM.
func (s *system) suspensionStory(ctx context.Context, r *run) error {
	r.title("Suspension: Okta suspends Omar and sends no SCIM; then an admin there logs him out everywhere")
	streams, err := r.follow(ctx, omar)
	if err != nil {
		return err
	}
	push, err := s.org.Suspend(ctx, omar)
	r.check("Okta suspends him", push.Took, fmt.Sprintf("%d SCIM requests, %d security event", push.Requests, push.Signals), err)
	if err != nil {
		return err
	}
	r.ended(ctx, streams, push)
	_ = r.step("he cannot sign in", func() (string, time.Duration, error) { return r.refusedByOkta(ctx, omar) })
	if err := s.org.Unsuspend(omar); err != nil {
		return err
	}
	if streams, err = r.follow(ctx, omar); err != nil {
		return err
	}
	push, err = s.org.LogOut(ctx, omar)
	r.check("back again, he is logged out by an admin at Okta", push.Took, fmt.Sprintf("%d SCIM requests, %d universal logout", push.Requests, push.Signals), err)
	if err != nil {
		return err
	}
	r.ended(ctx, streams, push)
	_ = r.step("he signs in again, and works", func() (string, time.Duration, error) {
		begin := time.Now()
		me, err := r.sit(ctx, omar, euWest, agent.Options{Revision: agent.Modern})
		if err != nil {
			return "", 0, err
		}
		return "works", time.Since(begin), me.works(ctx, "github__list_branches", payments)()
	})
	_ = r.step("the audit says that the calls were ended by Sallyport", func() (string, time.Duration, error) {
		begin := time.Now()
		_, err := until(ctx, func() error { return s.revokedCalls(ctx, omar, r.began, 4) })
		return "4 calls, outcome revoked", time.Since(begin), err
	})
	return nil
}

// follow opens a stream of a person's at each proxy, in another era each, after a sign-in of its own.
func (r *run) follow(ctx context.Context, person string) ([]*openStream, error) {
	watch := in(payments, object{"run_id": 7, "seconds": 300})
	var streams []*openStream
	for _, who := range []struct{ region, revision string }{{usEast, agent.Modern}, {euWest, agent.SessionEra}} {
		me, err := r.sit(ctx, person, who.region, agent.Options{Revision: who.revision})
		if err != nil {
			return nil, err
		}
		o := &openStream{seat: me, result: make(chan agent.Result, 1)}
		err = r.step("follows a workflow run at "+who.region+" ("+who.revision+")", func() (string, time.Duration, error) { return o.begin(ctx, watch) })
		if err != nil {
			return nil, err
		}
		streams = append(streams, o)
	}
	return streams, nil
}

// ended looks whether streams end, and whether neither their tokens nor what they would be refreshed by are good any more.
func (r *run) ended(ctx context.Context, streams []*openStream, push okta.Push) {
	for _, o := range streams {
		_ = r.step("the open stream at "+o.region+" ends", func() (string, time.Duration, error) { return o.end(ctx, push.Answered) })
	}
	for _, o := range streams {
		_ = r.step("the token is refused at "+o.region, func() (string, time.Duration, error) { return o.locked(ctx, r) })
		_ = r.step("and gets no other by its refresh token", func() (string, time.Duration, error) {
			begin := time.Now()
			err := r.refresh(ctx, o.tokens)
			if err == nil {
				return "", 0, errors.New("it did")
			}
			if !strings.Contains(err.Error(), "invalid_grant") {
				return "", 0, err
			}
			return "invalid_grant", time.Since(begin), nil
		})
	}
}

func (r *run) refusedByOkta(ctx context.Context, person string) (string, time.Duration, error) {
	begin := time.Now()
	_, err := r.signIn(ctx, person, usEast)
	var refused *agent.Refusal
	if !errors.As(err, &refused) || refused.Page.Status != http.StatusUnauthorized || !strings.Contains(refused.Text, "Unable to sign in") {
		return "", 0, fmt.Errorf("the sign-in gave %w", err)
	}
	return "Okta refuses", time.Since(begin), nil
}

// strangersStory has people sign in at Okta whom Sallyport does not let in: the page says why, and whom to ask.
func (s *system) strangersStory(ctx context.Context, r *run) error {
	r.title("Nobody's mistake: who has no access is told whom to ask")
	page := func(person, title string) func() (string, time.Duration, error) {
		return func() (string, time.Duration, error) {
			begin := time.Now()
			_, err := r.signIn(ctx, person, usEast)
			var refused *agent.Refusal
			if !errors.As(err, &refused) {
				return "", 0, fmt.Errorf("the sign-in gave %w", err)
			}
			if p := refused.Page; p.Status != http.StatusForbidden || !strings.HasPrefix(p.Title, title) || !strings.Contains(p.Text, helpDesk) {
				return "", 0, fmt.Errorf("the page is %d %q: %s", p.Status, p.Title, p.Text)
			}
			return title + "; ask " + helpDesk, time.Since(begin), nil
		}
	}
	_ = r.step("Rosa, to whom nobody gave Sallyport at Okta, signs in", page(rosa, "You have no access yet"))
	push, err := s.org.RemoveFromGroup(ctx, assigned, omar)
	r.check("Sallyport is taken from Omar at Okta, where he stays", push.Took, fmt.Sprintf("%d SCIM request", push.Requests), err)
	if err != nil {
		return err
	}
	_ = r.step("Omar signs in", page(omar, "Your access was ended"))
	return nil
}
