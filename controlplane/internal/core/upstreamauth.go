package core

import (
	"strings"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// PinUpstreamServer says which authorization server an admin approved for a connector.
type PinUpstreamServer struct {
	Connector string
	Server    message[*policyv1.UpstreamAuthorizationServer]
}

// NewPinUpstreamServer pins a server.
func NewPinUpstreamServer(connector string, server *policyv1.UpstreamAuthorizationServer) PinUpstreamServer {
	return PinUpstreamServer{Connector: connector, Server: message[*policyv1.UpstreamAuthorizationServer]{server}}
}

func (c PinUpstreamServer) decide(s *State, env Env) ([]*eventv1.Event, error) {
	connector := s.Connector(c.Connector)
	switch {
	case connector == nil:
		return nil, refuse(NotFound, "there is no connector %q", c.Connector)
	case !usesServer(connector.Settings.GetAuth()):
		return nil, refuse(FailedPrecondition, "connector %q gets its credentials from no authorization server", c.Connector)
	case connector.Server != nil && equal(connector.Server, c.Server.M):
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_UpstreamServerPinned{UpstreamServerPinned: &eventv1.UpstreamServerPinned{ConnectorId: c.Connector, Server: c.Server.M}}}), nil
}

// usesServer tells whether a connector's tokens come from an authorization server of the upstream's.
func usesServer(a *policyv1.UpstreamAuth) bool {
	return a.GetOauth() != nil || a.GetServiceAccount() != nil || a.GetTokenExchange() != nil || a.GetIdentityAssertion() != nil
}

// KeyHolder is whose keys a connector sends; unspecified: it sends none.
func KeyHolder(a *policyv1.UpstreamAuth) policyv1.KeyHolder {
	switch k := a.GetKind().(type) {
	case *policyv1.UpstreamAuth_Header:
		return max(k.Header.GetHolder(), policyv1.KeyHolder_KEY_HOLDER_SHARED)
	case *policyv1.UpstreamAuth_Query:
		return max(k.Query.GetHolder(), policyv1.KeyHolder_KEY_HOLDER_SHARED)
	}
	return policyv1.KeyHolder_KEY_HOLDER_UNSPECIFIED
}

// takesSecret tells whether a connector has a secret of its own: a key for all, or that of the gateway as a client.
func takesSecret(a *policyv1.UpstreamAuth) bool {
	return KeyHolder(a) == policyv1.KeyHolder_KEY_HOLDER_SHARED || usesServer(a)
}

// authIdentity is what credentials of a connector were made for. Where it changes they are of no use any more.
func authIdentity(c *policyv1.Connector) string {
	client := func(kind string, server *policyv1.UpstreamAuthorizationServer, client *policyv1.UpstreamClient) string {
		return strings.Join([]string{kind, c.GetUrl(), server.GetIssuer(), server.GetTokenEndpoint(), server.GetResource(), client.GetId()}, "\x00")
	}
	switch k := c.GetAuth().GetKind().(type) {
	case *policyv1.UpstreamAuth_Header, *policyv1.UpstreamAuth_Query:
		return "key " + KeyHolder(c.GetAuth()).String()
	case *policyv1.UpstreamAuth_Oauth:
		return client("oauth", k.Oauth.GetServer(), k.Oauth.GetClient())
	case *policyv1.UpstreamAuth_ServiceAccount:
		return client("service account", k.ServiceAccount.GetServer(), k.ServiceAccount.GetClient())
	case *policyv1.UpstreamAuth_TokenExchange:
		return client("token exchange", k.TokenExchange.GetServer(), k.TokenExchange.GetClient())
	case *policyv1.UpstreamAuth_IdentityAssertion:
		return client("identity assertion", k.IdentityAssertion.GetServer(), k.IdentityAssertion.GetClient())
	}
	return ""
}

// NeedsIdentity tells whether some connector needs people's tokens of their identity provider.
func (s *State) NeedsIdentity() bool {
	for c := range s.Connectors() {
		switch c.Settings.GetAuth().GetKind().(type) {
		case *policyv1.UpstreamAuth_TokenExchange, *policyv1.UpstreamAuth_IdentityAssertion, *policyv1.UpstreamAuth_PassThrough:
			return true
		}
	}
	return false
}
