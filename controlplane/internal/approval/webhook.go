package approval

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/webhook"
)

// Webhook is who is told of reviews that wait: by a POST of JSON, signed as Standard Webhooks says, at least once for each. It holds no
// arguments: whoever is told looks at them on the review's page, signed in.
type Webhook struct {
	// URL is https, or http on loopback. Empty: nobody is told.
	URL string
	// Key signs: HMAC with SHA-256. At least 24 bytes.
	Key []byte
	// Client sends. Default: one with a time-out of 10 seconds that follows no redirect.
	Client *http.Client
}

// Check says what is wrong with it.
func (h Webhook) Check() error {
	if h.URL == "" {
		return nil
	}
	u, err := url.Parse(h.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return errors.New("the webhook's URL must be https, or http on loopback")
	}
	return webhook.CheckKey(h.Key)
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

const (
	// tellEvery is how often it is looked for reviews of which nobody was told, and claimFor how long one control plane tries alone.
	tellEvery = 2 * time.Second
	claimFor  = time.Minute
)

// told is what a webhook is sent.
type told struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      toldData  `json:"data"`
}

type toldData struct {
	Review    string    `json:"review"`
	Person    string    `json:"person"` // id
	Client    string    `json:"client"`
	Connector string    `json:"connector"`
	Tool      string    `json:"tool"`
	Digest    string    `json:"arguments_digest"`
	Because   []string  `json:"because"`
	Approvers []string  `json:"approver_groups"` // ids
	Expires   time.Time `json:"expires"`
	Page      string    `json:"page"`
}

// nudge has Run look at once.
func (s *Server) nudge() {
	select {
	case s.fresh <- struct{}{}:
	default:
	}
}

// Run tells the webhook of reviews that wait, until ctx ends. What could not be told is told again.
func (s *Server) Run(ctx context.Context) {
	if s.Webhook.URL == "" {
		return
	}
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		for r := range s.Engine.State().Reviews() {
			if ctx.Err() != nil {
				return
			}
			if left := r.Expires().Sub(s.Now()); r.Open(s.Now()) && !s.done[r.ID()] {
				s.tell(ctx, r, left)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.fresh:
		}
	}
}

// tell tells of one review, if no other control plane did or tries.
func (s *Server) tell(ctx context.Context, r *core.Review, left time.Duration) {
	if len(s.done) > maxAsking {
		clear(s.done)
	}
	if _, err := s.Store.Get(ctx, "told."+r.ID()); err == nil {
		s.done[r.ID()] = true
		return
	}
	if _, err := s.Store.Create(ctx, "telling."+r.ID(), []byte("1"), claimFor); err != nil {
		return // another tries, or nothing can be kept now
	}
	if err := s.send(ctx, r); err != nil {
		if ctx.Err() == nil {
			s.Log.WarnContext(ctx, "the webhook was not told of a review; it is tried again in a minute", "review", r.ID(), "error", err)
		}
		return
	}
	s.done[r.ID()] = true
	if _, err := s.Store.Create(ctx, "told."+r.ID(), []byte("1"), left+time.Minute); err != nil && !errors.Is(err, kv.ErrExists) {
		s.Log.WarnContext(ctx, "it could not be kept that the webhook was told of a review: it may be told again", "review", r.ID(), "error", err)
	}
}

func (s *Server) send(ctx context.Context, r *core.Review) error {
	asked := r.Asked
	body := told{Type: "review.requested", Timestamp: r.At.UTC(), Data: toldData{
		Review: r.ID(), Person: asked.GetUserId(), Client: asked.GetClientId(), Connector: asked.GetConnectorId(), Tool: asked.GetTool(),
		Digest: hex.EncodeToString(asked.GetArgumentsSha256()), Because: asked.GetBecause(), Expires: r.Expires().UTC(), Page: s.URL + "/reviews/" + r.ID(),
	}}
	for _, step := range asked.GetSteps() {
		for _, alternative := range step.GetAlternatives() {
			body.Data.Approvers = append(body.Data.Approvers, alternative.GetApprovers()...)
		}
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("writing the message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Webhook.URL, bytes.NewReader(data))
	if err != nil {
		return errors.New("the webhook's URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	webhook.Sign(req.Header, s.Webhook.Key, r.ID(), s.Now(), data)
	res, err := s.Webhook.Client.Do(req)
	if err != nil {
		return errors.New("the webhook did not answer")
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	_ = res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("the webhook answered %d", res.StatusCode)
	}
	return nil
}
