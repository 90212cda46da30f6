package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"sallyport.dev/controlplane/internal/approval"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/webhook"
)

// webhookConfig is what the flags of `serve` say of who is told of reviews.
type webhookConfig struct{ url, keyFile string }

func (c *webhookConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.url, "review-webhook", "", "URL that is told, by a signed POST, of each call that waits for approval (default: nobody is)")
	f.StringVar(&c.keyFile, "review-webhook-key-file", "", "file with the key that signs what --review-webhook is sent, at least 24 bytes, in base64")
}

// webhook reads the key.
func (c *webhookConfig) webhook() (approval.Webhook, error) {
	if c.url == "" {
		return approval.Webhook{}, nil
	}
	text, err := os.ReadFile(c.keyFile)
	if err != nil {
		return approval.Webhook{}, fmt.Errorf("--review-webhook-key-file: %w", err)
	}
	key, err := webhook.ReadKey(string(text))
	if err != nil {
		return approval.Webhook{}, fmt.Errorf("--review-webhook-key-file: %w", err)
	}
	return approval.Webhook{URL: c.url, Key: key}, nil
}

// openApprovals makes what asks people for the yes that rules want, and puts its pages beside those of signing in.
func (p *plane) openApprovals(ctx context.Context, people *signin.Server, mux *http.ServeMux) error {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_APPROVALS", Replicas: p.conn.Replicas()})
	if err != nil {
		return err
	}
	webhook, err := p.webhook.webhook()
	if err != nil {
		return err
	}
	p.approvals, err = approval.New(approval.Config{
		Engine: p.engine, Store: store, Seals: p.vault, People: people, Trail: p.trail, URL: p.signinURL(), Webhook: webhook, Now: time.Now, Log: p.log,
	})
	if err != nil {
		return err
	}
	path := ""
	if u, err := url.Parse(p.signinURL()); err == nil {
		path = strings.TrimRight(u.Path, "/")
	}
	for _, pages := range []string{"/confirm/", "/reviews", "/reviews/"} {
		mux.Handle(path+pages, p.approvals.Handler())
	}
	return nil
}
