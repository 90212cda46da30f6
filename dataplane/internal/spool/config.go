package spool

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Durability is what a record has reached when Append returns.
type Durability int

const (
	// Process: the kernel has the record. It survives the crash of any process, not that of the machine.
	Process Durability = iota
	// Disk: the record was synced to the disk. Appends that wait at the same time share one sync.
	Disk
	// Central: the control plane has acknowledged the record of a call, which is then stored there as durably as anything. No call is made
	// while it cannot be reached. Other records are as with Process.
	Central
)

// Config says where and how a spool keeps records.
type Config struct {
	// Dir is the spool's folder. It is created where it is missing; one process at a time may have it open.
	Dir string
	// Proxy and Region are stamped on each record. They may be set later with Identify.
	Proxy, Region string
	// Durability. Default: Process.
	Durability Durability
	// ConfirmWithin is how long Append waits with Central. Default: 10 s.
	ConfirmWithin time.Duration
	// MaxBytes bounds what lies on disk. Full: new calls are refused. Default: 1 GiB.
	MaxBytes int64
	// DropOldest drops the older half of what lies on disk when it is full, in place of refusing calls. A record says how many that were. For a
	// moment it takes half as much room more.
	DropOldest bool
	// SegmentBytes is the size at which a new segment begins; space comes back a segment at a time.
	// Default: 16 MiB, at most an eighth of MaxBytes.
	SegmentBytes int64
	// Gather is how long records gather after a delivery, unless a batch is full before: it costs the control plane's store some
	// milliseconds, however few are in it. The first record after a quiet time leaves at once. Default: 500 ms; with Central, for
	// which calls wait, 1 ms.
	Gather time.Duration
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// NewID returns a random UUID, for generations and for the records that the spool writes itself.
	// Default: version 7.
	NewID func() string
	// BootID names the running boot of the machine, to tell the crash of a process from that of a machine.
	// Default: what Linux says; elsewhere nothing, and then each crash is taken for the machine's.
	BootID string
	// Logger gets damage found and delivery failing. Default: slog.Default.
	Logger *slog.Logger
}

var (
	// ErrFull says that the spool has no room until records are acknowledged.
	ErrFull = errors.New("audit spool is full")
	// ErrTooLarge says that one record is larger than the spool takes.
	ErrTooLarge = errors.New("audit record is too large")
	// ErrUnconfirmed says that the spool has the record and the control plane did not acknowledge it in time.
	ErrUnconfirmed = errors.New("the control plane did not acknowledge the audit record in time")
	// ErrClosed says that the spool was closed.
	ErrClosed = errors.New("audit spool is closed")
	// ErrInUse says that another process has the folder open.
	ErrInUse = errors.New("audit spool folder is in use by another process")
)

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("audit spool: no folder given")
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 1 << 30
	}
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = 16 << 20
	}
	c.SegmentBytes = max(min(c.SegmentBytes, c.MaxBytes/8), 4096)
	if c.Gather == 0 {
		c.Gather = 500 * time.Millisecond
		if c.Durability == Central {
			c.Gather = time.Millisecond
		}
	}
	if c.ConfirmWithin == 0 {
		c.ConfirmWithin = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = func() string { return uuid.Must(uuid.NewV7()).String() }
	}
	if c.BootID == "" {
		c.BootID = systemBootID()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

func systemBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
