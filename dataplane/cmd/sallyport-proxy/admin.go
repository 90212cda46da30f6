package main

import (
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/spool"
	"sallyport.dev/dataplane/internal/telemetry"
	"sallyport.dev/dataplane/internal/upstream"
)

// adminServer serves those who run the proxy, on a listener of its own.
func adminServer(metrics *telemetry.Metrics, front *gateway.Gateway) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", front.Ready)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
}

// observe adds what is read when the metrics are asked for.
func observe(m *telemetry.Metrics, front *gateway.Gateway, policies *replica.Replica, records *spool.Spool, pool *upstream.Pool) {
	m.Gauge("open", "Calls and streams that are open.", nil, func() float64 { return float64(front.Open()) })
	m.Gauge("parked_calls", "Calls that wait for an agent to answer what their upstream asked.", nil, func() float64 { return float64(front.Parked()) })
	m.Gauge("hidden_names", "Names at /mcp that several tools or prompts would bear, so that they are hidden: an alarm.", nil, func() float64 { return float64(front.Hidden()) })
	m.Gauge("snapshot_version", "The version of the policy that is enforced.", nil, func() float64 { return float64(policies.Status().Version) })
	m.Gauge("lease_seconds", "What is left of the lease; below zero: nothing is served.", nil, func() float64 {
		until := policies.Status().LeaseUntil
		if until.IsZero() {
			return -1
		}
		return time.Until(until).Seconds()
	})
	m.Gauge("connected", "Whether a control plane is connected.", nil, func() float64 {
		if policies.Status().Connected {
			return 1
		}
		return 0
	})
	m.Gauge("resyncs", "Full snapshots that were asked for because a digest differed, since the start.", nil, func() float64 { return float64(policies.Status().Resyncs) })
	m.Gauge("spool_pending_records", "Audit records that no control plane acknowledged yet.", nil, func() float64 { return float64(records.Stats().Pending) })
	m.Gauge("spool_bytes", "What the spool takes on disk.", nil, func() float64 { return float64(records.Stats().Bytes) })
	m.Gauge("spool_max_bytes", "What the spool may take on disk: full, calls are refused.", nil, func() float64 { return float64(records.Stats().MaxBytes) })
	m.Collect(&upstreams{
		pool:     pool,
		failures: prometheus.NewDesc("sallyport_proxy_upstream_failures", "Failures of an upstream in a row.", []string{"connector"}, nil),
		alone:    prometheus.NewDesc("sallyport_proxy_upstream_left_alone", "Whether an upstream is not called for a while because it failed.", []string{"connector"}, nil),
	})
}

// upstreams are metrics of the upstreams that were called.
type upstreams struct {
	pool            *upstream.Pool
	failures, alone *prometheus.Desc
}

// Describe says which metrics there are.
func (u *upstreams) Describe(to chan<- *prometheus.Desc) {
	to <- u.failures
	to <- u.alone
}

// Collect reads them.
func (u *upstreams) Collect(to chan<- prometheus.Metric) {
	for _, h := range u.pool.Health() {
		alone := 0.0
		if !h.Until.IsZero() {
			alone = 1
		}
		to <- prometheus.MustNewConstMetric(u.failures, prometheus.GaugeValue, float64(h.Failures), h.Connector)
		to <- prometheus.MustNewConstMetric(u.alone, prometheus.GaugeValue, alone, h.Connector)
	}
}
