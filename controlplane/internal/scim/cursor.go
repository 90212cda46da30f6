package scim

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"sallyport.dev/controlplane/internal/core"
)

// A cursor (RFC 9865) says after which resource the next page begins, and for which query it was made. It is no
// secret and nothing is kept for it: one that somebody made up leads to another place in what its maker may
// list anyway. Where the place is given by a value that the list is sorted by, the resource must still be there.

const (
	cursorHash  = 8
	cursorBytes = cursorHash + 1 + 4
)

func (l *listing) writeCursor(last entry) string {
	p := last.position()
	raw := append(make([]byte, 0, cursorBytes), l.digest()...)
	kind := byte(0)
	if p.group {
		kind = 1
	}
	raw = binary.BigEndian.AppendUint32(append(raw, kind), p.no)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// digest stands for all of a query that decides on the order and on what is in it.
func (l *listing) digest() []byte {
	order := ""
	if l.sortBy != nil {
		order = fmt.Sprintf("%q %q %q %v", l.sortBy.schema, l.sortBy.name, l.sortBy.sub, l.descending)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %v %q %s", l.directory, l.kinds, l.filterText, order))
	return sum[:cursorHash]
}

// readCursor finds the place that a cursor names.
func (l *listing) readCursor() (*entry, error) {
	invalid := badRequest(invalidCursor, "this cursor was not made for this query: begin with an empty one")
	raw, err := base64.RawURLEncoding.DecodeString(l.cursor)
	if err != nil || len(raw) != cursorBytes || string(raw[:cursorHash]) != string(l.digest()) || raw[cursorHash] > 1 {
		return nil, invalid
	}
	e := entry{}
	no := binary.BigEndian.Uint32(raw[cursorHash+1:])
	if raw[cursorHash] == 1 {
		e.group = l.state.GroupByNumber(no)
	} else {
		e.user = l.state.UserByNumber(no)
	}
	there := e.user != nil && e.user.Directory == l.directory || e.group != nil && e.group.Directory == l.directory
	switch {
	case there:
		return &e, nil
	case l.sortBy != nil:
		return nil, badRequest(expiredCursor, "what the last page ended with is gone: begin with an empty cursor")
	case raw[cursorHash] == 1:
		return &entry{group: &core.Group{No: no}}, nil // its place in the order of creation is all that counts
	}
	return &entry{user: &core.User{No: no}}, nil
}
