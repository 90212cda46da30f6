package main

import (
	"context"
	"strconv"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
)

// removeAudit removes from the stream what is past its time, until ctx ends.
func (p *plane) removeAudit(ctx context.Context) {
	for {
		var removed *auditv1.Removal
		var held []audit.Held
		now, err := p.confirmed(ctx)
		if err == nil {
			removed, held, err = p.removePast(ctx, now.AddDate(0, 0, -int(p.auditing.keepDays)))
		}
		for _, h := range held {
			p.log.WarnContext(ctx, "audit that is past its time is kept until it was read: see to what reads it, or remove that", "by", h.By, "read_up_to", h.Sequence)
		}
		if removed != nil {
			p.log.InfoContext(ctx, "audit that is past its time was removed", "records", removed.GetSize(), "up_to", removed.GetSequence())
		}
		if err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "audit that is past its time could not be removed; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retireEvery):
		}
	}
}

// confirmed is the time by which audit is past its time, and warns where that is far behind this machine's clock.
func (p *plane) confirmed(ctx context.Context) (time.Time, error) {
	now, err := p.audit.Confirmed(ctx)
	if behind := time.Since(now); err == nil && !now.IsZero() && behind > clockDoubted {
		p.log.WarnContext(ctx, "this machine's clock is far ahead of what audit says: it jumped, or nothing was stored for as long. Until audit was stored for a day by that clock, its age is measured by the older time: see that the clock is right before that",
			"ahead", behind.Round(time.Second), "measured_by", now)
	}
	return now, err
}

// clockDoubted is more than clocks differ from what audit says where something is stored each day.
const clockDoubted = 48 * time.Hour

func (p *plane) removePast(ctx context.Context, before time.Time) (*auditv1.Removal, []audit.Held, error) {
	done := map[string]uint64{}
	if p.index != nil {
		position, err := p.index.Position(ctx)
		if err != nil {
			return nil, nil, err
		}
		done["the index"] = position
	}
	return p.audit.Remove(ctx, before, done, func(r *auditv1.Removal) error {
		return p.trail.Record(ctx, &auditv1.AuditRecord{
			Kind: auditv1.Kind_KIND_HEALTH, Action: "audit_removed", Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_SYSTEM, Id: p.name}, Target: "audit",
			Details: []*auditv1.Detail{
				{Key: "records", Value: strconv.FormatUint(r.GetSize(), 10)}, {Key: "up_to_sequence", Value: strconv.FormatUint(r.GetSequence(), 10)},
				{Key: "stored_before", Value: before.UTC().Format(time.RFC3339)}, {Key: "days", Value: strconv.Itoa(int(p.auditing.keepDays))},
			},
		})
	})
}
