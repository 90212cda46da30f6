package scim_test

import (
	"fmt"
	"net/http/httptest"
	"testing"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/scim"
)

// BenchmarkLookUp is a look-up by userName of somebody in ten groups, without the network.
func BenchmarkLookUp(b *testing.B) {
	p := enginetest.New(b).Start(nil)
	p.Directory("okta")
	_, token := p.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	ann := p.User("okta", "ann@example.com")
	for i := range 10 {
		p.Group("okta", fmt.Sprintf("Team %d", i), ann)
	}
	server := scim.New(scim.Config{Engine: p.Engine})
	r := httptest.NewRequestWithContext(b.Context(), "GET", "/scim/v2/Users"+filter(`userName eq "ANN@example.com"`)+"&startIndex=1&count=100", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		if server.ServeHTTP(w, r); w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}
