package okta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	// userAgent is how the provisioning engine names itself.
	userAgent = "Okta SCIM Client 1.0.0"
	scimType  = "application/scim+json; charset=utf-8"
	// maxTries bounds one request with its retries.
	maxTries = 10
	// maxWait bounds one pause, whatever Retry-After says.
	maxWait = 5 * time.Minute
	// firstBackoff is the pause after a failure that named none. Okta starts at five minutes; a demo does not wait that long.
	firstBackoff = 100 * time.Millisecond
	// requestTimeout is Okta's: a slower server is taken for failed.
	requestTimeout  = 60 * time.Second
	maxResponseSize = 16 << 20
)

// SCIMError is a SCIM server's refusal.
type SCIMError struct {
	Method, Path string
	Status       int
	ScimType     string
	Detail       string
}

// Error says what was asked and what the server answered.
func (e *SCIMError) Error() string {
	text := fmt.Sprintf("%s %s: status %d", e.Method, e.Path, e.Status)
	if e.ScimType != "" {
		text += " " + e.ScimType
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// scimApp is the connection of the SCIM app: where the server is, and the token for it.
type scimApp struct {
	base   string
	token  string
	cfg    Config
	client *http.Client
}

func newSCIMApp(base, token string, cfg Config) *scimApp {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &scimApp{base: base, token: token, cfg: cfg, client: &http.Client{
		Timeout:   requestTimeout,
		Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute},
		// A provisioning client does not carry its token to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do sends one request until it is answered for good: 429 and 503 wait as long as they say, other server errors and broken
// connections back off, and everything else is final. A request may therefore reach the server twice, as Okta's do.
func (a *scimApp) do(ctx context.Context, method, path string, body, into any) error {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode %s %s: %w", method, path, err)
		}
	}
	backoff := firstBackoff
	for try := 1; ; try++ {
		pause, err := a.once(ctx, method, path, payload, into)
		if err == nil {
			return nil
		}
		var refused *SCIMError
		final := errors.As(err, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests
		if final || try == maxTries || ctx.Err() != nil {
			return err
		}
		if pause == 0 {
			pause = backoff
			backoff *= 2
		}
		pause = min(pause, maxWait)
		a.cfg.Log.Info("provisioning waits", "method", method, "path", path, "try", try, "pause", pause, "error", err)
		if werr := a.cfg.Wait(ctx, pause); werr != nil {
			return fmt.Errorf("waiting to retry after %w: %w", err, werr)
		}
	}
}

// once sends a request one time. The pause is what Retry-After asked for, if anything.
func (a *scimApp) once(ctx context.Context, method, path string, payload []byte, into any) (pause time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(payload))
	if err != nil {
		return 0, fmt.Errorf("make %s %s: %w", method, path, err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "application/scim+json")
	if payload != nil {
		req.Header.Set("Content-Type", scimType)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("send %s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResponseSize))
	if err != nil {
		return 0, fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		return retryAfter(resp.Header), refusal(method, path, resp.StatusCode, data)
	}
	if into == nil {
		return 0, nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return 0, &SCIMError{Method: method, Path: path, Status: resp.StatusCode, Detail: "the answer is not the resource: " + err.Error()}
	}
	return 0, nil
}

// retryAfter reads the integer form, the only one that Okta honours.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds <= 0 || seconds > int(maxWait/time.Second) {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

func refusal(method, path string, status int, data []byte) error {
	var body struct {
		ScimType string `json:"scimType"`
		Detail   string `json:"detail"`
	}
	if json.Unmarshal(data, &body) != nil {
		body.Detail = string(data[:min(len(data), 200)])
	}
	return &SCIMError{Method: method, Path: path, Status: status, ScimType: body.ScimType, Detail: body.Detail}
}
