package sealing_test

import (
	"bytes"
	"errors"
	"testing"

	"sallyport.dev/dataplane/sealing"
)

func TestAnAnswerOpensWithTheQuestionsKeyAndForItsQuestionAlone(t *testing.T) {
	key, err := sealing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := sealing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if len(key.Public()) != sealing.PublicSize || bytes.Equal(key.Public(), other.Public()) {
		t.Errorf("public parts of %d bytes", len(key.Public()))
	}
	sealed, err := sealing.Seal(key.Public(), []byte("secret"), "crm", "ada")
	if err != nil || bytes.Contains(sealed, []byte("secret")) {
		t.Fatalf("%x, %v", sealed, err)
	}
	if plain, err := key.Open(sealed, "crm", "ada"); err != nil || string(plain) != "secret" {
		t.Errorf("%q, %v", plain, err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"with another key":       func() ([]byte, error) { return other.Open(sealed, "crm", "ada") },
		"of another connector":   func() ([]byte, error) { return key.Open(sealed, "jira", "ada") },
		"joined in another way":  func() ([]byte, error) { return key.Open(sealed, "crma", "da") },
		"about less":             func() ([]byte, error) { return key.Open(sealed, "crm") },
		"changed":                func() ([]byte, error) { return key.Open(changed, "crm", "ada") },
		"cut":                    func() ([]byte, error) { return key.Open(sealed[:40], "crm", "ada") },
		"nothing":                func() ([]byte, error) { return key.Open(nil, "crm", "ada") },
		"what is no seal at all": func() ([]byte, error) { return key.Open(bytes.Repeat([]byte{7}, 100), "crm", "ada") },
	} {
		if plain, err := open(); !errors.Is(err, sealing.ErrOpen) {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
	for _, public := range [][]byte{nil, {1, 2, 3}, make([]byte, 31), make([]byte, 33)} {
		if _, err := sealing.Seal(public, []byte("secret")); err == nil {
			t.Errorf("sealed to %d bytes", len(public))
		}
	}
}

func TestWhatASenderSealedOpensWithItsKeyAndAboutTheSameAlone(t *testing.T) {
	key, err := sealing.KeyFrom(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealing.KeyFrom(bytes.Repeat([]byte{1}, 32))
	if err != nil || !bytes.Equal(key.Public(), again.Public()) {
		t.Fatalf("one seed makes two keys (%v)", err)
	}
	other, err := sealing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sender, err := sealing.NewSender(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	first, second := sender.Seal([]byte("secret"), "ada", "1"), sender.Seal([]byte("secret"), "ada", "1")
	if bytes.Equal(first[32:], second[32:]) || bytes.Contains(first, []byte("secret")) {
		t.Errorf("%x and %x", first, second)
	}
	for _, sealed := range [][]byte{first, second} {
		if plain, err := again.OpenSent(sealed, "ada", "1"); err != nil || string(plain) != "secret" {
			t.Errorf("%q, %v", plain, err)
		}
	}
	for i := range first {
		changed := bytes.Clone(first)
		changed[i] ^= 1
		if plain, err := key.OpenSent(changed, "ada", "1"); !errors.Is(err, sealing.ErrOpen) {
			t.Errorf("with byte %d changed: %q, %v", i, plain, err)
		}
	}
	for name, open := range map[string]func() ([]byte, error){
		"with another key": func() ([]byte, error) { return other.OpenSent(first, "ada", "1") },
		"of another call":  func() ([]byte, error) { return key.OpenSent(first, "ada", "2") },
		"cut":              func() ([]byte, error) { return key.OpenSent(first[:40], "ada", "1") },
		"nothing":          func() ([]byte, error) { return key.OpenSent(nil, "ada", "1") },
	} {
		if plain, err := open(); !errors.Is(err, sealing.ErrOpen) {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
	if _, err := sealing.NewSender([]byte{1, 2, 3}); err == nil {
		t.Error("sealed to no key")
	}
}
