package admin

import (
	"net/http"
	"strings"
	"testing"

	"sallyport.dev/controlplane/internal/activity"
)

func TestEachRefusalComesWithWhatToDo(t *testing.T) {
	seen := map[string]string{}
	for _, c := range []struct {
		resource string
		status   int
		kind     string
		says     string
	}{
		{"/Users", http.StatusConflict, "uniqueness", "Somebody else of the directory has that userName"},
		{"/Users", http.StatusUnauthorized, "", "sallyport tokens create scim"},
		{"/Users", http.StatusServiceUnavailable, "", "/readyz"},
		{"/events", http.StatusNotFound, "access_denied", "sallyport directories signals"},
		{"/events", http.StatusBadRequest, "invalid_issuer", "--issuer"},
		{"/events", http.StatusBadRequest, "invalid_audience", "--audience"},
		{"/events", http.StatusBadRequest, "authentication_failed", "--jwks-url"},
		{"/events", http.StatusTooManyRequests, "authentication_failed", "bad signature"},
		{"/events", http.StatusBadRequest, "invalid_request", "docs/signals.md"},
		{"/events", http.StatusServiceUnavailable, "unavailable", "send it again"},
		{"/logout", http.StatusNotFound, "invalid_request", "never provisioned"},
		{"/logout", http.StatusUnauthorized, "authentication_failed", "--jwks-url"},
	} {
		got := advice(activity.Refusal{Resource: c.resource, Status: c.status, Type: c.kind})
		if !strings.Contains(got, c.says) {
			t.Errorf("%+v: %s", c, got)
		}
		if before, same := seen[got]; same && before != c.kind {
			t.Errorf("%+v: the same advice as for %s", c, before)
		}
		seen[got] = c.kind
	}
}
