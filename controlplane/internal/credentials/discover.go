package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"google.golang.org/protobuf/proto"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"
)

// Discover finds the authorization server of an upstream by its metadata (RFC 9728, 8414), with what the connector's settings say in place
// of what they lack or get wrong. A *core.Error says what an admin has to do.
func (k *Keeper) Discover(ctx context.Context, connector *policyv1.Connector) (*policyv1.UpstreamAuthorizationServer, error) {
	given := overridesOf(connector.GetAuth())
	found := &policyv1.UpstreamAuthorizationServer{}
	needsPage := connector.GetAuth().GetOauth() != nil
	if given.GetTokenEndpoint() == "" || needsPage && given.GetAuthorizationEndpoint() == "" {
		web, err := k.clients.http(connector)
		if err != nil {
			return nil, err
		}
		d := discovery{web: web, connector: connector}
		if found, err = d.server(ctx, given.GetIssuer(), needsPage); err != nil {
			return nil, err
		}
	}
	proto.Merge(found, &policyv1.UpstreamAuthorizationServer{
		Issuer: given.GetIssuer(), AuthorizationEndpoint: given.GetAuthorizationEndpoint(), TokenEndpoint: given.GetTokenEndpoint(),
		RegistrationEndpoint: given.GetRegistrationEndpoint(), RevocationEndpoint: given.GetRevocationEndpoint(), Revocation: given.GetRevocation(),
		ClientMetadataDocuments: given.GetClientMetadataDocuments(), SendsIssuer: given.GetSendsIssuer(), Resource: given.GetResource(),
	})
	if len(given.GetTokenAuthMethods()) > 0 {
		found.TokenAuthMethods = given.GetTokenAuthMethods()
	}
	if len(given.GetScopes()) > 0 {
		found.Scopes = given.GetScopes()
	}
	if found.GetTokenEndpoint() == "" || needsPage && found.GetAuthorizationEndpoint() == "" {
		return nil, refuse("the authorization server of connector %q names no token or authorization endpoint: say them under auth.server in its YAML", connector.GetId())
	}
	return found, nil
}

// discovery asks an upstream, and then its authorization server.
type discovery struct {
	web       *http.Client
	connector *policyv1.Connector
}

func (d discovery) server(ctx context.Context, issuer string, needsPage bool) (*policyv1.UpstreamAuthorizationServer, error) {
	id := d.connector.GetId()
	resource, err := d.resource(ctx)
	if err != nil {
		return nil, err
	}
	found := &policyv1.UpstreamAuthorizationServer{Resource: resource.Resource, Scopes: usable(resource.ScopesSupported)}
	switch servers := resource.AuthorizationServers; {
	case issuer != "":
	case len(servers) > 0:
		issuer = servers[0]
	default: // before RFC 9728 came to MCP, the upstream was its own (2025-03-26)
		u, err := url.Parse(d.connector.GetUrl())
		if err != nil {
			return nil, err
		}
		issuer = u.Scheme + "://" + u.Host
	}
	meta, err := d.metadata(ctx, issuer)
	if err != nil {
		return nil, err
	}
	if needsPage && !slices.Contains(meta.CodeChallengeMethodsSupported, "S256") {
		return nil, refuse("the authorization server %s of connector %q does not say that it knows PKCE with S256, without which nobody is sent there: if it does, name its endpoints under auth.server", issuer, id)
	}
	for _, at := range []string{meta.AuthorizationEndpoint, meta.TokenEndpoint, meta.RegistrationEndpoint, meta.RevocationEndpoint} {
		if at != "" && !safeURL(at) {
			return nil, refuse("the authorization server %s of connector %q names an endpoint that is no https URL", issuer, id)
		}
	}
	found.Issuer, found.AuthorizationEndpoint, found.TokenEndpoint = meta.Issuer, meta.AuthorizationEndpoint, meta.TokenEndpoint
	found.RegistrationEndpoint, found.RevocationEndpoint = meta.RegistrationEndpoint, meta.RevocationEndpoint
	found.TokenAuthMethods = meta.TokenEndpointAuthMethodsSupported[:min(20, len(meta.TokenEndpointAuthMethodsSupported))]
	found.ClientMetadataDocuments, found.SendsIssuer = meta.ClientIDMetadataDocumentSupported, meta.AuthorizationResponseIssParameterSupported
	return found, nil
}

// usable are the scopes that can be asked for.
func usable(scopes []string) (kept []string) {
	for _, s := range scopes {
		if s != "" && len(s) <= 200 && len(kept) < 200 && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) < 0 {
			kept = append(kept, s)
		}
	}
	return kept
}

