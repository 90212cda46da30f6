package e2e

import (
	"net/http"
	"testing"
)

// TestEachListenerAnswersForItsOwnAlone, so that each can be exposed to whom it serves and to nobody else.
func TestEachListenerAnswersForItsOwnAlone(t *testing.T) {
	t.Parallel()
	cp := newControlPlane(t)
	listeners := map[string]string{"scim": cp.scim, "admin": cp.admin, "signin": cp.signin, "fleet": cp.fleet}
	status := func(address, path string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer x")
		res, err := http.DefaultTransport.RoundTrip(req) // a redirect is an answer
		if err != nil {
			return 0
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	for path, own := range map[string]struct {
		listener string
		status   int
	}{
		"/scim/v2/Users":       {"scim", http.StatusUnauthorized},
		"/signals/okta/events": {"scim", http.StatusMethodNotAllowed},
		"/healthz":             {"admin", http.StatusOK},
		"/readyz":              {"admin", http.StatusOK},
		"/login/x":             {"admin", http.StatusNotFound}, // of a command line that waits for nobody
		"/oauth/jwks":          {"signin", http.StatusOK},
		"/oauth/register":      {"signin", http.StatusMethodNotAllowed},
		"/signin":              {"signin", http.StatusServiceUnavailable}, // nobody can sign in yet
		"/.well-known/oauth-authorization-server":      {"signin", http.StatusOK},
		"/sallyport.admin.v1.PolicyService/ListGrants": {"admin", http.StatusMethodNotAllowed}, // it is called by POST
	} {
		for name, address := range listeners {
			want := map[string]int{
				"scim":  http.StatusUnauthorized, // without a token it says nothing of what there is
				"admin": http.StatusNotFound, "signin": http.StatusNotFound,
				"fleet": http.StatusBadRequest, // it speaks TLS by the fleet's authority, and nothing else
			}[name]
			if name == own.listener {
				want = own.status
			}
			if got := status(address, path); got != want {
				t.Errorf("%s at the %s listener: %d, want %d", path, name, got, want)
			}
		}
	}
}
