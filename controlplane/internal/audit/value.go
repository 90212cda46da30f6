package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/vault"
)

// Whole values lie in object stores, one for each number of days, which the server empties by itself. Each is sealed for its
// person, so that an erasure takes it, and has a random name, which tells nothing of what it is.

const (
	// valuesPrefix begins the names of these stores; the number of days follows.
	valuesPrefix = "AUDIT_VALUES_"
	// defaultValueBytes and defaultValueDays are what a connector's settings mean where they say nothing.
	defaultValueBytes = 1 << 20
	defaultValueDays  = 30
	// keepWithin is how long the records of one delivery wait for their whole values to be stored: records come first.
	keepWithin = 5 * time.Second
	// keepAtOnce bounds the values that are stored at the same time, of one delivery.
	keepAtOnce = 8
)

// Why a value is not kept, as its record says.
const (
	notAsked     = "the connector does not ask for it"
	notThatLarge = "it is larger than the connector keeps"
	notTheDigest = "it came with another size or digest than the record has"
	notOfPerson  = "its person was erased, or is nobody whom the control plane knows"
	notStored    = "the control plane could not store it in time"
)

// keepValues stores the whole values that come with a proxy's records, where their connector asks for that, and says in the records
// what became of them. A value that cannot be stored holds up no record.
func (s *Store) keepValues(ctx context.Context, proxy, generation string, records []*auditv1.AuditRecord) error {
	var all []*valueOf
	for _, r := range records {
		for _, p := range []*auditv1.Payload{r.GetArguments(), r.GetResult()} {
			if p == nil {
				continue
			}
			v := &valueOf{record: r, payload: p, whole: p.GetWhole()}
			p.Whole, p.Object = nil, "" // the control plane alone says where a value lies
			if p.NotKept = clip(p.GetNotKept()); v.whole != nil {
				all = append(all, v)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	_, have, err := s.find(ctx, proxy, generation, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keepWithin)
	defer cancel()
	var storing sync.WaitGroup
	places := make(chan struct{}, keepAtOnce)
	for _, v := range all {
		if v.record.GetNumber() <= have { // stored before, with its value
			continue
		}
		places <- struct{}{}
		storing.Go(func() {
			defer func() { <-places }()
			v.payload.Object, v.payload.NotKept = s.keepValue(ctx, proxy, v)
		})
	}
	storing.Wait()
	return nil
}

// maxWords bounds what a proxy says in its own words of why a value is not kept.
const maxWords = 200

func clip(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text[:min(len(text), maxWords)])
}

// valueOf is a whole value that came with a record.
type valueOf struct {
	record  *auditv1.AuditRecord
	payload *auditv1.Payload
	whole   []byte
}

// keepValue returns the value's name, or why it is not kept.
func (s *Store) keepValue(ctx context.Context, proxy string, v *valueOf) (object, not string) {
	settings := s.keeps(v.record.GetConnector())
	sum := sha256.Sum256(v.whole)
	switch {
	case !settings.GetWhole():
		return "", notAsked
	case uint32(len(v.whole)) > orElse(settings.GetMaxBytes(), defaultValueBytes):
		return "", notThatLarge
	case uint64(len(v.whole)) != v.payload.GetSize() || !bytes.Equal(sum[:], v.payload.GetSha256()):
		s.log.ErrorContext(ctx, "a proxy sent a value that is not the one of its record: was it broken into?", "proxy", proxy, "record", v.record.GetNumber())
		return "", notTheDigest
	}
	person, err := uuid.Parse(v.record.GetPersonId())
	if err != nil {
		return "", notOfPerson
	}
	sealed, err := s.seals.Seal(ctx, person, v.whole)
	if errors.Is(err, vault.ErrNoKey) {
		return "", notOfPerson
	}
	days := strconv.FormatUint(uint64(orElse(settings.GetDays(), defaultValueDays)), 10)
	name := uuid.NewString()
	if err == nil {
		err = s.putValue(ctx, days, name, sealed)
	}
	if err != nil {
		s.log.WarnContext(ctx, "a whole value is not kept", "proxy", proxy, "record", v.record.GetNumber(), "error", err)
		return "", notStored
	}
	return days + "/" + name, ""
}

// keeps is what a connector has audit keep beside records.
func (s *Store) keeps(connector string) *policyv1.AuditSettings {
	if s.valuesOf == nil || s.seals == nil {
		return nil
	}
	return s.valuesOf(connector)
}

func orElse(value, otherwise uint32) uint32 {
	if value == 0 {
		return otherwise
	}
	return value
}

func (s *Store) putValue(ctx context.Context, days, name string, sealed []byte) error {
	store, err := s.values(ctx, days, true)
	if err != nil {
		return err
	}
	_, err = store.PutBytes(ctx, name, sealed)
	return err
}

// values returns the store of values that are kept for so many days.
func (s *Store) values(ctx context.Context, days string, create bool) (jetstream.ObjectStore, error) {
	s.mu.Lock()
	known := s.valueStores[days]
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	store, err := s.js.ObjectStore(ctx, valuesPrefix+days)
	if errors.Is(err, jetstream.ErrBucketNotFound) && create {
		n, _ := strconv.ParseUint(days, 10, 16) // of the settings
		store, err = s.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
			Bucket: valuesPrefix + days, Description: "Arguments and results of calls, sealed, which Sallyport's audit keeps whole for " + days + " days.",
			TTL: time.Duration(n) * 24 * time.Hour, MaxBytes: -1, Storage: jetstream.FileStorage, Replicas: s.replicas,
		})
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.valueStores == nil {
		s.valueStores = map[string]jetstream.ObjectStore{}
	}
	s.valueStores[days] = store
	return store, nil
}

// Value returns what the arguments or the result of the record at a sequence were, whole, and what the record says of it.
func (s *Store) Value(ctx context.Context, sequence uint64, result bool) ([]byte, *auditv1.AuditRecord, error) {
	m, err := s.Message(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil, &core.Error{Code: core.NotFound, Field: "sequence", Message: fmt.Sprintf("audit has no record %d", sequence)}
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := s.Record(ctx, m, true)
	if err != nil {
		return nil, nil, err
	}
	payload, of := r.GetArguments(), "arguments"
	if result {
		payload, of = r.GetResult(), "result"
	}
	refused := func(format string, args ...any) ([]byte, *auditv1.AuditRecord, error) {
		return nil, nil, &core.Error{Code: core.FailedPrecondition, Message: fmt.Sprintf(format, args...)}
	}
	var value []byte
	switch {
	case r.GetErased():
		return refused("the person of record %d was erased, and with them what it says of them", sequence)
	case payload == nil:
		return refused("record %d has no %s: a call's arguments are in its first record, its result in the last", sequence, of)
	case !payload.GetTruncated():
		value = payload.GetHead()
	case payload.GetNotKept() != "":
		return refused("the %s of record %d are not kept whole: %s", of, sequence, payload.GetNotKept())
	case payload.GetObject() == "":
		return refused("the %s of record %d are not kept whole: the connector did not ask for it then", of, sequence)
	default:
		if value, err = s.getValue(ctx, r.GetPersonId(), payload.GetObject()); err != nil {
			return nil, nil, err
		}
	}
	if sum := sha256.Sum256(value); uint64(len(value)) != payload.GetSize() || !bytes.Equal(sum[:], payload.GetSha256()) {
		return refused("what lies in the store is not the %s of record %d: size or digest differ, so that it was changed there", of, sequence)
	}
	return value, r, nil
}

func (s *Store) getValue(ctx context.Context, person, object string) ([]byte, error) {
	days, name, ok := strings.Cut(object, "/")
	if _, err := strconv.ParseUint(days, 10, 16); err != nil || !ok {
		return nil, fmt.Errorf("a record names %q, where no value lies", object)
	}
	past := &core.Error{Code: core.FailedPrecondition, Message: fmt.Sprintf("the whole value is there no more: it was kept for %s days", days)}
	store, err := s.values(ctx, days, false)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, past
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store of whole values: %w", err)
	}
	sealed, err := store.GetBytes(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, past
	}
	if err != nil {
		return nil, fmt.Errorf("reading a whole value: %w", err)
	}
	value, err := s.Unseal(ctx, person, sealed)
	if err == nil && value == nil {
		err = &core.Error{Code: core.FailedPrecondition, Message: "the person was erased, and with them the whole value"}
	}
	return value, err
}
