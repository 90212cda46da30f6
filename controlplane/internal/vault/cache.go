package vault

import (
	"sync"

	"github.com/google/uuid"
)

type dataKey = [keyBytes]byte

// cache keeps the keys that were used of late, at most max: two halves, of which the older is dropped when
// the younger is full.
type cache struct {
	mu         sync.RWMutex
	max        int
	young, old map[uuid.UUID]dataKey
	// gone are people of whom it was proved that they have no key: none is made for them again.
	gone map[uuid.UUID]struct{}
	// era counts what was forgotten. A key that was read in an earlier era may be one of those.
	era uint64
}

func newCache(most int) *cache {
	return &cache{max: most, young: map[uuid.UUID]dataKey{}, old: map[uuid.UUID]dataKey{}, gone: map[uuid.UUID]struct{}{}}
}

// now is the era in which a key that is read from now on is put.
func (c *cache) now() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.era
}

func (c *cache) get(id uuid.UUID) (dataKey, bool) {
	c.mu.RLock()
	key, ok := c.young[id]
	if ok {
		c.mu.RUnlock()
		return key, true
	}
	key, ok = c.old[id]
	era := c.era
	c.mu.RUnlock()
	if ok {
		c.put(id, key, era)
	}
	return key, ok
}

// put keeps a key that was read or made in an era, if nothing was forgotten since.
func (c *cache) put(id uuid.UUID, key dataKey, era uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.gone, id)
	if era != c.era {
		return
	}
	if len(c.young) >= c.max/2 {
		c.old, c.young = c.young, make(map[uuid.UUID]dataKey, c.max/16)
	}
	c.young[id] = key
}

// lose keeps that somebody has no key, as long as there is room.
func (c *cache) lose(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.gone) >= c.max/2 {
		clear(c.gone)
	}
	c.gone[id] = struct{}{}
}

func (c *cache) lost(id uuid.UUID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.gone[id]
	return ok
}

func (c *cache) forget(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.era++
	delete(c.young, id)
	delete(c.old, id)
}

func (c *cache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.era++
	c.young, c.old = map[uuid.UUID]dataKey{}, map[uuid.UUID]dataKey{}
	clear(c.gone)
}

func (c *cache) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.young) + len(c.old)
}
