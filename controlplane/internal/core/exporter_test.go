package core

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func exporters(all ...*policyv1.AuditExporter) ApplyPolicy {
	return NewApplyPolicy(nil, nil).WithAuditExporters(all)
}

func TestAnExporterKeepsItsSecretAndPlaceUntilItIsRemoved(t *testing.T) {
	w := newWorld(t)
	hook := func(url string) *policyv1.AuditExporter {
		return &policyv1.AuditExporter{Name: "hook", Target: policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK, Url: url}
	}
	w.must(exporters(hook("https://a.example")))
	w.must(SetAuditExporterSecret{Name: "hook", SecretID: "exporter.1"})
	made := w.state.AuditExporter("hook").Made
	w.must(exporters(hook("https://b.example")))
	if e := w.state.AuditExporter("hook"); e.Made != made || e.SecretID != "exporter.1" || e.Settings.GetUrl() != "https://b.example" {
		t.Errorf("after a change it is %+v", e)
	}
	if events := w.must(exporters(hook("https://b.example"))); len(events) > 0 {
		t.Errorf("to apply the same again is %d events", len(events))
	}
	w.must(RemoveAuditExporter{Name: "hook"})
	w.must(exporters(hook("https://b.example")))
	if e := w.state.AuditExporter("hook"); e.Made == made || e.SecretID != "" {
		t.Errorf("made again it is %+v", e)
	}
}

func TestAnExporterThatCannotBeMeantIsRefused(t *testing.T) {
	w := newWorld(t)
	w.must(exporters(&policyv1.AuditExporter{Name: "files", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE}))
	for said, e := range map[string]*policyv1.AuditExporter{
		"https://HOST":     {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK},
		"over TLS alone":   {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK, Url: "http://siem.example"},
		"without a user":   {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_SPLUNK, Url: "https://me:secret@siem.example"},
		"must begin with":  {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_SYSLOG, Url: "https://siem.example:6514"},
		"must name a port": {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_SYSLOG, Url: "tls://siem.example"},
		"needs a bucket":   {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_S3, Url: "https://s3.example"},
		"have no url":      {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, Url: "file:///etc"},
		"not both":         {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, FromBeginning: true, Since: timestamppb.Now()},
		"no address range": {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, AllowedRanges: []string{"10.0.0.1"}},
		"at most 15m":      {Name: "x", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, BatchWait: durationpb.New(time.Hour)},
		"another kind of":  {Name: "files", Target: policyv1.ExportTarget_EXPORT_TARGET_OTLP, Url: "http://127.0.0.1:4318/v1/logs"},
	} {
		_, err := Decide(w.state, exporters(e), w.env())
		var refusal *Error
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), said) {
			t.Errorf("%v: %v, which does not say %q", e, err, said)
		}
	}
}
