package e2e

import (
	"syscall"
	"testing"
)

// mount mounts a small disk in memory, if this process may.
func mount(t *testing.T, size string, frozen bool) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	var flags uintptr
	if frozen {
		flags = syscall.MS_RDONLY
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, "mode=0700,size="+size); err != nil {
		return "", false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, true
}
