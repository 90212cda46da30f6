package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func testKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestEachRecordHoldsTheDigestOfTheOneBeforeItOfItsProxy(t *testing.T) {
	nc, key := natstest.Embedded(t).Conn, testKey(t)
	signing := func() *Store {
		s, err := Open(within(t), nc, Config{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := signing()
	mustAppend(t, s, "p", "g", 1, 3, 3)
	mustAppend(t, s, "q", "g", 1, 2, 2)
	mustAppend(t, s, "p", "h", 1, 1, 1) // another spool goes on with the chain
	mustAppend(t, signing(), "p", "h", 2, 3, 3)
	heads, signed := map[string]proof.Digest{}, 0
	for seq := uint64(1); seq <= 8; seq++ {
		m, err := s.at(within(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		core, err := proof.Core(m.Data, m.Header.Get(coreHeader))
		if err != nil {
			t.Fatal(err)
		}
		r, whole := &auditv1.AuditRecord{}, &auditv1.AuditRecord{}
		if err := proto.Unmarshal(core, r); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(m.Data, whole); err != nil || whole.GetTool() != r.GetTool() {
			t.Fatalf("a consumer cannot read the message as one record: %v", err)
		}
		if before, there := heads[r.GetProxy()]; there != (len(r.GetPrevious()) > 0) || there && !bytes.Equal(before[:], r.GetPrevious()) {
			t.Fatalf("record %d says %x of the one before it, want %x", seq, r.GetPrevious(), before)
		}
		heads[r.GetProxy()] = sha256.Sum256(core)
		if text := m.Header.Get(headHeader); text != "" {
			signed++
			keys := proof.Keys{proof.KeyID(key.Public().(ed25519.PublicKey)): key.Public().(ed25519.PublicKey)}
			if err := keys.Verify(text, proof.HeadStatement(r.GetProxy(), r.GetSpoolGeneration(), r.GetNumber(), heads[r.GetProxy()])); err != nil {
				t.Fatal(err)
			}
			if keys.Verify(text, proof.HeadStatement(r.GetProxy(), r.GetSpoolGeneration(), r.GetNumber(), proof.Digest{})) == nil {
				t.Fatal("a signature fits another head too")
			}
		}
	}
	if signed != 4 {
		t.Fatalf("%d heads are signed, want one for each batch, 4", signed)
	}
}

func TestAControlPlanesOwnRecordsAreStoredOnceEach(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	r := NewRecorder(s, "cp-1", "eu-west", func(person string) []string { return []string{"okta/Group of " + person} })
	ctx, stop := context.WithCancel(within(t))
	var run, callers sync.WaitGroup
	run.Go(func() { r.Run(ctx) })
	const count = 300
	for i := range count {
		callers.Go(func() {
			if err := r.Record(within(t), &auditv1.AuditRecord{Kind: auditv1.Kind_KIND_SIGN_IN, Target: fmt.Sprint(i), PersonId: "ann"}); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	r.Note(&auditv1.AuditRecord{Kind: auditv1.Kind_KIND_AUDIT_READ, PersonId: "ann", Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_ADMIN, Id: "bob"}}) // kept by the stop
	stop()
	run.Wait()
	if err := r.Record(within(t), &auditv1.AuditRecord{}); err == nil {
		t.Fatal("a record was taken that nobody stores")
	}
	if got := contents(t, s); len(got) != count+1 {
		t.Fatalf("the stream holds %d records, want %d", len(got), count+1)
	}
	seen := map[string]bool{}
	for _, rec := range all(t, s) {
		if rec.GetRecord().GetProxy() != "_cp-1" || rec.GetRecord().GetCallId() == "" || rec.GetRecord().GetAt() == nil {
			t.Fatalf("%v", rec)
		}
		who := "ann"
		if rec.GetRecord().GetKind() == auditv1.Kind_KIND_AUDIT_READ {
			who = "bob" // who did it, not whom it is about
		}
		if got := rec.GetRecord(); got.GetRegion() != "eu-west" || len(got.GetGroups()) != 1 || got.GetGroups()[0] != "okta/Group of "+who {
			t.Fatalf("of %s it has region %q and groups %v", who, got.GetRegion(), got.GetGroups())
		}
		seen[rec.GetRecord().GetTarget()] = true
	}
	if len(seen) != count+1 {
		t.Fatalf("%d different records", len(seen))
	}
}
