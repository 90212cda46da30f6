package main

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/audit/readers"
	"sallyport.dev/controlplane/internal/kv"
)

// openReaders makes what gives other systems their own way to read audit.
func (p *plane) openReaders(store *kv.Store) {
	p.readers = &readers.Desk{Audit: p.audit, Store: store, Server: p.conn, SigningKeyFile: p.auditing.signingKeyFile, Account: p.auditing.account, Log: p.log}
}

// consuming is what the admin API asks of the readers' desk.
type consuming struct{ *plane }

func consumerOf(r readers.Reader) *adminv1.AuditConsumer {
	return &adminv1.AuditConsumer{
		Name: r.Name, Subjects: r.Subjects, FromBeginning: r.Beginning, Since: timestampOf(r.Since), Expires: timestamppb.New(r.Expires), Created: timestamppb.New(r.Created), Lag: r.Lag,
	}
}

// Create makes a consumer.
func (c consuming) Create(ctx context.Context, asked *adminv1.AuditConsumer, lifetime time.Duration) (*adminv1.CreateAuditConsumerResponse, error) {
	r := readers.Reader{Name: asked.GetName(), Subjects: asked.GetSubjects(), Beginning: asked.GetFromBeginning()}
	if asked.GetSince() != nil {
		r.Since = asked.GetSince().AsTime()
	}
	made, err := c.readers.Create(ctx, r, cmp.Or(lifetime, readers.Lifetime))
	if err != nil {
		return nil, err
	}
	res := &adminv1.CreateAuditConsumerResponse{
		Consumer: consumerOf(made.Reader), Durable: made.Durable, InboxPrefix: made.InboxPrefix(), Credentials: string(made.Credentials), Server: c.conn.ClientURL(),
	}
	if !made.Signed {
		res.PublicKey, res.Publish, res.Subscribe = made.PublicKey, made.Publish(), made.Subscribe()
	}
	return res, nil
}

// List lists the consumers.
func (c consuming) List(ctx context.Context) ([]*adminv1.AuditConsumer, error) {
	all, err := c.readers.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*adminv1.AuditConsumer, len(all))
	for i, r := range all {
		out[i] = consumerOf(r)
	}
	return out, nil
}

// Delete ends a consumer.
func (c consuming) Delete(ctx context.Context, name string) error { return c.readers.Delete(ctx, name) }
