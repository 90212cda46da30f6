package credentials

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// ForDiscovery returns with what an upstream is asked what it offers: what it wants to see for the admin who asks, or a key, whoever's it is. Nothing,
// where it takes nothing, or there is none.
func (k *Keeper) ForDiscovery(ctx context.Context, connector *core.Connector, admin *core.User) (Issued, error) {
	s, a := k.Engine.State(), connector.Settings.GetAuth()
	id := connector.Settings.GetId()
	if a.GetKind() == nil {
		return Issued{}, nil
	}
	if core.KeyHolder(a) != policyv1.KeyHolder_KEY_HOLDER_UNSPECIFIED {
		var newest *core.Credential
		for c := range s.Credentials() {
			if c.Connector == id && c.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_KEY && (newest == nil || c.Seq > newest.Seq) {
				newest = c
			}
		}
		if newest == nil {
			return Issued{}, nil
		}
		value, err := k.keyValue(ctx, newest)
		return inTemplate(a, value), err
	}
	if admin == nil && a.GetServiceAccount() == nil {
		return Issued{}, refuse("connector %q is asked as somebody, and a token is nobody: sign in with sallyport login and connect yourself at %s/connect/%s, or give the tools with --file", id, k.URL, id)
	}
	if admin == nil {
		admin = &core.User{}
	}
	issued, err := k.Issue(ctx, s, admin, connector, Ask{})
	if err == nil && issued.Connect != nil {
		return Issued{}, refuse("connector %q is asked as you, and you have not connected yourself: open %s", id, issued.Connect.URL)
	}
	return issued, err
}

// RenewNow renews a credential's tokens, though they are still good.
func (k *Keeper) RenewNow(ctx context.Context, by *eventv1.Actor, id uuid.UUID) (Status, error) {
	s, err := k.Engine.Fence(ctx)
	if err != nil {
		return Status{}, err
	}
	c := s.Credential(id)
	if c == nil {
		return Status{}, &core.Error{Code: core.NotFound, Message: "there is no credential of this id in use: see sallyport credentials list"}
	}
	connector := s.Connector(c.Connector)
	if connector == nil || c.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
		return Status{}, refuse("only tokens of upstreams are renewed: a key is replaced with sallyport secrets set or sallyport credentials set")
	}
	t, _, err := k.read(ctx, c)
	if err != nil {
		return Status{}, err
	}
	sum := sha256.Sum256([]byte("Bearer " + t.Access))
	user := s.User(c.Owner.Person)
	if user == nil {
		user = &core.User{}
	}
	issued, err := k.Issue(ctx, s, user, connector, Ask{Rejected: sum[:], anew: true})
	if err == nil && issued.Connect != nil {
		err = refuse("%s: they are asked again at their next call", issued.Connect.Reason)
	}
	if err != nil {
		return Status{}, err
	}
	// Proxies forget what they hold of it.
	if _, err := k.Engine.Do(ctx, by, core.NoteRenewal{ID: id}); err != nil {
		return Status{}, err
	}
	return k.StatusOf(ctx, id)
}

// Found is what an upstream says of its authorization server.
type Found struct {
	Server *policyv1.UpstreamAuthorizationServer
	Digest string
	// RedirectURI is the gateway's, Client how it is a client there, in words.
	RedirectURI, Client string
	// IsClient: it is one, or becomes one by itself.
	IsClient bool
}

// FindServer asks a connector's upstream for its authorization server.
func (k *Keeper) FindServer(ctx context.Context, connector *core.Connector) (Found, error) {
	if clientOf(connector.Settings.GetAuth()) == nil && overridesOf(connector.Settings.GetAuth()) == nil && !needsServer(connector.Settings.GetAuth()) {
		return Found{}, refuse("connector %q gets its credentials from no authorization server", connector.Settings.GetId())
	}
	server, err := k.Discover(ctx, connector.Settings)
	if err != nil {
		return Found{}, err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(server)
	if err != nil {
		return Found{}, err
	}
	sum := sha256.Sum256(data)
	found := Found{Server: server, Digest: hex.EncodeToString(sum[:]), RedirectURI: k.redirectURI(connector.Settings.GetId()), IsClient: true}
	switch given := clientOf(connector.Settings.GetAuth()).GetId(); {
	case given != "":
		found.Client = "as " + given
	case k.namesItself(connector.Settings, server):
		found.Client = "by its metadata document " + k.documentURL(connector.Settings.GetId())
	case server.GetRegistrationEndpoint() != "" && connector.Settings.GetAuth().GetOauth() != nil:
		found.Client = "registers itself at the first link"
	default:
		found.IsClient, found.Client = false, "not yet: register one by hand and name it under auth.client.id"
	}
	return found, nil
}

func needsServer(a *policyv1.UpstreamAuth) bool {
	return a.GetOauth() != nil || a.GetServiceAccount() != nil || a.GetTokenExchange() != nil || a.GetIdentityAssertion() != nil
}

// TrustServer approves what FindServer found, if it is still that.
func (k *Keeper) TrustServer(ctx context.Context, by *eventv1.Actor, connector *core.Connector, digest string) (*policyv1.UpstreamAuthorizationServer, uint64, error) {
	found, err := k.FindServer(ctx, connector)
	if err != nil {
		return nil, 0, err
	}
	if digest != "" && digest != found.Digest {
		return nil, 0, &core.Error{Code: core.Conflict, Message: "the upstream names something else now than what was approved: look again"}
	}
	out, err := k.Engine.Do(ctx, by, core.NewPinUpstreamServer(connector.Settings.GetId(), found.Server))
	return found.Server, out.Seq, err
}

// IsUnavailable tells whether an error passes by itself.
func IsUnavailable(err error) bool {
	var refused *core.Error
	return err != nil && !errors.As(err, &refused)
}
