package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/quickstart"
)

// TestKeysOfEachHolderReachTheirUpstreamAndNothingElse: in a header and in the query, of everybody, a group and a person, set, rotated and revoked by command. The
// upstreams are careless: they say the key again in what they refuse, and lead on to where it stands in the URL.
func TestKeysOfEachHolderReachTheirUpstreamAndNothingElse(t *testing.T) {
	t.Parallel()
	v := &vaulted{office: newOffice(t, "", "--log-level", "debug"), seen: map[string]string{}}
	keys := map[string]string{
		"planted-shared-key-66d0f1": "everybody", "planted-group-key-a&b=c-91ce": "the staff", "planted-ada-key-17c2bd": "ada", "planted-newer-key-02ba8c": "ada anew",
		"planted-refused-key-5d5d5d": "",
	}
	for key := range keys {
		v.planted.add("the key "+key[8:14], key)
	}
	caller := func(key string) string { return keys[key] }
	query := func(r *http.Request) string { return r.URL.Query().Get("api_key") }
	header := func(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("X-Key"), "Key ") }
	v.connector("search", whoami(t, keyed(query, caller)), "{type: query, query: api_key}")
	v.connector("teams", whoami(t, keyed(query, caller)), "{type: query, query: api_key, keysOf: group}")
	v.connector("mine", whoami(t, keyed(header, caller)), `{type: header, header: X-Key, template: "Key {key}", keysOf: person}`)
	// One that leads elsewhere, with the key in the URL, and one where nobody listens.
	var led atomic.Int64
	elsewhere := whoami(t, func(_ string, _ http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { led.Add(1) })
	})
	v.connector("astray", whoami(t, func(string, http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere+"?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		})
	}), "{type: query, query: api_key}")
	gone, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v.connector("gone", "http://"+gone.Addr().String()+"/mcp", "{type: query, query: api_key}")
	_ = gone.Close()

	shared := "planted-shared-key-66d0f1"
	for _, id := range []string{"search", "astray", "gone"} {
		v.says([]string{"is set at version"}, "secrets", "set", "--connector", id, "--value-file", v.file(shared+"\n"))
	}
	v.fails(1, "there is no connector", "secrets", "set", "--connector", "other", "--value-file", v.file(shared))
	v.fails(1, "does not send keys", "credentials", "set", "--connector", "search", "--person", ada, "--value-file", v.file(shared))
	v.says([]string{"the key of okta/Staff on teams is set"}, "credentials", "set", "--connector", "teams", "--group", "okta/Staff", "--value-file", v.file("planted-group-key-a&b=c-91ce"))
	v.says([]string{`"version"`}, "credentials", "set", "--connector", "mine", "--person", ada, "--value-file", v.file("planted-ada-key-17c2bd"), "-o", "json")
	v.cp.enforced()
	if v.browser, err = agent.NewBrowser(quickstart.Employee(ada)); err != nil {
		t.Fatal(err)
	}
	v.signInAgain()
	v.known("search", "everybody")
	v.known("teams", "the staff")
	v.known("mine", "ada")

	// A key that is refused gives way to the one from before, within the call; one that takes all others' place does so at once.
	v.says(nil, "credentials", "set", "--connector", "mine", "--person", ada, "--keep-others", "--value-file", v.file("planted-refused-key-5d5d5d"))
	v.known("mine", "ada")
	v.says(nil, "credentials", "set", "--connector", "mine", "--person", ada, "--value-file", v.file("planted-newer-key-02ba8c"))
	v.known("mine", "ada anew")
	v.says([]string{"okta/" + ada, "mine", "key"}, "credentials", "list", "--person", ada)
	v.says([]string{"okta/Staff", "teams"}, "credentials", "list", "--connector", "teams")

	// What goes wrong says neither the key nor where it stood.
	for _, id := range []string{"astray", "gone"} {
		if res := v.call(id); res.OK || strings.Contains(res.Text, "api_key") {
			t.Errorf("%s: %+v", id, res)
		}
	}
	if led.Load() != 0 {
		t.Errorf("a call was led on %d times, with the key", led.Load())
	}
	v.fails(1, "only tokens of upstreams are renewed", "credentials", "rotate", v.credential("mine", "CREDENTIAL_KIND_KEY"))
	v.says([]string{"is set"}, "secrets", "set", "--connector", "search", "--value-file", v.file("planted-refused-key-5d5d5d"))
	if res := v.call("search"); res.OK {
		t.Errorf("with a key that is refused: %+v", res)
	}
	for _, id := range []string{"search", "gone"} {
		v.run("connectors", "check", id)
		v.run("connectors", "discover", id)
	}
	v.says([]string{"out of use"}, "credentials", "revoke", v.credential("mine", "CREDENTIAL_KIND_KEY"))
	if res := v.call("mine"); res.OK || !strings.Contains(res.Text, "sallyport credentials set") {
		t.Errorf("with a key that was revoked: %+v", res)
	}
	eventually(t, func() error {
		out, _, _ := v.run("credentials", "list", "--connector", "mine", "--withdrawn")
		if strings.Count(out, "a key cannot be revoked from here") < 3 {
			return fmt.Errorf("what became of the keys:\n%s", out)
		}
		return nil
	})
	v.says(nil, "audit", "export", filepath.Join(t.TempDir(), "export"))
	v.says(nil, "connectors", "health")
	v.planted.look(t, "what agents and admins were shown", v.sent)
	v.planted.lookBelow(t, v.cp.data(), v.east.data(), v.west.data(), filepath.Dir(v.cp.Log), filepath.Dir(v.east.Log))
}
