package mask

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// form is a token that begins in a known way: prefix, then at least min bytes of words and of the extra bytes.
type form struct {
	prefix string
	min    int
	extra  string
}

// forms by first byte.
var forms = func() (t [256][]form) {
	for _, f := range []form{
		{"ghp_", 20, ""}, {"gho_", 20, ""}, {"ghu_", 20, ""}, {"ghs_", 20, "."}, {"ghr_", 20, ""}, {"github_pat_", 20, ""}, // GitHub
		{"glpat-", 16, "."}, {"gldt-", 16, ""}, {"glrt-", 16, "."}, // GitLab
		{"xoxb-", 10, "."}, {"xoxp-", 10, "."}, {"xoxa-", 10, "."}, {"xoxr-", 10, "."}, {"xoxs-", 10, "."},
		{"xoxc-", 10, "."}, {"xoxd-", 10, ".%"}, {"xoxe-", 10, "."}, {"xoxe.", 10, "."}, {"xapp-", 10, "."}, // Slack
		{"AKIA", 16, ""}, {"ASIA", 16, ""}, {"ABIA", 16, ""}, {"ACCA", 16, ""}, // AWS access keys
		{"AIza", 30, ""}, {"ya29.", 20, "."}, {"GOCSPX-", 20, ""}, {"1//0", 30, ""}, // Google
		{"sk-", 20, ""}, {"sk_live_", 10, ""}, {"sk_test_", 10, ""}, {"rk_live_", 10, ""}, {"rk_test_", 10, ""}, {"whsec_", 16, "+/="},
		{"npm_", 30, ""}, {"pypi-", 40, ""}, {"hf_", 30, ""}, {"dop_v1_", 40, ""}, {"shpat_", 30, ""}, {"SG.", 40, "."},
		{"hvs.", 20, "."}, {"hvb.", 20, "."}, {"dckr_pat_", 20, ""}, {"ATATT3", 30, "="}, {"ATCTT3", 30, "="}, // Vault, Docker, Atlassian
		{"sallyport_", 20, "."},
		{"dapi", 32, ""}, {"glsa_", 32, ""}, {"lin_api_", 32, ""}, {"ntn_", 40, ""}, {"figd_", 30, ""}, {"PMAK-", 40, ""}, {"sntrys_", 40, "+/="}, // Databricks, Grafana, Linear, Notion, Figma, Postman, Sentry
		{"AGE-SECRET-KEY-1", 50, ""}, {"xai-", 40, ""}, {"gsk_", 40, ""}, {"r8_", 30, ""}, {"pul-", 40, ""}, {"NRAK-", 20, ""}, {"rubygems_", 40, ""},
	} {
		t[f.prefix[0]] = append(t[f.prefix[0]], f)
	}
	return t
}()

// formStarts holds, by first byte, the second bytes of all forms modulo 64, so that nearly every word is passed at one look.
var formStarts = func() (t [256]uint64) {
	for first, all := range forms {
		for _, f := range all {
			t[first] |= 1 << (f.prefix[1] & 63)
		}
	}
	t['e'] |= 1 << ('y' & 63) // JWT
	t['0'] |= 1 << ('0' & 63) // Okta
	return t
}()

// secretEnd returns the end of a secret known by its form that begins at i, or 0. The word there ends at j.
func secretEnd(b []byte, i, j int) int {
	if i+1 >= len(b) || formStarts[b[i]]>>(b[i+1]&63)&1 == 0 {
		return 0
	}
	for _, f := range forms[b[i]] {
		if !bytes.HasPrefix(b[i:], []byte(f.prefix)) {
			continue
		}
		if end := runEnd(b, i+len(f.prefix), f.extra); end-i >= len(f.prefix)+f.min {
			return end
		}
	}
	switch {
	case b[i] == 'e' && j-i >= 12 && bytes.HasPrefix(b[i:], []byte("eyJ")) && j < len(b) && b[j] == '.':
		return runEnd(b, i, ".") // a JWT, whole or cut
	case b[i] == 'e' && j == len(b) && j-i >= 12 && bytes.HasPrefix(b[i:], []byte("eyJ")):
		return j // a JWT cut before its first dot
	case b[i] == '0' && j-i == 42 && b[i+1] == '0':
		return j // an Okta API token
	}
	return 0
}

