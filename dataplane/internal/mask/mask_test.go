package mask

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Assembled here so that no scanner takes them for leaked ones.
var secrets = map[string]string{
	"GitHub token":      "gh" + "p_" + strings.Repeat("aB3", 12),
	"GitHub fine token": "github" + "_pat_" + strings.Repeat("aB3", 12),
	"GitLab token":      "gl" + "pat-" + strings.Repeat("aB3x", 5),
	"Slack bot token":   "xo" + "xb-1234567890-" + strings.Repeat("aB3x", 5),
	"AWS key":           "AK" + "IA" + "IOSFODNN7EXAMPL3",
	"Google API key":    "AI" + "za" + strings.Repeat("aB3x_", 7),
	"Google OAuth":      "ya" + "29." + strings.Repeat("aB3x_", 7),
	"Okta API token":    "0" + "0" + strings.Repeat("aB3x", 10),
	"JWT":               "ey" + "JhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
	"Stripe key":        "sk" + "_live_" + strings.Repeat("aB3x", 5),
	"card":              "4111111111111111",
	"card with spaces":  "5500 0000 0000 0004",
	"Amex with hyphens": "3782-822463-10005",
}

func TestSecretsAreFoundByTheirForm(t *testing.T) {
	for name, secret := range secrets {
		for _, format := range []string{
			`{"note":%q}`, `{"a":["x",%q,"y"]}`, `{"text":"use %s now"}`, `{"text":"line\n%s\nline"}`, `{"text":"x=%s&y=1"}`,
			`{"t":"{\"a\":\"%s\"}"}`, `{"t":"{\"a\":\"x\\n%s\"}"}`, `{"u":"https:\/\/h\/?k=%s"}`,
		} {
			in := []byte(fmt.Sprintf(format, secret))
			out, changed := Mask(in)
			if !changed || bytes.Contains(out, []byte(secret)) {
				t.Errorf("%s passed in %s: %s", name, format, out)
			}
			if !json.Valid(out) {
				t.Errorf("%s: no longer JSON: %s", name, out)
			}
		}
	}
}

func TestSecretsAreFoundByWhatStandsBeforeThem(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{`{"password":"hunter2"}`, `{"password":"[masked]"}`},
		{`{"DB_PASSWORD" : "a\"b\\","x":"y"}`, `{"DB_PASSWORD" : "[masked]","x":"y"}`},
		{`{"client-secret":"s","n":1}`, `{"client-secret":"[masked]","n":1}`},
		{`{"apiKey":12345,"n":"x"}`, `{"apiKey":"[masked]","n":"x"}`},
		{`{"token":-1.5e3}`, `{"token":"[masked]"}`},
		{`{"tokens":["a", "b"],"n":["c"]}`, `{"tokens":["[masked]", "[masked]"],"n":["c"]}`},
		{`{"secret":null,"token":true,"password":""}`, ``},
		{`{"password":{"type":"string"}}`, ``},
		{`{"nextPageToken":"abc","progressToken":7,"max_tokens":100}`, ``},
		{`{"t":"{\"password\":\"hun\\\"ter2\",\"n\":\"x\"}"}`, `{"t":"{\"password\":\"[masked]\",\"n\":\"x\"}"}`},
		{`{"t":"{\"pin\":1,\"api_key\":12345}"}`, `{"t":"{\"pin\":1,\"api_key\":[masked]}"}`},
		{`{"t":"{\"a\":\"{\\\"secret\\\":\\\"x\\\\\\\"y\\\",\\\"b\\\":1}\"}"}`, `{"t":"{\"a\":\"{\\\"secret\\\":\\\"[masked]\\\",\\\"b\\\":1}\"}"}`},
		{`{"t":"PASSWORD=hunter2\nHOST=x"}`, `{"t":"PASSWORD=[masked]\nHOST=x"}`},
		{`{"t":"--token 'x' password='a b' end"}`, `{"t":"--token 'x' password='[masked]' end"}`},
		{`{"t":"the password: ","b":"hello"}`, ``},
		{`{"t":"password=","b":"hello"}`, ``},
		{`{"t":"password","b":"hello"}`, ``},
		{`{"t":"secret: never give up"}`, ``},
		{`{"t":"Authorization: Bearer abc123def456"}`, `{"t":"Authorization: Bearer [masked]"}`},
		{`{"t":"Authorization: Basic dXNlcjpwYXNz"}`, `{"t":"Authorization: Basic [masked]"}`},
		{`{"t":"Basic understanding of bearer tokens"}`, ``},
		{`{"t":"postgres://app:s3cr3t@db:5432/x"}`, `{"t":"postgres://app:[masked]@db:5432/x"}`},
		{`{"t":"https:\/\/u:p@h\/"}`, `{"t":"https:\/\/u:[masked]@h\/"}`},
		{`{"t":"https://example.com:8080/a?b=c@d"}`, ``},
		{`{"k":"a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----\nb"}`, `{"k":"a\n[masked]\nb"}`},
		{`{"k":"-----BEGIN PRIVATE KEY-----\nMIIE","b":1}`, `{"k":"[masked]","b":1}`},
		{`{"k":"-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----"}`, ``},
		{`{"card":4111111111111111,"n":2}`, `{"card":"[masked]","n":2}`},
		{`{"n":0.4111111111111111,"m":4111111111111112,"ms":1790000000000}`, ``},
		{`[4111111111111111.5]`, ``},
		{`{"sha":"da39a3ee5e6b4b0d3255bfef95601890afd80709","id":"0192f7e1-1111-7222-8333-444455556666"}`, ``},
		{`{"t":"GHP_notatoken ghp_short AKIAshort"}`, ``},
	} {
		want := tc.want
		if want == "" {
			want = tc.in
		}
		out, changed := Mask([]byte(tc.in))
		if string(out) != want || changed != (tc.want != "") {
			t.Errorf("%s\n got %s %v\nwant %s", tc.in, out, changed, want)
		}
	}
}

