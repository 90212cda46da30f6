// Command bench makes the measurements that need running programs; scripts/bench builds and calls it. It also plays the
// upstream and the reverse proxy of a measurement, each as a process of its own.
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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sallyport.dev/scripts/demo/bench"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := dispatch(ctx, args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("which measurement: policy, proxy, revoke or scim?")
	}
	if slices.Contains(bench.Roles, args[0]) && len(args) > 1 {
		return bench.Serve(ctx, args[0], args[1], args[2:])
	}
	// Libraries of the stand-ins log through the default logger; what matters is printed.
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cfg := bench.Config{Self: self, Out: os.Stdout, Progress: os.Stderr, Connections: []int{1, 16, 256}}
	flags := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	bin := flags.String("bin", filepath.Dir(self), "the `folder` of sallyport and sallyport-proxy")
	flags.IntVar(&cfg.Rounds, "rounds", 5, "proxy: rounds of each load")
	flags.DurationVar(&cfg.RoundFor, "round-for", 1500*time.Millisecond, "proxy: how long a round lasts")
	flags.Func("connections", "proxy: with how many `connections`, one figure each (default 1,16,256)", func(s string) error {
		cfg.Connections = nil
		for _, one := range strings.Split(s, ",") {
			n, err := strconv.Atoi(one)
			if err != nil || n < 1 || n > 1024 {
				return errors.New("it must be numbers from 1 to 1024, with commas between")
			}
			cfg.Connections = append(cfg.Connections, n)
		}
		return nil
	})
	flags.Func("only", "proxy, policy: the `parts` to measure, with commas between (default all): "+strings.Join(bench.Parts["proxy"], ", ")+"; "+strings.Join(bench.Parts["policy"], ", "), func(s string) error {
		cfg.Only = strings.Split(s, ",")
		for _, part := range cfg.Only {
			if !slices.Contains(bench.Parts[args[0]], part) {
				return fmt.Errorf("there is no part %q of %s: the parts are %s", part, args[0], strings.Join(bench.Parts[args[0]], ", "))
			}
		}
		return nil
	})
	flags.StringVar(&cfg.Profiles, "profile", "", "proxy: a `folder` that gets a processor profile of the proxy under each load")
	flags.IntVar(&cfg.Changes, "changes", 100, "policy: how often a policy is applied")
	full := flags.Bool("full", false, "scim: the sizes that its figures name, and not a tenth of them (some twenty minutes)")
	flags.IntVar(&cfg.Deactivations, "deactivations", 100, "revoke: people deactivated for each fleet")
	flags.IntVar(&cfg.Replicas, "replicas", 200, "revoke: replicas in the large fleet")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 || cfg.Rounds < 1 || cfg.RoundFor <= 0 || cfg.Deactivations < 1 || cfg.Replicas < 1 || cfg.Changes < 1 {
		return errors.New("a size is not positive, or an argument was not expected")
	}
	if args[0] == "policy" && len(cfg.Only) > 0 && !slices.Contains(cfg.Only, "enforce") {
		return nil // other programs measure what is asked for
	}
	cfg.Scale = 0.1
	if *full || args[0] == "proxy" {
		cfg.Scale = 1
	}
	cfg.ControlPlane, cfg.Proxy = filepath.Join(*bin, "sallyport"), filepath.Join(*bin, "sallyport-proxy")
	return bench.Run(ctx, args[0], cfg)
}
