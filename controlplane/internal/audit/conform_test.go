package audit_test

import (
	"context"
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/audittest"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func TestTheStreamConforms(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := audit.Open(ctx, natstest.Embedded(t).Conn, audit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Hour).Truncate(10 * time.Minute)
	audittest.Fill(t, s, 400, at)
	audittest.Conform(t, s, audittest.All(t, s), at)
}