// resource returns what the upstream says of itself: at the URL that its 401 names, or at a well-known one. Nothing, where it says nothing.
func (d discovery) resource(ctx context.Context) (*oauthex.ProtectedResourceMetadata, error) {
	target, err := url.Parse(d.connector.GetUrl())
	if err != nil {
		return nil, err
	}
	at := []string{}
	named, err := d.challenge(ctx)
	if err != nil {
		return nil, err
	}
	if named != "" {
		at = append(at, named)
	}
	origin := target.Scheme + "://" + target.Host
	if path := strings.TrimRight(target.EscapedPath(), "/"); path != "" {
		at = append(at, origin+"/.well-known/oauth-protected-resource"+path)
	}
	at = append(at, origin+"/.well-known/oauth-protected-resource")
	for _, u := range at {
		meta := &oauthex.ProtectedResourceMetadata{}
		known, err := d.get(ctx, u, meta)
		if err != nil {
			return nil, err
		}
		if !known {
			continue
		}
		if !covers(meta.Resource, target) {
			return nil, refuse("the metadata of connector %q at %s are of another resource, %.200q: its URL must be the one that its server calls itself", d.connector.GetId(), u, meta.Resource)
		}
		return meta, nil
	}
	return &oauthex.ProtectedResourceMetadata{}, nil
}

// covers tells whether a resource identifier is that of a URL, or of what lies above it.
func covers(resource string, target *url.URL) bool {
	r, err := url.Parse(resource)
	if err != nil || r.Scheme != target.Scheme || !strings.EqualFold(r.Host, target.Host) || r.Fragment != "" || r.RawQuery != "" {
		return false
	}
	above, path := strings.TrimRight(r.Path, "/"), strings.TrimRight(target.Path, "/")
	return path == above || strings.HasPrefix(path, above+"/")
}

// challenge asks the upstream without a credential, and returns the URL of metadata that its refusal names.
func (d discovery) challenge(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.connector.GetUrl(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	res, err := d.web.Do(req)
	if err != nil {
		return "", d.unreachable(err)
	}
	defer res.Body.Close()
	challenges, err := oauthex.ParseWWWAuthenticate(res.Header.Values("WWW-Authenticate"))
	if err != nil {
		return "", nil
	}
	for _, c := range challenges {
		if at := c.Params["resource_metadata"]; c.Scheme == "bearer" && safeURL(at) {
			return at, nil
		}
	}
	return "", nil
}

// metadata returns what an authorization server says of itself, at the well-known URLs in the order of MCP.
func (d discovery) metadata(ctx context.Context, issuer string) (*oauthex.AuthServerMeta, error) {
	u, err := url.Parse(issuer)
	if err != nil || !safeURL(issuer) || u.RawQuery != "" || u.Fragment != "" {
		return nil, refuse("connector %q names an authorization server that is no https URL", d.connector.GetId())
	}
	origin, path := u.Scheme+"://"+u.Host, strings.TrimRight(u.EscapedPath(), "/")
	at := []string{origin + "/.well-known/oauth-authorization-server" + path, origin + "/.well-known/openid-configuration" + path}
	if path != "" {
		at = append(at, origin+path+"/.well-known/openid-configuration")
	}
	for _, u := range at {
		meta := &oauthex.AuthServerMeta{}
		known, err := d.get(ctx, u, meta)
		if err != nil {
			return nil, err
		}
		if known && meta.Issuer == issuer { // exactly, or another could be taken for it (RFC 8414, section 3.3)
			return meta, nil
		}
	}
	return nil, refuse("the authorization server %s of connector %q has no metadata that name it: say its endpoints under auth.server in the connector's YAML", issuer, d.connector.GetId())
}

// get fetches a JSON document. False: there is none.
func (d discovery) get(ctx context.Context, at string, into any) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := d.web.Do(req)
	if err != nil {
		return false, d.unreachable(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 500 {
		return false, fmt.Errorf("metadata cannot be had now: HTTP status %d", res.StatusCode)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return false, errors.New("metadata cannot be read")
	}
	return res.StatusCode == http.StatusOK && json.Unmarshal(body, into) == nil, nil
}

func (d discovery) unreachable(err error) error {
	if errors.Is(err, egress.ErrRefused) {
		return refuse("connector %q was not asked: %v; if it is meant to be there, allow the range with allowedRanges in its YAML", d.connector.GetId(), egress.ErrRefused)
	}
	return errors.New("the upstream, or its authorization server, cannot be reached")
}

// safeURL tells whether a URL is https, or http of this machine.
func safeURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// differs says in which way what an upstream says now differs from what was approved. Empty: it does not.
func differs(approved, now *policyv1.UpstreamAuthorizationServer) string {
	for _, one := range []struct{ what, was, is string }{
		{"issuer", approved.GetIssuer(), now.GetIssuer()}, {"authorization endpoint", approved.GetAuthorizationEndpoint(), now.GetAuthorizationEndpoint()},
		{"token endpoint", approved.GetTokenEndpoint(), now.GetTokenEndpoint()}, {"registration endpoint", approved.GetRegistrationEndpoint(), now.GetRegistrationEndpoint()},
		{"revocation endpoint", approved.GetRevocationEndpoint(), now.GetRevocationEndpoint()}, {"resource", approved.GetResource(), now.GetResource()},
	} {
		if one.was != one.is {
			return one.what
		}
	}
	return ""
}
