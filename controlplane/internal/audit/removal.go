package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
)

// Records that are past their time are removed from the beginning of the stream up to a signed checkpoint: the tree goes on from there, so
// that all that is left is verified as before. What is removed is signed first, with where the proxies stand whose last record is among it.

// RemovalStream keeps what was removed, and RemovalSubject is where that lies.
const (
	RemovalStream  = "AUDIT_REMOVALS"
	RemovalSubject = "sallyport.audit-removal"
)

// maxEnds bounds the proxies whose last record was removed and that are remembered: the ones that were heard of last.
const maxEnds = 4000

// lastRemoval returns the newest removal; nil: there was none.
func (s *Store) lastRemoval(ctx context.Context) (*auditv1.Removal, error) {
	r, _, err := s.removal(ctx)
	return r, err
}

func (s *Store) removal(ctx context.Context) (*auditv1.Removal, uint64, error) {
	m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.removals.GetLastMsgForSubject(ctx, RemovalSubject)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("asking what was removed of audit: %w", err)
	}
	r := &auditv1.Removal{}
	return r, m.Sequence, proto.Unmarshal(m.Data, r)
}

// removedEnd is where a proxy stands of which no record is left; all zero: it never had one.
func (s *Store) removedEnd(ctx context.Context, proxy string) (position, error) {
	removed, err := s.lastRemoval(ctx)
	if err != nil {
		return position{}, err
	}
	i, found := slices.BinarySearchFunc(removed.GetEnds(), token(proxy), func(e *auditv1.ProxyEnd, name string) int { return strings.Compare(e.GetProxy(), name) })
	if !found {
		return position{}, nil
	}
	e := removed.GetEnds()[i]
	p := position{generation: e.GetSpoolGeneration(), number: e.GetNumber(), version: e.GetVersion()}
	if copy(p.digest[:], e.GetDigest()); len(e.GetDigest()) != len(p.digest) {
		return position{}, fmt.Errorf("what was removed of audit says of proxy %s what cannot be", e.GetProxy())
	}
	return p, nil
}

// Held is why records were not removed though their time is over.
type Held struct {
	By       string
	Sequence uint64 // up to which it is done
}

// Remove removes records that were stored before a time and that all exporters are done with, and whoever else is named, each with the
// sequence up to which it is. It says first what it does, signed, and calls told with that before anything is gone. Nil: there is
// nothing to remove. Of several control planes at once one does it.
func (s *Store) Remove(ctx context.Context, before time.Time, done map[string]uint64, told func(*auditv1.Removal) error) (*auditv1.Removal, []Held, error) {
	r, held, err := s.remove(ctx, before, done, told)
	if err != nil {
		return nil, held, fmt.Errorf("removing audit whose time is over: %w", err)
	}
	return r, held, nil
}

func (s *Store) remove(ctx context.Context, before time.Time, done map[string]uint64, told func(*auditv1.Removal) error) (*auditv1.Removal, []Held, error) {
	if s.key == nil {
		return nil, nil, errors.New("there is no key to sign with")
	}
	last, place, err := s.removal(ctx)
	if err != nil {
		return nil, nil, err
	}
	info, err := s.info(ctx)
	if err != nil {
		return nil, nil, err
	}
	if info.Config.DenyPurge {
		return nil, nil, fmt.Errorf("the stream %s denies it (deny_purge): it was made so, and cannot be changed", StreamName)
	}
	if info.State.Msgs > 0 && info.State.FirstSeq <= last.GetSequence() { // who signed it did not come to the end
		if err := s.purge(ctx, last.GetSequence()); err != nil {
			return nil, nil, err
		}
	}
	_, over, err := s.checkpointBefore(ctx, before)
	if err != nil || over.GetSequence() <= last.GetSequence() {
		return nil, nil, err
	}
	held, err := s.holding(ctx, over.GetSequence(), done)
	if err != nil {
		return nil, nil, err
	}
	up := over.GetSequence()
	for _, h := range held {
		up = min(up, h.Sequence)
	}
	_, end, err := s.checkpointWhere(ctx, func(c *auditv1.Checkpoint) bool { return c.GetSequence() <= up })
	if err != nil || end.GetSequence() <= last.GetSequence() {
		return nil, held, err
	}
	r := &auditv1.Removal{Size: end.GetSize(), Sequence: end.GetSequence(), Root: end.GetRoot(), At: timestamppb.Now(), Before: timestamppb.New(before)}
	proof.SignRemoval(s.key, r)
	if r.Ends, err = s.ends(ctx, end.GetSequence(), last.GetEnds()); err != nil {
		return nil, held, err
	}
	data, err := proto.Marshal(r)
	if err != nil {
		return nil, held, err
	}
	if _, err = s.js.PublishMsg(ctx, &nats.Msg{Subject: RemovalSubject, Data: data}, jetstream.WithExpectLastSequence(place)); err != nil {
		return nil, held, fmt.Errorf("signing it: %w", err)
	}
	if err := told(r); err != nil { // the next time goes on from here
		return nil, held, fmt.Errorf("telling audit of it: %w", err)
	}
	return r, held, s.purge(ctx, end.GetSequence())
}

