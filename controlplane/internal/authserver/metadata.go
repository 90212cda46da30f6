package authserver

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/dpop"
	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/signin"
)

// scope is the one scope: what a person may do with which tool is the policy's to say, not a scope's.
const scope = "mcp"

// offline asks for a refresh token (OpenID Connect Core 1.0, section 11), which clients get that did not say they want none.
const offline = "offline_access"

// maxScopes bounds how many scopes are given.
const maxScopes = 10

// scopesOf are the scopes that are given where some are asked for: the one, and what is known of the others. Those that stand for a
// sign-in are given to who signed in so.
func scopesOf(asked string) []string {
	all := []string{scope}
	for _, word := range strings.Fields(asked) {
		_, signIn := policy.SignInOfScope(word)
		if (signIn || word == offline) && !slices.Contains(all, word) && len(all) < maxScopes {
			all = append(all, word)
		}
	}
	return all
}

// needOf is how a person must sign in for scopes to be given: as all of them say. Where their contexts exclude each other, the last
// counts: agents put what they were refused for behind what they had.
func (s *Server) needOf(scopes []string) signin.Need {
	var how *policy.SignIn
	for _, word := range slices.Backward(scopes) {
		if one, ok := policy.SignInOfScope(word); ok {
			how = how.And(one)
		}
	}
	if how == nil {
		return signin.Need{}
	}
	need := signin.Need{ACR: how.ACR, AMR: how.AMR}
	if !how.After.IsZero() {
		need.MaxAge = max(s.Now().Sub(how.After), time.Second)
	}
	return need
}

// authMethods are the ways in which clients prove who they are.
var authMethods = []string{"none", "client_secret_basic", "client_secret_post", "private_key_jwt"}

// metadata is RFC 8414's and, since some agents look only there, OpenID Connect Discovery's.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	said := s.Engine.State().AuthorizationPolicy()
	out := map[string]any{
		"issuer":                                s.Issuer,
		"authorization_endpoint":                s.Issuer + "/oauth/authorize",
		"token_endpoint":                        s.Issuer + "/oauth/token",
		"revocation_endpoint":                   s.Issuer + "/oauth/revoke",
		"introspection_endpoint":                s.Issuer + "/oauth/introspect",
		"jwks_uri":                              s.Issuer + "/oauth/jwks",
		"scopes_supported":                      []string{scope, offline},
		"response_types_supported":              []string{"code"},
		"response_modes_supported":              []string{"query"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token", "client_credentials"},
		"token_endpoint_auth_methods_supported": authMethods,
		"token_endpoint_auth_signing_alg_values_supported":      assertionAlgorithms,
		"revocation_endpoint_auth_methods_supported":            authMethods,
		"revocation_endpoint_auth_signing_alg_values_supported": assertionAlgorithms,
		"introspection_endpoint_auth_methods_supported":         []string{"Bearer"}, // an admin's token: RFC 8414 takes types of access tokens here
		"code_challenge_methods_supported":                      []string{"S256"},
		"authorization_response_iss_parameter_supported":        true,
		"client_id_metadata_document_supported":                 said.GetMetadataDocuments() != policyv1.Admission_ADMISSION_OFF,
		"dpop_signing_alg_values_supported":                     dpop.Algorithms,
		"subject_types_supported":                               []string{"public"},
		"id_token_signing_alg_values_supported":                 []string{"ES256"},
	}
	if said.GetDynamicRegistration() != policyv1.Admission_ADMISSION_OFF {
		out["registration_endpoint"] = s.Issuer + "/oauth/register"
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, out)
}

// jwks shows the public parts of the keys that count, those included that do not sign yet.
func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) {
	keys := []json.RawMessage{}
	for k := range s.Engine.State().SigningKeys(s.Issuer) {
		keys = append(keys, k.GetJwk())
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, map[string]any{"keys": keys})
}
