package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/oauth2"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/vault"
)

// Run ends what was withdrawn, until ctx ends, and then waits for renewals that are under way.
func (k *Keeper) Run(ctx context.Context) {
	defer k.beside.Wait()
	ticker := time.NewTicker(k.Every)
	defer ticker.Stop()
	failing, swept, flushed := false, time.Time{}, k.Now()
	for {
		select {
		case <-ctx.Done():
			k.status.flush(context.WithoutCancel(ctx), k.Store, k.Log)
			return
		case <-ticker.C:
		}
		if k.Now().Sub(flushed) > flushEvery {
			k.status.flush(ctx, k.Store, k.Log)
			flushed = k.Now()
		}
		if !k.Engine.Leading() {
			continue
		}
		err := k.pass(ctx)
		if err == nil && k.Now().Sub(swept) > sweepEvery {
			if err = k.sweep(ctx); err == nil {
				swept = k.Now()
			}
		}
		if err != nil && !failing && ctx.Err() == nil {
			k.Log.WarnContext(ctx, "withdrawn credentials cannot be ended now; it is tried again", "error", err)
		}
		failing = err != nil
	}
}

const (
	// sweepEvery is how often it is looked for secrets of which the log knows nothing; they are left alone while they are young.
	sweepEvery = time.Hour
	young      = 15 * time.Minute
	// passMost bounds what is ended at a time.
	passMost = 200
	atOnce   = 8
)

// pass ends those withdrawals whose time has come. A connector's own secret comes last: it revokes the others.
func (k *Keeper) pass(ctx context.Context) error {
	s := k.Engine.State()
	if s.OpenWithdrawals() == 0 {
		return nil
	}
	var due []*core.Withdrawal
	others := map[string]bool{} // connectors that have more than their own secret to end
	for w := range s.Withdrawals() {
		if !w.Ended.IsZero() {
			continue
		}
		if w.Kind != policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
			others[w.Connector] = true
		}
		if !w.Next.After(k.Now()) && len(due) < passMost {
			due = append(due, w)
		}
	}
	slots, results := make(chan struct{}, atOnce), make(chan error, len(due))
	for _, w := range due {
		if w.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_KEY && others[w.Connector] && w.Owner == core.Shared && s.Connector(w.Connector) == nil {
			results <- nil
			continue
		}
		slots <- struct{}{}
		go func() { // it is waited for below
			defer func() { <-slots }()
			results <- k.end(ctx, w)
		}()
	}
	var failed error
	for range due {
		failed = errors.Join(failed, <-results)
	}
	return failed
}

// end revokes a withdrawn credential upstream, destroys it here, and says so; or says when it is tried again.
func (k *Keeper) end(ctx context.Context, w *core.Withdrawal) error {
	outcome, err := k.revoke(ctx, w)
	if err != nil {
		// What cannot be read cannot be revoked; a failure of the vault itself is none of the upstream's.
		return err
	}
	now := k.Now()
	if outcome == policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_FAILED {
		next := now.Add(backoff(w.Tries))
		if next.Before(w.WithdrawnAt.Add(k.GiveUp)) {
			_, err := k.Engine.Do(ctx, actor, core.NoteRevocation{ID: w.ID, Outcome: outcome, Next: next})
			return err
		}
		outcome = policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_GIVEN_UP
		k.Log.ErrorContext(ctx, "a credential could not be revoked upstream for so long that it is given up: it is destroyed here, and is to be revoked there by hand", "connector", w.Connector, "credential", w.ID, "person", w.Owner.Person)
	}
	if err := k.Vault.Destroy(ctx, w.SecretID); err != nil {
		return err
	}
	k.status.forget(ctx, k.Store, w.ID)
	_, err = k.Engine.Do(ctx, actor, core.FinishWithdrawal{ID: w.ID, Outcome: outcome})
	return err
}

// backoff is how long it is waited after so many tries.
func backoff(tries int) time.Duration {
	return min(2*time.Second<<min(tries, 12), time.Hour)
}

// revoke revokes a withdrawn credential upstream. The error is of the vault.
func (k *Keeper) revoke(ctx context.Context, w *core.Withdrawal) (policyv1.CredentialOutcome, error) {
	if w.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
		return policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_NO_REVOCATION, nil
	}
	t, _, err := k.read(ctx, &w.Credential)
	if errors.Is(err, vault.ErrNotFound) {
		return policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_GONE, nil
	}
	if err != nil {
		return 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, renewFor)
	defer cancel()
	outcome, err := k.revokeTokens(bounded, w, t)
	if err != nil {
		k.Log.WarnContext(ctx, "a credential could not be revoked upstream; it is tried again", "connector", w.Connector, "credential", w.ID, "error", err)
	}
	return outcome, nil
}

// revokeTokens revokes tokens where they came from.
func (k *Keeper) revokeTokens(ctx context.Context, w *core.Withdrawal, t tokens) (policyv1.CredentialOutcome, error) {
	const (
		revoked = policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_REVOKED
		failed  = policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_FAILED
		none    = policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_NO_REVOCATION
	)
	if w.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY {
		can, err := k.People.Revoke(ctx, t.Directory, toSignIn(t))
		switch {
		case err != nil:
			return failed, errors.New("the identity provider did not revoke its tokens")
		case !can:
			return none, nil
		}
		return revoked, nil
	}
	server := w.Server
	if server.GetRevocationEndpoint() == "" || server.GetRevocation() == policyv1.Revocation_REVOCATION_NONE {
		return none, nil
	}
	cl, err := k.clientOfWithdrawn(ctx, w, t)
	if err != nil {
		return failed, err
	}
	web, err := k.clients.http(w.Settings)
	if err != nil {
		return failed, err
	}
	if server.GetRevocation() == policyv1.Revocation_REVOCATION_GITHUB {
		if err := k.revokeAtGitHub(ctx, web, server, cl, t); err != nil {
			return failed, err
		}
		return revoked, nil
	}
	for _, one := range []struct{ token, hint string }{{t.Refresh, grantRefresh}, {t.Access, "access_token"}} {
		if one.token == "" {
			continue
		}
		known, err := k.revokeOne(ctx, web, server, cl, one.token, one.hint)
		if err != nil {
			return failed, err
		}
		if !known && one.hint == grantRefresh {
			return none, nil
		}
	}
	return revoked, nil
}

