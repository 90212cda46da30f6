package proof

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Format is the version of exports that are written and read.
const Format = 1

// Report is what was verified.
type Report struct {
	Records     uint64    `json:"records"`      // in full
	DigestsOnly uint64    `json:"digests_only"` // proved to be in their place, without what they say
	Erased      uint64    `json:"erased"`       // whose person's fields are gone, or were not exported
	Checkpoints uint64    `json:"checkpoints"`  // signed
	Heads       uint64    `json:"signed_heads"` // of proxies' chains
	Tail        uint64    `json:"after_last_checkpoint"`
	Keys        []string  `json:"keys"`
	From        time.Time `json:"from"` // of the checkpoint before; zero: the stream's beginning
	To          time.Time `json:"to"`   // of the last checkpoint
	// Removed is how many records before these were removed because their time was over, as the control plane signed, and RemovedBefore
	// the time before which all of them were stored.
	Removed       uint64    `json:"removed"`
	RemovedBefore time.Time `json:"removed_before,omitzero"`
}

// Verifier checks an export item by item, in their order.
type Verifier struct {
	// Keys are the keys that are trusted. Empty: those of the export, of which the report tells.
	Keys Keys
	// Witness, if there is one, is a checkpoint that somebody kept: the export must hold the same when it is as large.
	Witness *auditv1.Checkpoint

	Report Report

	tree     *Tree
	begun    bool
	whole    bool // the export begins with the stream
	ended    bool
	chains   map[string]*link
	sequence uint64
	start    uint64 // how many records are before the first
	gap      uint64 // sequence after which proxies may have records that are not here in full
}

// link is where a proxy's chain stands.
type link struct {
	digest     Digest
	generation string
	number     uint64
	sequence   uint64
}

// Add checks one item. After an error nothing more can be said.
func (v *Verifier) Add(item *auditv1.ExportItem) error {
	if v.ended {
		return errors.New("something follows the end of the export")
	}
	if !v.begun {
		if item.GetHeader() == nil {
			return errors.New("this is no export of audit: it does not begin with a header")
		}
		return v.header(item.GetHeader())
	}
	switch i := item.GetItem().(type) {
	case *auditv1.ExportItem_Record:
		return v.record(look(exported{i.Record.GetSequence(), i.Record.GetCore(), i.Record.GetPersonal(), i.Record.GetLeaf(), i.Record.GetHead()}))
	case *auditv1.ExportItem_Checkpoint:
		return v.checkpoint(i.Checkpoint)
	case *auditv1.ExportItem_End:
		v.ended = true
		if n := v.Report.Records + v.Report.DigestsOnly; i.End.GetRecords() != n {
			return fmt.Errorf("the export says that it has %d records, and has %d", i.End.GetRecords(), n)
		}
		return nil
	}
	return errors.New("the export holds something that this build does not know")
}

func (v *Verifier) header(h *auditv1.ExportHeader) (err error) {
	if h.GetFormat() != Format {
		return fmt.Errorf("the export has format %d, and this build reads %d", h.GetFormat(), Format)
	}
	keys, err := NewKeys(h.GetPublicKeys())
	if err != nil {
		return err
	}
	if len(v.Keys) == 0 {
		v.Keys = keys
	}
	for id := range v.Keys {
		v.Report.Keys = append(v.Report.Keys, id)
	}
	before := h.GetBefore()
	if before != nil {
		if err := v.Keys.Verify(before.GetSignature(), checkpointStatement(before)); err != nil {
			return fmt.Errorf("the checkpoint before the export: %w", err)
		}
		v.Report.From, v.sequence, v.start = before.GetAt().AsTime(), before.GetSequence(), before.GetSize()
	}
	if err := v.removed(h.GetRemoved(), before); err != nil {
		return err
	}
	if v.tree, err = NewTree(before); err != nil {
		return err
	}
	v.begun, v.whole, v.chains = true, before == nil, map[string]*link{}
	return v.witness()
}

// removed looks whether what is said to have been removed is what the export begins after.
func (v *Verifier) removed(r *auditv1.Removal, before *auditv1.Checkpoint) error {
	if r == nil {
		return nil
	}
	if err := v.Keys.Verify(r.GetSignature(), removalStatement(r)); err != nil {
		return fmt.Errorf("what is said to have been removed because its time was over: %w", err)
	}
	if before == nil || r.GetSize() != before.GetSize() || r.GetSequence() != before.GetSequence() || !bytes.Equal(r.GetRoot(), before.GetRoot()) {
		return fmt.Errorf("%d records were removed because their time was over, and the export does not begin with the checkpoint after them", r.GetSize())
	}
	v.Report.Removed, v.Report.RemovedBefore = r.GetSize(), r.GetBefore().AsTime()
	return nil
}

// witness compares with the checkpoint that somebody kept, at its size.
func (v *Verifier) witness() error {
	if v.Witness != nil && v.tree.Size() == v.Witness.GetSize() && !bytes.Equal(v.tree.Root(), v.Witness.GetRoot()) {
		return fmt.Errorf("at %d records the export is another history than the checkpoint that was kept", v.tree.Size())
	}
	return nil
}

