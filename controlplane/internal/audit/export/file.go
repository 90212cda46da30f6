package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

const (
	// underWay ends the name of the file that is written.
	underWay = ".open"
	// stamp is the time in files' names, which is in the order of time.
	stamp = "20060102T150405.000Z"

	rotateBytes = 64 << 20
	rotateEvery = time.Hour
)

// files writes lines to files of a folder. What Send acknowledged was synced to the disk; a line that a crash tore is taken away before another is
// written, and comes again whole. A file whose name does not end in .open is complete and changes no more.
type files struct {
	folder    string
	extension string
	bytes     int64
	every     time.Duration

	file  *os.File
	size  int64
	begun time.Time
}

func openFiles(e *policyv1.AuditExporter, folder string) (*files, error) {
	if folder == "" {
		return nil, errors.New("there is no folder for files: start the control planes with --audit-export-dir")
	}
	f := &files{folder: filepath.Join(folder, e.GetName()), extension: ".jsonl", bytes: rotateBytes, every: rotateEvery}
	if name, _ := formatOf(e); name == "cef" {
		f.extension = ".cef"
	}
	if e.GetRotateBytes() > 0 {
		f.bytes = int64(min(e.GetRotateBytes(), 1<<40))
	}
	if e.GetRotateEvery() != nil {
		f.every = e.GetRotateEvery().AsDuration()
	}
	if err := os.MkdirAll(f.folder, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of files: %w", err)
	}
	if err := f.resume(); err != nil {
		return nil, err
	}
	return f, nil
}

// resume goes on with the file that was written when this ended, and completes others.
func (f *files) resume() error {
	left, err := filepath.Glob(filepath.Join(f.folder, "audit-*"+underWay))
	if err != nil {
		return fmt.Errorf("looking for files: %w", err)
	}
	slices.Sort(left)
	for _, path := range left {
		if f.file != nil {
			if err := f.complete(); err != nil {
				return err
			}
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("going on with a file: %w", err)
		}
		f.file = file
		if f.size, err = repair(file); err != nil {
			return fmt.Errorf("going on with %s: %w", filepath.Base(path), err)
		}
		// Its name says when it was begun.
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), "audit-"), "-")
		if f.begun, err = time.Parse(stamp, text); err != nil {
			f.begun = time.Time{}
		}
	}
	return nil
}

// repair takes a torn line away and stands at the end.
func repair(file *os.File) (int64, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	whole := size
	block := make([]byte, 64<<10)
	for whole > 0 {
		from := max(whole-int64(len(block)), 0)
		n, err := file.ReadAt(block[:whole-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			whole = from + int64(i) + 1
			break
		}
		whole = from
	}
	if whole < size {
		if err := file.Truncate(whole); err != nil {
			return 0, err
		}
	}
	_, err = file.Seek(whole, io.SeekStart)
	return whole, err
}

// Send appends lines and syncs them.
func (f *files) Send(_ context.Context, items []Item) error {
	if f.file != nil && f.size > 0 && (f.size >= f.bytes || time.Since(f.begun) >= f.every) {
		if err := f.complete(); err != nil {
			return err
		}
	}
	if f.file == nil {
		if err := f.begin(items[0].Sequence); err != nil {
			return err
		}
	}
	var all []byte
	for _, item := range items {
		all = append(append(all, item.Line...), '\n')
	}
	_, err := f.file.Write(all)
	if err == nil {
		err = f.file.Sync()
	}
	if err != nil {
		return f.undo(err)
	}
	f.size += int64(len(all))
	return nil
}

// undo takes away what was written of a batch, since all of it comes again. After a failed sync nobody knows what is on the disk: the file is
// opened anew.
func (f *files) undo(cause error) error {
	err := f.file.Truncate(f.size)
	_ = f.file.Close() // it is opened again
	f.file = nil
	return errors.Join(fmt.Errorf("writing a file: %w", cause), err, f.resume())
}

func (f *files) begin(sequence uint64) error {
	f.begun = time.Now().UTC()
	name := fmt.Sprintf("audit-%s-%d%s", f.begun.Format(stamp), sequence, f.extension+underWay)
	file, err := os.OpenFile(filepath.Join(f.folder, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("beginning a file: %w", err)
	}
	f.file, f.size = file, 0
	return syncFolder(f.folder)
}

// complete gives the file that is written its last name.
func (f *files) complete() error {
	path := f.file.Name()
	if err := errors.Join(f.file.Sync(), f.file.Close()); err != nil {
		f.file = nil
		return errors.Join(fmt.Errorf("completing a file: %w", err), f.resume())
	}
	f.file = nil
	if err := os.Rename(path, strings.TrimSuffix(path, underWay)); err != nil {
		return fmt.Errorf("completing a file: %w", err)
	}
	return syncFolder(f.folder)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing a folder: %w", err)
	}
	defer folder.Close() //nolint:errcheck // it was only read
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("syncing a folder: %w", err)
	}
	return nil
}

// Close leaves the file to be gone on with.
func (f *files) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
