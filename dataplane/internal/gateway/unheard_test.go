package gateway

import (
	"testing"
	"time"
)

func TestACallEndsForAnAgentThatCameBackAndWentAgain(t *testing.T) {
	stream := &track{listening: 1, more: make(chan struct{})}
	again := stream.heard(time.Millisecond)
	ended := make(chan struct{})
	stream.left(time.Millisecond, func() { close(ended) }) // the connection that the call came on
	again()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the call goes on, and nobody listens")
	}
}
