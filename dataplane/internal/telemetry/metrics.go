// Package telemetry says how the proxy does: as Prometheus metrics, and as OpenTelemetry traces where a collector is named.
//
// Labels are bounded: connectors that the policy knows, and words of the code's own. No person, tool, client or address is one.
package telemetry

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// buckets are upper bounds of times, in seconds.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Metrics are the proxy's. Its methods may be called on nil, and then do nothing.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	whole    *prometheus.HistogramVec
	upstream *prometheus.HistogramVec
	refusals [256]prometheus.Counter // by reason
	refused  *prometheus.CounterVec
	requests *prometheus.CounterVec

	connectors sync.Map // id → *ofConnector
}

// ofConnector is what one connector's calls are counted by: found once, so that a call looks nothing up by labels.
type ofConnector struct {
	outcomes        [64]prometheus.Counter
	whole, upstream prometheus.Observer
}

// NewMetrics returns metrics, with the process's own.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_proxy_calls_total", Help: "Calls that were allowed, by how they ended.",
		}, []string{"connector", "outcome"}),
		whole: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_proxy_call_duration_seconds", Help: "From the request's arrival to the answer's last byte.", Buckets: buckets,
		}, []string{"connector"}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_proxy_upstream_duration_seconds", Help: "The upstream's share of a call.", Buckets: buckets,
		}, []string{"connector"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_proxy_refusals_total", Help: "Requests that were refused, by reason.",
		}, []string{"reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_proxy_requests_total", Help: "HTTP requests to the MCP endpoints, by HTTP method.",
		}, []string{"method"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sallyport_proxy_build_info", Help: "Always 1."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.calls, m.whole, m.upstream, m.refused, m.requests, build)
	// The package that took their place links database/sql, which a proxy must not.
	m.registry.MustRegister(prometheus.NewGoCollector(), prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{})) //nolint:staticcheck // see above
	for reason, name := range auditv1.Reason_name {
		if reason > 0 && int(reason) < len(m.refusals) {
			m.refusals[reason] = m.refused.WithLabelValues(word(name, "REASON_"))
		}
	}
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Gauge adds a metric that is read when it is asked for.
func (m *Metrics) Gauge(name, help string, labels prometheus.Labels, read func() float64) {
	if m != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_proxy_" + name, Help: help, ConstLabels: labels}, read))
	}
}

// Collect adds metrics that differ from time to time in which there are.
func (m *Metrics) Collect(c prometheus.Collector) {
	if m != nil {
		m.registry.MustRegister(c)
	}
}

// Request counts a request by its HTTP method.
func (m *Metrics) Request(method string) {
	if m == nil {
		return
	}
	switch method {
	case http.MethodPost, http.MethodGet, http.MethodDelete:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method).Inc()
}

// Called counts a call of a connector that the policy knows.
func (m *Metrics) Called(connector string, outcome auditv1.Outcome, whole, upstream time.Duration) {
	if m == nil {
		return
	}
	of := m.of(connector)
	if int(outcome) < len(of.outcomes) && of.outcomes[outcome] != nil {
		of.outcomes[outcome].Inc()
	}
	of.whole.Observe(whole.Seconds())
	of.upstream.Observe(upstream.Seconds())
}

func (m *Metrics) of(connector string) *ofConnector {
	if have, ok := m.connectors.Load(connector); ok {
		return have.(*ofConnector)
	}
	of := &ofConnector{whole: m.whole.WithLabelValues(connector), upstream: m.upstream.WithLabelValues(connector)}
	for outcome, name := range auditv1.Outcome_name {
		if outcome > 0 && int(outcome) < len(of.outcomes) {
			of.outcomes[outcome] = m.calls.WithLabelValues(connector, word(name, "OUTCOME_"))
		}
	}
	have, _ := m.connectors.LoadOrStore(connector, of)
	return have.(*ofConnector)
}

// Refused counts a refusal.
func (m *Metrics) Refused(reason auditv1.Reason) {
	if m != nil && int(reason) < len(m.refusals) && m.refusals[reason] != nil {
		m.refusals[reason].Inc()
	}
}
