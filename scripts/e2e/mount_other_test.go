//go:build !linux

package e2e

import "testing"

// mount mounts a small disk in memory where the system has such a thing.
func mount(*testing.T, string, bool) (string, bool) { return "", false }
