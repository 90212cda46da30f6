package policy

import "hash/maphash"

// trie is a persistent hash trie: a copy of the struct is a snapshot that later edits leave as it was. An edit
// copies the path to what it changes, once per owner, so that it costs the same in a table of a thousand and
// of a million. Values lie in buckets at the ends of branches, with a byte of each one's hash beside them, so
// that finding one of a million misses the processor's caches about twice before the value itself.
type trie[V hashed] struct {
	root place[V]
	size int
}

// hashed is what a trie holds: a value that knows the hash of its key.
type hashed interface{ hash() uint64 }

// owner is one edit's right to change in place what it copied.
type owner struct{ _ byte }

const (
	bucketSize = 10
	fanBits    = 6
	fan        = 1 << fanBits
	// lastShift is where hashes are used up: a bucket there grows instead of being split.
	lastShift = 60
)

// place is the end of a branch or goes on in one; both nil: nothing is there.
type place[V hashed] struct {
	branch *branch[V]
	bucket *bucket[V]
}

type branch[V hashed] struct {
	places [fan]place[V]
	owner  *owner
}

// bucket is two lines of a processor's cache long where V is a pointer.
type bucket[V hashed] struct {
	marks [bucketSize]uint8
	held  uint8
	vals  [bucketSize]V
	more  []V // beyond bucketSize, at lastShift
	owner *owner
}

// seed makes hashes differ from process to process. No verdict depends on it.
var seed = maphash.MakeSeed()

func hashOf[K comparable](key K) uint64 { return maphash.Comparable(seed, key) }

func mark(h uint64) uint8 { return uint8(h >> 56) }

// find returns the value of a hash for which is holds.
func (t *trie[V]) find(h uint64, is func(V) bool) (found V, ok bool) {
	at := &t.root
	for shift := 0; at.branch != nil; shift += fanBits {
		at = &at.branch.places[h>>shift&(fan-1)]
	}
	if at.bucket == nil {
		return found, false
	}
	if where := at.bucket.where(h, is); where != nil {
		return *where, true
	}
	return found, false
}

// where returns the place of the value in a bucket for which is holds, or nil.
func (b *bucket[V]) where(h uint64, is func(V) bool) *V {
	for i := range b.held {
		if b.marks[i] == mark(h) && is(b.vals[i]) {
			return &b.vals[i]
		}
	}
	for i := range b.more {
		if is(b.more[i]) {
			return &b.more[i]
		}
	}
	return nil
}

// each calls f for all values in no order, until it returns false.
func (t *trie[V]) each(f func(V) bool) { t.root.each(f) }

func (p *place[V]) each(f func(V) bool) bool {
	if p.branch != nil {
		for i := range p.branch.places {
			if !p.branch.places[i].each(f) {
				return false
			}
		}
		return true
	}
	if p.bucket == nil {
		return true
	}
	for _, v := range p.bucket.vals[:p.bucket.held] {
		if !f(v) {
			return false
		}
	}
	for _, v := range p.bucket.more {
		if !f(v) {
			return false
		}
	}
	return true
}

// put holds v in place of the value for which is holds, or beside the others.
func (t *trie[V]) put(o *owner, v V, is func(V) bool) {
	h := v.hash()
	at, shift := t.descend(o, h)
	for {
		b := at.own(o)
		if where := b.where(h, is); where != nil {
			*where = v
			return
		}
		if b.held < bucketSize {
			b.add(h, v)
			break
		}
		if shift >= lastShift {
			b.more = append(b.more, v)
			break
		}
		at.split(o, shift)
		at, shift = &at.branch.places[h>>shift&(fan-1)], shift+fanBits
	}
	t.size++
}

// remove takes out the value of a hash for which is holds.
func (t *trie[V]) remove(o *owner, h uint64, is func(V) bool) {
	if _, ok := t.find(h, is); !ok {
		return
	}
	at, _ := t.descend(o, h)
	b := at.own(o)
	where := b.where(h, is)
	var none V
	if last := len(b.more) - 1; last >= 0 {
		*where, b.more[last] = b.more[last], none
		b.more = b.more[:last]
	} else {
		b.held--
		*where, b.vals[b.held] = b.vals[b.held], none
	}
	for i := range b.held { // values moved
		b.marks[i] = mark(b.vals[i].hash())
	}
	if b.held == 0 {
		at.bucket = nil
	}
	t.size--
}

// descend returns the place where a hash's branch ends, all branches on the way to it owned.
func (t *trie[V]) descend(o *owner, h uint64) (at *place[V], shift int) {
	at = &t.root
	for ; at.branch != nil; shift += fanBits {
		if at.branch.owner != o {
			at.branch = &branch[V]{places: at.branch.places, owner: o}
		}
		at = &at.branch.places[h>>shift&(fan-1)]
	}
	return at, shift
}

// own returns the bucket of a place, as one that the owner may change.
func (p *place[V]) own(o *owner) *bucket[V] {
	switch was := p.bucket; {
	case was == nil:
		p.bucket = &bucket[V]{owner: o}
	case was.owner != o:
		p.bucket = &bucket[V]{marks: was.marks, held: was.held, vals: was.vals, owner: o}
		p.bucket.more = append(p.bucket.more, was.more...)
	}
	return p.bucket
}

func (b *bucket[V]) add(h uint64, v V) {
	b.marks[b.held], b.vals[b.held] = mark(h), v
	b.held++
}

// split turns a place's full bucket into a branch of buckets.
func (p *place[V]) split(o *owner, shift int) {
	full := p.bucket
	p.bucket, p.branch = nil, &branch[V]{owner: o}
	for _, v := range full.vals[:full.held] {
		h := v.hash()
		p.branch.places[h>>shift&(fan-1)].own(o).add(h, v)
	}
}
