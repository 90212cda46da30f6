package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

// caller is who calls, and what they may do.
type caller struct {
	// token or user is set.
	token *core.Token
	user  *core.User
	// role is unspecified where the token can only be exchanged.
	role policyv1.Role
	// expires is zero for what is valid until it is revoked.
	expires time.Time
}

func (c *caller) actor() *eventv1.Actor {
	if c.user != nil {
		return &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_PERSON, Id: c.user.ID.String(), Role: c.role}
	}
	return &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_ADMIN, Id: c.token.ID.String(), Role: c.role}
}

type callerKey struct{}

// callerOf is who calls, as the authenticator found.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// doors are the kinds of tokens that the API takes.
var doors = []eventv1.TokenKind{
	eventv1.TokenKind_TOKEN_KIND_ADMIN, eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP, eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS,
}

// identify says who shows a token, or returns nil. Fenced: a person as the end of the log has them.
func (a *api) identify(ctx context.Context, token string, fenced bool) (*caller, error) {
	if p, err := a.Sessions.Find(ctx, token, fenced); p != nil || err != nil {
		if err != nil {
			return nil, err
		}
		return &caller{user: p.User, role: p.Role, expires: p.Expires}, nil
	}
	state, now := a.Engine.State(), a.Now()
	for _, kind := range doors {
		if t := bearer.Check(state, kind, token, now); t != nil {
			return &caller{token: t, role: t.Role, expires: t.ExpiresAt}, nil
		}
	}
	return nil, nil
}

// admit says why a caller may not make a call, if so.
func admit(c *caller, procedure string) error {
	role, known := RoleFor(procedure)
	kind, exchange := exchanges[procedure]
	switch {
	case !known:
		return connect.NewError(connect.CodePermissionDenied, errors.New("nobody may make this call"))
	case exchange && (c.token == nil || c.token.Kind != kind):
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("this call exchanges a %s token and takes no other", kindName(kind)))
	case c.role >= role:
		return nil
	case c.role == policyv1.Role_ROLE_UNSPECIFIED:
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("a %s token is only exchanged for one that may do something: %s",
			kindName(c.token.Kind), map[eventv1.TokenKind]string{
				eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP: "sallyport admins first-owner", eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS: "sallyport break-glass open",
			}[c.token.Kind]))
	}
	return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("this needs the role %s, and yours is %s: ask an owner", roleName(role), roleName(c.role)))
}

func roleName(r policyv1.Role) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_"))
}

func kindName(k eventv1.TokenKind) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k.String(), "TOKEN_KIND_")), "_", "-")
}
