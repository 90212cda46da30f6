package authserver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// use is where and when a person used a client last, as proxies tell in their audit.
type use struct {
	Region string    `json:"region"`
	At     time.Time `json:"at"`
}

// Uses remembers where sessions are used: what proxies report is gathered, and told to all control planes now and then.
type Uses struct {
	store Store
	mu    sync.Mutex
	seen  map[string]use
}

// NewUses returns a recorder. Run must be running for others to know.
func NewUses(store Store) *Uses { return &Uses{store: store, seen: map[string]use{}} }

const (
	// maxUses bounds what waits to be told; tellEvery is how long it waits.
	maxUses   = 100_000
	tellEvery = 15 * time.Second
)

// Seen notes that a person used a client in a region.
func (u *Uses) Seen(person, client, region string, at time.Time) {
	if person == "" || client == "" {
		return
	}
	key := useKey(person, client)
	u.mu.Lock()
	defer u.mu.Unlock()
	if old, known := u.seen[key]; (known || len(u.seen) < maxUses) && at.After(old.At) {
		u.seen[key] = use{region, at}
	}
}

func useKey(person, client string) string { return "use." + person + "." + digest(client) }

// Run tells what was seen until ctx ends.
func (u *Uses) Run(ctx context.Context) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			u.tell(ctx)
		}
	}
}

func (u *Uses) tell(ctx context.Context) {
	u.mu.Lock()
	seen := u.seen
	u.seen = map[string]use{}
	u.mu.Unlock()
	for key, now := range seen {
		// What cannot be told now is told with the next use.
		_, _ = u.store.Change(ctx, key, usedFor, func(value []byte) ([]byte, error) {
			var old use
			if value != nil && json.Unmarshal(value, &old) == nil && old.At.After(now.At) {
				now = old
			}
			return json.Marshal(now)
		})
	}
}

// uses reads what all control planes were told, by key.
func (s *Server) uses(ctx context.Context, person uuid.UUID) (map[string]use, error) {
	prefix := "use."
	if person != uuid.Nil {
		prefix += person.String() + "."
	}
	all := map[string]use{}
	err := s.Store.Each(ctx, prefix, func(e kv.Entry) error {
		var u use
		if json.Unmarshal(e.Value, &u) == nil {
			all[e.Key] = u
		}
		return nil
	})
	return all, err
}

