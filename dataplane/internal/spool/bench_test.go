package spool

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

func typicalRecord() *auditv1.AuditRecord {
	return &auditv1.AuditRecord{
		At: timestamppb.New(time.Unix(1790000000, 0)), CallId: "01975f7e-5b8a-7d2e-8f61-0a1b2c3d4e5f",
		Phase: auditv1.Phase_PHASE_REFUSED, Method: "tools/call", PersonId: "0192f7e1-1111-7222-8333-444455556666",
		Groups:    []string{"okta/Senior Engineers", "okta/Everyone", "okta/GitHub Users"},
		Client:    &auditv1.Client{Id: "claude-code", Name: "claude-code", Version: "3.1.0", Address: "10.0.0.7"},
		Connector: "github", Tool: "create_pull_request",
		Arguments: &auditv1.Payload{Head: make([]byte, 400), Size: 400, Sha256: make([]byte, 32)},
		Decision:  &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Group: "okta/Senior Engineers", Rule: 1},
	}
}

func benchmarkAppend(b *testing.B, durability Durability, parallel int) {
	cfg := testConfig(b.TempDir())
	cfg.Durability, cfg.MaxBytes = durability, 64<<30
	s, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	if parallel > 1 {
		b.SetParallelism(parallel)
		b.RunParallel(func(pb *testing.PB) {
			rec := typicalRecord()
			for pb.Next() {
				if err := s.Append(rec); err != nil {
					b.Error(err)
				}
			}
		})
		return
	}
	rec := typicalRecord()
	took := make([]time.Duration, 0, b.N)
	for range b.N {
		start := time.Now()
		if err := s.Append(rec); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

func BenchmarkAppendProcess(b *testing.B)         { benchmarkAppend(b, Process, 1) }
func BenchmarkAppendProcessParallel(b *testing.B) { benchmarkAppend(b, Process, 32) }
func BenchmarkAppendDisk(b *testing.B)            { benchmarkAppend(b, Disk, 1) }
func BenchmarkAppendDiskParallel(b *testing.B)    { benchmarkAppend(b, Disk, 128) }
