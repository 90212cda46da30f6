package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

// Blobs seals what a checkpoint holds: personal data in the open.
type Blobs interface {
	SealBlob(w io.Writer, name string) (io.WriteCloser, error)
	OpenBlob(r io.Reader, name string) (io.Reader, error)
}

// Checkpoints keeps the newest state in a file, so that a start need not fold the whole log. Nothing is
// lost with it.
type Checkpoints struct {
	// Path is the file's.
	Path string
	// Kept is the folder of the states of each day that are kept. Empty: none are.
	Kept string
	// Every is after how many events a new one is written. Default 200,000.
	Every uint64
	Blobs Blobs
	// Erased yields people of whom nothing may be left: a checkpoint that has one of them is refused and
	// destroyed. Nil: nobody.
	Erased iter.Seq[uuid.UUID]
}

// headFormat names what is in the file, and is bound into its seal: the last event tells whether the log
// still is the one that was folded.
const headFormat = "sallyport-checkpoint fold=%d seq=%d epoch=%q last=%s"

func (c *committed) head() string {
	return fmt.Sprintf(headFormat, core.FoldVersion, c.state.Seq(), c.state.Epoch(), c.last)
}

// read returns the state of the file, or nil where there is none that this build can use. One that cannot be
// used, or may not, is destroyed: it could hold somebody of whom nothing may be left.
func (c *Checkpoints) read(log *slog.Logger) (*committed, error) {
	var found *committed
	for _, path := range []string{c.Path, c.Path + newSuffix} { // the latter where a crash came before it got its name
		s, err := c.load(path)
		if err == nil && c.holdsErased(s.state) {
			err = errors.New("it holds somebody who was erased since")
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			log.Warn("a checkpoint is not used, and destroyed", "file", path, "error", err)
			if err := destroy(path); err != nil {
				return nil, err
			}
		case found == nil:
			found = s
		}
	}
	return found, nil
}

// holdsErased tells whether somebody is in a state of whom nothing may be left.
func (c *Checkpoints) holdsErased(s *core.State) bool {
	if c.Erased != nil {
		for id := range c.Erased {
			if s.User(id) != nil {
				return true
			}
		}
	}
	return false
}

// headBytes is more than a checkpoint's head takes: the first line, and the key under which the rest is sealed.
const headBytes = 64 << 10

// shred makes a checkpoint unreadable for good, also where its bytes outlast its name: without the key in its
// head nothing in it opens.
func shred(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("overwriting a checkpoint: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, min(info.Size(), headBytes)))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("overwriting a checkpoint: %w", err)
	}
	return nil
}

// destroy shreds a checkpoint and removes it.
func destroy(path string) error {
	if err := shred(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a checkpoint: %w", err)
	}
	return nil
}

func (c *Checkpoints) load(path string) (*committed, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	r := bufio.NewReaderSize(f, 1<<20)
	name, err := r.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("reading its head: %w", err)
	}
	name = strings.TrimSuffix(name, "\n")
	if !strings.HasPrefix(name, fmt.Sprintf("sallyport-checkpoint fold=%d ", core.FoldVersion)) {
		return nil, errors.New("it is of another version of the fold")
	}
	plain, err := c.Blobs.OpenBlob(r, name)
	if err != nil {
		return nil, err
	}
	s, err := core.DecodeState(plain)
	if err != nil {
		return nil, err
	}
	at := &committed{state: s, last: name[strings.LastIndexByte(name, '=')+1:]}
	if at.head() != name {
		return nil, errors.New("it holds another state than its head says")
	}
	return at, nil
}

// newSuffix is of a checkpoint that does not have its name yet.
const newSuffix = ".new"

// write puts a state into the file so that a crash leaves the old one or the new one, whole. The old one is
// not only replaced but shredded: it may hold people who were erased since.
func (c *Checkpoints) write(s *committed) error {
	if s.state.Seq() == 0 {
		return nil
	}
	next := c.Path + newSuffix
	if err := destroy(next); err != nil { // what a crash left
		return err
	}
	f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	err = c.save(f, s)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = syncFolder(filepath.Dir(c.Path))
	}
	if err == nil {
		err = shred(c.Path)
	}
	if err == nil {
		err = os.Rename(next, c.Path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(c.Path))
	}
	if err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	return nil
}

// syncFolder makes a rename in a folder last.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c *Checkpoints) save(f io.Writer, s *committed) error {
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := fmt.Fprintln(w, s.head()); err != nil {
		return err
	}
	sealed, err := c.Blobs.SealBlob(w, s.head())
	if err != nil {
		return err
	}
	if err := s.state.Encode(sealed); err != nil {
		return err
	}
	return errors.Join(sealed.Close(), w.Flush())
}

// Checkpoint sees to it that no checkpoint of this control plane is older than a version that State has
// reached.
func (e *Engine) Checkpoint(atLeast uint64) error {
	if e.Checkpoints == nil {
		return nil
	}
	e.saving.Lock()
	defer e.saving.Unlock()
	if e.saved.Load() >= atLeast {
		return nil
	}
	s := e.now.Load()
	if err := e.Checkpoints.write(s); err != nil {
		return err
	}
	e.saved.Store(s.state.Seq())
	return nil
}

// erasurePart is how many times as long as a checkpoint took to write nothing is written because of the next
// erasure: they come one by one, and each writes the whole state.
const erasurePart = 10

// keepAgain is after how long it is tried again to keep a state.
const keepAgain = 10 * time.Minute

// checkpointLoop keeps a state of each day, and writes a checkpoint when enough was folded since the last, or somebody was erased who may be in
// that. The state is not held up: it does not change.
func (e *Engine) checkpointLoop(ctx context.Context) {
	every := e.Checkpoints.Every
	if every == 0 {
		every = 200_000
	}
	started := e.State().Seq()
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	var rested, resting time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if time.Now().After(resting) {
			if err := e.keep(ctx); err != nil && ctx.Err() == nil {
				e.Log.WarnContext(ctx, "the state of today could not be kept; it is tried again", "error", err)
				resting = time.Now().Add(keepAgain)
			}
		}
		s, saved := e.State(), e.saved.Load()
		erased := s.LastErasure() > saved && time.Now().After(rested)
		if s.Seq() < max(saved, started)+every && !erased {
			continue
		}
		began := time.Now()
		if err := e.Checkpoint(saved + 1); err != nil {
			e.Log.WarnContext(ctx, "the checkpoint could not be written; it is tried again", "error", err)
		}
		rested = time.Now().Add(erasurePart * time.Since(began))
	}
}