func TestASecretCutByTheEdgeDoesNotLeakInPart(t *testing.T) {
	all := map[string]string{
		"long value":  `password":"` + strings.Repeat("s3cr3t", 3000),
		"private key": "-----BEGIN PRIVATE KEY-----" + strings.Repeat(`\ns3cr3t`, 900) + `\n-----END PRIVATE KEY-----`,
		"url":         "postgres://app:" + strings.Repeat("s3cr3t", 20) + "@db/x",
	}
	for name, s := range secrets {
		all[name] = s
	}
	for name, secret := range all {
		for before := HeadBytes - len(secret) - 40; before < HeadBytes; before += 1 + len(secret)/50 {
			if before < 2 {
				continue
			}
			raw := []byte(`["` + strings.Repeat("-x ", before/3) + `","` + secret + `"]`)
			at := bytes.Index(raw, []byte(secret))
			p := Payload(raw)
			if len(p.GetHead()) > HeadBytes {
				t.Fatalf("%s: a head of %d bytes", name, len(p.GetHead()))
			}
			if at < HeadBytes-20 && !p.GetMasked() {
				t.Fatalf("%s at %d is not masked", name, at)
			}
			tail := secret[len(secret)*3/4:]
			for n := 5; n < len(secret); n++ {
				// No piece of the secret's own part, after its known prefix.
				piece := secret[max(0, n-5):n]
				if n > 17 && bytes.HasSuffix(p.GetHead(), []byte(piece)) {
					t.Fatalf("%s at %d leaks %q", name, at, piece)
				}
			}
			if bytes.Contains(p.GetHead(), []byte(tail)) {
				t.Fatalf("%s at %d leaks its tail", name, at)
			}
		}
	}
}

func TestPayloadDescribesTheWhole(t *testing.T) {
	if Payload(nil) != nil {
		t.Error("an empty value gave a payload")
	}
	for _, size := range []int{1, HeadBytes - 1, HeadBytes, HeadBytes + 1, 3 * HeadBytes} {
		raw := bytes.Repeat([]byte("é"), size)[:size]
		p := Payload(raw)
		sum := sha256.Sum256(raw)
		if p.GetSize() != uint64(size) || !bytes.Equal(p.GetSha256(), sum[:]) || p.GetTruncated() != (size > HeadBytes) || p.GetMasked() {
			t.Errorf("%d bytes: %v", size, p)
		}
		if size > HeadBytes && !utf8.Valid(p.GetHead()) {
			t.Errorf("%d bytes: a character was split", size)
		}
		var r Recorder
		for rest := raw; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(1000))
			_, _ = r.Write(rest[:n])
			rest = rest[n:]
		}
		if got := r.Payload(); got.String() != p.String() {
			t.Errorf("%d bytes: the recorder gives another payload", size)
		}
	}
	if p := Payload([]byte(`{"password":"x"}`)); p.GetTruncated() || !p.GetMasked() {
		t.Errorf("%v", p)
	}
	// Replacements may be longer than what they replace: the head is cut all the same.
	raw := []byte(`[` + strings.Repeat(`{"pwd":"a"},`, 340) + `1]`)
	if p := Payload(raw); len(p.GetHead()) != HeadBytes || !p.GetTruncated() {
		t.Errorf("%d of %d bytes, truncated %v", len(p.GetHead()), len(raw), p.GetTruncated())
	}
}

