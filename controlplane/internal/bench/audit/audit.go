// Package audit measures audit beside what it is built on: storing records beside raw JetStream publishes, indexing beside
// raw COPY of the same rows into tables of the same shape, and searching, exporting and verifying.
//
// It is called by ./scripts/bench and is no part of what runs in production.
package audit

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/postgres"
	"sallyport.dev/controlplane/internal/audit/proof"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/pgtest"
)

const (
	proxies = 8
	batch   = 1000
	people  = 5000
)

// figure is one line of output.
type figure struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Reference float64 `json:"reference,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"`
	// Scale is what part of the sizes that the name speaks of was measured; 0: it speaks of none.
	Scale float64 `json:"scale,omitempty"`
	Load  string  `json:"load"`
}

type bench struct {
	ctx      context.Context //nolint:containedctx // of one run, which ends with it
	out      io.Writer
	progress io.Writer
	records  int
	store    *audit.Store
	next     [proxies]uint64
	ids      []string
}

// Run prints the figures, with so many records.
func Run(ctx context.Context, out, progress io.Writer, records int) error {
	b := &bench{ctx: ctx, out: out, progress: progress, records: records}
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	conn, err := natsconn.Open(ctx, natsconn.Config{DataDir: dir, Name: "bench"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	if b.store, err = audit.Open(ctx, conn.Conn, audit.Config{Key: key}); err != nil {
		return err
	}
	for range people {
		b.ids = append(b.ids, uuid.NewString())
	}
	if err := b.acknowledged(conn.Conn); err != nil {
		return err
	}
	if err := b.proved(dir); err != nil {
		return err
	}
	if err := b.sent(conn, dir); err != nil {
		return err
	}
	return b.indexed()
}

func (b *bench) say(f figure) error {
	if f.Reference > 0 {
		f.Ratio = f.Value / f.Reference
	}
	return json.NewEncoder(b.out).Encode(f)
}

func (b *bench) note(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "· "+format+"\n", args...)
}

var tools = []string{"create_pull_request", "push_files", "get_issue", "search_code", "list_branches", "query", "update_record", "export_report"}

// make makes a proxy's next records, about 900 bytes each.
func (b *bench) make(proxy, n int) []*auditv1.AuditRecord {
	all := make([]*auditv1.AuditRecord, n)
	for i := range all {
		b.next[proxy]++
		all[i] = b.record(b.next[proxy])
	}
	return all
}

func (b *bench) record(number uint64) *auditv1.AuditRecord {
	return &auditv1.AuditRecord{
		Number: number, At: timestamppb.Now(), CallId: uuid.Must(uuid.NewV7()).String(), Phase: auditv1.Phase_PHASE_COMPLETED, Method: "tools/call",
		PersonId: b.ids[rand.IntN(people)], Connector: fmt.Sprint("connector-", rand.IntN(20)), Tool: tools[rand.IntN(len(tools))], //nolint:gosec // a load
		Groups: []string{"okta/Staff", fmt.Sprint("okta/Team ", rand.IntN(200))}, Client: &auditv1.Client{Id: "https://agent.example/client", Name: "Claude Code", Version: "2.1", Address: "192.0.2.7"}, //nolint:gosec // a load
		Arguments: &auditv1.Payload{Head: fmt.Appendf(nil, `{"owner":"example","repository":"service-%d","branch":"agent/fix-%d","message":"Correct the total of invoices whose currency differs"}`, rand.IntN(500), rand.IntN(100_000)), Size: 130, Sha256: make([]byte, 32)}, //nolint:gosec // a load
		Result:    &auditv1.Payload{Head: fmt.Appendf(nil, `{"content":[{"type":"text","text":"Commit %x was pushed to the branch; three checks run, and a reviewer was asked."}]}`, rand.Uint64()), Size: 120, Sha256: make([]byte, 32)},                                      //nolint:gosec // a load
		Decision:  &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED, Group: "okta/Staff", Rule: 1, Text: "rule 1 of okta/Staff allows it"},
		Outcome:   auditv1.Outcome_OUTCOME_OK, Duration: durationpb.New(42 * time.Millisecond), SnapshotVersion: 1234, Revision: "2026-07-28",
	}
}

// acknowledged measures records on their way to the stream, from eight proxies at once, beside publishes of the same bytes
// that do not wait for each other.
func (b *bench) acknowledged(nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(b.ctx, jetstream.StreamConfig{Name: "BENCH", Subjects: []string{"bench.>"}, Storage: jetstream.FileStorage}); err != nil {
		return err
	}
	const per, rawOf = 16_000, 4_000 // each publish is synced alone, and takes its time
	var ours, raw []float64
	for range 3 {
		var data [][]byte
		loads := make([][]*auditv1.AuditRecord, proxies)
		for p := range loads {
			loads[p] = b.make(p, per/proxies)
			for _, r := range loads[p] {
				bytes, err := proto.Marshal(r)
				if err != nil {
					return err
				}
				data = append(data, bytes)
			}
		}
		began := time.Now()
		if err := b.append(loads); err != nil {
			return err
		}
		ours = append(ours, float64(len(data))/time.Since(began).Seconds())
		began = time.Now()
		for part := range slices.Chunk(data[:rawOf], 1000) {
			for i, d := range part {
				if _, err := js.PublishAsync(fmt.Sprint("bench.", i%proxies), d, jetstream.WithStallWait(time.Second)); err != nil {
					return err
				}
			}
			<-js.PublishAsyncComplete()
		}
		raw = append(raw, rawOf/time.Since(began).Seconds())
	}
	if err := js.DeleteStream(b.ctx, "BENCH"); err != nil {
		return err
	}
	return b.say(figure{Name: "audit_ack", Value: median(ours), Reference: median(raw), Unit: "records/s", Load: "8 proxies, batches of at most 1,000, beside raw async publishes of the same bytes"})
}

