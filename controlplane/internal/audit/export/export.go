// Package export sends audit records to other systems, each at least once: a durable consumer of the stream per exporter, which
// acknowledges a record when its receiver has it for good.
//
// One control plane runs all exporters, whichever holds the lease; were two to believe that they do, records would be sent
// twice and none lost. An exporter that cannot send waits, longer each time, and holds nobody else up. A record that its receiver
// refuses again and again is put aside with the reason, to be looked at and sent again, and the rest goes on. The package
// never shows a secret, and connects to no address that the egress guard refuses.
package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/vault"
)

// Item is a record on its way.
type Item struct {
	format.Record
	Line []byte // in the exporter's format
}

// Sink is a receiver, used by one goroutine at a time.
type Sink interface {
	// Send returns nil when the receiver has all items for good. After an error any of them may be there, and all are sent again. A
	// *Refusal says that the receiver could be reached and said no to what it was sent.
	Send(ctx context.Context, items []Item) error
	// Close lets go of what is open.
	Close() error
}

// Refusal is a receiver's no to what it was sent.
type Refusal struct {
	// Certain: it is about the records. Else it may be the receiver's own trouble, which shows by what becomes of other records.
	Certain bool
	Text    string
}

func (r *Refusal) Error() string { return r.Text }

// batch is how records are gathered for a target.
type batch struct {
	records int
	bytes   int
	wait    time.Duration
}

// batches are the targets' defaults.
var batches = map[policyv1.ExportTarget]batch{
	policyv1.ExportTarget_EXPORT_TARGET_FILE:    {2000, 8 << 20, 200 * time.Millisecond},
	policyv1.ExportTarget_EXPORT_TARGET_S3:      {10_000, 16 << 20, time.Minute},
	policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK: {100, 1 << 20, time.Second},
	policyv1.ExportTarget_EXPORT_TARGET_SYSLOG:  {1000, 4 << 20, time.Second},
	policyv1.ExportTarget_EXPORT_TARGET_OTLP:    {1000, 2 << 20, time.Second},
	policyv1.ExportTarget_EXPORT_TARGET_SPLUNK:  {1000, 1 << 20, time.Second},
}

// batchOf is how an exporter gathers.
func batchOf(e *policyv1.AuditExporter) batch {
	b := batches[e.GetTarget()]
	if n := int(e.GetBatchRecords()); n > 0 {
		b.records = n
	}
	if e.GetBatchWait() != nil {
		b.wait = e.GetBatchWait().AsDuration()
	}
	return b
}

// formatOf is how an exporter writes records.
func formatOf(e *policyv1.AuditExporter) (name string, write func(format.Record) []byte) {
	switch e.GetFormat() {
	case policyv1.ExportFormat_EXPORT_FORMAT_OCSF:
		return "ocsf", format.OCSF
	case policyv1.ExportFormat_EXPORT_FORMAT_CEF:
		return "cef", format.CEF
	}
	return "json", format.JSON
}

// wanted tells whether an exporter sends a record.
func wanted(kinds map[string]bool, r *auditv1.AuditRecord) bool {
	return len(kinds) == 0 || kinds[format.Record{AuditRecord: r}.KindWord()]
}

// open makes an exporter's sink.
func open(e *policyv1.AuditExporter, secret vault.Secret, folder string) (Sink, error) {
	switch e.GetTarget() {
	case policyv1.ExportTarget_EXPORT_TARGET_FILE:
		return openFiles(e, folder)
	case policyv1.ExportTarget_EXPORT_TARGET_S3:
		return openObjectStore(e, secret)
	case policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK:
		return openWebhook(e, secret)
	case policyv1.ExportTarget_EXPORT_TARGET_SYSLOG:
		return openSyslog(e)
	case policyv1.ExportTarget_EXPORT_TARGET_OTLP:
		return openOTLP(e, secret)
	case policyv1.ExportTarget_EXPORT_TARGET_SPLUNK:
		return openSplunk(e, secret)
	}
	return nil, fmt.Errorf("this build does not know where %s sends: is it older than the settings?", e.GetTarget())
}

// errNoSecret: an exporter cannot do without what it shows its receiver.
var errNoSecret = errors.New("it has no secret yet: sallyport audit exporters secret")