func TestWhatIsCleanIsNotCopied(t *testing.T) {
	in := []byte(`{"branch":"agent/fix","files":["a.go","b.go"]}`)
	if n := testing.AllocsPerRun(100, func() { Mask(in) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzMask(f *testing.F) {
	for _, s := range secrets {
		f.Add([]byte(`{"a":"`+s+`"}`), uint16(3))
	}
	f.Add([]byte(`{"password":"x","b":{"t":"{\"secret\":\"x\\\"y\"}"},"n":4111111111111111}`), uint16(4090))
	f.Add([]byte(`{"t":"password: '","u":"x"}`), uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, pad uint16) {
		out, changed := Mask(in)
		if changed == bytes.Equal(in, out) && changed {
			t.Fatalf("says changed, is not: %q", in)
		}
		if !changed && !bytes.Equal(in, out) {
			t.Fatalf("says unchanged, is not: %q", in)
		}
		if json.Valid(in) && !json.Valid(out) {
			t.Fatalf("broke %s\ninto %s", in, out)
		}
		long := append(bytes.Repeat([]byte(" "), int(pad%8192)), in...)
		if p := Payload(long); p != nil && len(p.GetHead()) > HeadBytes {
			t.Fatalf("a head of %d bytes", len(p.GetHead()))
		}
	})
}

func BenchmarkMaskClean(b *testing.B) {
	in := []byte(`{"owner":"acme","repo":"shop","title":"Fix rounding in the cart","head":"agent/rounding","base":"main",` +
		`"body":"` + strings.Repeat("This changes how totals are rounded, see the tests for 3 cases. ", 60) + `"}`)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, changed := Mask(in); changed {
			b.Fatal("changed")
		}
	}
}

func BenchmarkPayloadSmall(b *testing.B) {
	in := []byte(`{"owner":"acme","repo":"shop","title":"Fix rounding in the cart","head":"agent/rounding","base":"main"}`)
	b.ReportAllocs()
	for b.Loop() {
		Payload(in)
	}
}

func TestLettersThatAreWrittenAsEscapesHideNoSecret(t *testing.T) {
	for _, in := range []string{
		`{"pass\u0077ord":"hunter2"}`, `{"note":"gh\u0070_` + strings.Repeat("aB3", 12) + `"}`, `{"card":"\u0034111111111111111"}`, `{"\u0070\u0061\u0073\u0073\u0077\u006f\u0072\u0064":"hunter2"}`,
	} {
		out, changed := Mask([]byte(in))
		if !changed || !json.Valid(out) || bytes.Contains(out, []byte("hunter2")) || bytes.Contains(out, []byte("aB3aB3")) || bytes.Contains(out, []byte("1111111")) {
			t.Errorf("%s: %s", in, out)
		}
		if p := Payload([]byte(in)); !p.GetMasked() || !bytes.Equal(p.GetHead(), out) {
			t.Errorf("%s is kept as %v", in, p)
		}
	}
	for _, in := range []string{`{"a":"\u0000 \\u0070assword \u00e9"}`, `{"a":"C:\\u0070"}`} {
		if out, changed := Mask([]byte(in)); changed || string(out) != in {
			t.Errorf("%s became %s", in, out)
		}
	}
}

// TestADigestTellsNothingOfWhatWasMasked: who reads audit could otherwise try all short passwords.
func TestADigestTellsNothingOfWhatWasMasked(t *testing.T) {
	for _, padding := range []int{0, 5000, 3 * windowBytes} {
		var kept [2]string
		for i, password := range []string{"a", "hunter2 and much longer"} {
			raw := []byte(`{"password":"` + password + `","note":"` + strings.Repeat("x ", padding/2) + `"}`)
			keep := func(p *auditv1.Payload) string { return fmt.Sprintf("%d bytes, %x", p.GetSize(), p.GetSha256()) }
			kept[i] = keep(Payload(raw))
			var r Recorder
			_, _ = r.Write(raw[:len(raw)/2])
			_, _ = r.Write(raw[len(raw)/2:])
			if got := keep(r.Payload()); got != kept[i] {
				t.Errorf("the recorder keeps %s, and not %s", got, kept[i])
			}
		}
		if padding != 3*windowBytes && kept[0] != kept[1] { // further on, the window's edge is at another place
			t.Errorf("%s and %s tell which password it was", kept[0], kept[1])
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(`{"password":"a","note":"`+strings.Repeat("x ", padding/2)+`"}`))); strings.Contains(kept[0], sum) {
			t.Error("the digest is of the whole as it was sent")
		}
	}
}
