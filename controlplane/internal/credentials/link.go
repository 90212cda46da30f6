package credentials

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/oauth2"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/vault"
)

// linkFor is how long a person may take at the upstream.
const linkFor = 15 * time.Minute

// link is a person on the way to an upstream's authorization server. Its key is the digest of the state parameter; the PKCE verifier is
// derived from the browser's own secret.
type link struct {
	Person     uuid.UUID `json:"person"`
	Generation uint64    `json:"generation"`
	Session    string    `json:"session"`
	Connector  string    `json:"connector"`
	// Issuer and TokenEndpoint, so that a connector whose server is another meanwhile does not take this one's answer.
	Issuer        string    `json:"issuer"`
	TokenEndpoint string    `json:"token_endpoint"`
	Scopes        []string  `json:"scopes"`
	Begun         time.Time `json:"begun"`
	Done          bool      `json:"done,omitempty"`
}

func linkKey(state string) string { return "connect.link." + digest(state) }

// wanted are the scopes to ask for: the connector's, those that the person gave before, and those that a call needs.
func (k *Keeper) wanted(ctx context.Context, v visit) ([]string, error) {
	scopes := slices.Clone(v.connector.Settings.GetAuth().GetOauth().GetScopes())
	if len(scopes) == 0 {
		scopes = slices.Clone(v.connector.Server.GetScopes())
	}
	if c := find(k.Engine.State(), core.Grantee{Person: v.who.User.ID}, v.connector.Settings.GetId(), policyv1.CredentialKind_CREDENTIAL_KIND_OAUTH); c != nil {
		t, _, err := k.read(ctx, c)
		if err != nil && !errors.Is(err, vault.ErrNotFound) {
			return nil, err
		}
		scopes = append(scopes, t.Scopes...)
	}
	scopes = append(scopes, v.scopes...)
	var unique []string
	for _, s := range scopes {
		if !slices.Contains(unique, s) {
			unique = append(unique, s)
		}
	}
	return unique, nil
}

// depart makes the URL of the authorization request (RFC 6749, 7636, 8707).
func (k *Keeper) depart(ctx context.Context, v visit) (string, error) {
	connector := v.connector
	cl, err := k.client(ctx, connector)
	if err != nil {
		return "", err
	}
	scopes, err := k.wanted(ctx, v)
	if err != nil {
		return "", err
	}
	state := rand.Text() + rand.Text()
	held := link{
		Person: v.who.User.ID, Generation: v.who.User.Generation, Session: v.who.Session, Connector: connector.Settings.GetId(),
		Issuer: connector.Server.GetIssuer(), TokenEndpoint: connector.Server.GetTokenEndpoint(), Scopes: scopes, Begun: k.Now(),
	}
	value, err := json.Marshal(held)
	if err != nil {
		return "", err
	}
	if _, err := k.Store.Create(ctx, linkKey(state), value, linkFor); err != nil {
		return "", err
	}
	config := oauth2.Config{ClientID: cl.id, RedirectURL: k.redirectURI(held.Connector), Scopes: scopes, Endpoint: oauth2.Endpoint{AuthURL: connector.Server.GetAuthorizationEndpoint()}}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(v.who.Form("pkce " + state))}
	if resource := withResource(url.Values{}, connector).Get("resource"); resource != "" {
		options = append(options, oauth2.SetAuthURLParam("resource", resource))
	}
	return config.AuthCodeURL(state, options...), nil
}

// errForged: an answer was not asked for by this browser, came too late, or came a second time.
var errForged = errors.New("the answer was not asked for")

// redeem takes the link that an answer belongs to, once.
func (k *Keeper) redeem(r *http.Request, who signin.Who) (link, error) {
	var held link
	states := r.URL.Query()["state"]
	if len(states) != 1 || len(states[0]) > 200 {
		return held, errForged
	}
	entry, err := k.Store.Get(r.Context(), linkKey(states[0]))
	if errors.Is(err, kv.ErrNotFound) {
		return held, errForged
	}
	if err != nil {
		return held, err
	}
	if err := json.Unmarshal(entry.Value, &held); err != nil {
		return held, fmt.Errorf("reading a link: %w", err)
	}
	if held.Done || held.Connector != r.PathValue("connector") || k.Now().Sub(held.Begun) > linkFor ||
		held.Session != who.Session || held.Person != who.User.ID || held.Generation != who.User.Generation {
		return held, errForged
	}
	done := held
	done.Done = true
	value, err := json.Marshal(done)
	if err != nil {
		return held, err
	}
	if _, err := k.Store.Update(r.Context(), linkKey(states[0]), value, entry.Revision, linkFor); errors.Is(err, kv.ErrConflict) {
		return held, errForged
	} else if err != nil {
		return held, err
	}
	return held, nil
}

// arrive redeems a code, looks whose account it is, and keeps what came.
func (k *Keeper) arrive(ctx context.Context, v visit, held link, code, state string) (tokens, error) {
	connector := v.connector
	cl, err := k.client(ctx, connector)
	if err != nil {
		return tokens{}, err
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {k.redirectURI(held.Connector)},
		"code_verifier": {v.who.Form("pkce " + state)}, "scope": {strings.Join(held.Scopes, " ")},
	}
	t, err := k.request(ctx, connector, cl, withResource(form, connector))
	if err != nil {
		k.unregistered(ctx, connector, cl, err) // who begins again finds the gateway registered anew
		return tokens{}, err
	}
	c := newCredential(k.Engine.State(), policyv1.CredentialKind_CREDENTIAL_KIND_OAUTH, core.Grantee{Person: held.Person}, held.Connector)
	c.Generation = held.Generation // for which it was made, whatever it is now
	if err := k.checkAccount(ctx, connector, t); err != nil {
		k.lost(ctx, c, t)
		return tokens{}, err
	}
	return t, k.keep(ctx, c, t)
}
