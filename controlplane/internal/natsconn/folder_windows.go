package natsconn

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Windows is where people run the command line; a control plane there is not tested.

const (
	errorHandleDiskFull   = syscall.Errno(39)
	errorSharingViolation = syscall.Errno(32)
	errorDiskFull         = syscall.Errno(112)
)

// nearlyFull has the folder be tried.
func nearlyFull(string) bool { return true }

func isFull(err error) bool {
	return errors.Is(err, errorDiskFull) || errors.Is(err, errorHandleDiskFull)
}

// openAlone opens a file that no other process may open until this one ends or closes it.
func openAlone(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, fmt.Errorf("%w: %w", errInUse, err)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}
