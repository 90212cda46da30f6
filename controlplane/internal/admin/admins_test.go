package admin_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// tokenOf issues an admin token of a role.
func (s *site) tokenOf(t *testing.T, role policyv1.Role) (uuid.UUID, string) {
	t.Helper()
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_ADMIN)
	enginetest.Must(t, err)
	s.Do(core.IssueToken{ID: id, Kind: eventv1.TokenKind_TOKEN_KIND_ADMIN, SHA256: sum[:], Role: role, ExpiresAt: time.Now().Add(time.Hour)})
	return id, token
}

func (s *site) admins(token string) adminv1connect.AdminServiceClient {
	return adminv1connect.NewAdminServiceClient(http.DefaultClient, s.server.URL, connect.WithInterceptors(bearerOf(token)))
}

// lines is a log that tests read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestARoleMayCallWhatItNeedsAndNoMore makes one call that each role is the least for, by each role.
func TestARoleMayCallWhatItNeedsAndNoMore(t *testing.T) {
	s := newSite(t)
	g := s.Group("okta", "Engineers")
	s.Do(core.NameAdminDirectory{Directory: "okta"})
	h2c := enginetest.H2C(t)
	for role := policyv1.Role_ROLE_VIEWER; role <= policyv1.Role_ROLE_OWNER; role++ {
		_, token := s.tokenOf(t, role)
		option := connect.WithInterceptors(bearerOf(token))
		for needed, call := range map[policyv1.Role]func() error{
			policyv1.Role_ROLE_VIEWER: func() error {
				_, err := adminv1connect.NewDirectoryServiceClient(h2c, s.server.URL, option).ListUsers(t.Context(), connect.NewRequest(&adminv1.ListUsersRequest{}))
				return err
			},
			policyv1.Role_ROLE_AUDITOR: func() error { // a stream
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				stream, err := adminv1connect.NewAuditServiceClient(h2c, s.server.URL, option).TailAudit(ctx, connect.NewRequest(&adminv1.TailAuditRequest{}))
				if err != nil {
					return err
				}
				stream.Receive()
				if connect.CodeOf(stream.Err()) == connect.CodeDeadlineExceeded { // let in: nothing came
					return nil
				}
				return stream.Err()
			},
			policyv1.Role_ROLE_ADMIN: func() error {
				_, err := adminv1connect.NewConnectorServiceClient(h2c, s.server.URL, option).RetireConnector(t.Context(), connect.NewRequest(&adminv1.RetireConnectorRequest{Id: "none"}))
				if connect.CodeOf(err) == connect.CodeNotFound {
					return nil
				}
				return err
			},
			policyv1.Role_ROLE_OWNER: func() error {
				_, err := s.admins(token).SetGroupRole(t.Context(), connect.NewRequest(&adminv1.SetGroupRoleRequest{Group: g.ID.String(), Role: policyv1.Role_ROLE_VIEWER}))
				return err
			},
		} {
			if err := call(); role >= needed {
				if err != nil {
					t.Errorf("%s makes a call that needs %s: %v", role, needed, err)
				}
			} else {
				code(t, role.String()+" makes a call that needs "+needed.String(), err, connect.CodePermissionDenied)
			}
		}
		who, err := s.admins(token).WhoAmI(t.Context(), connect.NewRequest(&adminv1.WhoAmIRequest{}))
		enginetest.Must(t, err)
		if who.Msg.GetRole() != role || who.Msg.GetExpiresAt() == nil {
			t.Errorf("a token of %s is taken as %v", role, who.Msg)
		}
	}
}

func TestAStreamEndsWithTheTokenThatOpenedIt(t *testing.T) {
	s := newSite(t)
	id, token := s.tokenOf(t, policyv1.Role_ROLE_AUDITOR)
	client := adminv1connect.NewAuditServiceClient(enginetest.H2C(t), s.server.URL, connect.WithInterceptors(bearerOf(token)))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := client.TailAudit(ctx, connect.NewRequest(&adminv1.TailAuditRequest{}))
	enginetest.Must(t, err)
	s.Do(core.RevokeToken{ID: id})
	if stream.Receive() {
		t.Error("something came")
	}
	code(t, "the stream of a revoked token", stream.Err(), connect.CodeUnauthenticated)
}

// TestAChangeSaysWhoMadeItAndWithWhichRole looks at the events themselves.
func TestAChangeSaysWhoMadeItAndWithWhichRole(t *testing.T) {
	s := newSite(t)
	id, token := s.tokenOf(t, policyv1.Role_ROLE_ADMIN)
	tokens := adminv1connect.NewTokenServiceClient(http.DefaultClient, s.server.URL, connect.WithInterceptors(bearerOf(token)))
	made, err := tokens.CreateToken(t.Context(), connect.NewRequest(&adminv1.CreateTokenRequest{Kind: adminv1.TokenKind_TOKEN_KIND_ADMIN, Role: policyv1.Role_ROLE_VIEWER}))
	enginetest.Must(t, err)
	ev := s.event(t, made.Msg.GetVersion())
	if a := ev.GetActor(); a.GetId() != id.String() || a.GetRole() != policyv1.Role_ROLE_ADMIN || a.GetKind() != eventv1.ActorKind_ACTOR_KIND_ADMIN {
		t.Errorf("the actor is %v", a)
	}
	if ends := ev.GetTokenIssued().GetToken().GetExpiresAt(); ends == nil || time.Until(ends.AsTime()) > 91*24*time.Hour {
		t.Errorf("the token, of which no end was said, ends at %v", ends)
	}
	_, err = tokens.CreateToken(t.Context(), connect.NewRequest(&adminv1.CreateTokenRequest{Kind: adminv1.TokenKind_TOKEN_KIND_ADMIN, Role: policyv1.Role_ROLE_OWNER}))
	code(t, "an admin makes an owner's token", err, connect.CodePermissionDenied)
}

