package page

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAPageRunsNothingLoadsNothingAndCannotBeFramed(t *testing.T) {
	w := httptest.NewRecorder()
	Write(w, http.StatusForbidden, Page{Title: `<script>alert(1)</script>`, Body: Body(`<p>{{.}}</p>`), Data: `"><img src=x onerror=alert(1)>`, FormAction: []string{"https://agent.example"}})
	if w.Code != http.StatusForbidden {
		t.Errorf("status %d", w.Code)
	}
	body := w.Body.String()
	if strings.Contains(body, "<script") || strings.Contains(body, "<img") {
		t.Errorf("what was filled in became markup:\n%s", body)
	}
	_, rest, _ := strings.Cut(body, "<style>")
	css, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(css))
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{
		"default-src 'none'", "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'", "frame-ancestors 'none'", "form-action 'self' https://agent.example;", "base-uri 'none'",
	} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || w.Header().Get("X-Frame-Options") != "DENY" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("headers: %v", w.Header())
	}
}
