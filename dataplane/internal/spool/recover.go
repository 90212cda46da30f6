package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// GapMethod is the `method` of a gap record: it says in `error` what a spool lost or may have lost.
const GapMethod = "spool/gap"

// loss is what a generation lost. It ends at end, whatever is readable behind that goes to a new generation.
type loss struct {
	generation *generation
	end        uint64
	text       string
	lost       uint64 // how many, where that is known
	rest       []reference
}

// reference is a sound frame in a segment.
type reference struct {
	path   string
	offset int64
	size   int
	number uint64
}

// recover reads the folder and leaves a generation to which records can be appended.
func (s *Spool) recover() error {
	all, err := listGenerations(s.cfg.Dir)
	if err != nil {
		return err
	}
	ends := map[string]uint64{}
	for _, g := range all {
		for id, end := range g.meta.Ends {
			ends[id] = end
		}
	}
	s.calls.carried = loadCarried(s.cfg.Dir)
	open := map[string]*auditv1.AuditRecord{}
	for id, payload := range s.calls.carried {
		var rec auditv1.AuditRecord
		if proto.Unmarshal(payload, &rec) == nil {
			open[id] = &rec
		}
	}

	var losses []loss
	for i, g := range all {
		end, ended := ends[g.id]
		if !ended {
			end = math.MaxUint64
		}
		in, err := s.inspect(g, end, math.MaxUint64, func(rec *auditv1.AuditRecord, number uint64) {
			switch rec.GetPhase() {
			case auditv1.Phase_PHASE_AUTHORIZED:
				rec.Arguments = nil
				open[rec.GetCallId()] = rec
			case auditv1.Phase_PHASE_COMPLETED:
				delete(open, rec.GetCallId())
			}
			s.calls.note(rec.GetCallId(), rec.GetPhase(), place{g.sequence, number})
		})
		if err != nil {
			return err
		}
		g.segments, g.last = in.segments, in.last
		if l := s.judge(g, in, end, i == len(all)-1); l != nil {
			s.cfg.Logger.Error("the audit spool lost records", "generation", g.id, "what", l.text)
			losses = append(losses, *l)
		}
	}
	s.generations = all
	for _, id := range slices.Sorted(maps.Keys(open)) {
		s.owed = append(s.owed, s.unknownOutcome(open[id]))
	}
	if len(all) == 0 || len(losses) > 0 {
		return s.beginGeneration(losses)
	}
	s.recount()
	return s.resume(all[len(all)-1])
}

// inspection is what a generation's segments hold.
type inspection struct {
	segments []*segment
	begun    bool   // a segment is there for the record after the last one that is acknowledged
	last     uint64 // of the unbroken run
	rest     []reference
}

// inspect scans a generation's segments up to end, visiting each sound record once, those behind a hole too.
// Records that are acknowledged may be missing; a hole is where one that is not acknowledged is missing. The unbroken
// run ends there, or before restFrom.
func (s *Spool) inspect(g *generation, end, restFrom uint64, visit func(*auditv1.AuditRecord, uint64)) (inspection, error) {
	var in inspection
	next := g.acked + 1
	if len(g.segments) > 0 && g.segments[0].first < next {
		next = g.segments[0].first
	}
	for i, seg := range g.segments {
		in.begun = in.begun || seg.first == g.acked+1
		limit := end
		if i+1 < len(g.segments) {
			limit = min(limit, g.segments[i+1].first-1)
		}
		path := g.path(seg)
		b, err := os.ReadFile(path)
		if err != nil {
			return in, fmt.Errorf("reading a segment: %w", err)
		}
		sound := &segment{first: seg.first, last: seg.first - 1}
		read := 0
		scanFrames(b, g.magic, func(f frame) {
			read = f.offset + f.size
			if f.number < next || f.number > limit {
				return
			}
			var rec auditv1.AuditRecord
			if err := proto.Unmarshal(f.payload, &rec); err != nil {
				return // nothing that Append wrote: counts as damage
			}
			visit(&rec, f.number)
			if f.number > next && f.number > g.acked+1 || f.number >= restFrom || len(in.rest) > 0 {
				in.rest = append(in.rest, reference{path, int64(f.offset), f.size, f.number})
				next = f.number + 1
				return
			}
			next = f.number + 1
			in.last = f.number
			sound.last, sound.size = f.number, int64(read)
		})
		if sound.size > 0 {
			in.segments = append(in.segments, sound)
		}
	}
	if in.last == 0 {
		in.last = min(g.acked, end)
		if in.last == 0 && len(g.segments) > 0 {
			in.last = g.segments[0].first - 1
		}
	}
	return in, nil
}

