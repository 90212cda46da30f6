package admin

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// receiptPoll is how often a waiting receipt looks whether a lease ran out or a credential was ended: those are no events of proxies.
const receiptPoll = time.Second

// GetReceipt waits, where asked to, until each proxy enforces the version or its lease has run out, and the upstreams of a person's withdrawn
// credentials were asked to revoke them.
func (a *api) GetReceipt(ctx context.Context, req *connect.Request[adminv1.GetReceiptRequest]) (*connect.Response[adminv1.GetReceiptResponse], error) {
	version, person := req.Msg.GetVersion(), uuid.Nil
	if req.Msg.GetPerson() != "" {
		s, err := a.Engine.Fence(ctx)
		if err != nil {
			return nil, err
		}
		if person, err = optionalPerson(s, req.Msg.GetPerson()); err != nil {
			return nil, err
		}
		if version == 0 {
			version = s.Seq() // of somebody who is gone: all of it
			if u := s.User(person); u != nil {
				version = max(u.Version, u.Credentials)
			}
		}
	}
	for {
		s := a.Engine.State()
		proxies, changed, err := a.Fleet.Proxies(s, a.Now())
		if err != nil && !req.Msg.GetWait() {
			return nil, connect.NewError(connect.CodeUnavailable, err)
		}
		if err == nil {
			receipt, tried := a.receipt(version, proxies), true
			if person != uuid.Nil {
				if receipt.Person, tried, err = a.personReceipt(ctx, s, person); err != nil {
					return nil, err
				}
			}
			if receipt.GetEnforcedEverywhere() && tried || !req.Msg.GetWait() {
				return connect.NewResponse(receipt), nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
		case <-changed:
		case <-time.After(receiptPoll):
		}
	}
}

// personReceipt is what became of a person's credentials. tried: each upstream answered, or failed to, at least once.
func (a *api) personReceipt(ctx context.Context, s *core.State, person uuid.UUID) (out *adminv1.PersonReceipt, tried bool, err error) {
	out, tried = &adminv1.PersonReceipt{PersonId: person.String()}, true
	if u := s.User(person); u != nil {
		out.Name, out.Active = u.Directory+"/"+u.UserName, u.Active
	}
	for range s.PersonCredentials(person) {
		out.InUse++
	}
	for w := range s.Withdrawals() {
		if w.Owner.Person != person {
			continue
		}
		shown, err := a.credential(ctx, s, &w.Credential, w)
		if err != nil {
			return nil, false, err
		}
		out.Withdrawn = append(out.Withdrawn, shown)
		tried = tried && (!w.Ended.IsZero() || w.Outcome != policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_UNSPECIFIED)
	}
	slices.SortStableFunc(out.Withdrawn, func(a, b *adminv1.Credential) int {
		return b.GetWithdrawnAt().AsTime().Compare(a.GetWithdrawnAt().AsTime())
	})
	return out, tried, nil
}

func (a *api) receipt(version uint64, proxies []*adminv1.Proxy) *adminv1.GetReceiptResponse {
	res := &adminv1.GetReceiptResponse{Version: version, EnforcedEverywhere: true}
	now := a.Now()
	for _, p := range proxies {
		out := &adminv1.ProxyReceipt{Proxy: p.GetName(), Region: p.GetRegion(), Enforced: p.GetVersion() >= version}
		out.LeaseExpired = p.GetLeaseUntil() == nil || !now.Before(p.GetLeaseUntil().AsTime())
		if out.GetEnforced() {
			out.EnforcedAt = p.GetAcknowledgedAt()
		}
		if !out.GetEnforced() && !out.GetLeaseExpired() {
			res.EnforcedEverywhere = false
		}
		res.Proxies = append(res.Proxies, out)
	}
	return res
}
