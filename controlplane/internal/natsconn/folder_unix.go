//go:build unix

package natsconn

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// nearlyFull tells whether so little is free that a folder has to be tried.
func nearlyFull(dir string) bool {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return true
	}
	return uint64(fs.Bavail) < 4*probeBytes/uint64(fs.Bsize) //nolint:unconvert // its type differs between systems
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// openAlone opens a file that no other process may open so until this one ends or closes it.
func openAlone(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written to it
		return nil, fmt.Errorf("%w: %w", errInUse, err)
	}
	return f, nil
}
