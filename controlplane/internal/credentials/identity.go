package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/vault"
)

// assertionAlgorithms are those of JWTs that are read here: never none, never a shared key.
var assertionAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA}

// KeepIdentity keeps what a person's identity provider gave at a sign-in, where some connector needs it, in place of what it gave before.
func (k *Keeper) KeepIdentity(ctx context.Context, user *core.User, directory string, given signin.Tokens) error {
	s := k.Engine.State()
	if !s.NeedsIdentity() {
		return nil
	}
	t := fromSignIn(given, directory, k.Now())
	kind := policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY
	if c := find(s, core.Grantee{Person: user.ID}, "", kind); c != nil && c.Generation == user.Generation {
		secret, err := k.secret(ctx, c, t)
		if err != nil {
			return err
		}
		old, revision, err := k.read(ctx, c)
		if err == nil {
			if err = k.Vault.Replace(ctx, c.SecretID, boundTo(c), secret, revision); err == nil {
				k.status.renewed(c.ID, k.Now(), t.Expires)
				if old.Refresh != "" && old.Refresh != t.Refresh {
					k.lost(ctx, c, tokens{Refresh: old.Refresh, Directory: old.Directory}) // nobody uses it any more
				}
				return nil
			}
		}
		if !errors.Is(err, vault.ErrNotFound) {
			return fmt.Errorf("keeping what an identity provider gave: %w", err)
		}
	}
	c := newCredential(s, kind, core.Grantee{Person: user.ID}, "")
	c.Generation = user.Generation
	c.SecretID = secretName(c)
	return k.keep(ctx, c, t)
}

func fromSignIn(given signin.Tokens, directory string, now time.Time) tokens {
	return tokens{Access: given.Access, Refresh: given.Refresh, ID: given.ID, Expires: given.Expires, Since: now, Directory: directory}
}

func toSignIn(t tokens) signin.Tokens {
	return signin.Tokens{Access: t.Access, Refresh: t.Refresh, ID: t.ID, Expires: t.Expires}
}

// identity returns a person's tokens of their identity provider, of which the one that is needed can be used. errIdentity: there are none.
func (k *Keeper) identity(ctx context.Context, user *core.User, need policyv1.IdentityToken) (tokens, error) {
	c := find(k.Engine.State(), core.Grantee{Person: user.ID}, "", policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY)
	if c == nil || c.Generation != user.Generation {
		return tokens{}, errIdentity
	}
	t, _, err := k.read(ctx, c)
	if errors.Is(err, vault.ErrNotFound) {
		return tokens{}, errIdentity
	}
	if err != nil {
		return tokens{}, err
	}
	k.status.used(c.ID, k.Now())
	ends := t.Expires
	if need == policyv1.IdentityToken_IDENTITY_TOKEN_ID {
		ends = expiryOf(t.ID)
	}
	if ends.IsZero() || k.Now().Before(ends.Add(-lastMoments)) {
		return t, nil
	}
	t, err = k.renewed(ctx, c, Ask{Rejected: []byte("expired")}, func(ctx context.Context, old tokens) (tokens, error) {
		if old.Refresh == "" {
			return tokens{}, errAgain
		}
		renewed, err := k.People.Renew(ctx, old.Directory, toSignIn(old))
		if err != nil {
			return tokens{}, oauthError(err)
		}
		fresh := fromSignIn(renewed, old.Directory, k.Now())
		if fresh.ID == "" {
			fresh.ID = old.ID
		}
		return fresh, nil
	})
	if errors.Is(err, errAgain) || errors.Is(err, vault.ErrNotFound) || isRefused(err) {
		return tokens{}, errIdentity
	}
	if err == nil && need == policyv1.IdentityToken_IDENTITY_TOKEN_ID && !k.Now().Before(expiryOf(t.ID)) {
		return tokens{}, errIdentity // the provider renews no ID tokens
	}
	return t, err
}

// expiryOf reads a JWT that came from its issuer itself. Zero: it says none.
func expiryOf(token string) time.Time {
	parsed, err := jwt.ParseSigned(token, assertionAlgorithms)
	if err != nil {
		return time.Time{}
	}
	var claims jwt.Claims
	if parsed.UnsafeClaimsWithoutVerification(&claims) != nil || claims.Expiry == nil {
		return time.Time{}
	}
	return claims.Expiry.Time()
}
