package cli

import (
	"fmt"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// upstreamAuth is the auth of a connector's YAML.
type upstreamAuth struct {
	Type string `yaml:"type,omitempty" json:"type,omitempty" jsonschema:"Default: none"`
	// Keys.
	Header   string `yaml:"header,omitempty" json:"header,omitempty" jsonschema:"The header that carries the key; default: Authorization"`
	Query    string `yaml:"query,omitempty" json:"query,omitempty" jsonschema:"The parameter of the URL that carries the key"`
	Template string `yaml:"template,omitempty" json:"template,omitempty" jsonschema:"What is sent; {key} stands for the key"`
	KeysOf   string `yaml:"keysOf,omitempty" json:"keysOf,omitempty" jsonschema:"Whose key is sent; default: one for everyone"`
	// Tokens.
	Kit      string           `yaml:"kit,omitempty" json:"kit,omitempty" jsonschema:"An authorization server that is known here"`
	Scopes   []string         `yaml:"scopes,omitempty" json:"scopes,omitempty" jsonschema:"Scopes to ask for"`
	Client   *upstreamClient  `yaml:"client,omitempty" json:"client,omitempty" jsonschema:"The gateway as a client of the authorization server"`
	Server   *upstreamServer  `yaml:"server,omitempty" json:"server,omitempty" jsonschema:"What the authorization server's metadata lack or get wrong"`
	Audience string           `yaml:"audience,omitempty" json:"audience,omitempty"`
	Token    string           `yaml:"token,omitempty" json:"token,omitempty" jsonschema:"Which of the person's tokens; default: access"`
	Account  *upstreamAccount `yaml:"account,omitempty" json:"account,omitempty" jsonschema:"Which account people may link"`
}

type upstreamClient struct {
	ID             string `yaml:"id,omitempty" json:"id,omitempty"`
	Authentication string `yaml:"authentication,omitempty" json:"authentication,omitempty"`
}

type upstreamAccount struct {
	URL     string   `yaml:"url" json:"url" jsonschema:"Where the account is read with the new token"`
	Member  string   `yaml:"member" json:"member" jsonschema:"The member of the answer that says whose it is"`
	Allowed []string `yaml:"allowed" json:"allowed" jsonschema:"Values of which it must have one; @example.com: any address of that domain"`
}

// upstreamServer is what an authorization server's metadata lack or get wrong.
type upstreamServer struct {
	Issuer                string   `yaml:"issuer,omitempty" json:"issuer,omitempty"`
	AuthorizationEndpoint string   `yaml:"authorizationEndpoint,omitempty" json:"authorizationEndpoint,omitempty"`
	TokenEndpoint         string   `yaml:"tokenEndpoint,omitempty" json:"tokenEndpoint,omitempty"`
	RegistrationEndpoint  string   `yaml:"registrationEndpoint,omitempty" json:"registrationEndpoint,omitempty"`
	RevocationEndpoint    string   `yaml:"revocationEndpoint,omitempty" json:"revocationEndpoint,omitempty"`
	Revocation            string   `yaml:"revocation,omitempty" json:"revocation,omitempty"`
	TokenAuthMethods      []string `yaml:"tokenAuthMethods,omitempty" json:"tokenAuthMethods,omitempty"`
	Resource              string   `yaml:"resource,omitempty" json:"resource,omitempty"`
	// ClientMetadataDocuments: it takes client ids that are URLs of metadata documents.
	ClientMetadataDocuments bool     `yaml:"clientMetadataDocuments,omitempty" json:"clientMetadataDocuments,omitempty"`
	SendsIssuer             bool     `yaml:"sendsIssuer,omitempty" json:"sendsIssuer,omitempty"`
	Scopes                  []string `yaml:"scopes,omitempty" json:"scopes,omitempty"`
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

// wire is the auth as the API takes it.
func (a *upstreamAuth) wire() (*policyv1.UpstreamAuth, error) {
	holder, err := oneOf("auth.keysOf", a.KeysOf, keyHolders)
	if err != nil {
		return nil, err
	}
	token, err := oneOf("auth.token", a.Token, idTokens)
	if err != nil {
		return nil, err
	}
	if err := a.onlyItsOwn(); err != nil {
		return nil, err
	}
	var client *policyv1.UpstreamClient
	if a.Client != nil {
		proof, err := oneOf("auth.client.authentication", a.Client.Authentication, clientProofs)
		if err != nil {
			return nil, err
		}
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
		{"kit", a.Kit != "", tokens}, {"scopes", a.Scopes != nil, tokens}, {"client", a.Client != nil, tokens}, {"server", a.Server != nil, tokens},
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
		kit, err := oneOf("auth.kit", a.Kit, kits)
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
		said.ClientMetadataDocuments, said.SendsIssuer, said.Scopes = own.ClientMetadataDocuments, own.SendsIssuer, own.Scopes
	} else if a.Kit == "" || said.Issuer == "" {
		return nil, scopes, nil
	}
	revocation, err := oneOf("auth.server.revocation", said.Revocation, revocations)
	return &policyv1.UpstreamAuthorizationServer{
		Issuer: said.Issuer, AuthorizationEndpoint: said.AuthorizationEndpoint, TokenEndpoint: said.TokenEndpoint, RegistrationEndpoint: said.RegistrationEndpoint,
		RevocationEndpoint: said.RevocationEndpoint, Revocation: revocation, TokenAuthMethods: said.TokenAuthMethods, Resource: said.Resource,
		ClientMetadataDocuments: said.ClientMetadataDocuments, SendsIssuer: said.SendsIssuer, Scopes: said.Scopes,
	}, scopes, err
}

// authOf is an auth as wire would read it: without a kit, with what the kit stood for.
func authOf(auth *policyv1.UpstreamAuth) *upstreamAuth {
	switch kind := auth.GetKind().(type) {
	case *policyv1.UpstreamAuth_Header:
		h := kind.Header
		return &upstreamAuth{Type: "header", Header: h.GetName(), Template: h.GetTemplate(), KeysOf: wordFor(h.GetHolder(), keyHolders)}
	case *policyv1.UpstreamAuth_Query:
		q := kind.Query
		return &upstreamAuth{Type: "query", Query: q.GetName(), Template: q.GetTemplate(), KeysOf: wordFor(q.GetHolder(), keyHolders)}
	case *policyv1.UpstreamAuth_Oauth:
		a := tokensOf("oauth", kind.Oauth)
		if account := kind.Oauth.GetAccount(); account != nil {
			a.Account = &upstreamAccount{URL: account.GetUrl(), Member: account.GetMember(), Allowed: account.GetAllowed()}
		}
		return a
	case *policyv1.UpstreamAuth_ServiceAccount:
		a := tokensOf("service-account", kind.ServiceAccount)
		a.Audience = kind.ServiceAccount.GetAudience()
		return a
	case *policyv1.UpstreamAuth_TokenExchange:
		a := tokensOf("token-exchange", kind.TokenExchange)
		a.Audience, a.Token = kind.TokenExchange.GetAudience(), wordFor(kind.TokenExchange.GetSubject(), idTokens)
		return a
	case *policyv1.UpstreamAuth_IdentityAssertion:
		return tokensOf("identity-assertion", kind.IdentityAssertion)
	case *policyv1.UpstreamAuth_PassThrough:
		return &upstreamAuth{Type: "pass-through", Audience: kind.PassThrough.GetAudience(), Token: wordFor(kind.PassThrough.GetToken(), idTokens)}
	}
	return nil
}

// tokensOf is what all kinds of auth by tokens have.
func tokensOf(kind string, auth interface {
	GetServer() *policyv1.UpstreamAuthorizationServer
	GetClient() *policyv1.UpstreamClient
	GetScopes() []string
}) *upstreamAuth {
	a := &upstreamAuth{Type: kind, Scopes: auth.GetScopes()}
	if c := auth.GetClient(); c != nil {
		a.Client = &upstreamClient{ID: c.GetId(), Authentication: wordFor(c.GetAuthentication(), clientProofs)}
	}
	if s := auth.GetServer(); s != nil {
		a.Server = &upstreamServer{
			Issuer: s.GetIssuer(), AuthorizationEndpoint: s.GetAuthorizationEndpoint(), TokenEndpoint: s.GetTokenEndpoint(), RegistrationEndpoint: s.GetRegistrationEndpoint(),
			RevocationEndpoint: s.GetRevocationEndpoint(), Revocation: wordFor(s.GetRevocation(), revocations), TokenAuthMethods: s.GetTokenAuthMethods(), Resource: s.GetResource(),
			ClientMetadataDocuments: s.GetClientMetadataDocuments(), SendsIssuer: s.GetSendsIssuer(), Scopes: s.GetScopes(),
		}
	}
	return a
}
