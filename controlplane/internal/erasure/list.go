package erasure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
)

const listHead = "# The ids of people who were erased. Keep this file apart from backups, and put it back before a restored one is started.\n"

// List is the ids of all who were ever removed, in a file: one a line. It holds nothing else of them. It is safe for
// concurrent use.
type List struct {
	path string

	mu  sync.Mutex
	ids map[uuid.UUID]struct{}
}

// OpenList reads a list, and makes an empty one where there is none. What a crash cut off at its end was not relied on
// by anybody, and is removed.
func OpenList(path string) (*List, error) {
	l := &List{path: path, ids: make(map[uuid.UUID]struct{})}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := l.append(listHead); err != nil {
			return nil, err
		}
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the list of erased people: %w", err)
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	if whole < len(data) {
		if err := os.Truncate(path, int64(whole)); err != nil {
			return nil, fmt.Errorf("mending the list of erased people: %w", err)
		}
	}
	n := 0
	for line := range strings.Lines(string(data[:whole])) {
		n++
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("the list of erased people %s has no id in line %d: mend the line, since somebody may be missing", path, n)
		}
		l.ids[id] = struct{}{}
	}
	return l, nil
}

// Add notes those who are not on the list, durably.
func (l *List) Add(people iter.Seq[uuid.UUID]) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var fresh []uuid.UUID
	var text strings.Builder
	for id := range people {
		if _, there := l.ids[id]; !there {
			fresh = append(fresh, id)
			text.WriteString(id.String() + "\n")
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := l.append(text.String()); err != nil {
		return err
	}
	for _, id := range fresh {
		l.ids[id] = struct{}{}
	}
	return nil
}

// append writes text durably, or nothing.
func (l *List) append(text string) error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return fmt.Errorf("making the folder of the list of erased people: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("writing the list of erased people: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		err = f.Sync()
	} else if info != nil {
		err = errors.Join(err, f.Truncate(info.Size())) // nothing, rather than a part
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the list of erased people: %w", err)
	}
	return nil
}

// All yields everybody on the list, in no order.
func (l *List) All() iter.Seq[uuid.UUID] {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Values(slices.Collect(maps.Keys(l.ids)))
}
