package identity

import "sync"

// digest is the SHA-256 of a token.
type digest [32]byte

const shards = 16

// cache remembers verified tokens, up to a number: when the younger half is full the older half is dropped, and what
// is used moves to the younger.
type cache struct {
	shards [shards]shard
	half   int // per shard
}

type shard struct {
	mu         sync.RWMutex
	young, old map[digest]*verified
}

func newCache(size int) *cache {
	c := &cache{half: max(size/shards/2, 1)}
	for i := range c.shards {
		c.shards[i].young = map[digest]*verified{}
	}
	return c
}

func (c *cache) get(d *digest) *verified {
	s := &c.shards[d[0]%shards]
	s.mu.RLock()
	v := s.young[*d]
	if v != nil {
		s.mu.RUnlock()
		return v
	}
	v = s.old[*d]
	s.mu.RUnlock()
	if v != nil {
		c.put(d, v)
	}
	return v
}

func (c *cache) put(d *digest, v *verified) {
	s := &c.shards[d[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.young) >= c.half {
		s.old, s.young = s.young, make(map[digest]*verified, c.half)
	}
	s.young[*d] = v
}

func (c *cache) drop(d *digest) {
	s := &c.shards[d[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.young, *d)
	delete(s.old, *d)
}
