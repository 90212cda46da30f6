package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// registered is a client's own secret where it registered itself.
type registered struct {
	ID     string `json:"client_id"`
	Secret string `json:"client_secret,omitempty"`
	Ends   int64  `json:"client_secret_expires_at,omitempty"`
}

// namesItself tells whether the gateway is a client by a metadata document, which servers fetch from an https URL.
func (k *Keeper) namesItself(settings *policyv1.Connector, server *policyv1.UpstreamAuthorizationServer) bool {
	return server.GetClientMetadataDocuments() && settings.GetAuth().GetOauth() != nil && (strings.HasPrefix(k.URL, "https://") || server.GetRegistrationEndpoint() == "")
}

// register makes the gateway a client (RFC 7591), once for all control planes.
func (k *Keeper) register(ctx context.Context, connector *core.Connector) (client, error) {
	id := connector.Settings.GetId()
	release, err := k.lease(ctx, "credential.registration."+id)
	if err != nil {
		return client{}, err
	}
	defer release()
	if s, err := k.Engine.Fence(ctx); err == nil {
		if now := s.Connector(id); now != nil && now.SecretID != "" && now.SecretID != connector.SecretID { // another was first
			if secret, _, err := k.Vault.Read(ctx, now.SecretID, id); err == nil {
				if cl, found, err := readClient(connector.Settings, string(secret.Reveal()), k.Now()); found {
					return cl, err
				}
			}
		}
	}
	web, err := k.clients.http(connector.Settings)
	if err != nil {
		return client{}, err
	}
	method := "client_secret_basic"
	if known := connector.Server.GetTokenAuthMethods(); len(known) > 0 && !slices.Contains(known, method) {
		method = "client_secret_post"
		if !slices.Contains(known, method) {
			method = "none"
		}
	}
	made, err := oauthex.RegisterClient(ctx, connector.Server.GetRegistrationEndpoint(), &oauthex.ClientRegistrationMetadata{
		RedirectURIs: []string{k.redirectURI(id)}, TokenEndpointAuthMethod: method, GrantTypes: []string{"authorization_code", grantRefresh},
		ResponseTypes: []string{"code"}, ClientName: "Sallyport", Scope: strings.Join(connector.Settings.GetAuth().GetOauth().GetScopes(), " "),
	}, web)
	var refused *oauthex.ClientRegistrationError
	if errors.As(err, &refused) {
		return client{}, refuse("the authorization server of connector %q does not register the gateway (%s): register it there by hand, and name it under auth.client.id", id, word(refused.ErrorCode))
	}
	if err != nil {
		return client{}, errors.New("the gateway could not be registered at an authorization server") // its own text may quote an answer
	}
	r := registered{ID: made.ClientID, Secret: made.ClientSecret}
	if !made.ClientSecretExpiresAt.IsZero() {
		r.Ends = made.ClientSecretExpiresAt.Unix()
	}
	value, err := json.Marshal(r)
	if err != nil {
		return client{}, err
	}
	secretID, err := k.Vault.PutConnectorSecret(ctx, id, string(value))
	if err != nil {
		return client{}, err
	}
	if _, err := k.Engine.Do(ctx, actor, core.SetConnectorSecret{Connector: id, SecretID: secretID}); err != nil {
		k.destroy(ctx, secretID)
		return client{}, err
	}
	return client{id: r.ID, secret: r.Secret}, nil
}

// registeredFor is how long a registration of the gateway's own is kept at least: a server that knows nobody would have it register for ever.
const registeredFor = time.Minute

// unregistered tells whether a server refuses the gateway because it does not know the registration any more that the gateway made there (RFC 6749,
// section 5.2: invalid_client). That is taken out of use then, so that the next link registers anew.
func (k *Keeper) unregistered(ctx context.Context, connector *core.Connector, cl client, err error) bool {
	var refused *refusedError
	if !errors.As(err, &refused) || refused.code != "invalid_client" || clientOf(connector.Settings.GetAuth()).GetId() != "" {
		return false
	}
	s, fenced := k.Engine.Fence(ctx)
	if fenced != nil {
		return false
	}
	for c := range s.CredentialsOf(core.Shared, connector.Settings.GetId()) {
		value, err := k.keyValue(ctx, c)
		if c.Kind != policyv1.CredentialKind_CREDENTIAL_KIND_KEY || err != nil {
			continue
		}
		if own, found, err := readClient(connector.Settings, value, k.Now()); err != nil || !found || own.id != cl.id {
			continue // another is registered meanwhile
		}
		if k.Now().Sub(c.At) < registeredFor {
			return false
		}
		if _, err := k.Engine.Do(ctx, actor, core.WithdrawCredentials{IDs: []uuid.UUID{c.ID}}); err != nil {
			return false
		}
		k.Log.WarnContext(ctx, "the authorization server of a connector does not know the gateway any more: it registers anew when somebody connects next", "connector", connector.Settings.GetId())
		return true
	}
	return true
}