// judge says what a generation lost, or nil. A tail that is torn lost nothing: who appended it was never told that
// it was kept. That does not hold when the machine itself went down, unless each record was synced.
func (s *Spool) judge(g *generation, in inspection, end uint64, newest bool) *loss {
	l := &loss{generation: g, end: in.last, rest: in.rest}
	switch {
	case len(in.rest) > 0:
		l.end = max(in.last, g.acked)
		l.text = fmt.Sprintf("records %d to %d of spool generation %s were damaged on disk", l.end+1, in.rest[0].number-1, g.id)
		if lost := holes(in.rest); lost > 0 {
			l.text += fmt.Sprintf(", and %d behind them", lost)
		}
	case !newest && end != math.MaxUint64 && in.last < end && g.acked < end:
		l.text = fmt.Sprintf("records %d to %d of spool generation %s were lost on disk", in.last+1, end, g.id)
	case !newest:
		return nil
	case g.meta.Clean && in.last < g.meta.Last:
		l.text = fmt.Sprintf("records %d to %d of spool generation %s were lost on disk", in.last+1, g.meta.Last, g.id)
	case in.last < g.acked, g.acked > 0 && len(in.segments) == 0 && !in.begun:
		l.end = g.acked
		l.text = fmt.Sprintf("records after %d of spool generation %s may be lost: its segments are gone", l.end, g.id)
	case g.meta.Clean && in.last == g.meta.Last, g.meta.Synced:
		return nil
	case g.meta.Boot == "" || g.meta.Boot != s.cfg.BootID:
		l.text = fmt.Sprintf("records after %d of spool generation %s may be lost: the machine stopped", in.last, g.id)
	default:
		return nil
	}
	return l
}

func holes(rest []reference) (lost uint64) {
	for i := 1; i < len(rest); i++ {
		lost += rest[i].number - rest[i-1].number - 1
	}
	return lost
}

