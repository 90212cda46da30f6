package export

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	collectorv1 "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resourcev1 "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/vault"
)

// otlp sends batches as OpenTelemetry logs, by protobuf over HTTP: a record's line is the body, what tells it apart are attributes.
type otlp struct {
	*receiver
	authorization vault.Secret
}

func openOTLP(e *policyv1.AuditExporter, secret vault.Secret) (*otlp, error) {
	r, err := newReceiver(e)
	if err != nil {
		return nil, err
	}
	return &otlp{r, secret}, nil
}

// Send posts a batch.
func (o *otlp) Send(ctx context.Context, items []Item) error {
	logs := make([]*logsv1.LogRecord, len(items))
	for i, item := range items {
		logs[i] = logOf(item)
	}
	body, err := proto.Marshal(&collectorv1.ExportLogsServiceRequest{ResourceLogs: []*logsv1.ResourceLogs{{
		Resource:  &resourcev1.Resource{Attributes: []*commonv1.KeyValue{text("service.name", "sallyport"), text("service.namespace", "sallyport")}},
		ScopeLogs: []*logsv1.ScopeLogs{{Scope: &commonv1.InstrumentationScope{Name: "sallyport.dev/audit"}, LogRecords: logs}},
	}}})
	if err != nil {
		return fmt.Errorf("writing the message: %w", err)
	}
	header := http.Header{"Content-Type": {"application/x-protobuf"}}
	if value := strings.TrimSpace(string(o.authorization.Reveal())); value != "" {
		header.Set("Authorization", value)
	}
	answer, err := o.post(ctx, o.url, header, body)
	if err != nil {
		return err
	}
	said := &collectorv1.ExportLogsServiceResponse{}
	if err := proto.Unmarshal(answer, said); err == nil && said.GetPartialSuccess().GetRejectedLogRecords() > 0 {
		return &Refusal{Certain: true, Text: fmt.Sprintf("the receiver rejected %d of %d records: %q", said.GetPartialSuccess().GetRejectedLogRecords(), len(items), said.GetPartialSuccess().GetErrorMessage())}
	}
	return nil
}

func text(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: stringValue(value)}
}

// stringValue is a text as protobuf takes it, which is UTF-8.
func stringValue(s string) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\uFFFD")}}
}

func logOf(item Item) *logsv1.LogRecord {
	l := &logsv1.LogRecord{
		TimeUnixNano: uint64(max(item.Millis(), 0)) * uint64(time.Millisecond), ObservedTimeUnixNano: uint64(max(item.Stored.UnixNano(), 0)), Body: stringValue(string(item.Line)), EventName: "sallyport.audit." + strings.ToValidUTF8(item.What(), "\uFFFD"),
		SeverityNumber: logsv1.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
	}
	switch {
	case item.SyslogSeverity() <= 3:
		l.SeverityNumber, l.SeverityText = logsv1.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	case item.SyslogSeverity() == 4:
		l.SeverityNumber, l.SeverityText = logsv1.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	for key, value := range map[string]string{
		"log.record.uid": item.ID(), "sallyport.kind": item.KindWord(), "sallyport.person": item.GetPersonId(), "sallyport.connector": item.GetConnector(), "sallyport.tool": item.GetTool(),
		"sallyport.proxy": item.GetProxy(), "sallyport.region": item.GetRegion(), "sallyport.call": item.GetCallId(),
	} {
		if value != "" {
			l.Attributes = append(l.Attributes, text(key, value))
		}
	}
	if id, err := hex.DecodeString(item.GetTraceId()); err == nil && len(id) == 16 {
		l.TraceId = id
	}
	return l
}

// Close lets go of connections.
func (o *otlp) Close() error { return o.close() }
