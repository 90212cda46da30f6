package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// allocated is how many objects a program has allocated until now, as its metrics say.
func allocated(ctx context.Context, url string) (float64, error) {
	text, err := get(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("ask how much was allocated: %w", err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "go_memstats_mallocs_total "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.New("ask how much was allocated: it is not said")
}

// profile writes down what the proxy does for a time.
func (l *lab) profile(ctx context.Context, name string, d time.Duration) error {
	text, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", l.admin, max(1, int(d.Seconds()))))
	if err != nil {
		return fmt.Errorf("profile the proxy: %w", err)
	}
	file := filepath.Join(l.Profiles, name+".pprof")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("keep a profile: %w", err)
	}
	l.say("a profile of the proxy: go tool pprof -top %s", file)
	return nil
}

// get asks a server of the measurement's own for a text.
func get(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %.200s", resp.StatusCode, text)
	}
	return string(text), nil
}
