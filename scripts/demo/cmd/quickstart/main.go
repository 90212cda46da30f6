// Command quickstart runs all of Sallyport on this machine and walks through what it is for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"sallyport.dev/scripts/demo/quickstart"
)

func main() {
	os.Exit(run())
}

func run() int {
	cfg := quickstart.Config{Out: os.Stdout}
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(os.Stdout)
	flags.BoolVar(&cfg.Once, "once", false, "walk through the stories, then exit: 0 if all passed")
	flags.BoolVar(&cfg.NoStories, "no-stories", false, "only bring everything up")
	flags.StringVar(&cfg.EnvFile, "env", "", "write KEY=VALUE lines to `FILE` when everything is up (it holds tokens; mode 0600)")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "keep all state and logs in `DIR` (default: a new folder that is deleted at the end)")
	flags.StringVar(&cfg.Root, "root", ".", "the repository's `folder`")
	ports := flags.String("ports", "", "`NAME=PORT,…` for scim, admin, fleet, nats, okta, us-east, eu-west (default: free ports)")
	if err := flags.Parse(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	var err error
	if cfg.Ports, err = quickstart.ParsePorts(*ports); err != nil || flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "quickstart:", errors.Join(err, unexpected(flags.Args())))
		return 2
	}
	// Libraries of the stand-ins log through the default logger; what matters is printed.
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := quickstart.Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		return 1
	}
	return 0
}

func unexpected(args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected argument %q", args[0])
}
