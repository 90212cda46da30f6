package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// rpcCode is the code of a JSON-RPC error; zero where the body is none.
func rpcCode(body string) int {
	var message struct {
		Error struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal([]byte(body), &message) != nil {
		return 0
	}
	return message.Error.Code
}

// TestBadInputIsRefusedAndNothingBreaks sends a proxy what it must refuse, and after each a good call.
func TestBadInputIsRefusedAndNothingBreaks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newProxy(t, w.cp, "us-east", "--max-body", "65536")
	w.cp.enforced()
	good := w.issuer.token(ada)
	works := func(t *testing.T) {
		t.Helper()
		if status, _, body := post(t, p, good, nil, goodCall); status != http.StatusOK || !strings.Contains(body, "main") {
			t.Errorf("a good call afterwards is answered %d %s", status, body)
		}
	}
	works(t)
	served := w.github.Calls.Count("")

	legacy := map[string]string{"MCP-Protocol-Version": "2025-06-18", "Mcp-Method": "", "Mcp-Name": ""}
	with := func(arguments string) string { return strings.Replace(goodCall, `"owner":"acme"`, arguments, 1) }
	type refusal struct {
		name    string
		headers map[string]string
		body    string
		status  int
		code    int
	}
	messages := []refusal{
		{"an empty body", nil, "", 400, -32700},
		{"no JSON", nil, "hello", 400, -32700},
		{"JSON that breaks off", nil, goodCall[:len(goodCall)-4], 400, -32700},
		{"something after the JSON", nil, goodCall + "{}", 400, -32700},
		{"bytes that are no UTF-8", nil, with("\"owner\":\"ac\xff\xfeme\""), 400, -32700},
		{"a number as message", nil, "5", 400, -32600},
		{"no method", nil, `{"jsonrpc":"2.0","id":1}`, 400, -32600},
		{"another JSON-RPC version", nil, strings.Replace(goodCall, `"2.0"`, `"1.0"`, 1), 400, -32600},
		{"a name twice in the arguments", nil, with(`"owner":"acme","owner":"evil"`), 400, -32700},
		{"a name twice, once escaped", nil, with(`"owner":"acme","\u006fwner":"evil"`), 400, -32700},
		{"a name twice in the message", nil, strings.Replace(goodCall, `"id":1`, `"id":1,"id":2`, 1), 400, -32700},
		{"arrays ten thousand deep", nil, with(`"owner":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)), 400, -32700},
		{"objects five thousand deep", nil, with(`"owner":` + strings.Repeat(`{"a":`, 5_000) + "1" + strings.Repeat("}", 5_000)), 400, -32700},
		{"larger than the limit", nil, with(`"owner":"` + strings.Repeat("a", 70_000) + `"`), 413, -32600},
		{"plain text as content type", map[string]string{"Content-Type": "text/plain"}, goodCall, 415, -32600},
		{"no content type", map[string]string{"Content-Type": ""}, goodCall, 415, -32600},
		{"a form", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, "a=b", 415, -32600},
		{"an agent that takes HTML alone", map[string]string{"Accept": "text/html"}, goodCall, 406, -32600},
		{"a batch of 2026-07-28", nil, "[" + goodCall + "]", 400, -32600},
		{"a batch of 2025-06-18", legacy, `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, 400, -32600},
		{"an empty batch", map[string]string{"MCP-Protocol-Version": "2025-03-26", "Mcp-Method": "", "Mcp-Name": ""}, "[]", 400, -32600},
		{"a revision that nobody knows", map[string]string{"MCP-Protocol-Version": "2031-01-01"}, strings.Replace(goodCall, "2026-07-28", "2031-01-01", 1), 400, -32022},
		{"headers of another method", map[string]string{"Mcp-Method": "tools/list"}, goodCall, 400, -32020},
		{"headers of another tool", map[string]string{"Mcp-Name": "github__search"}, goodCall, 400, -32020},
		{"no session in the session era", legacy, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, 400, -32600},
		{"a forged session", map[string]string{"MCP-Protocol-Version": "2025-06-18", "Mcp-Method": "", "Mcp-Name": "", "Mcp-Session-Id": "AAAA.BBBB"}, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, 404, -32600},
		{"another site in a browser", map[string]string{"Origin": "https://evil.example"}, goodCall, 403, 0},
		{"no site in a browser", map[string]string{"Origin": "null"}, goodCall, 403, 0},
	}
	for _, c := range messages {
		t.Run(c.name, func(t *testing.T) {
			status, _, body := post(t, p, good, c.headers, c.body)
			if status != c.status || rpcCode(body) != c.code {
				t.Errorf("answered %d %s, want %d with code %d", status, body, c.status, c.code)
			}
			if len(body) > 2000 {
				t.Errorf("the answer has %d bytes", len(body))
			}
			works(t)
		})
	}

	foreign := newIssuer(t)
	change := func(edit func(claims)) claims {
		c := w.issuer.claims(ada)
		edit(c)
		return c
	}
	impostor := &issuer{t: t, url: w.issuer.url, key: foreign.key}
	tokens := map[string]string{
		"expired":                  w.issuer.sign(change(func(c claims) { c["exp"] = time.Now().Add(-time.Hour).Unix() })),
		"for another audience":     w.issuer.sign(change(func(c claims) { c["aud"] = "https://elsewhere.test/mcp" })),
		"without an audience":      w.issuer.sign(change(func(c claims) { delete(c, "aud") })),
		"without an expiry":        w.issuer.sign(change(func(c claims) { delete(c, "exp") })),
		"of a foreign issuer":      foreign.token(ada),
		"signed by a foreign key":  impostor.token(ada),
		"alg none":                 w.issuer.unsigned(w.issuer.claims(ada)),
		"of an unknown person":     w.issuer.token("nobody@corp.test"),
		"not valid yet":            w.issuer.sign(change(func(c claims) { c["nbf"] = time.Now().Add(time.Hour).Unix() })),
		"no JWT":                   "opaque",
		"a JWT that is cut":        good[:len(good)-10],
		"a proxy's token":          "spp_notatoken",
		"with a very long payload": w.issuer.sign(change(func(c claims) { c["pad"] = strings.Repeat("x", 40_000) })),
	}
	began := time.Now()
	for name, token := range tokens {
		t.Run("a token "+name, func(t *testing.T) {
			status, header, body := post(t, p, token, nil, goodCall)
			person := name == "of an unknown person"
			if status != http.StatusUnauthorized && (!person || status != http.StatusForbidden) && status != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("answered %d %s", status, body)
			}
			if status == http.StatusUnauthorized && !strings.Contains(header.Get("WWW-Authenticate"), "resource_metadata=") {
				t.Errorf("WWW-Authenticate = %q", header.Get("WWW-Authenticate"))
			}
			if strings.Contains(body, token) {
				t.Error("the answer holds the token")
			}
			works(t)
		})
	}
	t.Run("no token", func(t *testing.T) {
		status, header, _ := post(t, p, "", nil, goodCall)
		if status != http.StatusUnauthorized || !strings.Contains(header.Get("WWW-Authenticate"), "resource_metadata=") || strings.Contains(header.Get("WWW-Authenticate"), "error=") {
			t.Errorf("answered %d, WWW-Authenticate %q", status, header.Get("WWW-Authenticate"))
		}
		works(t)
	})
	if got, want := w.github.Calls.Count(""), served+len(messages)+len(tokens)+1; got != want {
		t.Errorf("%d calls reached the upstream, want the %d good ones", got, want)
	}
	eventually(t, func() error {
		records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Verdict: auditv1.Verdict_VERDICT_DENIED})
		if err != nil {
			return err
		}
		refused := map[string]int{}
		for _, r := range records {
			refused[r.GetRecord().GetMethod()]++
		}
		if refused["authenticate"] != len(tokens) {
			return fmt.Errorf("%d refused tokens are recorded since %s, want %d", refused["authenticate"], began.Format(time.TimeOnly), len(tokens))
		}
		if refused["read"] == 0 {
			return fmt.Errorf("no refused message is recorded")
		}
		return nil
	})
}
