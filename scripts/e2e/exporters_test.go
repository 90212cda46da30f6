package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// arrived counts how often each record came somewhere.
type arrived struct {
	mu   sync.Mutex
	all  map[string]int
	what map[string]string // call and phase
}

func (a *arrived) line(line []byte) error {
	var r struct {
		ID     string `json:"id"`
		CallID string `json:"call_id"`
		Phase  string `json:"phase"`
	}
	if err := json.Unmarshal(line, &r); err != nil || r.ID == "" {
		return fmt.Errorf("%q is no record: %w", line, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all, a.what = map[string]int{}, map[string]string{}
	}
	a.all[r.ID]++
	a.what[r.ID] = r.CallID + " " + r.Phase
	return nil
}

// has says whether the records of some calls came, each of both phases.
func (a *arrived) has(want calls) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	there := map[string]bool{}
	for _, what := range a.what {
		there[what] = true
	}
	missing := 0
	for id, phases := range want {
		for phase := range phases {
			if !there[id+" "+strings.ToLower(strings.TrimPrefix(phase.String(), "PHASE_"))] {
				missing++
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d records of %d calls did not come", missing, len(want))
	}
	return nil
}

func (a *arrived) counts() (records, times int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.all {
		times += n
	}
	return len(a.all), times
}

// TestExportersLoseNothingWhenTheControlPlaneIsKilled kills the control plane while it sends audit to files, an object store and a webhook, of
// which the last is away for a time.
func TestExportersLoseNothingWhenTheControlPlaneIsKilled(t *testing.T) {
	t.Parallel()
	var hooked arrived
	var mu sync.Mutex
	away := false
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if away {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var m struct {
			Data struct{ Records []json.RawMessage }
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			return // the control plane was killed in the middle of it
		}
		for _, line := range m.Data.Records {
			if err := hooked.line(line); err != nil {
				t.Error(err)
			}
		}
	}))
	defer hook.Close()
	objects := s3mem.New()
	if err := objects.CreateBucket("audit"); err != nil {
		t.Fatal(err)
	}
	store := httptest.NewServer(gofakes3.New(objects).Server())
	defer store.Close()
	folder := t.TempDir()
	w := newWorld(t, "--audit-export-dir", folder)
	w.cp.apply(fmt.Sprintf(`kind: AuditExporter
name: hook
target: webhook
url: %s
allowedRanges: [127.0.0.0/8]
start: beginning
batchWait: 50ms
---
kind: AuditExporter
name: archive
target: file
start: beginning
rotateBytes: 20000
---
kind: AuditExporter
name: lake
target: s3
url: %s
bucket: audit
prefix: mcp/
allowedRanges: [127.0.0.0/8]
start: beginning
batchWait: 300ms
`, hook.URL, store.URL))
	for name, secret := range map[string]string{"hook": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)), "lake": "access:secret"} {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		w.cp.must("audit", "exporters", "secret", name, "--value-file", path)
	}
	p := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	s := w.session(p, ada)
	const rounds, perRound = 4, 40
	for round := range rounds {
		mu.Lock()
		away = round == 1 // for as long as a round lasts, over a kill
		mu.Unlock()
		for range perRound {
			if err := works(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		w.cp.Kill()
		w.cp.start()
	}
	var want calls
	eventually(t, func() (err error) {
		if want, err = w.audit(&adminv1.AuditFilter{Person: ada}); err != nil {
			return err
		}
		return want.twoPhases(rounds * perRound)
	})
	eventually(t, func() error { return hooked.has(want) })
	var files, lake arrived
	eventually(t, func() error {
		files = arrived{}
		names, err := filepath.Glob(filepath.Join(folder, "archive", "audit-*"))
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for line := range bytes.Lines(data) {
				if err := files.line(line); err != nil {
					return err
				}
			}
		}
		return files.has(want)
	})
	eventually(t, func() error {
		lake = arrived{}
		list, err := objects.ListBucket("audit", &gofakes3.Prefix{HasPrefix: true, Prefix: "mcp/"}, gofakes3.ListBucketPage{MaxKeys: 10_000})
		if err != nil {
			return err
		}
		for _, content := range list.Contents {
			object, err := objects.GetObject("audit", content.Key, nil)
			if err != nil {
				return err
			}
			lines, err := gzip.NewReader(object.Contents)
			if err != nil {
				return err
			}
			data, err := io.ReadAll(lines)
			if err != nil {
				return err
			}
			for line := range bytes.Lines(data) {
				if err := lake.line(line); err != nil {
					return err
				}
			}
		}
		return lake.has(want)
	})
	for name, a := range map[string]*arrived{"webhook": &hooked, "files": &files, "object store": &lake} {
		records, times := a.counts()
		t.Logf("%d kills, %d calls: at the %s %d records, of which %d came again", rounds, rounds*perRound, name, records, times-records)
	}
}
