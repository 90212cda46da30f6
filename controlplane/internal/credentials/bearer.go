package credentials

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4/jwt"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/vault"
)

// Grant types and token types.
const (
	grantRefresh   = "refresh_token"
	grantClient    = "client_credentials"
	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantAssertion = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	typeID         = "urn:ietf:params:oauth:token-type:id_token"
	typeIDJAG      = "urn:ietf:params:oauth:token-type:id-jag"
)

// errIdentity: there are no tokens of the person's identity provider, or none that are good: they must sign in again.
var errIdentity = errors.New("the person must sign in again")

// bearer returns a token of the upstream's authorization server.
func (k *Keeper) bearer(ctx context.Context, s *core.State, user *core.User, connector *core.Connector, ask Ask) (Issued, error) {
	id, a := connector.Settings.GetId(), connector.Settings.GetAuth()
	if connector.Server == nil {
		return Issued{}, refuse("the authorization server of connector %q is not approved yet: an administrator looks at it and approves it with sallyport connectors trust %s", id, id)
	}
	owner, kind, renew := core.Grantee{Person: user.ID}, policyv1.CredentialKind_CREDENTIAL_KIND_OAUTH, renewal(nil)
	switch {
	case a.GetOauth() != nil:
		renew = k.refreshing(connector)
	case a.GetServiceAccount() != nil:
		owner, kind, renew = core.Shared, policyv1.CredentialKind_CREDENTIAL_KIND_SERVICE_ACCOUNT, k.asItself(connector)
	case a.GetTokenExchange() != nil:
		kind, renew = policyv1.CredentialKind_CREDENTIAL_KIND_EXCHANGED, k.exchanging(user, connector)
	case a.GetIdentityAssertion() != nil:
		kind, renew = policyv1.CredentialKind_CREDENTIAL_KIND_EXCHANGED, k.asserting(user, connector)
	}
	c := find(s, owner, id, kind)
	if a.GetOauth() != nil {
		var missing []string
		if c != nil {
			var err error
			if missing, err = k.missing(ctx, c, ask.Scopes); err != nil && !errors.Is(err, vault.ErrNotFound) {
				return Issued{}, err
			}
		}
		switch {
		case c == nil:
			return k.connect(ctx, user, connector, ask.Scopes, "Sallyport has no access to "+title(connector.Settings)+" for you yet")
		case len(missing) > 0:
			return k.connect(ctx, user, connector, missing, title(connector.Settings)+" wants more of you for this than you let Sallyport do")
		}
	} else if len(ask.Scopes) > 0 {
		return Issued{}, refuse("connector %q wants the scopes %s, which its settings do not ask for", id, strings.Join(ask.Scopes, " "))
	}
	t, err := k.tokensFor(ctx, s, c, owner, kind, id, ask, renew)
	switch {
	case errors.Is(err, errAgain) || errors.Is(err, vault.ErrNotFound) && a.GetOauth() != nil:
		return k.connect(ctx, user, connector, ask.Scopes, title(connector.Settings)+" ended the access that you gave Sallyport")
	case errors.Is(err, errIdentity):
		return k.connect(ctx, user, connector, nil, "Sallyport needs a fresh sign-in of yours for "+title(connector.Settings))
	case err != nil:
		return Issued{}, err
	}
	issued := Issued{Header: "Authorization", Value: "Bearer " + t.Access, Expires: t.Expires}
	if owner != core.Shared {
		issued.Identity = user.ID.String()
	}
	return issued, nil
}

// find returns an owner's newest credential of a kind, or nil.
func find(s *core.State, owner core.Grantee, connector string, kind policyv1.CredentialKind) *core.Credential {
	for c := range s.CredentialsOf(owner, connector) {
		if c.Kind == kind {
			return c
		}
	}
	return nil
}

