package policy

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// clash is a value of which many have the same hash.
type clash struct{ key, value int }

func (c clash) hash() uint64 { return uint64(c.key%3) << 58 }

func keyed(key int) func(clash) bool { return func(c clash) bool { return c.key == key } }

// TestTrieIsAMapWhoseSnapshotsStay holds the trie against Go's map, with hashes that differ in their last
// bits only, and each version that was kept against what was in it then.
func TestTrieIsAMapWhoseSnapshotsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var trie trie[clash]
		model := map[int]int{}
		type version struct {
			trie  func(int) (clash, bool)
			size  int
			model map[int]int
		}
		var kept []version
		by := &owner{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			key := rapid.IntRange(0, 50).Draw(t, "key")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				snapshot := trie
				kept = append(kept, version{func(key int) (clash, bool) { return snapshot.find(clash{key: key}.hash(), keyed(key)) }, snapshot.size, maps.Clone(model)})
				by = &owner{}
			case 1:
				trie.remove(by, clash{key: key}.hash(), keyed(key))
				delete(model, key)
			default:
				value := rapid.Int().Draw(t, "value")
				trie.put(by, clash{key, value}, keyed(key))
				model[key] = value
			}
		}
		kept = append(kept, version{func(key int) (clash, bool) { return trie.find(clash{key: key}.hash(), keyed(key)) }, trie.size, model})
		for i, v := range kept {
			if v.size != len(v.model) {
				t.Fatalf("version %d holds %d, want %d", i, v.size, len(v.model))
			}
			for key := range 51 {
				got, ok := v.trie(key)
				if want, has := v.model[key]; ok != has || got.value != want {
					t.Fatalf("version %d at %d: %v %v, want %v %v", i, key, got, ok, want, has)
				}
			}
		}
		seen := map[int]int{}
		trie.each(func(c clash) bool { seen[c.key] = c.value; return true })
		if !maps.Equal(seen, model) {
			t.Fatalf("went through %v, want %v", seen, model)
		}
	})
}
