package core

import (
	"iter"
	"net/netip"
	"net/url"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// AuditExporter is where audit is sent.
type AuditExporter struct {
	Settings *policyv1.AuditExporter
	// Made is where on the log it was first made: one that was removed and made again is another.
	Made uint64
	// SecretID names what it shows its receiver in the vault. Empty: nothing.
	SecretID string
}

// maxExporters bounds what one control plane runs.
const maxExporters = 64

// WithAuditExporters applies exporters of audit too.
func (c ApplyPolicy) WithAuditExporters(all []*policyv1.AuditExporter) ApplyPolicy {
	c.AuditExporters = wrap(all)
	return c
}

func (a *applying) exporter(e *policyv1.AuditExporter) error {
	name := e.GetName()
	if a.exporters[name] {
		return refuse(InvalidArgument, "audit exporter %q is given twice", name)
	}
	a.exporters[name] = true
	old := a.state.AuditExporter(name)
	if old != nil && equal(old.Settings, e) {
		return nil
	}
	if err := checkExporter(e); err != nil {
		return err
	}
	if old == nil && a.state.exporters.Len()+len(a.exporters) > maxExporters {
		return refuse(InvalidArgument, "there are %d audit exporters, and no more can be had", maxExporters)
	}
	if old != nil && old.Settings.GetTarget() != e.GetTarget() {
		return refuse(FailedPrecondition, "audit exporter %s sends to another kind of receiver: remove it first, or give the new one a name of its own", name)
	}
	a.events = append(a.events, &eventv1.Event{Body: &eventv1.Event_AuditExporterSet{AuditExporterSet: &eventv1.AuditExporterSet{Exporter: e}}})
	return nil
}

// checkExporter refuses settings that cannot be meant.
func checkExporter(e *policyv1.AuditExporter) error {
	no := func(field, format string, args ...any) error {
		return refuseField(InvalidArgument, field, "audit exporter %s: "+format, append([]any{e.GetName()}, args...)...)
	}
	if e.GetSince() != nil && e.GetFromBeginning() {
		return no("since", "it starts at a time, or at the beginning, not both")
	}
	for _, text := range e.GetAllowedRanges() {
		if _, err := netip.ParsePrefix(text); err != nil {
			return no("allowed_ranges", "%q is no address range such as 10.1.0.0/16", text)
		}
	}
	if w := e.GetBatchWait(); w != nil && (w.AsDuration() < 0 || w.AsDuration().Minutes() > 15) {
		return no("batch_wait", "a batch waits for at most 15m")
	}
	if r := e.GetRotateEvery(); r != nil && r.AsDuration().Seconds() < 1 {
		return no("rotate_every", "a file is kept open for at least 1s")
	}
	if e.GetRotateBytes() != 0 && e.GetRotateBytes() < 1024 {
		return no("rotate_bytes", "a file has at least 1024 bytes")
	}
	if e.GetTarget() == policyv1.ExportTarget_EXPORT_TARGET_FILE {
		if e.GetUrl() != "" {
			return no("url", "files have no url: they lie in the folder that the control plane was started with (--audit-export-dir)")
		}
		return nil
	}
	u, err := url.Parse(e.GetUrl())
	scheme := "https"
	if e.GetTarget() == policyv1.ExportTarget_EXPORT_TARGET_SYSLOG {
		scheme = "tls"
	}
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return no("url", "its url must be %s://HOST, without a user or password", scheme)
	case u.Scheme == "http" && scheme == "https" && onLoopback(u.Hostname()):
	case u.Scheme != scheme:
		return no("url", "its url must begin with %s://: records are sent over TLS alone, save over https to loopback", scheme)
	}
	if scheme == "tls" && u.Port() == "" {
		return no("url", "its url must name a port, such as tls://%s:6514", u.Hostname())
	}
	if e.GetTarget() == policyv1.ExportTarget_EXPORT_TARGET_S3 && e.GetBucket() == "" {
		return no("bucket", "an object store needs a bucket")
	}
	return nil
}

func onLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback() || host == "localhost"
}

// RemoveAuditExporter ends an exporter.
type RemoveAuditExporter struct{ Name string }

func (c RemoveAuditExporter) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.AuditExporter(c.Name) == nil {
		return nil, refuse(NotFound, "there is no audit exporter %q: see sallyport audit exporters list", c.Name)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_AuditExporterRemoved{AuditExporterRemoved: &eventv1.AuditExporterRemoved{Name: c.Name}}}), nil
}

// SetAuditExporterSecret says which secret of the vault an exporter shows its receiver.
type SetAuditExporterSecret struct{ Name, SecretID string }

func (c SetAuditExporterSecret) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.AuditExporter(c.Name) == nil {
		return nil, refuse(NotFound, "there is no audit exporter %q: see sallyport audit exporters list", c.Name)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_AuditExporterSecretSet{AuditExporterSecretSet: &eventv1.AuditExporterSecretSet{Name: c.Name, SecretId: c.SecretID}}}), nil
}

// AuditExporter returns an exporter, or nil.
func (s *State) AuditExporter(name string) *AuditExporter {
	e, _ := s.exporters.Get(name)
	return e
}

// AuditExporters yields all exporters, by name.
func (s *State) AuditExporters() iter.Seq[*AuditExporter] {
	return func(yield func(*AuditExporter) bool) {
		s.exporters.Scan(func(_ string, e *AuditExporter) bool { return yield(e) })
	}
}

// applyExporter folds what is about exporters, and says whether it was.
func (s *State) applyExporter(rec Record) bool {
	switch b := rec.Event.GetBody().(type) {
	case *eventv1.Event_AuditExporterSet:
		e := &AuditExporter{Settings: b.AuditExporterSet.GetExporter(), Made: rec.Seq}
		if old := s.AuditExporter(e.Settings.GetName()); old != nil {
			e.Made, e.SecretID = old.Made, old.SecretID
		}
		s.exporters.Set(e.Settings.GetName(), e)
	case *eventv1.Event_AuditExporterRemoved:
		s.exporters.Delete(b.AuditExporterRemoved.GetName())
	case *eventv1.Event_AuditExporterSecretSet:
		if old := s.AuditExporter(b.AuditExporterSecretSet.GetName()); old != nil {
			changed := *old
			changed.SecretID = b.AuditExporterSecretSet.GetSecretId()
			s.exporters.Set(old.Settings.GetName(), &changed)
		}
	default:
		return false
	}
	return true
}

// checkpointExporter is an exporter in a checkpoint.
type checkpointExporter struct {
	Settings []byte
	Made     uint64
	SecretID string
}

func (s *State) checkpointExporters(marshal func(proto.Message) []byte) []checkpointExporter {
	var all []checkpointExporter
	for e := range s.AuditExporters() {
		all = append(all, checkpointExporter{Settings: marshal(e.Settings), Made: e.Made, SecretID: e.SecretID})
	}
	return all
}

func (s *State) restoreExporters(all []checkpointExporter) error {
	for _, c := range all {
		settings, err := unmarshalAll[policyv1.AuditExporter]([][]byte{c.Settings})
		if err != nil {
			return err
		}
		s.exporters.Set(settings[0].GetName(), &AuditExporter{Settings: settings[0], Made: c.Made, SecretID: c.SecretID})
	}
	return nil
}
