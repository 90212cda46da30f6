package scim_test

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/scim"
)

// served is the same site behind a server of its own.
func (s *site) served(t *testing.T, c scim.Config) *site {
	t.Helper()
	c.Engine = s.Engine
	server := httptest.NewServer(scim.New(c))
	t.Cleanup(server.Close)
	other := s.as(t, s.token)
	other.server = server
	return other
}

// TestOneTokenDoesNotTakeWhatOthersNeed: what is too much is answered with when to come again, in whole seconds.
func TestOneTokenDoesNotTakeWhatOthersNeed(t *testing.T) {
	base := newSite(t)
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s := base.served(t, scim.Config{PerSecond: 5, Now: clock})
	for range 10 { // twice as many may come at once
		s.do("GET", "/Users", nil).status(200)
	}
	refused := s.do("GET", "/Users", nil)
	refused.refused(429, "")
	if seconds, err := strconv.Atoi(refused.Header.Get("Retry-After")); err != nil || seconds < 1 {
		t.Errorf("Retry-After is %q", refused.Header.Get("Retry-After"))
	}
	_, token := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	s.as(t, token).with(s).do("GET", "/Users", nil).status(200) // another token is not held up
	mu.Lock()
	now = now.Add(time.Second)
	mu.Unlock()
	for range 5 {
		s.do("GET", "/Users", nil).status(200)
	}
	s.do("GET", "/Users", nil).refused(429, "")
}

// with is the same site at another's server.
func (s *site) with(other *site) *site {
	s.server = other.server
	return s
}

// TestTheLogSaysNothingOfAnybody: neither what a path, a query or a body holds.
func TestTheLogSaysNothingOfAnybody(t *testing.T) {
	base := newSite(t)
	var log bytes.Buffer
	var mu sync.Mutex
	var noted []activity.Request
	s := base.served(t, scim.Config{Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), Note: func(r activity.Request) {
		mu.Lock()
		defer mu.Unlock()
		noted = append(noted, r)
	}})
	const mark = "marked-person"
	body := oktaUser(mark + "@example.com")
	body["password"] = mark + "-password"
	id := s.do("POST", "/Users", body).status(201).id()
	s.do("POST", "/Users", body).refused(409, "uniqueness")
	s.do("GET", "/Users"+filter(`userName eq "`+mark+`@example.com" x`), nil).refused(400, "invalidFilter")
	s.do("GET", "/Users/"+mark+"@example.com", nil).refused(404, "")
	s.do("GET", "/"+mark+"/x", nil).refused(404, "")
	s.do("PATCH", "/Users/"+id, patch(op("replace", mark+" x", mark))).refused(400, "invalidPath")
	s.do("POST", "/Bulk", object{"schemas": []string{bulkURN}, "Operations": []object{bulkOp("POST", "/Users", mark, body), bulkOp("DELETE", "/Users/"+mark, "", nil)}}).status(200)
	s.do("GET", "/Users", nil, "Authorization", "Bearer "+mark).refused(401, "")
	s.server.Close() // what is noted of the last request may come after its answer
	if text := log.String(); strings.Contains(text, mark) || !strings.Contains(text, id) || !strings.Contains(text, `"directory":"okta"`) {
		t.Errorf("the log says %s", text)
	}
	mu.Lock()
	defer mu.Unlock()
	var refusals []string
	for _, r := range noted {
		if r.Refusal != nil {
			refusals = append(refusals, strings.TrimSpace(strconv.Itoa(r.Refusal.Status)+" "+r.Refusal.Type+" "+r.Refusal.Method+" "+strings.ReplaceAll(r.Refusal.Resource, id, "ID")+" "+r.Directory))
		}
	}
	want := []string{
		"409 uniqueness POST /Users okta", "400 invalidFilter GET /Users okta", "404  GET /Users/? okta", "404  GET /?/? okta", "400 invalidPath PATCH /Users/ID okta",
		"409 uniqueness POST /Users okta", "404  DELETE /Users/? okta", "401  GET /Users",
	}
	if !slices.Equal(refusals, want) {
		t.Errorf("noted: %q", refusals)
	}
}

// TestARotatedTokenOverlaps: both open the door of the one directory, until the old one ends.
func TestARotatedTokenOverlaps(t *testing.T) {
	base := newSite(t)
	now := time.Now()
	var mu sync.Mutex
	s := base.served(t, scim.Config{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	old, token := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	id, fresh, sum := newToken(t)
	s.Do(core.RotateToken{Old: old, ID: id, SHA256: sum, OldExpiresAt: now.Add(time.Hour)})
	stranger := s.User("other", "stranger").ID.String()
	for name, secret := range map[string]string{"old": token, "new": fresh} {
		one := s.as(t, secret).with(s)
		one.do("GET", "/Users", nil).status(200)
		one.do("GET", "/Users/"+stranger, nil).refused(404, "")
		if t.Failed() {
			t.Fatalf("the %s token", name)
		}
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	s.as(t, token).with(s).do("GET", "/Users", nil).refused(401, "")
	s.as(t, fresh).with(s).do("GET", "/Users", nil).status(200)
	if _, err := s.Engine.Do(t.Context(), enginetest.Actor, core.RotateToken{Old: id, ID: old, SHA256: sum}); err == nil {
		t.Error("a token took the id of another")
	}
}

func newToken(t *testing.T) (id uuid.UUID, token string, sum []byte) {
	t.Helper()
	id, token, digest, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_SCIM)
	enginetest.Must(t, err)
	return id, token, digest[:]
}
