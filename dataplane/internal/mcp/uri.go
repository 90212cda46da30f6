package mcp

import (
	"bytes"

	"sallyport.dev/dataplane/internal/strictjson"
)

// PrefixURIs returns a raw result in which each resource that it holds or leads to bears another URI: its own behind a prefix. It is raw
// itself where there is none.
func PrefixURIs(result []byte, prefix string) []byte {
	if !bytes.Contains(result, []byte(`"uri"`)) {
		return result
	}
	item := func(raw []byte) []byte { return prefixItem(raw, prefix) }
	return members(result, func(key string, value []byte) []byte {
		switch key {
		case "content":
			return elements(value, item)
		case "contents":
			return elements(value, func(raw []byte) []byte { return prefixMember(raw, prefix) })
		case "messages":
			return elements(value, func(message []byte) []byte {
				return members(message, func(key string, value []byte) []byte {
					if key != "content" {
						return value
					}
					if strictjson.KindOf(value) == strictjson.Array {
						return elements(value, item)
					}
					return item(value)
				})
			})
		}
		return value
	})
}

// CompleteResult returns a raw result that says that it is all there is to the answer, where it says nothing of that.
func CompleteResult(result []byte) []byte {
	if lookup(result, []string{"resultType"}) != nil {
		return result
	}
	out := bytes.TrimSuffix(bytes.TrimSpace(result), []byte("}"))
	if !isEmptyObject(result) {
		out = append(out[:len(out):len(out)], ',')
	}
	return append(append(out[:len(out):len(out)], Complete...), '}')
}

// PrivateResult returns a raw result that nobody but the person's own client may keep, where it says for how long at all: who is given it was
// decided for the person. Nil: the result says so already, or nothing of that.
func PrivateResult(result []byte) []byte {
	if scope := lookup(result, []string{"cacheScope"}); scope == nil || string(scope) == private {
		return nil
	}
	return members(result, func(key string, value []byte) []byte {
		if key == "cacheScope" {
			return []byte(private)
		}
		return value
	})
}

const private = `"private"`

// prefixItem renames what a content item holds (resource) or leads to (resource_link).
func prefixItem(raw []byte, prefix string) []byte {
	if strictjson.KindOf(raw) != strictjson.Object {
		return raw
	}
	switch kind := lookup(raw, []string{"type"}); {
	case isText(kind, "resource_link"):
		return prefixMember(raw, prefix)
	case isText(kind, "resource"):
		return members(raw, func(key string, value []byte) []byte {
			if key == "resource" {
				return prefixMember(value, prefix)
			}
			return value
		})
	}
	return raw
}

func prefixMember(raw []byte, prefix string) []byte {
	return members(raw, func(key string, value []byte) []byte {
		if uri, ok := strictjson.Text(value); ok && key == "uri" {
			return strictjson.Quote(nil, prefix+uri)
		}
		return value
	})
}

// members returns a raw object with other values; raw itself if it is none.
func members(raw []byte, value func(key string, value []byte) []byte) []byte {
	if strictjson.KindOf(raw) != strictjson.Object {
		return raw
	}
	var r strictjson.Reader
	r.Reset(raw, strictjson.Limits{MaxBytes: len(raw), MaxDepth: 1 << 20, MaxKeys: len(raw)})
	out := []byte{'{'}
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(strictjson.Quote(out, key), ':'), value(key, r.Value())...)
	}
	return append(out, '}')
}

// elements returns a raw array with other elements; raw itself if it is none.
func elements(raw []byte, element func([]byte) []byte) []byte {
	all, err := strictjson.Elements(raw, strictjson.Limits{MaxBytes: len(raw), MaxDepth: 1 << 20, MaxKeys: len(raw)}, len(raw))
	if strictjson.KindOf(raw) != strictjson.Array || err != nil {
		return raw
	}
	out := make([][]byte, len(all))
	for i, one := range all {
		out[i] = element(one)
	}
	return AppendArray(nil, out)
}
