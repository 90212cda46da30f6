package mcp_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
)

func key(id uint32) mcp.SealingKey {
	return mcp.SealingKey{ID: id, Key: bytes.Repeat([]byte{byte(id)}, 32)}
}

func sealer(t *testing.T, keys ...mcp.SealingKey) *mcp.Sealer {
	t.Helper()
	s, err := mcp.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var opened = time.Unix(1_800_000_000, 0)

var session = mcp.Session{
	ID: "s1", Person: "p", Client: "https://c.example/id", Connector: "github", Generation: 3,
	Revision: mcp.Revision20251125, Issued: opened, Expires: opened.Add(time.Hour), Home: "eu-1",
}

func TestASealedSessionIsOpenedByEveryProxyOfTheRegion(t *testing.T) {
	id := sealer(t, key(1)).Seal(session)
	for _, c := range id {
		if c < 0x21 || c > 0x7e {
			t.Fatalf("%q cannot stand in a header", id)
		}
	}
	got, err := sealer(t, key(2), key(1)).Open(id, opened.Add(time.Minute)) // after a rotation too
	if err != nil || got != session {
		t.Errorf("%+v, %v", got, err)
	}
	if sealer(t, key(1)).Seal(session) == id {
		t.Error("two sealings are equal")
	}
}

func TestASessionIsBoundToItsCaller(t *testing.T) {
	if err := session.Belongs("p", "https://c.example/id", "github", 3); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"person":     session.Belongs("q", "https://c.example/id", "github", 3),
		"client":     session.Belongs("p", "other", "github", 3),
		"connector":  session.Belongs("p", "https://c.example/id", "", 3),
		"generation": session.Belongs("p", "https://c.example/id", "github", 4),
	} {
		if !errors.Is(err, mcp.ErrSessionForeign) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func TestNothingElseOpens(t *testing.T) {
	s := sealer(t, key(1))
	id := s.Seal(session)
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			raw[i] ^= 1 << bit
			if got, err := s.Open(base64.RawURLEncoding.EncodeToString(raw), opened); !errors.Is(err, mcp.ErrSessionUnknown) {
				t.Fatalf("with bit %d of byte %d turned: %+v, %v", bit, i, got, err)
			}
			raw[i] ^= 1 << bit
		}
	}
	for _, bad := range []string{"", "x", id + "A", id[:len(id)-1], id + "=", id + "\n", string(bytes.Repeat([]byte("A"), 1<<20))} {
		if _, err := s.Open(bad, opened); !errors.Is(err, mcp.ErrSessionUnknown) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if _, err := sealer(t, mcp.SealingKey{ID: 1, Key: bytes.Repeat([]byte{9}, 32)}).Open(id, opened); !errors.Is(err, mcp.ErrSessionUnknown) {
		t.Errorf("another region's key: %v", err)
	}
	if _, err := sealer(t, key(2)).Open(id, opened); !errors.Is(err, mcp.ErrSessionUnknown) {
		t.Errorf("a revoked key: %v", err)
	}
	if _, err := s.Open(id, session.Expires); !errors.Is(err, mcp.ErrSessionExpired) {
		t.Errorf("at its end: %v", err)
	}
}

func TestKeysOfAnotherLengthAreRefused(t *testing.T) {
	if _, err := mcp.NewSealer([]mcp.SealingKey{{ID: 1, Key: make([]byte, 16)}}); err == nil {
		t.Error("16 bytes were taken")
	}
	if _, err := mcp.NewSealer(nil); err == nil {
		t.Error("no key was taken")
	}
}

func BenchmarkOpen(b *testing.B) {
	s, err := mcp.NewSealer([]mcp.SealingKey{key(1)})
	if err != nil {
		b.Fatal(err)
	}
	id := s.Seal(session)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(id, opened); err != nil {
			b.Fatal(err)
		}
	}
}