// tokensFor returns the tokens of a credential, and gets the first ones where there are none: of what needs nobody's yes.
func (k *Keeper) tokensFor(ctx context.Context, s *core.State, c *core.Credential, owner core.Grantee, kind policyv1.CredentialKind, connector string, ask Ask, renew renewal) (tokens, error) {
	if c != nil {
		t, err := k.tokensOf(ctx, c, ask, renew)
		if !errors.Is(err, vault.ErrNotFound) || kind == policyv1.CredentialKind_CREDENTIAL_KIND_OAUTH {
			return t, err
		}
	}
	got, err, _ := k.renewing.Do("first "+boundTo(&core.Credential{Owner: owner, Connector: connector}), func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		release, err := k.lease(ctx, "credential.first."+connector+"."+boundKey(owner))
		if err != nil {
			return tokens{}, err
		}
		defer release()
		now, err := k.Engine.Fence(ctx)
		if err != nil {
			return tokens{}, err
		}
		if other := find(now, owner, connector, kind); other != nil && (c == nil || other.ID != c.ID) {
			return k.tokensOf(ctx, other, ask, renew)
		}
		fresh, err := k.tries(ctx, tokens{}, renew)
		if err != nil {
			return tokens{}, err
		}
		return fresh, k.keep(ctx, newCredential(s, kind, owner, connector), fresh)
	})
	t, _ := got.(tokens)
	return t, err
}

// keep keeps tokens under a new name. Those that lost the race with the end of the person's generation are revoked again.
func (k *Keeper) keep(ctx context.Context, c *core.Credential, t tokens) error {
	secret, err := k.secret(ctx, c, t)
	if err != nil {
		k.lost(ctx, c, t)
		return err
	}
	if _, err = k.set(ctx, actor, c, secret, false); err != nil {
		k.lost(ctx, c, t)
		return err
	}
	k.status.renewed(c.ID, k.Now(), t.Expires)
	return nil
}

func boundKey(owner core.Grantee) string {
	if owner == core.Shared {
		return "shared"
	}
	return owner.Person.String()
}

// missing are the scopes of some that tokens do not have.
func (k *Keeper) missing(ctx context.Context, c *core.Credential, scopes []string) ([]string, error) {
	if len(scopes) == 0 {
		return nil, nil
	}
	t, _, err := k.read(ctx, c)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, scope := range scopes {
		if !slices.Contains(t.Scopes, scope) {
			missing = append(missing, scope)
		}
	}
	return missing, nil
}

// refreshing renews by a refresh token (RFC 6749, section 6).
func (k *Keeper) refreshing(connector *core.Connector) renewal {
	return func(ctx context.Context, old tokens) (tokens, error) {
		if old.Refresh == "" {
			return tokens{}, errAgain // it is over
		}
		cl, err := k.client(ctx, connector)
		if err != nil {
			return tokens{}, err
		}
		if old.Client != "" && old.Client != cl.id {
			return tokens{}, errAgain // the client that they were given to is no more
		}
		form := url.Values{"grant_type": {grantRefresh}, grantRefresh: {old.Refresh}}
		t, err := k.request(ctx, connector, cl, withResource(form, connector))
		if k.unregistered(ctx, connector, cl, err) {
			return tokens{}, errAgain
		}
		if isRefused(err) {
			err = forAdmin(err, connector)
		}
		return t, err
	}
}

// asItself gets a token of the gateway's own account (RFC 6749, section 4.4).
func (k *Keeper) asItself(connector *core.Connector) renewal {
	return func(ctx context.Context, _ tokens) (tokens, error) {
		a := connector.Settings.GetAuth().GetServiceAccount()
		cl, err := k.client(ctx, connector)
		if err != nil {
			return tokens{}, err
		}
		form := url.Values{"grant_type": {grantClient}}
		setScopes(form, a.GetScopes())
		if a.GetAudience() != "" {
			form.Set("audience", a.GetAudience())
		}
		t, err := k.request(ctx, connector, cl, withResource(form, connector))
		return t, forAdmin(err, connector)
	}
}

// exchanging exchanges the person's token of their identity provider (RFC 8693).
func (k *Keeper) exchanging(user *core.User, connector *core.Connector) renewal {
	return func(ctx context.Context, _ tokens) (tokens, error) {
		a := connector.Settings.GetAuth().GetTokenExchange()
		identity, err := k.identity(ctx, user, a.GetSubject())
		if err != nil {
			return tokens{}, err
		}
		cl, err := k.client(ctx, connector)
		if err != nil {
			return tokens{}, err
		}
		subject, kind := identity.Access, typeAccess
		if a.GetSubject() == policyv1.IdentityToken_IDENTITY_TOKEN_ID {
			subject, kind = identity.ID, typeID
		}
		form := url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {kind}, "requested_token_type": {typeAccess}}
		setScopes(form, a.GetScopes())
		if a.GetAudience() != "" {
			form.Set("audience", a.GetAudience())
		}
		t, err := k.request(ctx, connector, cl, withResource(form, connector))
		return t, forAdmin(err, connector)
	}
}

