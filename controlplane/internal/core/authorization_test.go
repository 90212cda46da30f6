package core

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func signingKey(id string) *policyv1.SigningKey {
	return &policyv1.SigningKey{Id: id, Issuer: "https://sallyport.example", Jwk: []byte("{}"), NotBefore: timestamppb.New(time.Unix(1, 0))}
}

// authorizationCommand draws a command about the authorization server.
func authorizationCommand(t *rapid.T, w *world) Command {
	id := func() uuid.UUID { return uuid.UUID{15: byte(rapid.IntRange(1, 4).Draw(t, "session"))} }
	name := func() string { return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name") }
	switch rapid.IntRange(0, 7).Draw(t, "authorization") {
	case 0:
		return NewAddSigningKey(signingKey(name()), rapid.Bool().Draw(t, "alone"), false)
	case 1:
		return RetireSigningKey{ID: name()}
	case 2, 3:
		return EndSession{ID: id(), Until: w.now.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "until")) * time.Minute)}
	case 4:
		return EndClientSessions{ClientID: name()}
	case 5:
		return ForgetEndedSessions{}
	case 6:
		return rapid.SampledFrom([]Command{NewSetClient(&policyv1.Client{Id: name()}), RemoveClient{ID: name()}}).Draw(t, "client")
	default:
		return NewSetAuthorizationPolicy(&policyv1.AuthorizationPolicy{DenyHosts: []string{name()}})
	}
}

func TestARevocationIsKeptAsLongAsAnAccessTokenMayLive(t *testing.T) {
	w := newWorld(t)
	early, late := uuid.New(), uuid.New()
	w.must(EndSession{ID: early, Until: w.now.Add(time.Minute)})
	w.must(EndSession{ID: late, Until: w.now.Add(time.Hour)})
	if events := w.must(ForgetEndedSessions{}); len(events) != 0 {
		t.Errorf("it became %v", events)
	}
	w.now = w.now.Add(2 * time.Minute)
	w.must(ForgetEndedSessions{})
	if w.state.SessionEnded(early) || !w.state.SessionEnded(late) {
		t.Errorf("early is known: %t, late: %t", w.state.SessionEnded(early), w.state.SessionEnded(late))
	}
}

func TestProxiesLearnKeysBeforeTheySignAndWhetherPeopleCanSignIn(t *testing.T) {
	w := newWorld(t)
	server := func() *fleetv1.AuthorizationServer {
		for e := range w.state.Entries("") {
			if a := e.GetAuthorizationServer(); a != nil {
				return a
			}
		}
		return nil
	}
	if server() != nil {
		t.Error("there is one without a key")
	}
	w.must(NewAddSigningKey(signingKey("b"), false, true))
	w.must(NewAddSigningKey(signingKey("c"), false, true))
	if n := len(server().GetKeys()); n != 1 {
		t.Errorf("there are %d keys: one was there already", n)
	}
	w.must(NewAddSigningKey(signingKey("a"), false, false))
	if ids := []string{server().GetKeys()[0].GetId(), server().GetKeys()[1].GetId()}; !slices.Equal(ids, []string{"a", "b"}) || server().GetOffered() {
		t.Errorf("keys %v, offered %t", ids, server().GetOffered())
	}
	before := w.state
	w.must(NewSetSignIn("okta", &policyv1.SignIn{Issuer: "https://id.example", ClientId: "c"}))
	if !server().GetOffered() || len(Changes(before, w.state, w.log[len(w.log)-1:], "")) != 1 {
		t.Error("proxies do not hear that people can sign in")
	}
	w.must(NewAddSigningKey(signingKey("d"), true, false))
	if n := len(server().GetKeys()); n != 1 {
		t.Errorf("%d keys count though one is to be alone", n)
	}
	// It moves: the keys of the address before still count, and people are sent to the new one alone.
	moved := signingKey("0")
	moved.Issuer, moved.NotBefore = "https://a.sallyport.example", timestamppb.New(time.Unix(2, 0))
	w.must(NewAddSigningKey(moved, false, false))
	offered := map[string]bool{}
	for e := range w.state.Entries("") {
		if a := e.GetAuthorizationServer(); a != nil {
			offered[a.GetIssuer()] = a.GetOffered()
		}
	}
	if len(offered) != 2 || !offered[moved.GetIssuer()] {
		t.Errorf("offered: %v", offered)
	}
	if n := len(Changes(before, w.state, w.log[len(w.log)-1:], "")); n != 2 {
		t.Errorf("proxies hear %d changes of a move, not of both addresses", n)
	}
}

func TestABlockStandsAgainstPersonAndClientUntilItsEnd(t *testing.T) {
	w := newWorld(t)
	w.must(NewPlaceBlock(&policyv1.Block{Reason: "x", Target: &policyv1.Block_ClientId{ClientId: "c"}, Until: timestamppb.New(w.now.Add(time.Hour))}))
	if !w.state.Blocked("p", "c", w.now) || w.state.Blocked("p", "d", w.now) || w.state.Blocked("p", "c", w.now.Add(2*time.Hour)) || w.state.Blocked("", "", w.now) {
		t.Error("it stands against others, or at another time")
	}
}
