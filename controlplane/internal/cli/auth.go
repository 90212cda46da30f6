package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// upstreamAuth is the auth of a connector's YAML.
type upstreamAuth struct {
	Type string `yaml:"type"`
	// Keys.
	Header   string `yaml:"header"`
	Query    string `yaml:"query"`
	Template string `yaml:"template"`
	KeysOf   string `yaml:"keysOf"`
	// Tokens.
	Kit    string   `yaml:"kit"`
	Scopes []string `yaml:"scopes"`
	Client struct {
		ID             string `yaml:"id"`
		Authentication string `yaml:"authentication"`
	} `yaml:"client"`
	Server   *upstreamServer `yaml:"server"`
	Audience string          `yaml:"audience"`
	Token    string          `yaml:"token"`
	Account  *struct {
		URL     string   `yaml:"url"`
		Member  string   `yaml:"member"`
		Allowed []string `yaml:"allowed"`
	} `yaml:"account"`
}

// upstreamServer is what an authorization server's metadata lack or get wrong.
type upstreamServer struct {
	Issuer                string   `yaml:"issuer"`
	AuthorizationEndpoint string   `yaml:"authorizationEndpoint"`
	TokenEndpoint         string   `yaml:"tokenEndpoint"`
	RegistrationEndpoint  string   `yaml:"registrationEndpoint"`
	RevocationEndpoint    string   `yaml:"revocationEndpoint"`
	Revocation            string   `yaml:"revocation"`
	TokenAuthMethods      []string `yaml:"tokenAuthMethods"`
	Resource              string   `yaml:"resource"`
}

// kits are what is known of authorization servers whose metadata lack something.
var kits = map[string]struct {
	server upstreamServer
	scopes []string
}{
	// No registration, and a way of its own to revoke: what deletes a grant deletes its tokens.
	"github": {server: upstreamServer{
		Issuer: "https://github.com/login/oauth", AuthorizationEndpoint: "https://github.com/login/oauth/authorize", TokenEndpoint: "https://github.com/login/oauth/access_token",
		RevocationEndpoint: "https://api.github.com/applications/{client_id}/grant", Revocation: "github", TokenAuthMethods: []string{"client_secret_post"},
	}},
	// Its metadata are whole, and it registers clients.
	"atlassian": {},
	"salesforce": {server: upstreamServer{
		Issuer: "https://login.salesforce.com", AuthorizationEndpoint: "https://login.salesforce.com/services/oauth2/authorize", TokenEndpoint: "https://login.salesforce.com/services/oauth2/token",
		RevocationEndpoint: "https://login.salesforce.com/services/oauth2/revoke", TokenAuthMethods: []string{"client_secret_post"},
	}, scopes: []string{"mcp_api", "refresh_token"}},
}

var (
	keyHolders   = map[string]policyv1.KeyHolder{"": 0, "everyone": policyv1.KeyHolder_KEY_HOLDER_SHARED, "group": policyv1.KeyHolder_KEY_HOLDER_GROUP, "person": policyv1.KeyHolder_KEY_HOLDER_PERSON}
	clientProofs = map[string]policyv1.ClientAuthentication{"": 0, "secret": 0, "private-key-jwt": policyv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT}
	idTokens     = map[string]policyv1.IdentityToken{"": 0, "access": policyv1.IdentityToken_IDENTITY_TOKEN_ACCESS, "id": policyv1.IdentityToken_IDENTITY_TOKEN_ID}
	revocations  = map[string]policyv1.Revocation{"": 0, "rfc7009": policyv1.Revocation_REVOCATION_RFC7009, "github": policyv1.Revocation_REVOCATION_GITHUB, "none": policyv1.Revocation_REVOCATION_NONE}
)

// oneOf reads a word of several.
func oneOf[T any](field, value string, known map[string]T) (T, error) {
	v, ok := known[value]
	if !ok {
		words := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(s string) bool { return s == "" })
		return v, fmt.Errorf("auth.%s is %s, not %q", field, strings.Join(words, ", "), value)
	}
	return v, nil
}

