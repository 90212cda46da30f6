package journal

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func secret(data []byte) bool { return bytes.HasPrefix(data, []byte("secret")) }

// people is a log on which two subjects have messages of either kind, and a tombstone for one of them.
func people(t *testing.T, j *Journal) (tombstone uint64) {
	t.Helper()
	mustAppend(t, j, 0, []Message{
		{"sallyport.event.user.ann", []byte("fact ann 1")}, {"sallyport.event.user.ann", []byte("secret ann 2")},
		{"sallyport.event.user.bob", []byte("secret bob 3")}, {"sallyport.event.user.ann", []byte("secret ann 4")},
	})
	mustAppend(t, j, 4, []Message{{"sallyport.event.user.ann", []byte("secret ann 5")}})
	return mustAppend(t, j, 5, []Message{{"sallyport.event.user.ann", []byte("secret tombstone 6")}})
}

func TestEraseDestroysWhatOneSubjectHoldsAndNothingElse(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		j := s.open(t)
		tombstone := people(t, j)
		n, err := j.Erase(t.Context(), "sallyport.event.user.ann", tombstone, secret)
		if err != nil || n != 3 {
			t.Fatalf("%d messages were destroyed (%v), want 3", n, err)
		}
		if n, err := j.Erase(t.Context(), "sallyport.event.user.ann", tombstone, secret); err != nil || n != 0 {
			t.Fatalf("%d messages were destroyed again (%v)", n, err)
		}
		got := strings.Join(contents(t, s.open(t), tombstone), "; ")
		if want := "fact ann 1; secret bob 3; secret tombstone 6"; got != want {
			t.Fatalf("the log holds %q, want %q", got, want)
		}
		mustAppend(t, j, tombstone, batch("more", 3)) // and it goes on
	})
}

func TestEraseBelievesNoServerThatLacksTheTombstone(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		j := s.open(t)
		tombstone := people(t, j)
		if _, err := j.Erase(t.Context(), "sallyport.event.user.ann", tombstone+10, secret); !errors.Is(err, errBehind) {
			t.Fatalf("got %v, want %v", err, errBehind)
		}
		if _, err := j.Erase(t.Context(), "sallyport.event.user.nobody", tombstone, secret); !errors.Is(err, errBehind) {
			t.Fatalf("got %v, want %v", err, errBehind)
		}
	})
}

func TestWhatIsErasedIsOverwrittenOnDisk(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn := natstest.Open(t, natsconn.Config{DataDir: dir})
	j, err := Open(ctx, conn.Conn, Config{})
	if err != nil {
		t.Fatal(err)
	}
	tombstone := people(t, j)
	if len(onDisk(t, dir, []byte("secret ann"))) == 0 {
		t.Fatal("the test would not see it")
	}
	if _, err := j.Erase(ctx, "sallyport.event.user.ann", tombstone, secret); err != nil {
		t.Fatal(err)
	}
	if files := onDisk(t, dir, []byte("secret ann")); len(files) > 0 {
		t.Fatalf("it is still in %v", files)
	}
	if len(onDisk(t, dir, []byte("secret bob"))) == 0 {
		t.Fatal("somebody else's is gone")
	}
}

// onDisk tells in which files below a folder some bytes are.
func onDisk(t *testing.T, dir string, needle []byte) (files []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, needle) {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}
