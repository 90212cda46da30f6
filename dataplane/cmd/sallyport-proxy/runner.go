package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/dataplane/internal/runner"
)

func runnerCommand() *cobra.Command {
	var config, listen, tokenFile string
	var level slog.Level
	c := &cobra.Command{
		Use: "runner", Short: "Run MCP servers that speak over standard input and output, for the proxies beside it", Args: cobra.NoArgs,
		Long: "Run MCP servers that speak over standard input and output, for the proxies beside it.\n\nWhich programs may be run is in --config, on this host: nothing that comes over the network names one. A connector reaches\n" +
			"one of them by the URL stdio:NAME, at proxies that are started with --runner.",
		Example: "  sallyport-proxy runner --config runner.yaml --token-file runner-token\n\n  # runner.yaml\n  servers:\n    - name: salesforce\n      command: [/opt/salesforce-mcp/bin/mcp, --orgs, DEFAULT_TARGET_ORG]\n      per: person\n      limits: {processes: 100, memory: 536870912, idle: 15m}",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRunner(cmd.Context(), config, listen, tokenFile, slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
		},
	}
	f := c.Flags()
	f.StringVar(&config, "config", "", "file that says which programs may be run")
	f.StringVar(&listen, "listen", "127.0.0.1:7420", "where the proxies reach it: an address of the loopback interface, or unix: and a socket's path")
	f.StringVar(&tokenFile, "token-file", "", "file with the token that proxies show, 16 characters or more (default: env SALLYPORT_RUNNER_TOKEN)")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug (with what programs write to standard error), info, warn or error")
	_ = c.MarkFlagRequired("config")
	list := &cobra.Command{
		Use: "list NAME", Short: "Write down what a program offers, for `sallyport catalogue approve --file`", Args: cobra.ExactArgs(1),
		Example: "  sallyport-proxy runner list salesforce --config runner.yaml > salesforce.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := runner.Load(config)
			if err != nil {
				return err
			}
			lists, err := runner.List(cmd.Context(), settings, args[0], slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), string(lists))
			return err
		},
	}
	list.Flags().StringVar(&config, "config", "", "file that says which programs may be run")
	_ = list.MarkFlagRequired("config")
	c.AddCommand(list)
	return c
}

func runRunner(ctx context.Context, config, listen, tokenFile string, log *slog.Logger) error {
	settings, err := runner.Load(config)
	if err != nil {
		return err
	}
	token, err := secret(tokenFile, "SALLYPORT_RUNNER_TOKEN")
	if err != nil {
		return err
	}
	r, err := runner.New(settings, token, log)
	if err != nil {
		return err
	}
	listener, err := listenNear(ctx, listen)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { r.Run(work) })
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("listening", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer done()
	if server.Shutdown(grace) != nil {
		_ = server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenNear listens where only this machine reaches it: programs run there with what people may do.
func listenNear(ctx context.Context, at string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("the runner's socket cannot be opened: %w", err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, fmt.Errorf("the runner's socket cannot be closed to others: %w", err)
		}
		return l, nil
	}
	host, _, err := net.SplitHostPort(at)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("--listen is %q: a runner listens on the loopback interface, as in 127.0.0.1:7420, or at unix:PATH", at)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("the runner's listener cannot be opened: %w", err)
	}
	return l, nil
}

// secret reads a secret from a file, or from the environment where none is named.
func secret(file, variable string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading a token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