// wire is the auth as the API takes it.
func (a *upstreamAuth) wire() (*policyv1.UpstreamAuth, error) {
	holder, err := oneOf("keysOf", a.KeysOf, keyHolders)
	if err != nil {
		return nil, err
	}
	token, err := oneOf("token", a.Token, idTokens)
	if err != nil {
		return nil, err
	}
	proof, err := oneOf("client.authentication", a.Client.Authentication, clientProofs)
	if err != nil {
		return nil, err
	}
	if err := a.onlyItsOwn(); err != nil {
		return nil, err
	}
	var client *policyv1.UpstreamClient
	if a.Client.ID != "" || proof != 0 {
		client = &policyv1.UpstreamClient{Id: a.Client.ID, Authentication: proof}
	}
	server, scopes, err := a.server()
	if err != nil {
		return nil, err
	}
	switch a.Type {
	case "", "none":
		return nil, nil
	case "header":
		name := a.Header
		if name == "" {
			name = "Authorization"
		}
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: name, Template: a.Template, Holder: holder}}}, nil
	case "query":
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Query{Query: &policyv1.QueryKey{Name: a.Query, Template: a.Template, Holder: holder}}}, nil
	case "oauth":
		o := &policyv1.OAuth{Server: server, Client: client, Scopes: scopes}
		if a.Account != nil {
			o.Account = &policyv1.AccountRule{Url: a.Account.URL, Member: a.Account.Member, Allowed: a.Account.Allowed}
		}
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Oauth{Oauth: o}}, nil
	case "service-account":
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_ServiceAccount{ServiceAccount: &policyv1.ServiceAccountAuth{Server: server, Client: client, Scopes: scopes, Audience: a.Audience}}}, nil
	case "token-exchange":
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_TokenExchange{TokenExchange: &policyv1.TokenExchange{Server: server, Client: client, Scopes: scopes, Audience: a.Audience, Subject: token}}}, nil
	case "identity-assertion":
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_IdentityAssertion{IdentityAssertion: &policyv1.IdentityAssertion{Server: server, Client: client, Scopes: scopes}}}, nil
	case "pass-through":
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_PassThrough{PassThrough: &policyv1.PassThrough{Audience: a.Audience, Token: token}}}, nil
	}
	return nil, fmt.Errorf("auth.type is none, header, query, oauth, service-account, token-exchange, identity-assertion or pass-through, not %q", a.Type)
}

// onlyItsOwn refuses what another type than this one has.
func (a *upstreamAuth) onlyItsOwn() error {
	tokens := a.Type == "oauth" || a.Type == "service-account" || a.Type == "token-exchange" || a.Type == "identity-assertion"
	for _, one := range []struct {
		field string
		set   bool
		fits  bool
	}{
		{"header", a.Header != "", a.Type == "header"}, {"query", a.Query != "", a.Type == "query"},
		{"template", a.Template != "", a.Type == "header" || a.Type == "query"}, {"keysOf", a.KeysOf != "", a.Type == "header" || a.Type == "query"},
		{"kit", a.Kit != "", tokens}, {"scopes", a.Scopes != nil, tokens}, {"client", a.Client.ID != "" || a.Client.Authentication != "", tokens}, {"server", a.Server != nil, tokens},
		{"audience", a.Audience != "", a.Type == "service-account" || a.Type == "token-exchange" || a.Type == "pass-through"},
		{"token", a.Token != "", a.Type == "token-exchange" || a.Type == "pass-through"}, {"account", a.Account != nil, a.Type == "oauth"},
	} {
		if one.set && !one.fits {
			return fmt.Errorf("auth.%s is nothing that auth of type %q has", one.field, a.Type)
		}
	}
	return nil
}

// server is what is said of the authorization server: by a kit, and in place of that by the document.
func (a *upstreamAuth) server() (*policyv1.UpstreamAuthorizationServer, []string, error) {
	said, scopes := upstreamServer{}, a.Scopes
	if a.Kit != "" {
		kit, err := oneOf("kit", a.Kit, kits)
		if err != nil {
			return nil, nil, err
		}
		said = kit.server
		if scopes == nil {
			scopes = kit.scopes
		}
	}
	if own := a.Server; own != nil {
		for _, f := range []struct {
			at  *string
			own string
		}{
			{&said.Issuer, own.Issuer}, {&said.AuthorizationEndpoint, own.AuthorizationEndpoint}, {&said.TokenEndpoint, own.TokenEndpoint}, {&said.Resource, own.Resource},
			{&said.RegistrationEndpoint, own.RegistrationEndpoint}, {&said.RevocationEndpoint, own.RevocationEndpoint}, {&said.Revocation, own.Revocation},
		} {
			if f.own != "" {
				*f.at = f.own
			}
		}
		if own.TokenAuthMethods != nil {
			said.TokenAuthMethods = own.TokenAuthMethods
		}
	} else if a.Kit == "" || said.Issuer == "" {
		return nil, scopes, nil
	}
	revocation, err := oneOf("server.revocation", said.Revocation, revocations)
	return &policyv1.UpstreamAuthorizationServer{
		Issuer: said.Issuer, AuthorizationEndpoint: said.AuthorizationEndpoint, TokenEndpoint: said.TokenEndpoint, RegistrationEndpoint: said.RegistrationEndpoint,
		RevocationEndpoint: said.RevocationEndpoint, Revocation: revocation, TokenAuthMethods: said.TokenAuthMethods, Resource: said.Resource,
	}, scopes, err
}