// resume goes on with a generation after a restart.
func (s *Spool) resume(g *generation) error {
	s.setStamp()
	g.meta.Boot, g.meta.Synced, g.meta.Clean, g.meta.Last = s.cfg.BootID, s.cfg.Durability == Disk, false, 0
	if err := g.writeMeta(); err != nil {
		// A full disk must not keep delivery, which frees it, from starting. Without the file the next start takes the careful side.
		s.cfg.Logger.Warn("audit spool state not written", "error", err)
		if err := os.Remove(filepath.Join(g.dir, metaFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the spool's old state: %w", err)
		}
	}
	// A segment in which nothing is sound must not stand in the way of the records that will get its numbers.
	all, err := listSegments(g.dir)
	if err != nil {
		return err
	}
	for _, seg := range all {
		if len(g.segments) == 0 && seg.first == g.last+1 { // that of the next record, which begins it anew: it says that nothing is missing before
			continue
		}
		if !slices.ContainsFunc(g.segments, func(k *segment) bool { return k.first == seg.first }) {
			if err := os.Remove(g.path(seg)); err != nil {
				return fmt.Errorf("removing an empty segment: %w", err)
			}
		}
	}
	if len(g.segments) == 0 {
		return nil
	}
	seg := g.segments[len(g.segments)-1]
	f, err := os.OpenFile(g.path(seg), os.O_WRONLY, fileMode)
	if err != nil {
		return fmt.Errorf("opening the newest segment: %w", err)
	}
	if err := f.Truncate(seg.size); err != nil {
		return errors.Join(fmt.Errorf("cutting a torn record: %w", err), f.Close())
	}
	s.file, s.tail = f, seg
	return nil
}

// beginGeneration starts a new generation, headed by a gap record for each loss and by what was readable behind it.
// It becomes visible on disk in one rename, whose state also says where the generations that lost something end.
// Only the writer calls it, or Open.
func (s *Spool) beginGeneration(losses []loss) error {
	g := &generation{sequence: 1, id: s.cfg.NewID(), meta: meta{
		Boot: s.cfg.BootID, Synced: s.cfg.Durability == Disk, Ends: map[string]uint64{},
	}}
	g.magic = magicOf(g.id)
	g.dir = filepath.Join(s.cfg.Dir, unfinished+g.id)
	s.mu.Lock()
	live := map[string]bool{}
	for _, old := range s.generations {
		live[old.id] = true
		g.sequence = max(g.sequence, old.sequence+1)
		for id, end := range old.meta.Ends {
			if live[id] {
				g.meta.Ends[id] = end
			}
		}
	}
	if len(s.generations) > 0 {
		g.meta.Ends[s.current().id] = s.current().last
	}
	proxy, region := s.proxy, s.region
	s.mu.Unlock()
	for _, l := range losses {
		g.meta.Ends[l.generation.id] = l.end
	}
	s.endSegment()
	if err := s.fillGeneration(g, losses, stampFor(proxy, region, g.id)); err != nil {
		s.endSegment()
		_ = os.RemoveAll(g.dir)
		return fmt.Errorf("beginning a spool generation: %w", err)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.generations = append(s.generations, g)
	s.setStamp()
	for _, l := range losses {
		s.cut(l.generation, l.end)
	}
	s.recountLocked()
	return nil
}

func (s *Spool) fillGeneration(g *generation, losses []loss, stamp []byte) error {
	if err := os.Mkdir(g.dir, dirMode); err != nil {
		return err
	}
	// The acknowledged position has its place on the disk from the beginning: a full one must not keep delivery from making room.
	if err := errors.Join(g.writeMeta(), g.saveAcked(0, false)); err != nil {
		return err
	}
	for _, l := range losses {
		gap, err := proto.Marshal(&auditv1.AuditRecord{
			At: timestamppb.New(s.cfg.Now()), CallId: uuid.Must(uuid.NewV7()).String(), Method: GapMethod, Kind: auditv1.Kind_KIND_GAP, Lost: l.lost,
			Phase: auditv1.Phase_PHASE_COMPLETED, Outcome: auditv1.Outcome_OUTCOME_UNKNOWN, Error: l.text,
		})
		if err != nil {
			return err
		}
		if err := s.copyRecord(g, stamp, gap); err != nil {
			return err
		}
		for _, r := range l.rest {
			payload, err := readReference(l.generation, r)
			if err != nil {
				return err
			}
			if err := s.copyRecord(g, stamp, payload); err != nil {
				return err
			}
		}
	}
	if s.file != nil {
		if err := s.file.Sync(); err != nil {
			return err
		}
	}
	dir := filepath.Join(s.cfg.Dir, fmt.Sprintf("%0*d-%s", numberDigits, g.sequence, g.id))
	if err := os.Rename(g.dir, dir); err != nil {
		return err
	}
	g.dir = dir
	return syncDir(s.cfg.Dir)
}

// copyRecord appends an encoded record to a generation that nobody else sees yet.
func (s *Spool) copyRecord(g *generation, stamp, payload []byte) error {
	var rec auditv1.AuditRecord
	if err := proto.Unmarshal(payload, &rec); err != nil {
		return err
	}
	b := make([]byte, frameHeader, frameHeader+len(payload)+len(stamp)+2*protowire.SizeVarint(math.MaxUint64))
	b = append(b, payload...)
	entries := []entry{{
		frame: &b, crc: crc32.Checksum(payload, castagnoli), callID: rec.GetCallId(), phase: rec.GetPhase(),
	}}
	size, err := s.write(g, stamp, entries)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit(g, entries, size)
	return nil
}

func readReference(g *generation, r reference) ([]byte, error) {
	f, err := os.Open(r.path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	b := make([]byte, r.size)
	if _, err := f.ReadAt(b, r.offset); err != nil {
		return nil, err
	}
	sound, ok := readFrame(b, g.magic)
	if !ok {
		return nil, errors.New("a record changed on disk while it was copied")
	}
	return sound.payload, nil
}

// cut ends a generation. Segments behind the end are deleted when the generation is: they do not count. The caller holds mu.
func (s *Spool) cut(g *generation, end uint64) {
	g.last = min(g.last, end)
	for i, seg := range g.segments {
		if seg.first > end {
			g.segments = g.segments[:i]
			break
		}
		seg.last = min(seg.last, end)
	}
}

func (s *Spool) recount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recountLocked()
}

func (s *Spool) recountLocked() {
	s.total = 0
	for _, g := range s.generations {
		for _, seg := range g.segments {
			s.total += seg.size
		}
	}
}
