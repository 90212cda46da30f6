package upstream

import (
	"testing"
	"time"
)

func TestASuccessEndsThatAnUpstreamIsLeftAloneWhateverCameBetween(t *testing.T) {
	p := NewPool(Config{})
	t.Cleanup(func() { _ = p.Close(t.Context()) })
	u, err := p.Upstream(Target{Connector: "demo", URL: "http://127.0.0.1:9/mcp", Failures: 2})
	if err != nil {
		t.Fatal(err)
	}
	// The last failure in a row is counted, another call succeeds, and only then the first goes on.
	u.breaker.failures.Store(2)
	u.judge(nil)
	u.breaker.until.Store(time.Now().Add(-time.Second).UnixNano())
	if err := u.admit(); err != nil {
		t.Fatal(err)
	}
	u.judge(nil) // the one that tries
	if err := u.admit(); err != nil {
		t.Errorf("it is left alone after a success: %v", err)
	}
}
