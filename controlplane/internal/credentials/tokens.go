package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/vault"
)

const (
	// leaseFor is how long one control plane may take to renew a token before another may try.
	leaseFor = time.Minute
	// renewFor bounds a renewal with its tries: well below leaseFor.
	renewFor = 40 * time.Second
	// lastMoments of a token are not used.
	lastMoments = 10 * time.Second
	// freshFor is how long a token is not renewed again because an upstream refuses it.
	freshFor = 10 * time.Second
	// earliest is how long before its end a token is renewed at the earliest, while it is used on.
	earliest = 5 * time.Minute
)

// tokens is what an authorization server gave.
type tokens struct {
	Access  string    `json:"access"`
	Refresh string    `json:"refresh,omitempty"`
	ID      string    `json:"id,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Since   time.Time `json:"since,omitzero"`
	Scopes  []string  `json:"scopes,omitempty"`
	// Client is the id of the client that they were given to.
	Client string `json:"client,omitempty"`
	// Directory whose provider gave them, of a person's tokens of their identity provider.
	Directory string `json:"directory,omitempty"`
}

// good tells whether the access token can still be used.
func (t tokens) good(ask Ask, now time.Time) bool {
	return (t.Expires.IsZero() || now.Before(t.Expires.Add(-lastMoments))) && (len(ask.Rejected) == 0 || !ask.rejected("Bearer "+t.Access))
}

// due tells whether it is time to renew a token that can still be used.
func (t tokens) due(now time.Time) bool {
	return !t.Expires.IsZero() && !now.Before(t.Expires.Add(-min(earliest, t.Expires.Sub(t.Since)/4)))
}

// errAgain: the person, or an admin, must let the gateway in again.
var errAgain = errors.New("it is not renewed any more")

// renewal makes new tokens of old ones. errAgain: never again.
type renewal func(ctx context.Context, old tokens) (tokens, error)

// read returns a credential's tokens with their revision.
func (k *Keeper) read(ctx context.Context, c *core.Credential) (tokens, uint64, error) {
	secret, revision, err := k.Vault.Read(ctx, c.SecretID, boundTo(c))
	if err != nil {
		return tokens{}, 0, err
	}
	plain := secret.Reveal()
	if c.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY {
		var erased bool
		if plain, erased, err = k.Vault.Open(ctx, c.Owner.Person, plain); err != nil || erased {
			return tokens{}, 0, errors.Join(err, vault.ErrNotFound)
		}
	}
	var t tokens
	if json.Unmarshal(plain, &t) != nil {
		return tokens{}, 0, errors.New("the vault holds tokens that cannot be read") // without the error, which may quote them
	}
	return t, revision, nil
}

// secret is tokens as they are kept: those of an identity provider under the person's own key too.
func (k *Keeper) secret(ctx context.Context, c *core.Credential, t tokens) (vault.Secret, error) {
	plain, err := json.Marshal(t)
	if err == nil && c.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY {
		plain, err = k.Vault.Seal(ctx, c.Owner.Person, plain)
	}
	return vault.NewSecret(plain), err
}

// tokensOf returns a credential's tokens, renewed where they are to be. Whoever waits for a renewal waits for the same one, at this control
// plane and all others.
func (k *Keeper) tokensOf(ctx context.Context, c *core.Credential, ask Ask, renew renewal) (tokens, error) {
	// Of many that read at the same time one does. What it began to read before a renewal is seen to be old below.
	done := k.reading.DoChan(c.ID.String(), func() (any, error) {
		t, _, err := k.read(context.WithoutCancel(ctx), c)
		return t, err
	})
	var t tokens
	select {
	case r := <-done:
		if r.Err != nil {
			return tokens{}, r.Err
		}
		t, _ = r.Val.(tokens)
	case <-ctx.Done():
		return tokens{}, context.Cause(ctx)
	}
	now := k.Now()
	if t.good(ask, now) {
		k.status.used(c.ID, now)
		if t.due(now) {
			ctx := context.WithoutCancel(ctx)
			k.beside.Go(func() {
				if _, err := k.renewed(ctx, c, Ask{}, renew); err != nil && !errors.Is(err, errAgain) {
					k.Log.WarnContext(ctx, "a token could not be renewed ahead of time; it is tried again", "connector", c.Connector, "credential", c.ID, "error", err)
				}
			})
		}
		return t, nil
	}
	k.status.used(c.ID, now)
	return k.renewed(ctx, c, ask, renew)
}

// renewed waits for one renewal, whoever began it.
func (k *Keeper) renewed(ctx context.Context, c *core.Credential, ask Ask, renew renewal) (tokens, error) {
	done := k.renewing.DoChan(c.ID.String()+string(ask.Rejected), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseFor+renewFor)
		defer cancel()
		return k.renewAlone(ctx, c, ask, renew)
	})
	select {
	case r := <-done:
		t, _ := r.Val.(tokens)
		return t, r.Err
	case <-ctx.Done():
		return tokens{}, context.Cause(ctx)
	}
}

// renewAlone renews tokens under a lease that one control plane has at a time. Whoever has it looks first whether another has renewed them.
func (k *Keeper) renewAlone(ctx context.Context, c *core.Credential, ask Ask, renew renewal) (tokens, error) {
	release, err := k.lease(ctx, "credential.renewal."+c.ID.String())
	if err != nil {
		return tokens{}, err
	}
	defer release()
	old, revision, err := k.read(ctx, c)
	if err != nil {
		return tokens{}, err
	}
	if now := k.Now(); old.good(ask, now) && (ask.Rejected != nil || !old.due(now)) {
		return old, nil
	}
	if age := k.Now().Sub(old.Since); ask.Rejected != nil && !ask.anew && old.good(Ask{}, k.Now()) && age >= 0 && age < freshFor {
		return old, nil // what refuses this one refuses the next
	}
	bounded, cancel := context.WithTimeout(ctx, renewFor)
	defer cancel()
	fresh, err := k.tries(bounded, old, renew)
	if errors.Is(err, errAgain) {
		return tokens{}, k.again(ctx, c, revision, err)
	}
	if err != nil {
		k.status.failed(c.ID, k.Now())
		return tokens{}, err
	}
	if fresh.Refresh == "" {
		fresh.Refresh = old.Refresh
	}
	if fresh.Scopes == nil {
		fresh.Scopes = old.Scopes
	}
	secret, err := k.secret(ctx, c, fresh)
	if err == nil {
		err = k.Vault.Replace(ctx, c.SecretID, boundTo(c), secret, revision)
	}
	if err != nil {
		k.lost(ctx, c, fresh)
		return tokens{}, err
	}
	// Whoever withdrew it meanwhile may have looked before these were there.
	s, err := k.Engine.Fence(ctx)
	if err != nil {
		return tokens{}, err
	}
	if s.Credential(c.ID) == nil {
		k.lost(ctx, c, fresh)
		k.destroy(ctx, c.SecretID)
		return tokens{}, fmt.Errorf("renewing a token: %w", vault.ErrNotFound)
	}
	k.status.renewed(c.ID, k.Now(), fresh.Expires)
	return fresh, nil
}

// tries renews, and tries again after what may pass.
func (k *Keeper) tries(ctx context.Context, old tokens, renew renewal) (t tokens, err error) {
	pause := 100 * time.Millisecond
	for range 4 {
		if t, err = renew(ctx, old); err == nil || errors.Is(err, errAgain) || errors.Is(err, errIdentity) || isRefusal(err) {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, err
		case <-time.After(pause):
		}
		pause *= 4
	}
	return t, err
}

func isRefusal(err error) bool {
	var refused *core.Error
	return errors.As(err, &refused)
}

// again takes a credential out of use that is not renewed any more, unless another control plane renewed it meanwhile.
func (k *Keeper) again(ctx context.Context, c *core.Credential, revision uint64, why error) error {
	if _, now, err := k.read(ctx, c); err == nil && now != revision {
		return errors.New("a token was renewed by another control plane meanwhile: try again")
	}
	if _, err := k.Engine.Do(ctx, actor, core.WithdrawCredentials{IDs: []uuid.UUID{c.ID}}); err != nil {
		return err
	}
	return why
}

// lost revokes tokens that came too late to be kept.
func (k *Keeper) lost(ctx context.Context, c *core.Credential, t tokens) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewFor)
	defer cancel()
	w := &core.Withdrawal{Credential: *c}
	if connector := k.Engine.State().Connector(c.Connector); connector != nil {
		w.Settings, w.Server = connector.Settings, connector.Server
	} else if was := k.Engine.State().Withdrawal(c.ID); was != nil {
		w.Settings, w.Server = was.Settings, was.Server
	}
	if outcome, err := k.revokeTokens(ctx, w, t); err != nil {
		k.Log.ErrorContext(ctx, "tokens that came after their credential was withdrawn could not be revoked upstream", "connector", c.Connector, "credential", c.ID, "outcome", outcome, "error", err)
	}
}

// lease waits until this control plane alone may do something.
func (k *Keeper) lease(ctx context.Context, key string) (release func(), err error) {
	pause := 5 * time.Millisecond
	for {
		_, err := k.Store.Create(ctx, key, []byte("1"), leaseFor)
		if err == nil {
			return func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				if err := k.Store.Purge(ctx, key); err != nil {
					k.Log.WarnContext(ctx, "a lease could not be given up; it runs out", "key", key, "error", err)
				}
			}, nil
		}
		if !errors.Is(err, kv.ErrExists) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another control plane is at it: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}