func runEnd(b []byte, i int, extra string) int {
	for i < len(b) && (class[b[i]] == isWord || strings.IndexByte(extra, b[i]) >= 0) {
		i++
	}
	return i
}

// privateKeyEnd returns the end of a PEM private key that begins at i, or 0. Without its last line it ends with the text.
func privateKeyEnd(b []byte, i int) int {
	line := b[i:min(i+64, len(b))]
	if !bytes.HasPrefix(line, []byte("-----BEGIN ")) || !bytes.Contains(line, []byte("PRIVATE KEY")) {
		return 0
	}
	last := []byte("-----END ")
	// A JSON string that ends first ends the key: what follows is something else.
	end := len(b)
	if quote := bytes.IndexByte(b[i:], '"'); quote >= 0 {
		end = i + quote
		for end > i && b[end-1] == '\\' {
			end--
		}
	}
	at := bytes.Index(b[i:end], last)
	if at < 0 {
		return end
	}
	at += i + len(last)
	if dashes := bytes.Index(b[at:min(at+64, end)], []byte("-----")); dashes >= 0 {
		return at + dashes + 5
	}
	return end
}

// credential finds what follows an authentication scheme, the word from i to j, and returns it.
func credential(b []byte, i, j int) (start, end int) {
	if j-i < 4 || j-i > 6 || j >= len(b) || b[j] != ' ' {
		return 0, 0
	}
	switch b[i] | 0x20 {
	case 'b', 's', 'd':
	default:
		return 0, 0
	}
	word := b[i:j]
	start = j
	for start < len(b) && b[start] == ' ' {
		start++
	}
	end = runEnd(b, start, ".~+/=")
	digits := bytes.ContainsAny(b[start:end], "0123456789")
	switch {
	case bytes.EqualFold(word, []byte("bearer")), bytes.EqualFold(word, []byte("ssws")), bytes.EqualFold(word, []byte("dpop")):
		if n := end - start; n >= 20 || n >= 8 && digits {
			return start, end
		}
	case bytes.EqualFold(word, []byte("basic")):
		text := bytes.TrimRight(b[start:end], "=")
		if len(text) > 2048 {
			return start, end
		}
		if plain, err := base64.RawStdEncoding.AppendDecode(nil, text); err == nil && bytes.IndexByte(plain, ':') >= 0 {
			return start, end
		}
		if end == len(b) && end-start >= 8 && digits {
			return start, end // cut
		}
	}
	return 0, 0
}

// secretName says whether a word names a secret: its last part, without case and separators, is one of the known names.
func secretName(word []byte) bool {
	if n := len(word); nameEndings[word[n-2]&0x1f][word[n-1]&0x1f]>>(word[n-3]&0x1f)&1 == 0 {
		return false
	}
	var buf [24]byte
	at := len(buf)
	for i := len(word) - 1; i >= 0 && at > 0; i-- {
		if c := word[i]; c != '_' && c != '-' {
			at--
			if c >= 'A' && c <= 'Z' {
				c |= 0x20
			}
			buf[at] = c
		}
	}
	name := buf[at:]
	return endsIn(name, secretNames) && !endsIn(name, harmlessNames)
}

func endsIn(name []byte, endings [][]byte) bool {
	for _, e := range endings {
		if bytes.HasSuffix(name, e) {
			return true
		}
	}
	return false
}

func names(all ...string) (b [][]byte) {
	for _, n := range all {
		b = append(b, []byte(n))
	}
	return b
}

var (
	secretNames = names("password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "tokens",
		"apikey", "apikeys", "privatekey", "secretkey", "accesskey", "signingkey", "encryptionkey", "authorization",
		"credential", "credentials", "connectionstring")
	// Cursors and progress handles are called tokens and open nothing.
	harmlessNames = names("pagetoken", "nexttoken", "progresstoken", "continuationtoken", "synctoken", "cursortoken", "maxtokens",
		"inputtokens", "outputtokens", "totaltokens", "prompttokens", "completiontokens", "numtokens")
)

// nameEndings holds the last three letters of the known names, so that nearly every word is passed at one look.
var nameEndings = func() (t [32][32]uint32) {
	for _, s := range secretNames {
		n := len(s)
		t[s[n-2]&0x1f][s[n-1]&0x1f] |= 1 << (s[n-3] & 0x1f)
	}
	return t
}()
