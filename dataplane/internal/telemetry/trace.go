package telemetry

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
)

// word is a name of an enumeration as people write it.
func word(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

// Tracer makes spans of calls. A nil one makes none, and the agent's context is passed on as it came.
type Tracer struct {
	provider *trace.TracerProvider
	tracer   api.Tracer
}

// NewTracer returns a tracer that sends spans to a collector by OTLP over HTTP, of calls without a parent as many as a ratio from 0 to
// 1 says.
func NewTracer(ctx context.Context, endpoint string, ratio float64, proxy, region, version string) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("preparing the export of traces: %w", err)
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(exporter), trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(ratio))),
		trace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sallyport-proxy"), attribute.String("service.instance.id", proxy),
			attribute.String("service.version", version), attribute.String("cloud.region", region),
		)),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("sallyport.dev/dataplane")}, nil
}

// Close sends what is left.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// Call is the span of a call.
type Call struct {
	tracer *Tracer
	ctx    context.Context //nolint:containedctx // it is the span
	span   api.Span
}

var w3c propagation.TraceContext

// Begin begins the span of a call, under the context that the agent sent, if any.
func (t *Tracer) Begin(ctx context.Context, method, connector, callID, parent, state string) *Call {
	if t == nil {
		return nil
	}
	ctx = w3c.Extract(ctx, propagation.MapCarrier{"traceparent": parent, "tracestate": state})
	ctx, span := t.tracer.Start(ctx, method, api.WithSpanKind(api.SpanKindServer), api.WithAttributes(
		attribute.String("mcp.method.name", method), attribute.String("sallyport.connector", connector), attribute.String("sallyport.call_id", callID),
	))
	return &Call{t, ctx, span}
}

// TraceID is the trace's, 32 hexadecimal digits.
func (c *Call) TraceID() string { return c.span.SpanContext().TraceID().String() }

// Upstream begins the upstream's share, and returns the context to hand on. end ends it.
func (c *Call) Upstream(connector string) (parent, state string, end func(failed bool)) {
	ctx, span := c.tracer.tracer.Start(c.ctx, "upstream "+connector, api.WithSpanKind(api.SpanKindClient))
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier["traceparent"], carrier["tracestate"], func(failed bool) {
		if failed {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// End ends the span, with how the call ended.
func (c *Call) End(outcome string, failed bool) {
	c.span.SetAttributes(attribute.String("sallyport.outcome", outcome))
	if failed {
		c.span.SetStatus(codes.Error, outcome)
	}
	c.span.End()
}
