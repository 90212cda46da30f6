package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// Kept states are checkpoints of which one is written each day and stays, so that a state that was is folded from the day before it and not
// from the log's beginning. What they say of a person is sealed under that person's key: an erasure, which destroys that, leaves nothing
// in them, however many there are.

// keptFormat names what is in a kept state's file, and is bound into its seal. At is the time of its last event on the log.
const keptFormat = "sallyport-kept-state fold=%d seq=%d epoch=%q last=%s at=%d"

// Of the last days each is kept, and before that the first of each month.
const keptDays = 35

// keptState is the file of one.
type keptState struct {
	path string
	seq  uint64
	day  string // on which it was written
}

// kept lists the kept states, oldest first.
func (c *Checkpoints) kept() ([]keptState, error) {
	if c == nil || c.Kept == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(c.Kept)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing kept states: %w", err)
	}
	var all []keptState
	for _, e := range entries {
		number, day, ok := strings.Cut(e.Name(), ".")
		seq, err := strconv.ParseUint(number, 10, 64)
		if _, wrong := time.Parse(time.DateOnly, day); !ok || err != nil || wrong != nil {
			continue
		}
		all = append(all, keptState{filepath.Join(c.Kept, e.Name()), seq, day})
	}
	return all, nil // names sort as numbers do
}

// keep writes the state of today, if that is not there and something happened since the last.
func (e *Engine) keep(ctx context.Context) error {
	if e.Checkpoints.Kept == "" {
		return nil
	}
	now, today := e.now.Load(), e.Now().UTC().Format(time.DateOnly)
	all, err := e.Checkpoints.kept()
	if err != nil || now.state.Seq() == 0 {
		return err
	}
	after, at := uint64(0), time.Time{}
	if n := len(all); n > 0 {
		if all[n-1].day >= today || all[n-1].seq >= now.state.Seq() {
			return nil
		}
		if head, err := readHead(all[n-1].path); err == nil {
			after, at = all[n-1].seq, head.at
		}
	}
	// The log's time of the last event is the latest up to there, where a clock ran back.
	err = e.read(ctx, after, now.state.Seq(), func(records []journal.Record) error {
		for _, r := range records {
			if r.Seq <= now.state.Seq() && r.At.After(at) {
				at = r.At
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(e.Checkpoints.Kept, 0o700); err != nil {
		return fmt.Errorf("keeping a state: %w", err)
	}
	path := filepath.Join(e.Checkpoints.Kept, fmt.Sprintf("%020d.%s", now.state.Seq(), today))
	if err := e.writeKept(ctx, path, now, at); err != nil {
		return fmt.Errorf("keeping a state: %w", err)
	}
	return e.Checkpoints.thin(all, e.Now())
}

func (e *Engine) writeKept(ctx context.Context, path string, s *committed, at time.Time) error {
	f, err := os.OpenFile(path+newSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	name := fmt.Sprintf(keptFormat, core.FoldVersion, s.state.Seq(), s.state.Epoch(), s.last, at.UnixNano())
	w := bufio.NewWriterSize(f, 1<<20)
	err = func() error {
		if _, err := fmt.Fprintln(w, name); err != nil {
			return err
		}
		sealed, err := e.Checkpoints.Blobs.SealBlob(w, name)
		if err != nil {
			return err
		}
		err = s.state.EncodeSealed(sealed, func(person uuid.UUID, plain []byte) ([]byte, error) { return e.Seals.Seal(ctx, person, plain) })
		return errors.Join(err, sealed.Close(), w.Flush())
	}()
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+newSuffix, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path+newSuffix))
	}
	return syncFolder(filepath.Dir(path))
}

// thin removes kept states that are too many.
func (c *Checkpoints) thin(all []keptState, now time.Time) error {
	oldest := now.UTC().AddDate(0, 0, -keptDays).Format(time.DateOnly)
	month := ""
	for _, k := range all {
		first := k.day[:len("2006-01")] != month
		if month = k.day[:len("2006-01")]; k.day < oldest && !first {
			if err := os.Remove(k.path); err != nil {
				return fmt.Errorf("removing a kept state: %w", err)
			}
		}
	}
	return nil
}

// keptHead is what the first line of a kept state says.
type keptHead struct {
	name string
	fold uint32
	seq  uint64
	last string
	at   time.Time
}

func parseHead(line string) (keptHead, error) {
	h := keptHead{name: strings.TrimSuffix(line, "\n")}
	var epoch string
	var at int64
	if _, err := fmt.Sscanf(h.name, keptFormat, &h.fold, &h.seq, &epoch, &h.last, &at); err != nil {
		return h, errors.New("it is no kept state")
	}
	h.at = time.Unix(0, at).UTC()
	return h, nil
}

func readHead(path string) (keptHead, error) {
	f, err := os.Open(path)
	if err != nil {
		return keptHead{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return keptHead{}, err
	}
	return parseHead(line)
}

// newestKept returns the newest kept state that is not newer than a version or, for version zero, than a time; an empty one, from the log's
// beginning, where there is none that can be used.
func (e *Engine) newestKept(ctx context.Context, version uint64, at time.Time) *Past {
	all, err := e.Checkpoints.kept()
	if err != nil {
		e.Log.WarnContext(ctx, "kept states are not used", "error", err)
	}
	for _, k := range slices.Backward(all) {
		head, err := readHead(k.path)
		if err == nil && (version != 0 && head.seq > version || version == 0 && head.at.After(at) || head.seq > e.State().Seq()) {
			continue
		}
		var p *Past
		if err == nil {
			p, err = e.loadKept(ctx, k.path)
		}
		if err == nil {
			return p
		}
		e.Log.WarnContext(ctx, "a kept state is not used: an older one is", "file", k.path, "error", err)
	}
	return &Past{State: core.NewState()}
}

func (e *Engine) loadKept(ctx context.Context, path string) (*Past, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	r := bufio.NewReaderSize(f, 1<<20)
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	head, err := parseHead(line)
	if err != nil {
		return nil, err
	}
	if head.fold != core.FoldVersion {
		return nil, errors.New("it is of another version of the fold")
	}
	if err := e.isOnLog(ctx, head); err != nil {
		return nil, err
	}
	plain, err := e.Checkpoints.Blobs.OpenBlob(r, head.name)
	if err != nil {
		return nil, err
	}
	s, err := core.DecodeSealed(plain, func(person uuid.UUID, sealed []byte) ([]byte, error) {
		plain, _, err := e.Seals.Open(ctx, person, sealed)
		return plain, err
	})
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // to the end of the seal
		return nil, err
	}
	if s.Seq() != head.seq || s.Epoch() != e.State().Epoch() {
		return nil, errors.New("it is of another log")
	}
	return &Past{State: s, Since: head.at}, nil
}

// isOnLog tells whether the last event of a kept state is on this log where it was.
func (e *Engine) isOnLog(ctx context.Context, head keptHead) error {
	id := ""
	err := e.read(ctx, head.seq-1, head.seq, func(records []journal.Record) error {
		for _, r := range records {
			if r.Seq == head.seq {
				ev := &eventv1.Event{}
				if err := proto.Unmarshal(r.Data, ev); err != nil {
					return err
				}
				id = ev.GetId()
			}
		}
		return nil
	})
	if err == nil && id != head.last {
		err = errors.New("its last event is not on the log, or was erased")
	}
	return err
}
