package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/sealing"

	"sallyport.dev/controlplane/internal/admin"
	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/changes"
	"sallyport.dev/controlplane/internal/audit/postgres"
)

// auditConfig is what the flags of `serve` say of audit.
type auditConfig struct {
	postgresURL string
	// The signing key of the account of an external cluster that the streams lie in, and the account.
	signingKeyFile, account string
	exportDir               string            // where exporters write files
	region                  string            // of this control plane, in records of its own
	reporting               bool              // tables for people who ask in SQL
	keep                    map[string]string // how long the index keeps a kind
	kept                    map[auditv1.Kind]time.Duration
	keepDays                uint16 // how long the stream keeps all of it; 0: for good
}

func (c *auditConfig) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.postgresURL, "postgres-url", "", "PostgreSQL in which audit is indexed for search, postgres://user@host:5432/database (env SALLYPORT_POSTGRES_URL; passwords are better in a file that PGPASSFILE names; default: audit is searched on the stream)")
	f.StringVar(&c.region, "region", "", "the region that this control plane is in, as its own audit records say: lower-case words joined by hyphens (default: none)")
	f.StringVar(&c.exportDir, "audit-export-dir", "", "folder below which audit exporters with target file write, each in one of its name (default: they cannot)")
	f.BoolVar(&c.reporting, "reporting", false, "keep tables in the PostgreSQL of --postgres-url, for people who ask in SQL who may use what")
	f.StringVar(&c.signingKeyFile, "nats-signing-key-file", "", "file with the seed of a signing key of the NATS account that the streams lie in: credentials of audit consumers on an external cluster are signed with it")
	f.StringVar(&c.account, "nats-account", "", "id of that account, where the key is not the account's own")
	f.StringToStringVar(&c.keep, "audit-keep", nil, "how many days the index keeps a kind of audit record, such as call=90,sign_in=400 (default: for good)")
	f.Uint16Var(&c.keepDays, "audit-keep-days", 0, "how many days audit is kept at all: whatever was stored before is removed from the stream, once exporters and the index have it (default: for good)")
}

var regionPattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// read reads what the flags say.
func (c *auditConfig) read() error {
	if c.postgresURL == "" {
		c.postgresURL = os.Getenv("SALLYPORT_POSTGRES_URL")
	}
	if c.region != "" && !regionPattern.MatchString(c.region) {
		return fmt.Errorf("--region: %q is not lower-case words joined by hyphens, such as eu-west", c.region)
	}
	kinds := map[string]auditv1.Kind{}
	for n := range auditv1.Kind_name {
		kinds[audit.KindWord(auditv1.Kind(n))] = auditv1.Kind(n)
	}
	c.kept = map[auditv1.Kind]time.Duration{}
	for word, text := range c.keep {
		kind, known := kinds[word]
		days, err := strconv.ParseUint(text, 10, 16)
		if !known || err != nil || days == 0 {
			return fmt.Errorf("--audit-keep: write a kind of %s and a number of days, such as call=90, not %s=%s", strings.Join(slices.Sorted(maps.Keys(kinds)), ", "), word, text)
		}
		c.kept[kind] = time.Duration(days) * 24 * time.Hour
	}
	return nil
}

// openAudit opens the audit store, its index, and this control plane's way to write records of its own.
func (p *plane) openAudit(ctx context.Context) error {
	if err := p.auditing.read(); err != nil {
		return err
	}
	key, err := p.vault.AuditKey(ctx)
	if err != nil {
		return err
	}
	seed, err := p.vault.ConditionValuesSeed(ctx)
	if err != nil {
		return err
	}
	values, err := sealing.KeyFrom(seed)
	if err != nil {
		return err
	}
	p.conditionValuesKey = values.Public()
	config := audit.Config{Replicas: p.conn.Replicas(), Seals: p.vault, SealPersonal: p.sealAudit, Values: p.valuesOf, OpenConditionValues: values.OpenSent, Key: key, Log: p.log}
	if p.audit, err = audit.Open(ctx, p.conn.Conn, config); err != nil {
		return err
	}
	p.trail = audit.NewRecorder(p.audit, p.name, p.auditing.region, p.groupsOf)
	if p.auditing.postgresURL != "" {
		if p.index, err = postgres.Open(ctx, postgres.Config{URL: p.auditing.postgresURL, Stream: p.audit, Log: p.log}); err != nil {
			return err
		}
	}
	return nil
}

