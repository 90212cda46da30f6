package authserver

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

// errToken: it is no access token of this server that counts.
var errToken = errors.New("the access token is expired, forged, or not of this server")

// verify reads an access token of this server, by the keys that count in a state.
func (s *Server) verify(state *core.State, token string) (accessToken, error) {
	var claims accessToken
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil || len(token) > 16<<10 {
		return claims, errToken
	}
	header := jws.Signatures[0].Protected
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); !strings.EqualFold(typ, tokenType) {
		return claims, errToken
	}
	for k := range state.SigningKeys(s.Issuer) {
		if k.GetId() != header.KeyID {
			continue
		}
		var public jose.JSONWebKey
		if err := json.Unmarshal(k.GetJwk(), &public); err != nil {
			return claims, errToken
		}
		payload, err := jws.Verify(public)
		if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Issuer != s.Issuer ||
			!s.Now().Before(time.Unix(claims.Expires, 0)) || time.Unix(claims.IssuedAt, 0).After(s.Now().Add(grace)) {
			return claims, errToken
		}
		return claims, nil
	}
	return claims, errToken
}

// Verify returns the active person for whom an access token of this server was issued, if it is good for a connector, and
// when it ends. Own is false for tokens of other issuers, of which nothing is said.
func (s *Server) Verify(state *core.State, token, connector string) (user *core.User, expires time.Time, own bool, err error) {
	if !s.claims(token) {
		return nil, time.Time{}, false, nil
	}
	claims, err := s.verify(state, token)
	if err != nil {
		return nil, time.Time{}, true, err
	}
	person, err := uuid.Parse(claims.Subject)
	if err != nil {
		return nil, time.Time{}, true, errToken
	}
	session, err := uuid.Parse(claims.Session)
	if err != nil {
		return nil, time.Time{}, true, errToken
	}
	user = state.User(person)
	audience := false
	for _, r := range s.Resources {
		audience = audience || claims.Audience == r || claims.Audience == r+"/"+connector
	}
	switch {
	case !audience:
		return nil, time.Time{}, true, errors.New("the access token is for another resource")
	case user == nil || !user.Active || user.Generation != claims.Generation || state.SessionEnded(session) ||
		!time.UnixMilli(claims.Began).After(state.ClientCut(claims.ClientID).Truncate(time.Millisecond)):
		return nil, time.Time{}, true, errors.New("the access token is of nobody who may act, or was revoked")
	case state.Blocked(person.String(), claims.ClientID, s.Now()):
		return nil, time.Time{}, true, errors.New("a block stands against the person or the client")
	}
	return user, time.Unix(claims.Expires, 0), true, nil
}

// claims tells whether a token says, unverified, that it is of this server.
func (s *Server) claims(token string) bool {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return false
	}
	var unverified struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &unverified) == nil && unverified.Issuer == s.Issuer
}
