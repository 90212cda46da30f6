package quickstart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sallyport.dev/scripts/demo/agent"
)

// Run brings everything up, walks through the stories, and stays up until the context ends unless told otherwise. The
// error says what failed; a context that ends while all is up is no failure.
func Run(ctx context.Context, cfg Config) (err error) {
	begin := time.Now()
	say := &printer{out: cfg.Out}
	dir, cleanUp, err := dataDir(cfg)
	if err != nil {
		return err
	}
	defer func() { cleanUp(err != nil && ctx.Err() == nil, say) }()
	bin, err := build(ctx, say, cfg.Root, dir)
	if err != nil {
		return err
	}
	addrs, err := addresses(ctx, cfg.Ports)
	if err != nil {
		return err
	}
	s := &system{cfg: cfg, say: say, dir: dir, addrs: addrs, bin: bin, desk: agent.Program{Name: "Quickstart agent"}}
	defer s.forget()
	defer s.down()
	if err := s.up(ctx); err != nil {
		return err
	}
	say.status("everything is up after %s", rounded(time.Since(begin)))
	if !cfg.NoStories {
		if err := s.stories(ctx); err != nil {
			return err
		}
	}
	if cfg.Once {
		return nil
	}
	s.invite()
	return s.stay(ctx)
}

// stories walks through all of them: one that cannot go on is a failure, and the next begins.
func (s *system) stories(ctx context.Context) error {
	r := newRun(s, s.say)
	defer r.close()
	begin := time.Now()
	for _, story := range []func(context.Context, *run) error{
		s.seniorStory, s.juniorStory, s.salesStory, s.credentialStory, s.hireStory, s.promotionStory, s.teamStory, s.speedStory,
		s.analyticsStory, s.yesStory, s.retireStory, s.offboardStory, s.suspensionStory, s.strangersStory, s.investigationStory,
	} {
		if err := story(ctx, r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.check("the story cannot go on", 0, "", err)
		}
	}
	s.say.line("\n%d checks passed, %d failed, in %s", r.passed, r.failed, rounded(time.Since(begin)))
	if err := s.crashed(); err != nil {
		return err
	}
	if r.failed > 0 {
		return fmt.Errorf("%d checks failed; logs are in %s", r.failed, filepath.Join(s.dir, "logs"))
	}
	return nil
}

// invite says what to try now.
func (s *system) invite() {
	s.say.line("\nEverything stays up until Ctrl-C. To try it yourself:")
	s.say.line("  claude mcp add --transport http sallyport %s", s.resource())
	s.say.line("and sign in as %s (the stand-in Okta's page has the password filled in), or where there is no browser:", maya)
	s.say.line("  claude mcp add --transport http sallyport %s --header \"Authorization: Bearer $(./scripts/agent-token --data-dir %s %s)\"", s.resource(), s.dir, maya)
	s.say.line("  export SALLYPORT_SERVER=%s SALLYPORT_TOKEN=$(cat %s)", s.admin.URL, s.admin.TokenFile)
	s.say.line("  %s explain %s github push_files --args '{\"owner\":\"acme\",\"repo\":\"payments\",\"branch\":\"main\",\"message\":\"m\",\"files\":[]}'", s.bin.controlPlane, maya)
	s.say.line("  %s audit tail", s.bin.controlPlane)
}

// stay waits for the end, or for a program that ends by itself.
func (s *system) stay(ctx context.Context) error {
	ended := make(chan struct{}, len(s.running))
	for _, p := range s.running {
		go func() {
			<-p.done
			ended <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
		s.say.line("")
		s.say.status("stopping")
		return nil
	case <-ended:
		return s.crashed()
	}
}

// forget takes back the pointer to this run, if it is still this run's.
func (s *system) forget() {
	last, err := LastRun()
	if err != nil {
		return
	}
	if values, err := ReadEnv(last); err == nil && values[KeyIssuer] == s.issuer {
		_ = os.Remove(last)
	}
}

// dataDir is the folder for all state, and what becomes of it at the end: a folder that was named stays, and so does
// one with the logs of a failure.
func dataDir(cfg Config) (dir string, cleanUp func(failed bool, say *printer), err error) {
	if cfg.DataDir != "" {
		dir, err = filepath.Abs(cfg.DataDir)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			return "", nil, fmt.Errorf("make the data folder: %w", err)
		}
		return dir, func(bool, *printer) {}, nil
	}
	dir, err = os.MkdirTemp("", "sallyport-quickstart-")
	if err != nil {
		return "", nil, fmt.Errorf("make a data folder: %w", err)
	}
	return dir, func(failed bool, say *printer) {
		if failed {
			say.status("state and logs are kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			say.status("%v", err)
		}
	}, nil
}
