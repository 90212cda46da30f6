package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sort"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
)

// PublicKeys are the keys with which audit is signed.
func (s *Store) PublicKeys() [][]byte {
	if s.key == nil {
		return nil
	}
	return [][]byte{s.key.Public().(ed25519.PublicKey)}
}

// Export calls fn with the items of an export, in their order: of all records from the last checkpoint at or before from, to
// the first at or after to; zero times stand for the beginning and for now. Records that a filter does not pick are there by
// their digest alone. It reads what is there, whole or not: who verifies it finds out.
func (s *Store) Export(ctx context.Context, from, to time.Time, filter *adminv1.AuditFilter, fn func(*auditv1.ExportItem) error) error {
	var read *Filter
	if filter != nil {
		var err error
		if read, err = NewFilter(filter); err != nil {
			return err
		}
	}
	if err := s.export(ctx, from, to, read, fn); err != nil {
		return fmt.Errorf("exporting audit: %w", err)
	}
	return nil
}

func (s *Store) export(ctx context.Context, from, to time.Time, filter *Filter, fn func(*auditv1.ExportItem) error) error {
	if to.IsZero() || to.After(time.Now()) {
		// The newest are to be signed too. Where that cannot be, verifying tells why.
		if _, err := s.Checkpoint(ctx, true); err != nil {
			s.log.WarnContext(ctx, "an export ends with records that are not signed", "error", err)
		}
	}
	place, before, err := s.checkpointBefore(ctx, from)
	if err != nil {
		return err
	}
	removed, err := s.lastRemoval(ctx)
	if err != nil {
		return err
	}
	if removed.GetSequence() > before.GetSequence() {
		if place, before, err = s.checkpointOf(ctx, removed.GetSequence()); err != nil {
			return err
		}
		removed.Ends = nil
	} else {
		removed = nil
	}
	header := &auditv1.ExportHeader{Removed: removed, Format: proof.Format, At: timestamppb.Now(), PublicKeys: s.PublicKeys(), Before: before}
	if err := fn(&auditv1.ExportItem{Item: &auditv1.ExportItem_Header{Header: header}}); err != nil {
		return err
	}
	last, err := s.Last(ctx)
	if err != nil {
		return err
	}
	x := &exporting{s: s, filter: filter, to: to, fn: fn, place: place}
	if err := x.advance(ctx); err != nil {
		return err
	}
	if err := x.upTo(ctx, before.GetSequence()); err != nil {
		return err
	}
	if last > before.GetSequence() && !x.done {
		err = s.Read(ctx, before.GetSequence(), func(m Message) error {
			if err := x.upTo(ctx, m.Sequence-1); err != nil {
				return err
			}
			if x.done {
				return ErrStop
			}
			if err := x.record(ctx, m); err != nil {
				return fmt.Errorf("record %d: %w", m.Sequence, err)
			}
			if m.Sequence >= last {
				return ErrStop
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	// Checkpoints whose records are not there are told, so that this is seen.
	for x.next != nil && !x.done {
		if err := x.tell(ctx); err != nil {
			return err
		}
	}
	return fn(&auditv1.ExportItem{Item: &auditv1.ExportItem_End{End: &auditv1.ExportEnd{Records: x.records}}})
}

// checkpointBefore returns the last checkpoint at or before a time, and its place; nil and 0 where there is none.
func (s *Store) checkpointBefore(ctx context.Context, at time.Time) (uint64, *auditv1.Checkpoint, error) {
	if at.IsZero() {
		return 0, nil, nil
	}
	return s.checkpointWhere(ctx, func(c *auditv1.Checkpoint) bool { return !c.GetAt().AsTime().After(at) })
}

// checkpointOf returns the checkpoint that ends with a record, and its place.
func (s *Store) checkpointOf(ctx context.Context, sequence uint64) (uint64, *auditv1.Checkpoint, error) {
	place, c, err := s.checkpointWhere(ctx, func(c *auditv1.Checkpoint) bool { return c.GetSequence() <= sequence })
	if err == nil && c.GetSequence() != sequence {
		err = fmt.Errorf("there is no checkpoint at %d, up to which records were removed", sequence)
	}
	return place, c, err
}

// checkpointWhere returns the last checkpoint of which something holds that holds of all before it, and its place; 0 and nil: of none.
func (s *Store) checkpointWhere(ctx context.Context, holds func(*auditv1.Checkpoint) bool) (uint64, *auditv1.Checkpoint, error) {
	_, newest, err := s.lastCheckpoint(ctx)
	if err != nil {
		return 0, nil, err
	}
	var failed error
	place := sort.Search(int(newest), func(i int) bool {
		c, err := s.checkpointAt(ctx, uint64(i)+1)
		if err != nil {
			failed = err
		}
		return !holds(c)
	})
	if failed != nil || place == 0 {
		return 0, nil, failed
	}
	c, err := s.checkpointAt(ctx, uint64(place))
	return uint64(place), c, err
}

// exporting is an export under way.
type exporting struct {
	s       *Store
	filter  *Filter
	to      time.Time
	fn      func(*auditv1.ExportItem) error
	place   uint64 // of the checkpoint that was read last
	next    *auditv1.Checkpoint
	records uint64
	done    bool // the checkpoint that covers the end was told
}

// advance reads the next checkpoint.
func (x *exporting) advance(ctx context.Context) (err error) {
	x.place++
	x.next, err = x.s.checkpointAt(ctx, x.place)
	return err
}

// upTo tells the checkpoints whose records all were told, once those up to a sequence were.
func (x *exporting) upTo(ctx context.Context, sequence uint64) error {
	for x.next != nil && !x.done && x.next.GetSequence() <= sequence {
		if err := x.tell(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (x *exporting) tell(ctx context.Context) error {
	if err := x.fn(&auditv1.ExportItem{Item: &auditv1.ExportItem_Checkpoint{Checkpoint: x.next}}); err != nil {
		return err
	}
	x.done = !x.to.IsZero() && !x.next.GetAt().AsTime().Before(x.to)
	return x.advance(ctx)
}

func (x *exporting) record(ctx context.Context, m Message) error {
	core, err := proof.Core(m.Data, m.CoreLength)
	if err != nil {
		core = m.Data // whoever wrote it; it is told as it lies there
	}
	out := &auditv1.ExportedRecord{Sequence: m.Sequence, Stored: timestamppb.New(m.Stored)}
	picked := true
	if x.filter != nil {
		if picked, err = x.s.matches(ctx, x.filter, Decode(m.Data, m.Sequence).GetRecord()); err != nil {
			return err
		}
	}
	if picked {
		out.Core, out.Head = core, m.Head
		if out.Personal, err = x.s.personal(ctx, core, m.Data[len(core):]); err != nil {
			return err
		}
	} else {
		out.Leaf = proof.Leaf(core)
	}
	x.records++
	return x.fn(&auditv1.ExportItem{Item: &auditv1.ExportItem_Record{Record: out}})
}

// personal returns what lies behind a core, unsealed; nothing, if the person was erased.
func (s *Store) personal(ctx context.Context, core, behind []byte) ([]byte, error) {
	sealed, err := sealedIn(behind)
	if err != nil || len(sealed) == 0 {
		return behind, err
	}
	facts := &auditv1.AuditRecord{}
	if err := proto.Unmarshal(core, facts); err != nil {
		return nil, errors.New("its core cannot be read")
	}
	facts.Sealed = sealed
	return s.Unseal(ctx, facts.GetPersonId(), facts.GetSealed())
}

// sealedIn finds what is sealed, without reading all else.
func sealedIn(behind []byte) (sealed []byte, err error) {
	for len(behind) > 0 {
		number, kind, n := protowire.ConsumeTag(behind)
		m := -1
		if n > 0 {
			m = protowire.ConsumeFieldValue(number, kind, behind[n:])
		}
		if m < 0 {
			return nil, errors.New("what lies behind its core cannot be read")
		}
		if number == sealedField && kind == protowire.BytesType {
			sealed, _ = protowire.ConsumeBytes(behind[n:])
		}
		behind = behind[n+m:]
	}
	return sealed, nil
}

// sealedField is the number of AuditRecord.sealed.
var sealedField = (&auditv1.AuditRecord{}).ProtoReflect().Descriptor().Fields().ByName("sealed").Number()
