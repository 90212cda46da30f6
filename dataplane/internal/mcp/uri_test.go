package mcp_test

import (
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
)

func TestResourcesBearAnotherURIWhereverAResultHasThem(t *testing.T) {
	for in, out := range map[string]string{
		`{"content":[{"type":"resource_link","uri":"a:1","name":"n"},{"type":"text","text":"\"uri\""}]}`:            `{"content":[{"type":"resource_link","uri":"p+a:1","name":"n"},{"type":"text","text":"\"uri\""}]}`,
		`{"content":[{"type":"resource","resource":{"uri":"a:1","text":"t"}}],"x":{"uri":"a:1"}}`:                   `{"content":[{"type":"resource","resource":{"uri":"p+a:1","text":"t"}}],"x":{"uri":"a:1"}}`,
		`{"contents":[{"uri":"a:1","text":"t"}]}`:                                                                   `{"contents":[{"uri":"p+a:1","text":"t"}]}`,
		`{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"a:1"}}}]}`:                     `{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"p+a:1"}}}]}`,
		`{"messages":[{"role":"user","content":[{"type":"resource_link","uri":"a:1"}]}]}`:                           `{"messages":[{"role":"user","content":[{"type":"resource_link","uri":"p+a:1"}]}]}`,
		`{"structuredContent":{"uri":"a:1"},"content":[{"type":"text","text":"t"}]}`:                                `{"structuredContent":{"uri":"a:1"},"content":[{"type":"text","text":"t"}]}`,
		`{"content":"uri","contents":{"uri":7},"messages":[7,{"content":null}],"uri":[{"uri":"a"}],"y":[{"a":{}}]}`: `{"content":"uri","contents":{"uri":7},"messages":[7,{"content":null}],"uri":[{"uri":"a"}],"y":[{"a":{}}]}`,
	} {
		if got := string(mcp.PrefixURIs([]byte(in), "p+")); got != out {
			t.Errorf("%s became %s", in, got)
		}
	}
}

func TestAResultIsCompletedOnce(t *testing.T) {
	for in, out := range map[string]string{
		`{}`: `{"resultType":"complete"}`, `{ "a":1 }`: `{ "a":1 ,"resultType":"complete"}`, `{"resultType":"task"}`: `{"resultType":"task"}`,
	} {
		if got := string(mcp.CompleteResult([]byte(in))); got != out {
			t.Errorf("%s became %s", in, got)
		}
	}
}

func TestAResultIsKeptByThePersonsOwnClientAlone(t *testing.T) {
	for in, out := range map[string]string{
		`{"contents":[],"ttlMs":9,"cacheScope":"public"}`: `{"contents":[],"ttlMs":9,"cacheScope":"private"}`,
		`{"cacheScope":7}`: `{"cacheScope":"private"}`, `{"cacheScope":"anybody"}`: `{"cacheScope":"private"}`, `{ "cacheScope":"private"}`: "",
		`{"contents":[{"cacheScope":"public"}]}`: "", `{}`: "",
	} {
		if got := string(mcp.PrivateResult([]byte(in))); got != out {
			t.Errorf("%s became %s", in, got)
		}
	}
}