func (v *Verifier) record(r *record) error {
	if r.sequence <= v.sequence {
		return fmt.Errorf("record %d follows %d: the order is not the stream's", r.sequence, v.sequence)
	}
	v.sequence = r.sequence
	if r.err != nil {
		return fmt.Errorf("record %d: %w", r.sequence, r.err)
	}
	if r.full {
		if err := v.chain(r); err != nil {
			return fmt.Errorf("record %d: %w", r.sequence, err)
		}
		v.Report.Records++
	} else {
		v.gap = r.sequence
		v.Report.DigestsOnly++
	}
	if err := v.tree.Append(bytes.Clone(r.leaf[:])); err != nil {
		return err
	}
	v.Report.Tail++
	return v.witness()
}

// chain compares a record with the one before it of its proxy.
func (v *Verifier) chain(r *record) error {
	last := v.chains[string(r.core.proxy)]
	switch {
	case last == nil:
		if v.whole && v.gap == 0 && len(r.core.previous) > 0 {
			return errors.New("it is the first of its proxy, and says that there was one before")
		}
		last = &link{}
		v.chains[string(r.core.proxy)] = last
	case last.sequence < v.gap: // others of the proxy may be among those whose digest alone is here
	case !bytes.Equal(r.core.previous, last.digest[:]):
		return errors.New("it does not follow the one before it of its proxy: one was changed, removed, put in or moved")
	case last.generation == string(r.core.generation) && r.core.number != last.number+1:
		return fmt.Errorf("its proxy's numbers go from %d to %d", last.number, r.core.number)
	}
	if last.generation != string(r.core.generation) {
		last.generation = string(r.core.generation)
	}
	last.digest, last.number, last.sequence = r.digest, r.core.number, r.sequence
	if r.head != "" {
		if err := v.Keys.Verify(r.head, HeadStatement(string(r.core.proxy), last.generation, last.number, last.digest)); err != nil {
			return fmt.Errorf("the head of its proxy's chain: %w", err)
		}
		v.Report.Heads++
	}
	if r.erased {
		v.Report.Erased++
	}
	return nil
}

func (v *Verifier) checkpoint(c *auditv1.Checkpoint) error {
	if err := v.Keys.Verify(c.GetSignature(), checkpointStatement(c)); err != nil {
		return fmt.Errorf("the checkpoint at %d records: %w", c.GetSize(), err)
	}
	switch {
	case c.GetSize() > v.tree.Size():
		return fmt.Errorf("the control plane signed %d records up to %s, and %d are there: %d were removed, the last among them or before", c.GetSize(), c.GetAt().AsTime().Format(time.RFC3339), v.tree.Size(), c.GetSize()-v.tree.Size())
	case c.GetSize() < v.tree.Size():
		return fmt.Errorf("the control plane signed %d records up to %d, and %d are there: some were put in", c.GetSize(), c.GetSequence(), v.tree.Size())
	case !bytes.Equal(c.GetRoot(), v.tree.Root()):
		return fmt.Errorf("the records up to %d are not those that the control plane signed: since the checkpoint before, one was changed, removed, put in or moved", c.GetSequence())
	}
	v.Report.Checkpoints++
	v.Report.Tail = 0
	v.Report.To = c.GetAt().AsTime()
	return nil
}

// Finish says whether the export is complete: it ends, and covers the time that was asked for, by signed checkpoints. Zero
// times: any.
func (v *Verifier) Finish(from, to time.Time) error {
	switch {
	case !v.ended:
		return errors.New("the export was cut off: its end is missing")
	case !from.IsZero() && v.Report.From.After(from) && v.Report.Removed > 0:
		return fmt.Errorf("the export begins at %s, after the time that was asked for: the control plane signed that the %d records before it, stored before %s, were removed because their time was over; what is there is whole", v.Report.From.Format(time.RFC3339), v.Report.Removed, v.Report.RemovedBefore.Format(time.RFC3339))
	case !from.IsZero() && v.Report.From.After(from):
		return fmt.Errorf("the export begins at %s, after the time that was asked for", v.Report.From.Format(time.RFC3339))
	case !to.IsZero() && v.Report.To.Before(to):
		return fmt.Errorf("what the control plane signed ends at %s, before the time that was asked for: the tail is missing, or is not signed yet", v.Report.To.Format(time.RFC3339))
	case v.Witness != nil && v.Witness.GetSize() < v.start:
		return fmt.Errorf("the checkpoint that was kept has %d records, and the export begins after %d: it says nothing of these; begin earlier, or use one that was kept later", v.Witness.GetSize(), v.start)
	case v.Witness != nil && v.tree.Size() < v.Witness.GetSize():
		return fmt.Errorf("the checkpoint that was kept has %d records, and the export ends at %d: the tail is missing", v.Witness.GetSize(), v.tree.Size())
	}
	return nil
}
