package credentials_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

func TestTheGatewayNamesItselfByADocumentWhereTheServerTakesThose(t *testing.T) {
	s := newSite(t, oauth())
	s.upstream.set(func() { s.upstream.documents = true })
	_, _, err := s.keeper.TrustServer(t.Context(), enginetest.Actor, s.Engine.State().Connector("demo"), "")
	enginetest.Must(t, err)
	found, err := s.keeper.FindServer(t.Context(), s.Engine.State().Connector("demo"))
	if document := s.web.URL + "/connect/demo/client.json"; err != nil || !found.IsClient || !strings.Contains(found.Client, document) {
		t.Errorf("it is a client %q, %v", found.Client, err)
	}
	s.connect(credentials.Ask{})
	first := s.must(credentials.Ask{}).Value
	s.later(2 * time.Hour)
	if again := s.must(credentials.Ask{}).Value; again == first {
		t.Error("the token was not renewed")
	}
	if s.upstream.registrations != 0 || s.upstream.fetched == 0 {
		t.Errorf("%s; %d documents were fetched", s.upstream, s.upstream.fetched)
	}
	s.deactivate()
	s.nothingLeft()
	// Of a connector that signs nobody in there is no document.
	s.connector(header(policyv1.KeyHolder_KEY_HOLDER_SHARED))
	for _, id := range []string{"demo", "other"} {
		if status, _, _ := signintest.NewBrowser(t).Get(s.web.URL + "/connect/" + id + "/client.json"); status != http.StatusNotFound {
			t.Errorf("%s: status %d", id, status)
		}
	}
}

// TestAServerThatForgotTheGatewayIsRegisteredAtAnew: its authorization server lost, or deleted, what the gateway registered there.
func TestAServerThatForgotTheGatewayIsRegisteredAtAnew(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	s.later(2 * time.Hour)
	s.upstream.set(func() { clear(s.upstream.clients) })
	s.link(credentials.Ask{}) // the person is asked again
	s.connect(credentials.Ask{})
	s.must(credentials.Ask{})
	if s.upstream.registrations != 2 {
		t.Errorf("%s", s.upstream)
	}
	// One that knows nobody does not have it register without end.
	s.later(-2 * time.Hour)
	s.upstream.set(func() { s.upstream.forgets = true })
	for range 3 {
		if status, body := s.visit(signintest.NewBrowser(t), s.web.URL+"/connect/demo"); status == http.StatusOK {
			t.Errorf("linked: %s", body)
		}
	}
	if s.upstream.registrations != 2 {
		t.Errorf("%s", s.upstream)
	}
}

func TestAClientThatAnAdminNamedIsNotReplaced(t *testing.T) {
	s := newSite(t, oauth(func(o *policyv1.OAuth) { o.Client = &policyv1.UpstreamClient{Id: "given"} }))
	s.upstream.set(func() {
		s.upstream.clients["given"] = authorityClient{secret: "its secret", redirects: []string{s.web.URL + "/connect/demo/callback"}}
	})
	s.secret("its secret")
	s.connect(credentials.Ask{})
	s.later(2 * time.Hour)
	s.upstream.set(func() { clear(s.upstream.clients) })
	_, err := s.issue(s.keeper, s.ann, credentials.Ask{})
	if err == nil || !strings.Contains(err.Error(), "invalid_client") || s.upstream.registrations != 0 {
		t.Errorf("%v; %s", err, s.upstream)
	}
	if c := s.Engine.State().Connector("demo"); c.SecretID == "" {
		t.Error("the secret that an admin set was taken out of use")
	}
}

// TestADocumentHoldsNoSecret: whoever asks is shown it.
func TestADocumentHoldsNoSecret(t *testing.T) {
	s := newSite(t, oauth())
	s.connect(credentials.Ask{})
	_, body, _ := signintest.NewBrowser(t).Get(s.web.URL + "/connect/demo/client.json")
	var document map[string]any
	if err := json.Unmarshal([]byte(body), &document); err != nil || document["client_secret"] != nil || strings.Contains(body, "dcr-secret") {
		t.Errorf("%s, %v", body, err)
	}
}
