package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var (
	now    = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	asked  = Request{Method: "POST", URLs: []string{"https://mcp.example.com/mcp", "https://eu.mcp.example.com/mcp"}, Token: "the token", Now: now}
)

// proof is a good one, with changes of its claims and its header.
func proof(t testing.TB, alg jose.SignatureAlgorithm, private any, change, header map[string]any) string {
	t.Helper()
	c := map[string]any{"jti": "1", "htm": "POST", "htu": "https://mcp.example.com/mcp", "iat": now.Unix(), "ath": hash("the token")}
	maps.Copy(c, change)
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt")
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: private}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAProofIsOfOneRequestAndOneToken(t *testing.T) {
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that is the point
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change map[string]any) string { return proof(t, jose.ES256, key, change, nil) }
	forged := with(nil)
	forged = forged[:len(forged)-6] + "AAAAAA"
	for name, c := range map[string]struct {
		proofs []string
		want   error
	}{
		"good":                     {[]string{with(nil)}, nil},
		"at another name":          {[]string{with(map[string]any{"htu": "HTTPS://EU.mcp.example.com:443/mcp"})}, nil},
		"none":                     {nil, ErrMissing},
		"more than is read":        {[]string{with(map[string]any{"x": strings.Repeat("x", maxProof)})}, ErrMalformed},
		"another algorithm":        {[]string{proof(t, jose.RS512, strong, nil, nil)}, ErrMalformed},
		"of no type":               {[]string{proof(t, jose.ES256, key, nil, map[string]any{"typ": ""})}, ErrMalformed},
		"two":                      {[]string{with(nil), with(nil)}, ErrMissing},
		"no token":                 {[]string{"x"}, ErrMalformed},
		"an access token":          {[]string{proof(t, jose.ES256, key, nil, map[string]any{"typ": "at+jwt"})}, ErrMalformed},
		"a shared secret":          {[]string{proof(t, jose.HS256, []byte("0123456789abcdef0123456789abcdef"), nil, nil)}, ErrMalformed},
		"a private key":            {[]string{proof(t, jose.ES256, key, nil, map[string]any{"jwk": jose.JSONWebKey{Key: key}})}, ErrMalformed},
		"another's key":            {[]string{proof(t, jose.ES256, key, nil, map[string]any{"jwk": jose.JSONWebKey{Key: other.Public()}})}, ErrSignature},
		"a weak key":               {[]string{proof(t, jose.RS256, weak, nil, nil)}, ErrMalformed},
		"a critical parameter":     {[]string{proof(t, jose.ES256, key, nil, map[string]any{"crit": []string{"x"}, "x": 1})}, ErrMalformed},
		"forged":                   {[]string{forged}, ErrSignature},
		"another method":           {[]string{with(map[string]any{"htm": "GET"})}, ErrRequest},
		"a method in small":        {[]string{with(map[string]any{"htm": "post"})}, ErrRequest},
		"another host":             {[]string{with(map[string]any{"htu": "https://evil.example/mcp"})}, ErrRequest},
		"another path":             {[]string{with(map[string]any{"htu": "https://mcp.example.com/mcp/jira"})}, ErrRequest},
		"another port":             {[]string{with(map[string]any{"htu": "https://mcp.example.com:8443/mcp"})}, ErrRequest},
		"without TLS":              {[]string{with(map[string]any{"htu": "http://mcp.example.com/mcp"})}, ErrRequest},
		"nowhere":                  {[]string{with(map[string]any{"htu": "%"})}, ErrRequest},
		"too old":                  {[]string{with(map[string]any{"iat": now.Add(-Window - time.Second).Unix()})}, ErrTime},
		"of the future":            {[]string{with(map[string]any{"iat": now.Add(Window + time.Second).Unix()})}, ErrTime},
		"at no time":               {[]string{with(map[string]any{"iat": nil})}, ErrMalformed},
		"at a time beyond numbers": {[]string{with(map[string]any{"iat": 1e300})}, ErrMalformed},
		"no id":                    {[]string{with(map[string]any{"jti": ""})}, ErrMalformed},
		"a long id":                {[]string{with(map[string]any{"jti": strings.Repeat("1", maxID+1)})}, ErrMalformed},
		"another token":            {[]string{with(map[string]any{"ath": hash("another")})}, ErrToken},
		"no token's":               {[]string{with(map[string]any{"ath": nil})}, ErrToken},
	} {
		got, err := Check(http.Header{Header: c.proofs}, asked)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if (err == nil) != (got.Thumbprint == base64.RawURLEncoding.EncodeToString(sum)) {
			t.Errorf("%s: thumbprint %q", name, got.Thumbprint)
		}
	}
}

func TestKeysThatAreWeakOrCostMuchAreRefused(t *testing.T) {
	for bits, want := range map[uint]bool{1024: false, 2047: false, 2048: true, 4096: true, 4097: false, 100_000: false} {
		if got := reasonable(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}); got != want {
			t.Errorf("%d bits: %t", bits, got)
		}
	}
}

// TestNobodyUsesUpAnothersProofs: their ids are told apart by key.
func TestNobodyUsesUpAnothersProofs(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var s Seen
	for _, private := range []*ecdsa.PrivateKey{key, other} {
		p, err := Check(http.Header{Header: {proof(t, jose.ES256, private, nil, nil)}}, asked)
		if err != nil || !s.First(p, now) {
			t.Errorf("refused: %v", err)
		}
	}
}

func TestAProofThatCannotBeRememberedIsRefused(t *testing.T) {
	var s Seen
	for i := range maxSeen {
		s.First(Proof{Once: [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}}, now)
	}
	one := Proof{Once: [32]byte{31: 1}}
	if s.First(one, now) {
		t.Error("a proof is good that nobody remembers")
	}
	if !s.First(one, now.Add(10*Window)) {
		t.Error("it is full for good")
	}
}

func TestAProofIsGoodOnce(t *testing.T) {
	var s Seen
	one, other := Proof{Once: [32]byte{1}}, Proof{Once: [32]byte{2}}
	for i, c := range []struct {
		p    Proof
		at   time.Duration
		want bool
	}{
		{one, 0, true}, {one, 0, false}, {other, Window, true}, {one, 2 * Window, false}, {other, 3 * Window, false}, {one, 3 * Window, false},
		{one, 20 * Window, true}, {one, 20*Window + time.Second, false},
	} {
		if got := s.First(c.p, now.Add(c.at)); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(proof(f, jose.ES256, key, nil, nil))
	f.Add("a.b.c")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = Check(http.Header{Header: {text}}, asked) // nothing panics
	})
}