// clientOfWithdrawn is the client that tokens were given to, with its secret, which may be withdrawn itself.
func (k *Keeper) clientOfWithdrawn(ctx context.Context, w *core.Withdrawal, t tokens) (client, error) {
	s := k.Engine.State()
	var secrets []*core.Credential
	for c := range s.CredentialsOf(core.Shared, w.Connector) {
		secrets = append(secrets, c)
	}
	for other := range s.Withdrawals() {
		if other.Connector == w.Connector && other.Owner == core.Shared && other.Ended.IsZero() {
			secrets = append(secrets, &other.Credential)
		}
	}
	for _, c := range secrets {
		if c.Kind != policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
			continue
		}
		value, err := k.keyValue(ctx, c)
		if err != nil {
			continue
		}
		if cl, found, err := readClient(w.Settings, value, k.Now()); err == nil && found && (t.Client == "" || cl.id == t.Client) {
			return cl, nil
		}
	}
	if t.Client == "" {
		return client{}, errors.New("the client that the tokens were given to is not known any more")
	}
	return client{id: t.Client}, nil
}

// revokeOne revokes a token (RFC 7009). False: the server has no way to revoke one of this kind.
func (k *Keeper) revokeOne(ctx context.Context, web *http.Client, server *policyv1.UpstreamAuthorizationServer, cl client, token, hint string) (bool, error) {
	form := url.Values{"token": {token}, "token_type_hint": {hint}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.GetRevocationEndpoint(), nil)
	if err != nil {
		return false, err
	}
	switch {
	case cl.key != nil:
		audience := server.GetIssuer()
		if audience == "" {
			audience = server.GetTokenEndpoint()
		}
		signed, err := cl.assertion(audience, k.Now())
		if err != nil {
			return false, err
		}
		form.Set("client_id", cl.id)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", signed)
	case cl.secret == "" || authStyle(cl, server) == oauth2.AuthStyleInParams:
		form.Set("client_id", cl.id)
		if cl.secret != "" {
			form.Set("client_secret", cl.secret)
		}
	default:
		req.SetBasicAuth(url.QueryEscape(cl.id), url.QueryEscape(cl.secret))
	}
	body := form.Encode()
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := web.Do(req)
	if err != nil {
		return false, errors.New("the authorization server does not answer")
	}
	defer res.Body.Close()
	var said struct {
		Error string `json:"error"`
	}
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // without one there is the status
	_ = json.Unmarshal(answer, &said)
	switch {
	case res.StatusCode == http.StatusOK || res.StatusCode == http.StatusNoContent:
		return true, nil
	case said.Error == "unsupported_token_type":
		return false, nil
	}
	return false, fmt.Errorf("the authorization server refused to revoke: HTTP status %d %s", res.StatusCode, word(said.Error))
}

// revokeAtGitHub ends a token, and the grant behind it, by GitHub's own API.
func (k *Keeper) revokeAtGitHub(ctx context.Context, web *http.Client, server *policyv1.UpstreamAuthorizationServer, cl client, t tokens) error {
	body, err := json.Marshal(map[string]string{"access_token": t.Access})
	if err != nil {
		return err
	}
	at := strings.ReplaceAll(server.GetRevocationEndpoint(), "{client_id}", url.PathEscape(cl.id))
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, at, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(cl.id, cl.secret)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("Content-Type", "application/json")
	res, err := web.Do(req)
	if err != nil {
		return errors.New("GitHub does not answer")
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusNoContent, http.StatusOK, http.StatusNotFound, http.StatusUnprocessableEntity: // it is no token of this application any more
		return nil
	}
	return fmt.Errorf("GitHub refused to revoke: HTTP status %d", res.StatusCode)
}

// sweep makes an end of secrets of which the log knows nothing: a control plane died between keeping one and saying so.
func (k *Keeper) sweep(ctx context.Context) error {
	names, err := k.Vault.Names(ctx, namePrefix)
	if err != nil {
		return err
	}
	s, err := k.Engine.Fence(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		c, ok := named(name)
		if !ok || s.Credential(c.ID) != nil || age(c.ID, k.Now()) < young {
			continue
		}
		if w := s.Withdrawal(c.ID); w != nil && w.Ended.IsZero() {
			continue
		}
		w := &core.Withdrawal{Credential: *c}
		if connector := s.Connector(c.Connector); connector != nil {
			w.Settings, w.Server = connector.Settings, connector.Server
		}
		outcome, err := k.revoke(ctx, w)
		if err == nil {
			err = k.Vault.Destroy(ctx, name)
		}
		if err != nil {
			return err
		}
		k.Log.WarnContext(ctx, "a secret of which the log knows nothing was destroyed: a control plane died while it was kept", "connector", c.Connector, "credential", c.ID, "upstream", outcome)
	}
	return nil
}

// age is how old an id is that says when it was made.
func age(id uuid.UUID, now time.Time) time.Duration {
	seconds, nanos := id.Time().UnixTime()
	return now.Sub(time.Unix(seconds, nanos))
}
