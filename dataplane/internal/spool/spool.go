package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Spool is an open spool folder. Its methods may be called by many goroutines at once; Deliver by one at a time.
type Spool struct {
	cfg  Config
	lock *os.File
	// wake holds a token while there may be records that Deliver has not seen.
	wake chan struct{}
	// full holds a token while there may be enough for a whole batch.
	full chan struct{}

	// acknowledging is held while acknowledged positions move, and while records are dropped. Who writes only tries to have it: an
	// acknowledgement may have to wait for the writer.
	acknowledging sync.Mutex

	mu          sync.Mutex // guards what follows
	closed      bool
	stamp       []byte        // what is put behind each record: see setStamp
	generations []*generation // oldest first; the last is being written
	total       int64         // bytes in segments
	queued      int64         // bytes in pending
	calls       openCalls
	moved       chan struct{}          // closed at the next acknowledgement; nil: nobody waits
	owed        []*auditv1.AuditRecord // completions that are not kept yet: of calls that a crash cut short, and those for which there was no room
	resting     bool                   // there was no room for them just now

	proxy, region string
	pending       *batch // waits for the write that is under way
	spare         *batch // for reuse
	writing       bool   // somebody is the writer
	due           bool   // alarm is set, for what nobody waits for
	alarm         *time.Timer

	unkept atomic.Bool // the disk did not take the last write

	// Owned by the writer.
	file *os.File // the newest segment of the newest generation, with tail; nil: begin a new one
	tail *segment
	out  []byte
}

// Stats is the state of a spool.
type Stats struct {
	Generation string
	// Last is the newest record of the generation, Pending the records of all generations not yet acknowledged.
	Last, Pending uint64
	// Bytes on disk, of at most MaxBytes.
	Bytes, MaxBytes int64
	// OpenCalls have been authorized and not completed.
	OpenCalls int
}

// Open opens or creates a spool folder, recovers what a crash left, and appends a completion of unknown outcome for
// each call that was in flight. It fails where the folder cannot be used; a full disk alone does not make it fail.
func Open(cfg Config) (*Spool, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, dirMode); err != nil {
		return nil, fmt.Errorf("creating the audit spool folder: %w", err)
	}
	s := &Spool{cfg: cfg, wake: make(chan struct{}, 1), full: make(chan struct{}, 1), proxy: cfg.Proxy, region: cfg.Region}
	s.calls = newOpenCalls()
	if s.lock, err = lockFolder(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		_ = s.lock.Close()
		return nil, fmt.Errorf("opening the audit spool %s: %w", cfg.Dir, err)
	}
	s.settleOwed()
	s.notify()
	return s, nil
}

func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("opening the audit spool's lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("locking the audit spool folder: %w", err)
	}
	return f, nil
}

// Identify sets the proxy and region that are stamped on each record from now on.
func (s *Spool) Identify(proxy, region string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proxy, s.region = proxy, region
	s.setStamp()
}

// setStamp encodes the constant part of what is put behind each record. In the wire format a field that comes later
// replaces the one before, so whatever a caller set there does not count. The caller holds mu.
func (s *Spool) setStamp() { s.stamp = stampFor(s.proxy, s.region, s.current().id) }

// The numbers of the identity's fields in AuditRecord.
const (
	fieldProxy      protowire.Number = 1
	fieldGeneration protowire.Number = 2
	fieldNumber     protowire.Number = 3
	fieldRegion     protowire.Number = 4
)

func stampFor(proxy, region, generation string) []byte {
	var b []byte
	for _, f := range []struct {
		number protowire.Number
		value  string
	}{{fieldProxy, proxy}, {fieldRegion, region}, {fieldGeneration, generation}} {
		if f.value != "" {
			b = protowire.AppendTag(b, f.number, protowire.BytesType)
			b = protowire.AppendString(b, f.value)
		}
	}
	return b
}

// current is the generation being written. The caller holds mu or is the writer.
func (s *Spool) current() *generation { return s.generations[len(s.generations)-1] }

// Stats returns the state as of now.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Generation: s.current().id, Last: s.current().last, Bytes: s.total, MaxBytes: s.cfg.MaxBytes,
		OpenCalls: s.calls.len(),
	}
	for _, g := range s.generations {
		if g.last > g.acked {
			st.Pending += g.last - g.acked
		}
	}
	return st
}

// Roomy tells whether there is room for more than records need: not more than half of the spool is used.
func (s *Spool) Roomy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total+s.queued <= s.cfg.MaxBytes/2
}

// Writable returns nil when calls can be recorded, or else why not: ErrFull, or what the disk says. Anybody may read that.
func (s *Spool) Writable() error {
	if st := s.Stats(); st.Bytes+roomOfACall > st.MaxBytes && !s.cfg.DropOldest {
		return ErrFull
	}
	if !s.unkept.Load() {
		return nil
	}
	// Where nobody sends calls to a proxy that is not ready, none would find out that there is room again.
	f, err := os.CreateTemp(s.cfg.Dir, unfinished)
	if err == nil {
		_, err = f.Write(make([]byte, roomOfACall))
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err == nil {
		s.unkept.Store(false)
		return nil
	}
	var said syscall.Errno // without the path
	if errors.As(err, &said) {
		err = said
	}
	return fmt.Errorf("the audit spool's disk takes no writes: %w", err)
}

// roomOfACall is what the records of an ordinary call take, and more.
const roomOfACall = 16 << 10

// Close ends the spool. Appends that wait are kept or fail first. Deliver must have returned.
func (s *Spool) Close() error {
	var err error
	if e := s.exclusive(func() { err = s.shut() }); e != nil {
		return e
	}
	return err
}

func (s *Spool) shut() error {
	var err error
	if s.file != nil {
		err = s.file.Sync()
		s.endSegment()
	}
	s.mu.Lock()
	s.closed = true
	g := s.current()
	g.meta.Clean, g.meta.Last = err == nil, g.last
	s.mu.Unlock()
	err = errors.Join(err, g.writeMeta(), s.lock.Close())
	if err != nil {
		return fmt.Errorf("closing the audit spool: %w", err)
	}
	return nil
}

func (s *Spool) notify() { offer(s.wake) }

// offer puts a token where there is none.
func offer(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