// purge removes all records up to a sequence.
func (s *Store) purge(ctx context.Context, upTo uint64) error {
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSequence(upTo+1)); err != nil {
		return fmt.Errorf("purging up to %d: %w", upTo, err)
	}
	return nil
}

// holding are the exporters, and others, that are not done with records up to a sequence.
func (s *Store) holding(ctx context.Context, upTo uint64, done map[string]uint64) ([]Held, error) {
	var held []Held
	list := s.stream.ListConsumers(ctx)
	for info := range list.Info() {
		name, ours := strings.CutPrefix(info.Name, deliveryPrefix)
		if ours && (info.NumPending > 0 || info.NumAckPending > 0) && info.AckFloor.Stream < upTo {
			held = append(held, Held{"exporter " + name, info.AckFloor.Stream})
		}
	}
	for by, sequence := range done {
		if sequence < upTo {
			held = append(held, Held{by, sequence})
		}
	}
	return held, list.Err()
}

// ends are where proxies stand of which nothing is left once records up to a sequence are removed. What control planes told under a name of
// their own is left out: each has its name once.
func (s *Store) ends(ctx context.Context, upTo uint64, before []*auditv1.ProxyEnd) ([]*auditv1.ProxyEnd, error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(subjects))
	if err != nil {
		return nil, fmt.Errorf("asking whose records there are: %w", err)
	}
	here := map[string]bool{}
	for subject := range info.State.Subjects {
		if parts := strings.Split(subject, "."); len(parts) == 6 && (parts[3] == ChangesName || !strings.HasPrefix(parts[3], OwnPrefix)) {
			here[parts[3]] = true
		}
	}
	type end struct {
		*auditv1.ProxyEnd
		sequence uint64
	}
	var all []end
	for _, e := range before {
		if !here[e.GetProxy()] {
			all = append(all, end{e, 0})
		}
	}
	for name := range here {
		m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
			return s.stream.GetLastMsgForSubject(ctx, "sallyport.audit.*."+name+".>")
		})
		if err != nil {
			return nil, fmt.Errorf("asking for the last record of %s: %w", name, err)
		}
		if m.Sequence > upTo {
			continue
		}
		p, err := read(m)
		if err != nil {
			return nil, err
		}
		e := &auditv1.ProxyEnd{Proxy: name, SpoolGeneration: p.generation, Number: p.number, Digest: p.digest[:]}
		if name == ChangesName {
			e.Version = Decode(m.Data, m.Sequence).GetRecord().GetVersion()
		}
		all = append(all, end{e, m.Sequence})
	}
	slices.SortFunc(all, func(a, b end) int { return cmp.Compare(b.sequence, a.sequence) })
	var ends []*auditv1.ProxyEnd
	for _, e := range all[:min(len(all), maxEnds)] {
		ends = append(ends, e.ProxyEnd)
	}
	slices.SortFunc(ends, func(a, b *auditv1.ProxyEnd) int { return strings.Compare(a.GetProxy(), b.GetProxy()) })
	return ends, nil
}
