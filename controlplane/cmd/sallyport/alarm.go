package main

import (
	"context"
	"strconv"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
)

// watching has a watch see what is committed, beside whoever publishes it.
func (p *plane) watching(publish engine.Round) engine.Round {
	p.watch = activity.NewWatch(p.alarm)
	return func(before, after *core.State, records []core.Record) {
		publish(before, after, records)
		p.watch.Round(before, records)
	}
}

// alarm tells admins what a directory did to so many people: in the log, in audit and in sallyport scim status. Of several control
// planes the one tells that writes the log.
func (p *plane) alarm(ctx context.Context, a activity.Alarm) {
	if !p.engine.Leading() {
		return
	}
	p.log.ErrorContext(ctx, "ALARM: a directory changes many people at once", "directory", a.Directory, "what", a.What, "people", a.People, "of", a.Of, "percent", a.Percent)
	detail := func(key string, n int) *auditv1.Detail { return &auditv1.Detail{Key: key, Value: strconv.Itoa(n)} }
	p.trail.Note(&auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_HEALTH, Method: "scim", Action: "directory_alarm", Target: "directory/" + a.Directory,
		Error:   strconv.Itoa(a.People) + " of " + strconv.Itoa(a.Of) + " active people were " + a.What + " within an hour",
		Details: []*auditv1.Detail{{Key: "what", Value: a.What}, detail("people", a.People), detail("of", a.Of), detail("percent", a.Percent)},
	})
	p.lately.Alarm(a)
}
