// Package commit measures events per second through the engine, beside raw JetStream atomic batches and raw
// single publishes of the same bytes in the same run.
package commit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bench/raw"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/vault"
)

const (
	// runFor is how long each load lasts, and rounds how often each is measured: the median counts.
	runFor = 1500 * time.Millisecond
	rounds = 3
	// eventBytes is about what an event of the engine's load has on the log.
	eventBytes = 330
)

// Figure is one line of output.
type Figure struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	Load      string  `json:"load"`
}

// Run prints commit_c1, commit_c16 and commit_c256, each with the raw rate beside which it is measured:
// single publishes for one caller; for several, atomic batches of as many messages as there are callers,
// which is the most that callers who each wait for an answer can have under way. A batch costs JetStream
// several syncs whatever its size, so that longer ones do more; what those of 500 do is said with each.
func Run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return fmt.Errorf("making a folder for the run: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	conn, err := natsconn.Open(ctx, natsconn.Config{DataDir: dir, Name: "bench"})
	if err != nil {
		return err
	}
	defer conn.Close()
	e, err := open(ctx, conn, dir)
	if err != nil {
		return err
	}
	defer e.Close()
	stream, err := raw.Open(ctx, conn.Conn)
	if err != nil {
		return err
	}
	for _, callers := range []int{1, 16, 256} {
		var ours, single, batch, long []float64
		for range rounds {
			for _, m := range []struct {
				to  *[]float64
				run func(context.Context) (float64, error)
			}{
				{&ours, func(ctx context.Context) (float64, error) { return commands(ctx, e, callers) }},
				{&single, func(ctx context.Context) (float64, error) { return batches(ctx, stream, 1) }},
				{&batch, func(ctx context.Context) (float64, error) { return batches(ctx, stream, max(callers, 2)) }},
				{&long, func(ctx context.Context) (float64, error) { return batches(ctx, stream, raw.MaxBatch) }},
			} {
				rate, err := m.run(ctx)
				if err != nil {
					return err
				}
				*m.to = append(*m.to, rate)
			}
		}
		reference, against := median(batch), "raw atomic batches of "+strconv.Itoa(callers)
		if callers == 1 {
			reference, against = median(single), "raw single publishes, one at a time"
		}
		err := json.NewEncoder(out).Encode(Figure{
			Name: "commit_c" + strconv.Itoa(callers), Value: median(ours), Unit: "events/s", Reference: reference, Ratio: median(ours) / reference,
			Load: fmt.Sprintf("%d callers of engine.Do, one event each, embedded server, SyncAlways, %d B an event; reference: %s; raw atomic batches of %d: %.0f/s; medians of %d runs of %s", callers, eventBytes, against, raw.MaxBatch, median(long), rounds, runFor),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func open(ctx context.Context, conn *natsconn.Conn, dir string) (*engine.Engine, error) {
	store, err := kv.Open(ctx, conn.Conn, kv.Config{Bucket: "BENCH"})
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, store, vault.Config{Keys: []string{"file:" + filepath.Join(dir, "kek.json")}})
	if err != nil {
		return nil, err
	}
	events, err := journal.Open(ctx, conn.Conn, journal.Config{})
	if err != nil {
		return nil, err
	}
	e, err := engine.Open(ctx, engine.Config{Journal: events, Seals: v})
	if err != nil {
		return nil, err
	}
	e.Start(nil)
	for _, c := range []core.Command{core.StartLog{Epoch: "bench"}, core.NewSetDirectory(&policyv1.Directory{Id: "bench"})} {
		if _, err := e.Do(ctx, nil, c); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// commands gives groups to the engine from many callers: one command, one event.
func commands(ctx context.Context, e *engine.Engine, callers int) (float64, error) {
	var count atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	actor := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SCIM, Id: "bench"}
	began := time.Now()
	end := began.Add(runFor)
	for i := range callers {
		group.Go(func() {
			for n := 0; time.Now().Before(end) && failed.Load() == nil; n++ {
				name := fmt.Sprintf("Group %d of caller %d, of the run that began at %d, with a name about as long as they come in practice", n, i, began.UnixNano())
				if _, err := e.Do(ctx, actor, core.CreateGroup{Directory: "bench", DisplayName: name}); err != nil {
					failed.Store(&err)
					return
				}
				count.Add(1)
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(count.Load()) / time.Since(began).Seconds(), nil
}

// batches publishes the same bytes with nothing added, so many messages at once.
func batches(ctx context.Context, to *raw.Stream, size int) (float64, error) {
	batch := slices.Repeat([][]byte{make([]byte, eventBytes)}, size)
	began := time.Now()
	n := 0
	for ; time.Since(began) < runFor; n += size {
		if err := to.Publish(ctx, batch...); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
