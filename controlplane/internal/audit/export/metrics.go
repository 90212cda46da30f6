package export

import "github.com/prometheus/client_golang/prometheus"

var (
	lagMetric     = prometheus.NewDesc("sallyport_audit_exporter_lag_records", "Records that are stored and not yet sent by an exporter.", []string{"exporter"}, nil)
	sentMetric    = prometheus.NewDesc("sallyport_audit_exporter_sent_records_total", "Records that an exporter sent since this control plane took it over.", []string{"exporter"}, nil)
	deadMetric    = prometheus.NewDesc("sallyport_audit_exporter_put_aside_records", "Records that an exporter put aside.", []string{"exporter"}, nil)
	failingMetric = prometheus.NewDesc("sallyport_audit_exporter_failing", "1 while an exporter cannot send.", []string{"exporter"}, nil)
)

// Describe says which metrics there are.
func (r *Runner) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{lagMetric, sentMetric, deadMetric, failingMetric} {
		ch <- d
	}
}

// Collect tells how the exporters do that this control plane runs.
func (r *Runner) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gauge := func(d *prometheus.Desc, sort prometheus.ValueType, value float64, exporter string) {
		ch <- prometheus.MustNewConstMetric(d, sort, value, exporter)
	}
	for name, w := range r.running {
		w.mu.Lock()
		sent, dead, failing := w.status.Sent, len(w.dead), 0.0
		if w.status.Error != "" {
			failing = 1
		}
		w.mu.Unlock()
		if lag, known := r.lag[name]; known {
			gauge(lagMetric, prometheus.GaugeValue, float64(lag), name)
		}
		gauge(sentMetric, prometheus.CounterValue, float64(sent), name)
		gauge(deadMetric, prometheus.GaugeValue, float64(dead), name)
		gauge(failingMetric, prometheus.GaugeValue, failing, name)
	}
}