func TestTheBootstrapTokenIsGoodForTheFirstOwnerAlone(t *testing.T) {
	s := newSite(t)
	id, bootstrap, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP)
	enginetest.Must(t, err)
	s.Do(core.IssueBootstrap{ID: id, SHA256: sum[:], ExpiresAt: time.Now().Add(time.Minute), Recover: true})
	client := adminv1connect.NewTokenServiceClient(http.DefaultClient, s.server.URL, connect.WithInterceptors(bearerOf(bootstrap)))
	_, err = client.ListTokens(t.Context(), connect.NewRequest(&adminv1.ListTokensRequest{}))
	code(t, "the bootstrap token lists tokens", err, connect.CodePermissionDenied)
	if err == nil || !strings.Contains(err.Error(), "first-owner") {
		t.Errorf("the refusal does not say what to do: %v", err)
	}
	_, err = s.admins(s.token).BecomeFirstOwner(t.Context(), connect.NewRequest(&adminv1.BecomeFirstOwnerRequest{}))
	code(t, "another token is exchanged", err, connect.CodePermissionDenied)

	// Many at once: one becomes the owner.
	var mu sync.Mutex
	var won []string
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			res, err := s.admins(bootstrap).BecomeFirstOwner(t.Context(), connect.NewRequest(&adminv1.BecomeFirstOwnerRequest{Name: "ann", Ttl: durationpb.New(time.Hour)}))
			if err == nil {
				mu.Lock()
				won = append(won, res.Msg.GetToken())
				mu.Unlock()
			} else if c := connect.CodeOf(err); c != connect.CodeFailedPrecondition && c != connect.CodeUnauthenticated {
				t.Errorf("a second exchange: %v", err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d owners were made by one bootstrap token", len(won))
	}
	who, err := s.admins(won[0]).WhoAmI(t.Context(), connect.NewRequest(&adminv1.WhoAmIRequest{}))
	enginetest.Must(t, err)
	if who.Msg.GetRole() != policyv1.Role_ROLE_OWNER || who.Msg.GetName() != "ann" {
		t.Errorf("the first owner is %v", who.Msg)
	}
	_, err = s.admins(bootstrap).WhoAmI(t.Context(), connect.NewRequest(&adminv1.WhoAmIRequest{}))
	code(t, "the bootstrap token afterwards", err, connect.CodeUnauthenticated)
}

func TestBreakGlassIsAnAlarm(t *testing.T) {
	log, trail := &lines{}, &noted{}
	s := newSiteNoting(t, slog.New(slog.NewTextHandler(log, nil)), trail)
	made, err := s.admins(s.token).CreateBreakGlass(t.Context(), connect.NewRequest(&adminv1.CreateBreakGlassRequest{Name: "safe"}))
	enginetest.Must(t, err)
	sealed := s.admins(made.Msg.GetToken())
	_, err = sealed.ListAdmins(t.Context(), connect.NewRequest(&adminv1.ListAdminsRequest{}))
	code(t, "the credential itself lists admins", err, connect.CodePermissionDenied)
	_, err = sealed.OpenBreakGlass(t.Context(), connect.NewRequest(&adminv1.OpenBreakGlassRequest{}))
	code(t, "without a reason", err, connect.CodeInvalidArgument)
	if strings.Contains(log.String(), "ALARM") {
		t.Error("an alarm without a use")
	}
	opened, err := sealed.OpenBreakGlass(t.Context(), connect.NewRequest(&adminv1.OpenBreakGlassRequest{Reason: "Okta is down, INC-4711"}))
	enginetest.Must(t, err)
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "ALARM") || !strings.Contains(text, "INC-4711") ||
		strings.Contains(text, opened.Msg.GetToken()) || strings.Contains(text, made.Msg.GetToken()) {
		t.Errorf("the log says %q", text)
	}
	if ends := time.Until(opened.Msg.GetExpiresAt().AsTime()); ends > time.Hour || ends < 50*time.Minute {
		t.Errorf("what was opened ends in %s", ends)
	}
	list, err := s.admins(opened.Msg.GetToken()).ListAdmins(t.Context(), connect.NewRequest(&adminv1.ListAdminsRequest{}))
	enginetest.Must(t, err)
	if uses := list.Msg.GetBreakGlassUses(); len(uses) != 1 || uses[0].GetTokenId() != made.Msg.GetId() || uses[0].GetOpenedId() != opened.Msg.GetId() {
		t.Errorf("the uses are %v", uses)
	}
	_, err = s.admins(made.Msg.GetToken()[:len(made.Msg.GetToken())-4]+"AAAA").OpenBreakGlass(t.Context(), connect.NewRequest(&adminv1.OpenBreakGlassRequest{Reason: "guessing"}))
	code(t, "a forged credential", err, connect.CodeUnauthenticated)
	if !strings.Contains(log.String(), "ALARM: somebody tried to open") {
		t.Error("a forged credential left no trace")
	}
	if len(trail.records) != 2 || trail.records[0].GetAction() != "break_glass_opened" || trail.records[0].GetActor().GetId() != made.Msg.GetId() ||
		!strings.Contains(trail.records[0].String(), "INC-4711") || trail.records[1].GetAction() != "break_glass_refused" {
		t.Errorf("audit has %v", trail.records)
	}
}
