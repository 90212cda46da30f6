package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/controlplane/internal/reporting"
)

// openReporting opens the tables for people who ask in SQL, if they are wanted.
func (p *plane) openReporting() (err error) {
	if !p.auditing.reporting {
		return nil
	}
	if p.auditing.postgresURL == "" {
		return errors.New("--reporting writes tables to PostgreSQL: say with --postgres-url which")
	}
	p.tables, err = reporting.Open(reporting.Config{URL: p.auditing.postgresURL, Log: p.engine, Slog: p.log})
	return err
}

// runReporting keeps the tables until what it returns is called.
func (p *plane) runReporting(ctx context.Context) (end func()) {
	if p.tables == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { p.tables.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
		p.tables.Close()
	}
}

// reportingCommand looks after the reporting tables. It speaks to PostgreSQL, as the control planes that keep them do.
func reportingCommand() *cobra.Command {
	var url, output string
	cmd := &cobra.Command{Use: "reporting", Short: "Look after the reporting tables in PostgreSQL", Long: "Look after the tables that control planes started with --reporting keep in PostgreSQL.\nThis is for whoever runs them: it asks PostgreSQL and no control plane."}
	cmd.PersistentFlags().StringVar(&url, "postgres-url", "", "the PostgreSQL of sallyport serve --postgres-url (env SALLYPORT_POSTGRES_URL)")
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "table", "how to print: table or json")
	say := func(cmd *cobra.Command, at uint64, current bool, text string) (err error) {
		switch output {
		case "json":
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"version": at, "current": current})
		case "table":
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		default:
			err = fmt.Errorf("--output is table or json, not %q", output)
		}
		return err
	}
	open := func() (*reporting.Tables, error) {
		if url == "" {
			url = os.Getenv("SALLYPORT_POSTGRES_URL")
		}
		if url == "" {
			return nil, errors.New("say with --postgres-url which PostgreSQL the tables are in")
		}
		return reporting.Open(reporting.Config{URL: url})
	}
	status := &cobra.Command{
		Use: "status", Short: "Say up to which version of the log the tables are written", Args: cobra.NoArgs, Example: "  sallyport reporting status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			tables, err := open()
			if err != nil {
				return err
			}
			defer tables.Close()
			at, current, err := tables.Position(cmd.Context())
			if err != nil {
				return err
			}
			if !current {
				return say(cmd, at, current, "being made anew")
			}
			return say(cmd, at, current, fmt.Sprintf("written up to version %d of the log", at))
		},
	}
	rebuild := &cobra.Command{
		Use: "rebuild", Short: "Have the tables made anew from the log, beside those that are there", Args: cobra.NoArgs, Example: "  sallyport reporting rebuild",
		RunE: func(cmd *cobra.Command, _ []string) error {
			tables, err := open()
			if err != nil {
				return err
			}
			defer tables.Close()
			if err := tables.Anew(cmd.Context()); err != nil {
				return err
			}
			for {
				at, current, err := tables.Position(cmd.Context())
				if err == nil && current {
					return say(cmd, at, current, fmt.Sprintf("made anew, up to version %d of the log", at))
				}
				select {
				case <-cmd.Context().Done():
					return fmt.Errorf("the tables are marked, and a control plane with --reporting makes them anew: %w", context.Cause(cmd.Context()))
				case <-time.After(200 * time.Millisecond):
				}
			}
		},
	}
	cmd.AddCommand(status, rebuild)
	return cmd
}