// append stores each proxy's load, all at once.
func (b *bench) append(loads [][]*auditv1.AuditRecord) error {
	var senders sync.WaitGroup
	failed := make(chan error, len(loads))
	for p, load := range loads {
		senders.Go(func() {
			for part := range slices.Chunk(load, batch) {
				if _, err := b.store.Append(b.ctx, fmt.Sprint("p", p), "eu-west", "g", part); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	senders.Wait()
	close(failed)
	return <-failed
}

// proved fills the stream, and measures an export to a file and its verification.
func (b *bench) proved(dir string) error {
	for {
		last, err := b.store.Last(b.ctx)
		if err != nil {
			return err
		}
		if int(last) >= b.records {
			break
		}
		loads := make([][]*auditv1.AuditRecord, proxies)
		for p := range loads {
			loads[p] = b.make(p, min(10_000, (b.records-int(last)+proxies-1)/proxies))
		}
		if err := b.append(loads); err != nil {
			return err
		}
	}
	b.note("%d records are stored", b.records)
	if _, err := b.store.Checkpoint(b.ctx, true); err != nil {
		return err
	}
	path := filepath.Join(dir, "export")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	began := time.Now()
	if err := b.store.Export(b.ctx, time.Time{}, time.Time{}, nil, func(i *auditv1.ExportItem) error { return proof.Write(w, i) }); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	load := fmt.Sprintf("%d records", b.records)
	if err := b.say(figure{Name: "audit_export", Value: float64(b.records) / time.Since(began).Seconds(), Unit: "records/s", Load: load + " to a file, with their proofs"}); err != nil {
		return err
	}
	if f, err = os.Open(path); err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	began = time.Now()
	v := &proof.Verifier{}
	if err := v.Read(f); err != nil {
		return err
	}
	if err := v.Finish(time.Time{}, time.Time{}); err != nil {
		return err
	}
	return b.say(figure{Name: "audit_verify", Value: float64(v.Report.Records) / time.Since(began).Seconds(), Unit: "records/s", Load: load + " of that file: chains, heads, checkpoints"})
}

// indexed measures indexing and searching.
func (b *bench) indexed() error {
	server, err := pgtest.Start()
	if err != nil {
		return err
	}
	defer server.Remove()
	x, err := postgres.Open(b.ctx, postgres.Config{URL: server.URL(), Stream: b.store})
	if err != nil {
		return err
	}
	defer x.Close()
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	raw, err := x.CopyRaw(ctx, "bench_raw", min(200_000, b.records/2))
	if err != nil {
		return err
	}
	last, err := b.store.Last(ctx)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	began := time.Now()
	running.Go(func() { x.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	measured := uint64(min(200_000, b.records/2))
	rate := 0.0
	for told := time.Now(); ; {
		position, err := x.Position(ctx)
		if err != nil {
			return err
		}
		if rate == 0 && position >= measured {
			rate = float64(position) / time.Since(began).Seconds()
		}
		if position >= last {
			break
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			b.note("%d of %d are indexed", position, last)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := b.say(figure{Name: "audit_index", Value: rate, Reference: raw, Unit: "records/s", Load: fmt.Sprintf("the first %d, from the stream into PostgreSQL, beside raw COPY of the same rows into the same tables and indexes", measured)}); err != nil {
		return err
	}
	b.note("all is indexed after %v", time.Since(began).Round(time.Second))
	return b.searched(x)
}

func (b *bench) searched(x *postgres.Index) error {
	end, worst := time.Now(), 0.0
	for name, filter := range map[string]func() *adminv1.AuditFilter{
		"by person": func() *adminv1.AuditFilter { return &adminv1.AuditFilter{Person: b.ids[rand.IntN(people)]} }, //nolint:gosec // a load
		"by connector, tool and time": func() *adminv1.AuditFilter {
			until := end.Add(-time.Duration(rand.IntN(20)) * time.Second)                                                                                                                                       //nolint:gosec // a load
			return &adminv1.AuditFilter{Connector: fmt.Sprint("connector-", rand.IntN(20)), Tool: tools[rand.IntN(len(tools))], Since: timestamppb.New(until.Add(-time.Minute)), Until: timestamppb.New(until)} //nolint:gosec // a load
		},
		"by an argument": func() *adminv1.AuditFilter {
			return &adminv1.AuditFilter{Arguments: []*adminv1.ArgumentEquals{{Path: "branch", JsonValue: fmt.Sprintf(`"agent/fix-%d"`, rand.IntN(100_000))}}} //nolint:gosec // a load
		},
		"by a word": func() *adminv1.AuditFilter { return &adminv1.AuditFilter{Text: "currency invoices"} },
	} {
		var took []float64
		found := 0
		for range 300 {
			f := filter()
			began := time.Now()
			records, _, err := x.Search(b.ctx, f, 100, "")
			if err != nil {
				return err
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
			found += len(records)
		}
		slices.Sort(took)
		p99 := took[len(took)*99/100]
		if name == "by person" || strings.HasPrefix(name, "by connector") {
			worst = max(worst, p99)
		}
		if err := b.say(figure{Name: "audit_search_p99", Value: p99, Unit: "ms", Load: fmt.Sprintf("a page of 100 %s over %d records (p50 %.1f ms, %d found on average)", name, b.records, took[len(took)/2], found/len(took))}); err != nil {
			return err
		}
	}
	return b.say(figure{Name: "audit_search_p99_10m", Value: worst, Unit: "ms", Scale: float64(b.records) / 10_000_000, Load: fmt.Sprintf("the slower of a page by person and one by connector, tool and time, over %d records", b.records)})
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