// groupsOf are the names of the groups that a person is in.
func (p *plane) groupsOf(person string) []string {
	id, err := uuid.Parse(person)
	if err != nil {
		return nil
	}
	return p.engine.State().GroupNames(id)
}

// valuesOf is what a connector has audit keep beside records.
func (p *plane) valuesOf(connector string) *policyv1.AuditSettings {
	if c := p.engine.State().Connector(connector); c != nil {
		return c.Settings.GetAudit()
	}
	return nil
}

// searching searches in the index, and does the rest on the stream.
type searching struct {
	*audit.Store
	index *postgres.Index
}

// Search returns matching records, newest first.
func (s searching) Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error) {
	return s.index.Search(ctx, filter, limit, cursor)
}

// Count counts matching records.
func (s searching) Count(ctx context.Context, r *adminv1.CountAuditRequest) (*adminv1.CountAuditResponse, error) {
	return s.index.Count(ctx, r)
}

// auditOf fills in what the admin API needs of audit.
func (p *plane) auditOf(c admin.Config) admin.Config {
	c.Audit, c.Trail = p.audit, p.trail
	c.Exporters, c.ExporterSecrets, c.AuditConsumers = exporting{p.exporters}, p.vault, consuming{p}
	if p.index != nil {
		c.Audit, c.AuditIndex = searching{p.audit, p.index}, p.index
	}
	return c
}

// erasing destroys people's keys, what the index knows of what they sealed, and what sign-in keeps of them.
type erasing struct{ *plane }

// forgetWithin bounds one wait for the reporting tables to have come as far as a removal.
const forgetWithin = 10 * time.Second

// DestroyKey makes all that was sealed for a person unreadable for good.
func (e erasing) DestroyKey(ctx context.Context, person uuid.UUID) error {
	if err := e.vault.DestroyKey(ctx, person); err != nil {
		return err
	}
	err := errors.Join(e.tokens.ForgetPerson(ctx, person), e.sightings.Forget(ctx, person), e.usage.Forget(ctx, person))
	if e.tables != nil { // they follow the log, on which the person was removed
		soon, cancel := context.WithTimeout(ctx, forgetWithin)
		err = errors.Join(err, e.tables.Forget(soon))
		cancel()
	}
	if err != nil || e.index == nil {
		return err
	}
	return e.index.Forget(ctx, person.String())
}

// runAudit begins what audit does on its own. What ends it is called when nobody records any more.
func (p *plane) runAudit(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { p.trail.Run(ctx) })
	running.Go(func() { p.audit.RunCheckpoints(ctx, checkpointEvery) })
	told := &changes.Follower{Log: p.engine, Trail: p.audit.Changes(p.engine.State().Epoch(), p.auditing.region), Slog: p.log}
	running.Go(func() { told.Run(ctx) })
	if p.index != nil {
		running.Go(func() { p.index.Run(ctx) })
		running.Go(func() { p.retire(ctx) })
	}
	if p.auditing.keepDays > 0 {
		running.Go(func() { p.removeAudit(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
		if p.index != nil {
			p.index.Close()
		}
	}
}

// checkpointEvery is how often what audit holds is signed.
const checkpointEvery = 10 * time.Second

// retireEvery is how often it is looked for what is past its time.
const retireEvery = time.Hour

// retire drops what the index need not keep any more, until ctx ends.
func (p *plane) retire(ctx context.Context) {
	for {
		if now, err := p.confirmed(ctx); err == nil {
			p.retireBy(ctx, now)
		} else if ctx.Err() == nil {
			p.log.WarnContext(ctx, "what of the index is past its time is not known; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retireEvery):
		}
	}
}

func (p *plane) retireBy(ctx context.Context, now time.Time) {
	for kind, keep := range p.auditing.kept {
		dropped, err := p.index.Retire(ctx, int32(kind), now.Add(-keep))
		if err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "audit that is past its time could not be dropped; it is tried again", "kind", audit.KindWord(kind), "error", err)
		}
		for _, table := range dropped {
			p.log.InfoContext(ctx, "audit that is past its time was dropped from the index", "kind", audit.KindWord(kind), "table", table)
		}
	}
}
