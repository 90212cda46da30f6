package audit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
	"sallyport.dev/controlplane/internal/vault"
)

// Seals seals what is a person's under that person's key, which an erasure destroys.
type Seals interface {
	// Seal fails with vault.ErrNoKey for a person who was erased, or whom nobody knows.
	Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error)
	Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error)
}

// split takes out of a record what it says of its person, and returns that as it lies behind the record's core: as an
// AuditRecord of its own, whose fields a reader of the message finds in place, or sealed for the person. The core keeps
// its digest, which is salted, so that the chain holds over the core alone. Of a person who has no key, as of one who was
// erased meanwhile, nothing is kept.
func (s *Store) split(ctx context.Context, r *auditv1.AuditRecord) ([]byte, error) {
	// What came sealed would be opened as if it had been sealed here.
	r.Sealed, r.Erased, r.PersonalSha256, r.Salt, r.Previous = nil, false, nil, nil, nil
	values, err := s.conditionValues(ctx, r)
	if err != nil {
		return nil, err
	}
	personal := &auditv1.AuditRecord{Arguments: r.GetArguments(), Result: r.GetResult(), ConditionValues: values}
	if address := r.GetClient().GetAddress(); address != "" {
		personal.Client = &auditv1.Client{Address: address}
	}
	if personal.Arguments == nil && personal.Result == nil && personal.Client == nil && values == nil {
		return nil, nil
	}
	personal.Salt = make([]byte, 32)
	_, _ = rand.Read(personal.Salt) // never fails
	behind, err := proto.Marshal(personal)
	if err != nil {
		return nil, err
	}
	behind, sum, err := s.behind(ctx, r.GetPersonId(), s.sealed(r), behind)
	if err != nil {
		return nil, err
	}
	r.Erased, r.PersonalSha256 = behind == nil, sum[:]
	withoutPersonal(r)
	return behind, nil
}

// behind is what of a person's is kept behind a record, and the digest of all of it. Nil: nothing, as the person has no key.
func (s *Store) behind(ctx context.Context, personID string, sealed bool, personal []byte) (kept []byte, sum proof.Digest, err error) {
	sum = sha256.Sum256(personal)
	if person, err := uuid.Parse(personID); err == nil && sealed {
		kept, err = s.seals.Seal(ctx, person, personal)
		if errors.Is(err, vault.ErrNoKey) {
			return nil, sum, nil
		}
		if err != nil {
			return nil, sum, err
		}
		kept, err = proto.Marshal(&auditv1.AuditRecord{Sealed: kept})
		return kept, sum, err
	}
	return personal, sum, nil
}

// conditionValues are those of a record as they are kept: sealed for the person, whatever else is. What cannot be opened, or is of nobody who
// has a key, is not kept, and a backtest counts the call as unknown.
func (s *Store) conditionValues(ctx context.Context, r *auditv1.AuditRecord) ([]byte, error) {
	if len(r.GetConditionValues()) == 0 || s.openValues == nil || s.seals == nil {
		return nil, nil
	}
	person, err := uuid.Parse(r.GetPersonId())
	if err != nil {
		return nil, nil //nolint:nilerr // of nobody
	}
	plain, err := s.openValues(r.GetConditionValues(), r.GetPersonId(), r.GetCallId())
	if err != nil {
		s.log.WarnContext(ctx, "what conditions read of a call could not be opened, and is not kept", "proxy", r.GetProxy(), "call_id", r.GetCallId(), "error", err)
		return nil, nil
	}
	sealed, err := s.seals.Seal(ctx, person, plain)
	if errors.Is(err, vault.ErrNoKey) {
		return nil, nil
	}
	return sealed, err
}

// sealed tells whether what a record says of its person is sealed. What is sealed on the event log is so here, too.
func (s *Store) sealed(r *auditv1.AuditRecord) bool {
	return s.seal || s.seals != nil && r.GetProxy() == ChangesName
}

// withoutPersonal takes out of a record what split does.
func withoutPersonal(r *auditv1.AuditRecord) {
	r.Arguments, r.Result, r.Salt, r.Sealed, r.ConditionValues = nil, nil, nil, nil, nil
	if r.Client != nil {
		r.Client.Address = ""
	}
}

// ErrUnreadable: a record cannot be read, and will not be by trying again.
var ErrUnreadable = errors.New("the record cannot be read")

// openPersonal puts back what was sealed, if the person was not erased. What is there for backtests alone it takes out.
func (s *Store) openPersonal(ctx context.Context, r *auditv1.AuditRecord) error {
	defer func() { r.ConditionValues = nil }()
	if len(r.GetSealed()) == 0 {
		return nil
	}
	plain, err := s.Unseal(ctx, r.GetPersonId(), r.GetSealed())
	if err != nil {
		return err
	}
	r.Sealed, r.Erased = nil, plain == nil
	if plain == nil {
		return nil
	}
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(plain, r); err != nil {
		return fmt.Errorf("%w: what was sealed for person %s: %w", ErrUnreadable, r.GetPersonId(), err)
	}
	return nil
}

// Unseal returns what lies sealed behind the core of a person's record; nothing, if the person was erased.
func (s *Store) Unseal(ctx context.Context, personID string, sealed []byte) ([]byte, error) {
	person, err := uuid.Parse(personID)
	if err != nil {
		return nil, fmt.Errorf("%w: it is sealed for %q, which is nobody: who wrote it?", ErrUnreadable, personID)
	}
	if s.seals == nil {
		return nil, errors.New("a record is sealed, and there is no vault to open it")
	}
	plain, erased, err := s.seals.Open(ctx, person, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening a record of person %s: %w", person, err)
	}
	if erased {
		return nil, nil
	}
	return plain, nil
}

// Open puts back what is sealed for a record's person.
func (s *Store) Open(ctx context.Context, r *adminv1.StoredRecord) error {
	return s.openPersonal(ctx, r.GetRecord())
}