// matching returns the sessions that count and fit a filter, by person and by when they began, which their ids tell.
func (s *Server) matching(ctx context.Context, state *core.State, f *adminv1.SessionFilter) ([]*adminv1.Session, error) {
	person := uuid.Nil
	if f.GetUser() != "" {
		u, err := state.FindUser(f.GetUser())
		if err != nil {
			return nil, err
		}
		person = u.ID
	}
	uses, err := s.uses(ctx, person)
	if err != nil {
		return nil, err
	}
	byID := map[uuid.UUID]*adminv1.Session{} // a store may list one twice
	err = s.Sessions(ctx, person, func(x *Session) error {
		if !s.Live(state, x) {
			return nil
		}
		wire := s.wire(state, x, uses[useKey(x.Person.String(), x.Client)])
		if fits(wire, f, s.Now()) {
			byID[x.ID] = wire
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := make([]*adminv1.Session, 0, len(byID))
	for _, x := range byID {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b *adminv1.Session) int { return strings.Compare(sessionPlace(a), sessionPlace(b)) })
	return all, nil
}

func sessionPlace(x *adminv1.Session) string { return x.GetUserId() + "." + x.GetId() }

func fits(x *adminv1.Session, f *adminv1.SessionFilter, now time.Time) bool {
	return (f.GetSessionId() == "" || f.GetSessionId() == x.GetId()) && (f.GetClientId() == "" || f.GetClientId() == x.GetClientId()) &&
		(f.GetRegion() == "" || f.GetRegion() == x.GetRegion()) && (f.GetUnusedFor() == nil || now.Sub(x.GetUsedAt().AsTime()) >= f.GetUnusedFor().AsDuration())
}

func (s *Server) wire(state *core.State, x *Session, u use) *adminv1.Session {
	out := &adminv1.Session{
		Id: x.ID.String(), UserId: x.Person.String(), ClientId: x.Client, ClientName: x.ClientName, Resource: x.Resource,
		BeganAt: timestamppb.New(x.Began), UsedAt: timestamppb.New(x.Used), ExpiresAt: timestamppb.New(x.Expires), Region: u.Region, Acr: x.ACR, Amr: x.AMR,
	}
	if u.At.After(x.Used) {
		out.UsedAt = timestamppb.New(u.At)
	}
	if user := state.User(x.Person); user != nil {
		out.User = user.Directory + "/" + user.UserName
	}
	if len(x.Addresses) > 0 {
		out.Address = x.Addresses[0]
	}
	if !x.AuthTime.IsZero() {
		out.SignedInAt = timestamppb.New(x.AuthTime)
	}
	return out
}

// ListSessions lists sessions that fit a filter after a place, and where the next page begins.
func (s *Server) ListSessions(ctx context.Context, f *adminv1.SessionFilter, size int, after string) ([]*adminv1.Session, string, error) {
	all, err := s.matching(ctx, s.Engine.State(), f)
	if err != nil {
		return nil, "", err
	}
	all = slices.DeleteFunc(all, func(x *adminv1.Session) bool { return sessionPlace(x) <= after })
	if len(all) <= size {
		return all, "", nil
	}
	return all[:size], sessionPlace(all[size-1]), nil
}

// EndSessions ends the sessions that fit a filter. All of one client's are ended whether they are known here or not.
func (s *Server) EndSessions(ctx context.Context, actor *eventv1.Actor, f *adminv1.SessionFilter) (ended int, version uint64, err error) {
	state, err := s.Engine.Fence(ctx)
	if err != nil {
		return 0, 0, err
	}
	all, err := s.matching(ctx, state, f)
	if err != nil {
		return 0, 0, err
	}
	version = state.Seq()
	if f.GetClientId() != "" && f.GetUser() == "" && f.GetSessionId() == "" && f.GetRegion() == "" && f.GetUnusedFor() == nil {
		out, err := s.Engine.Do(ctx, actor, core.EndClientSessions{ClientID: f.GetClientId()})
		if err != nil {
			return 0, 0, err
		}
		version = out.Seq
	}
	for _, x := range all {
		person, id := uuid.MustParse(x.GetUserId()), uuid.MustParse(x.GetId())
		if version, err = s.end(ctx, actor, person, id); err != nil {
			return ended, version, err
		}
		ended++
	}
	return ended, version, nil
}

// KnownClients lists the clients that registered themselves and did not expire, and those that name themselves by a document
// that is kept.
func (s *Server) KnownClients(ctx context.Context) ([]*adminv1.ClientStatus, error) {
	byID := map[string]*adminv1.ClientStatus{} // a store may list one twice
	err := s.Store.Each(ctx, "client.", func(e kv.Entry) error {
		var r registration
		if json.Unmarshal(e.Value, &r) == nil && s.Now().Before(r.Expires) {
			byID[r.ID] = &adminv1.ClientStatus{
				Client:     &policyv1.Client{Id: r.ID, Name: r.Name, RedirectUris: r.Redirects, DpopBoundAccessTokens: r.Bound},
				Registered: true, RegisteredAt: timestamppb.New(r.At), ExpiresAt: timestamppb.New(r.Expires),
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.Store.Each(ctx, "document.", func(e kv.Entry) error {
		var d document
		if json.Unmarshal(e.Value, &d) == nil && d.ClientID != "" {
			byID[d.ClientID] = &adminv1.ClientStatus{
				Client: &policyv1.Client{Id: d.ClientID, Name: cleanName(d.ClientName), RedirectUris: d.Redirects}, Document: true,
			}
			if !d.Used.IsZero() {
				byID[d.ClientID].UsedAt = timestamppb.New(d.Used)
			}
		}
		return nil
	})
	all := make([]*adminv1.ClientStatus, 0, len(byID))
	for _, c := range byID {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *adminv1.ClientStatus) int {
		return cmp.Or(a.GetRegisteredAt().AsTime().Compare(b.GetRegisteredAt().AsTime()), strings.Compare(a.GetClient().GetId(), b.GetClient().GetId()))
	})
	return all, err
}

// ForgetClient forgets a client that registered itself, or what is kept of its document.
func (s *Server) ForgetClient(ctx context.Context, id string) error {
	if isDocument(id) {
		return s.Store.Purge(ctx, documentKey(id))
	}
	return s.Store.Purge(ctx, clientKey(id))
}

// ForgetPerson removes what is kept of an erased person: sessions with the addresses that they were used from, what the
// person agreed to, and where they were last.
func (s *Server) ForgetPerson(ctx context.Context, person uuid.UUID) error {
	var keys []string
	for _, prefix := range []string{"session.", "consent.", "use."} {
		err := s.Store.Each(ctx, prefix+person.String()+".", func(e kv.Entry) error {
			keys = append(keys, e.Key)
			return nil
		})
		if err != nil {
			return fmt.Errorf("looking for what an erased person has: %w", err)
		}
	}
	for _, key := range keys {
		if err := s.Store.Purge(ctx, key); err != nil {
			return fmt.Errorf("removing what an erased person has: %w", err)
		}
	}
	return nil
}

// CheckRedirects refuses redirect URIs that nobody may have.
func (s *Server) CheckRedirects(all []string) error {
	for _, r := range all {
		if dangerous(r) || !printable(r) || strings.ContainsAny(r, `#*\`) {
			return &core.Error{Code: core.InvalidArgument, Field: "client.redirect_uris", Message: "a redirect URI is https, http on loopback or of the program's own scheme, without fragment and wildcard"}
		}
		if u, err := url.Parse(r); err != nil || u.Scheme == "http" || u.Scheme == "https" {
			if err := checkRedirect(r); err != nil {
				return &core.Error{Code: core.InvalidArgument, Field: "client.redirect_uris", Message: err.Error()}
			}
		}
	}
	return nil
}
