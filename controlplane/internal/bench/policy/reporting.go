package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/pgtest"
	"sallyport.dev/controlplane/internal/reporting"
)

// log is a world as a log that grows: what the reporting tables follow.
type log struct {
	w    *world
	past []core.Record // of all that the world was made of, without what is personal

	mu    sync.Mutex
	state *core.State
	more  chan []core.Record // rounds that came since, one at a time
}

// State is what the log comes to now.
func (l *log) State() *core.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Follow tells the past to who begins with it, and to others each round that comes.
func (l *log) Follow(ctx context.Context, after uint64, fn func(before *core.State, records []core.Record) error) error {
	const round = 1000
	for past := l.past; after == 0 && len(past) > 0; {
		n := min(round, len(past))
		if err := fn(nil, past[:n]); err != nil {
			return err
		}
		past = past[n:]
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case records := <-l.more:
			before := l.State()
			state := before.Fork()
			for _, rec := range records {
				if err := state.Apply(rec); err != nil {
					return err
				}
			}
			if err := fn(before, records); err != nil {
				return err
			}
			l.mu.Lock()
			l.state = state
			l.mu.Unlock()
		}
	}
}

// tables are the world's reporting tables in a PostgreSQL of their own.
type tables struct {
	*reporting.Tables
	log *log
}

// measureReporting measures the reporting tables made from nothing, and what a change costs then.
func measureReporting(ctx context.Context, users int, scale float64, note func(string), say func(figure) error) error {
	note(fmt.Sprintf("folding %d people, and keeping the log of that", users))
	l := &log{more: make(chan []core.Record)}
	w, err := newWorldOf(users, func(rec core.Record) {
		ev := rec.Event
		if ev.GetPersonal() != nil { // which is of no interest to the tables of changes
			ev = &eventv1.Event{Body: ev.GetBody(), PersonId: ev.GetPersonId()}
		}
		l.past = append(l.past, core.Record{Seq: rec.Seq, Event: ev})
	})
	if err != nil {
		return fmt.Errorf("making the load: %w", err)
	}
	l.w, l.state = w, w.state
	server, err := pgtest.Start()
	if err != nil {
		return err
	}
	defer server.Remove()
	t := &tables{log: l}
	if t.Tables, err = reporting.Open(reporting.Config{URL: server.URL(), Log: l}); err != nil {
		return err
	}
	defer t.Close()
	running, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer stop()
	note("making the reporting tables")
	began := time.Now()
	following.Go(func() { t.Run(running) })
	if err := t.reached(ctx); err != nil {
		return err
	}
	load := fmt.Sprintf("%d people in %d groups of %d, %d events, 100 connectors; PostgreSQL on this machine", users, len(w.groups), perGroup, len(l.past))
	made := time.Since(began).Seconds()
	copied, err := t.copied(ctx)
	if err != nil {
		return err
	}
	if err := say(figure{Name: "reporting_load_1m", Value: made, Unit: "s", Reference: copied, Scale: scale, Load: load + "; reference: the largest five tables copied within PostgreSQL, without indexes"}); err != nil {
		return err
	}
	return t.changed(ctx, users, scale, load, say)
}

// reached waits until the tables have all that the log has.
func (t *tables) reached(ctx context.Context) error {
	for {
		if at, current, err := t.Position(ctx); err == nil && current && at >= t.log.State().Seq() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// copied is how long PostgreSQL takes to copy what is largest of it.
func (t *tables) copied(ctx context.Context) (float64, error) {
	began := time.Now()
	for _, table := range []string{"users", "groups", "members", "ancestors", "changes"} {
		if _, err := t.Statement(ctx, fmt.Sprintf(`CREATE TABLE copy_of_%[1]s AS TABLE reporting.%[1]s`, table)); err != nil {
			return 0, err
		}
	}
	return time.Since(began).Seconds(), nil
}

// changed measures, until it can be read in SQL, one membership that is added, a group of a tenth of all that is pushed anew, and one
// person's access.
func (t *tables) changed(ctx context.Context, users int, scale float64, load string, say func(figure) error) error {
	if _, err := t.Statement(ctx, `CREATE TABLE single AS SELECT 0 AS n`); err != nil {
		return err
	}
	written, err := median(ctx, func(ctx context.Context) error {
		_, err := t.Statement(ctx, `UPDATE single SET n = n + 1`)
		return err
	})
	if err != nil {
		return err
	}
	n := 0
	added := func(many int) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			var ids []byte
			for i := range many {
				id := t.log.w.people[(n*many+i)%users]
				ids = append(ids, id[:]...)
			}
			return t.change(ctx, t.log.w.groups[n%len(t.log.w.groups)], ids)
		}
	}
	big := max(users/20, 1)
	for _, c := range []struct {
		name, what string
		run        func(context.Context) error
	}{
		{"reporting_member_1m", "one membership added, until SQL shows it", added(1)},
		{"reporting_push_1m", fmt.Sprintf("%d memberships added to a group, until SQL shows them", big), added(big)},
		{"reporting_access_1m", "all that one person may use, of the view effective_access", t.access},
	} {
		took, err := median(ctx, c.run)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", c.name, err)
		}
		if err := say(figure{Name: c.name, Value: took, Unit: "s", Reference: written, Scale: scale, Load: c.what + "; " + load + "; reference: one row updated and committed"}); err != nil {
			return err
		}
	}
	return nil
}

// change adds members to a group and waits until the tables have them.
func (t *tables) change(ctx context.Context, group uuid.UUID, ids []byte) error {
	const most = 500 << 10 // of one event's
	seq := t.log.State().Seq()
	var records []core.Record
	for len(ids) > 0 {
		seq++
		part := ids[:min(len(ids), most/16*16)]
		ids = ids[len(part):]
		records = append(records, core.Record{Seq: seq, Event: &eventv1.Event{Body: &eventv1.Event_GroupMembersAdded{GroupMembersAdded: &eventv1.GroupMembersAdded{GroupId: group.String(), UserIds: part}}}})
	}
	select {
	case t.log.more <- records:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		at, _, err := t.Position(ctx)
		if err != nil || at >= seq {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// access asks what one person may use.
func (t *tables) access(ctx context.Context) error {
	tools, err := t.Statement(ctx, fmt.Sprintf(`SELECT * FROM reporting.effective_access WHERE user_id = '%s'`, t.log.w.people[len(t.log.w.people)/2]))
	if err == nil && tools == 0 {
		err = errors.New("somebody may use nothing")
	}
	return err
}
