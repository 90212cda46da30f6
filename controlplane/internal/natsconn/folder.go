package natsconn

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// probeBytes is what a folder must take to count as writable: room for a server to start and write a batch.
const probeBytes = 1 << 20

// probeFolder makes a folder where there is none, and proves that it takes and syncs writes.
func probeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return explain(dir, err)
	}
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return explain(dir, err)
	}
	_, err = f.Write(make([]byte, probeBytes))
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if removed := os.Remove(f.Name()); err == nil {
		err = removed
	}
	return explain(dir, err)
}

// explain says what to do about a folder that takes no writes.
func explain(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case isFull(err):
		return fmt.Errorf("the disk of %s is full: free some space, and it goes on by itself: %w", dir, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the folder %s is not writable: give its ownership to the user that runs sallyport, or name another: %w", dir, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("%s is not a folder: name another, or move what is in its way: %w", dir, err)
	}
	return fmt.Errorf("the folder %s takes no writes: %w", dir, err)
}

// errInUse: another process has the file.
var errInUse = errors.New("it is in use")

// folderLock keeps a second process from a folder. The system releases it when the process ends.
type folderLock struct{ file *os.File }

func lockFolder(dir string) (*folderLock, error) {
	path := filepath.Join(dir, "lock")
	f, err := openAlone(path)
	if errors.Is(err, errInUse) {
		return nil, fmt.Errorf("the folder %s is used by another process: stop that one, or name another folder: %w", dir, err)
	}
	if err != nil {
		return nil, explain(dir, err)
	}
	return &folderLock{f}, nil
}

func (l *folderLock) release() {
	_ = l.file.Close() // what was locked is released either way
}
