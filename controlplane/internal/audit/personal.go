package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/vault"
)

// Seals seals what is a person's under that person's key, which an erasure destroys.
type Seals interface {
	// Seal fails with vault.ErrNoKey for a person who was erased, or whom nobody knows.
	Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error)
	Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error)
}

// sealPersonal takes out of a record what it says of its person, and seals it. Of a person who has no key, as of one who
// was erased meanwhile, it is not kept. A record without a person stays as it is.
func (s *Store) sealPersonal(ctx context.Context, r *auditv1.AuditRecord) error {
	// What came sealed would be opened as if it had been sealed here.
	r.Sealed, r.Erased = nil, false
	person, err := uuid.Parse(r.GetPersonId())
	if err != nil || !s.seal {
		return nil //nolint:nilerr // it is about nobody
	}
	personal := &auditv1.Personal{Arguments: r.GetArguments(), Result: r.GetResult(), Address: r.GetClient().GetAddress()}
	plain, err := proto.Marshal(personal)
	if err != nil || len(plain) == 0 {
		return err
	}
	sealed, err := s.seals.Seal(ctx, person, plain)
	if err != nil && !errors.Is(err, vault.ErrNoKey) {
		return err
	}
	r.Sealed, r.Erased = sealed, sealed == nil
	r.Arguments, r.Result = nil, nil
	if r.Client != nil {
		r.Client.Address = ""
	}
	return nil
}

// openPersonal puts back what sealPersonal took out, if the person was not erased.
func (s *Store) openPersonal(ctx context.Context, r *auditv1.AuditRecord) error {
	if len(r.GetSealed()) == 0 {
		return nil
	}
	person, err := uuid.Parse(r.GetPersonId())
	if err != nil {
		return fmt.Errorf("a record is sealed for %q, which is nobody: who wrote it?", r.GetPersonId())
	}
	plain, erased, err := s.seals.Open(ctx, person, r.GetSealed())
	if err != nil {
		return fmt.Errorf("opening a record of person %s: %w", person, err)
	}
	r.Sealed, r.Erased = nil, erased
	if erased {
		return nil
	}
	personal := &auditv1.Personal{}
	if err := proto.Unmarshal(plain, personal); err != nil {
		return fmt.Errorf("reading a record of person %s: %w", person, err)
	}
	r.Arguments, r.Result = personal.GetArguments(), personal.GetResult()
	if personal.GetAddress() != "" && r.Client != nil {
		r.Client.Address = personal.GetAddress()
	}
	return nil
}
