package scim

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestRequestsAtOnceAreBoundedForEachToken, and each that leaves makes room.
func TestRequestsAtOnceAreBoundedForEachToken(t *testing.T) {
	l := &limits{atOnce: 2, of: map[uuid.UUID]*limit{}}
	one, other := uuid.New(), uuid.New()
	enter := func(token uuid.UUID) func() {
		t.Helper()
		leave, wait := l.enter(token, time.Now())
		if (leave == nil) != (wait > 0) {
			t.Fatalf("let in: %v, to wait %s", leave != nil, wait)
		}
		return leave
	}
	first, second := enter(one), enter(one)
	if first == nil || second == nil || enter(one) != nil {
		t.Fatal("not two of three are let in")
	}
	if enter(other) == nil {
		t.Error("another token is held up")
	}
	second()
	if enter(one) == nil {
		t.Error("who left makes no room")
	}
}
