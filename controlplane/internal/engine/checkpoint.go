package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

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
	// Every is after how many events a new one is written. Default 200,000.
	Every uint64
	Blobs Blobs
}

// headFormat names what is in the file, and is bound into its seal: the last event tells whether the log
// still is the one that was folded.
const headFormat = "sallyport-checkpoint fold=%d seq=%d epoch=%q last=%s"

func (c *committed) head() string {
	return fmt.Sprintf(headFormat, core.FoldVersion, c.state.Seq(), c.state.Epoch(), c.last)
}

// read returns the state of the file, or nil where there is none that this build can use.
func (c *Checkpoints) read(log *slog.Logger) *committed {
	s, err := c.load()
	switch {
	case err == nil:
		return s
	case !errors.Is(err, fs.ErrNotExist):
		log.Warn("the checkpoint is not used: the whole log is folded", "error", err)
	}
	return nil
}

func (c *Checkpoints) load() (*committed, error) {
	f, err := os.Open(c.Path)
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

// write puts a state into the file so that a crash leaves the old one or the new one, whole.
func (c *Checkpoints) write(s *committed) error {
	if s.state.Seq() == 0 {
		return nil
	}
	f, err := os.OpenFile(c.Path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	err = c.save(f, s)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(c.Path+".new", c.Path)
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

// checkpointLoop writes a checkpoint when enough was folded since the last. The state is not held up: it
// does not change.
func (e *Engine) checkpointLoop(ctx context.Context) {
	every := e.Checkpoints.Every
	if every == 0 {
		every = 200_000
	}
	written := e.State().Seq()
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s := e.now.Load(); s.state.Seq() >= written+every {
			if err := e.Checkpoints.write(s); err != nil {
				e.Log.WarnContext(ctx, "the checkpoint could not be written; it is tried again", "error", err)
				continue
			}
			written = s.state.Seq()
		}
	}
}
