package natsconn

import (
	"errors"
	"testing"
)

// TestOneLookDoesNotCondemnAStore: on a busy machine a server says now and then that it is not ready, or that a stream is lost while it is
// being made. Started again for that, it would end each reader's stream and each write under way.
func TestOneLookDoesNotCondemnAStore(t *testing.T) {
	failed := errors.New("not ready for connections")
	for name, looks := range map[string][]struct{ found, believed error }{
		"busy":            {{failed, nil}, {nil, nil}, {failed, nil}, {failed, nil}, {nil, nil}, {failed, nil}},
		"failed for good": {{failed, nil}, {failed, nil}, {failed, failed}, {failed, failed}, {nil, nil}, {failed, nil}},
	} {
		var s suspicion
		for i, l := range looks {
			if got := s.look(l.found); !errors.Is(got, l.believed) {
				t.Errorf("%s: look %d found %v, believed %v, want %v", name, i, l.found, got, l.believed)
			}
		}
	}
}