// asserting has the person's identity provider say to the upstream's authorization server who they are (ID-JAG).
func (k *Keeper) asserting(user *core.User, connector *core.Connector) renewal {
	return func(ctx context.Context, _ tokens) (tokens, error) {
		a := connector.Settings.GetAuth().GetIdentityAssertion()
		identity, err := k.identity(ctx, user, policyv1.IdentityToken_IDENTITY_TOKEN_ID)
		if err != nil {
			return tokens{}, err
		}
		form := url.Values{
			"grant_type": {grantExchange}, "requested_token_type": {typeIDJAG}, "subject_token": {identity.ID}, "subject_token_type": {typeID},
			"audience": {connector.Server.GetIssuer()}, "resource": {resourceOf(connector)},
		}
		setScopes(form, a.GetScopes())
		assertion, err := k.People.Exchange(ctx, user.Directory, form)
		if err != nil {
			return tokens{}, forAdmin(oauthError(err), connector)
		}
		if header, err := jwt.ParseSigned(assertion.Access, assertionAlgorithms); err != nil || len(header.Headers) != 1 || header.Headers[0].ExtraHeaders["typ"] != "oauth-id-jag+jwt" {
			return tokens{}, refuse("the identity provider of directory %q gave something else than an assertion (ID-JAG) for connector %q: is Cross App Access set up there?", user.Directory, connector.Settings.GetId())
		}
		cl, err := k.client(ctx, connector)
		if err != nil {
			return tokens{}, err
		}
		form = url.Values{"grant_type": {grantAssertion}, "assertion": {assertion.Access}}
		setScopes(form, a.GetScopes())
		t, err := k.request(ctx, connector, cl, form)
		return t, forAdmin(err, connector)
	}
}

// passThrough returns the person's own token of their identity provider, if it is for the audience that the upstream expects.
func (k *Keeper) passThrough(ctx context.Context, _ *core.State, user *core.User, connector *core.Connector, a *policyv1.PassThrough, ask Ask) (Issued, error) {
	identity, err := k.identity(ctx, user, a.GetToken())
	if errors.Is(err, errIdentity) {
		return k.connect(ctx, user, connector, nil, "Sallyport needs a fresh sign-in of yours for "+title(connector.Settings))
	}
	if err != nil {
		return Issued{}, err
	}
	token, expires := identity.Access, identity.Expires
	if a.GetToken() == policyv1.IdentityToken_IDENTITY_TOKEN_ID {
		token, expires = identity.ID, expiryOf(identity.ID)
	}
	if !slices.Contains(audiencesOf(token), a.GetAudience()) {
		return Issued{}, refuse("the token that the identity provider of directory %q gives is not for %q, which connector %q expects: its sign-in application there must give one, by a scope or the authorization server's audience", user.Directory, a.GetAudience(), connector.Settings.GetId())
	}
	if value := "Bearer " + token; !ask.rejected(value) {
		return Issued{Header: "Authorization", Value: value, Expires: expires, Identity: user.ID.String()}, nil
	}
	return k.connect(ctx, user, connector, nil, title(connector.Settings)+" does not take your sign-in any more")
}

// audiencesOf reads a token that came from its issuer itself. One that is no JWT has none.
func audiencesOf(token string) []string {
	parsed, err := jwt.ParseSigned(token, assertionAlgorithms)
	if err != nil {
		return nil
	}
	var claims jwt.Claims
	if parsed.UnsafeClaimsWithoutVerification(&claims) != nil {
		return nil
	}
	return claims.Audience
}

func setScopes(form url.Values, scopes []string) {
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
}

// forAdmin makes an administrator's of what only they can mend: the server refuses the gateway itself.
func forAdmin(err error, connector *core.Connector) error {
	var refused *refusedError
	if errors.As(err, &refused) {
		return refuse("the authorization server of connector %q refuses the gateway (%s): its client, scopes or policy there must be mended by an administrator", connector.Settings.GetId(), refused.code)
	}
	if errors.Is(err, errAgain) {
		return refuse("the authorization server of connector %q does not take what the gateway shows it (invalid_grant): an administrator must mend its trust there", connector.Settings.GetId())
	}
	return err
}

func title(c *policyv1.Connector) string {
	if t := c.GetTitle(); t != "" {
		return t
	}
	return c.GetId()
}
