package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

// bootstrapFile is where the bootstrap token lies, in the data folder.
const bootstrapFile = "bootstrap-token"

// bootstrap starts the log and, where nobody is an owner, makes a bootstrap token and writes it where only the owner of
// the data folder reads it. The id is that token's, or nil.
func (p *plane) bootstrap(ctx context.Context) (uuid.UUID, error) {
	path := filepath.Join(p.dataDir, bootstrapFile)
	actor := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}
	if _, err := p.engine.Do(ctx, actor, core.StartLog{Epoch: uuid.NewString()}); err != nil {
		return uuid.Nil, fmt.Errorf("starting the log: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uuid.Nil, fmt.Errorf("removing the bootstrap token of an earlier start: %w", err)
	}
	if !p.recoverOwner && p.engine.State().HasOwner(time.Now()) {
		return uuid.Nil, nil
	}
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP)
	if err != nil {
		return uuid.Nil, fmt.Errorf("making the bootstrap token: %w", err)
	}
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return uuid.Nil, fmt.Errorf("writing the bootstrap token: %w", err)
	}
	// A moment less than is allowed: the active writer's clock may be behind this one.
	expires := time.Now().Add(core.MaxBootstrap - time.Minute)
	_, err = p.engine.Do(ctx, actor, core.IssueBootstrap{ID: id, SHA256: sum[:], ExpiresAt: expires, Recover: p.recoverOwner})
	var refusal *core.Error
	switch {
	case errors.As(err, &refusal) && refusal.Code == core.FailedPrecondition: // another control plane was faster, and its token is used
		return uuid.Nil, os.Remove(path)
	case err != nil:
		return uuid.Nil, fmt.Errorf("issuing the bootstrap token: %w", err)
	}
	if p.recoverOwner {
		p.log.Warn("a bootstrap token was made though there may be owners: --recover-owner", "file", path)
	}
	p.log.Info("nobody owns this installation yet: exchange the bootstrap token within the hour", "file", path, "next", "sallyport admins first-owner --token-file "+path)
	return id, nil
}

// forgetBootstrap removes the bootstrap token's file when the token is used or over.
func (p *plane) forgetBootstrap(ctx context.Context, id uuid.UUID) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if t := p.engine.State().Token(id); t == nil || time.Now().After(t.ExpiresAt) {
			if err := os.Remove(filepath.Join(p.dataDir, bootstrapFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				p.log.Warn("the bootstrap token's file could not be removed; the token is void", "error", err)
			}
			if t != nil {
				p.log.Warn("the bootstrap token was not used within the hour and is void: a restart makes another")
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
