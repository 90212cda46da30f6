package reporting

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/pgtest"
)

// Each check makes its tables twice, so that there are fewer of them than rapid makes; -rapid.checks says otherwise.
func init() {
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
}

// lived is a log of the past, of which so much has come, and which is read some events at a time.
type lived struct {
	records  []core.Record
	end, cut int
}

func (l *lived) State() *core.State { return l.at(l.end) }

func (l *lived) at(n int) *core.State {
	s := core.NewState()
	for _, rec := range l.records[:n] {
		if err := s.Apply(rec); err != nil {
			panic(err)
		}
	}
	return s
}

func (l *lived) Follow(_ context.Context, after uint64, fn func(*core.State, []core.Record) error) error {
	for i := int(after); i < l.end; i += l.cut {
		if err := fn(l.at(i), l.records[i:min(i+l.cut, l.end)]); err != nil {
			return err
		}
	}
	return nil
}

// world makes histories.
type world struct {
	t     *rapid.T
	state *core.State
	log   []core.Record
	now   time.Time
}

func (w *world) do(c core.Command) {
	events, err := core.Decide(w.state, c, core.Env{Now: w.now, NewID: uuid.New})
	if err != nil {
		return
	}
	next := w.state.Fork()
	for _, ev := range events {
		rec := core.Record{Seq: next.Seq() + 1, Event: ev}
		if err := next.Apply(rec); err != nil {
			w.t.Fatal(err)
		}
		w.log = append(w.log, rec)
	}
	w.state = next
}

func tool(name string, readOnly bool) *policyv1.Tool {
	return &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil, `{"name":%q,"inputSchema":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]},"annotations":{"readOnlyHint":%v}}`, name, readOnly)}
}

// settle brings people, groups in groups, and grants.
func (w *world) settle() {
	var users, groups []uuid.UUID
	for i := range 5 {
		w.do(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: fmt.Sprint("first", i), ExternalID: fmt.Sprint("first", i)}, Active: i != 4})
	}
	for u := range w.state.AllUsersAfter("okta", 0) {
		users = append(users, u.ID)
	}
	for i := range 4 {
		w.do(core.CreateGroup{Directory: "okta", DisplayName: fmt.Sprint("first", i), Users: users[i : i+1], Groups: slices.Clone(groups)})
		groups = groups[:0]
		for g := range w.state.AllGroupsAfter("okta", 0) {
			groups = append(groups, g.ID)
		}
		w.do(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(groups[i], []string{"github", "jira"}[i%2], w.rules())}))
	}
}

// step makes one change, or tries to.
func (w *world) step() {
	t, s := w.t, w.state
	directory := rapid.SampledFrom([]string{"okta", "entra"}).Draw(t, "directory")
	user, group := uuid.New(), uuid.New()
	if all := slices.Collect(s.AllUsersAfter(directory, 0)); len(all) > 0 {
		user = rapid.SampledFrom(all).Draw(t, "user").ID
	}
	groupOf := func() uuid.UUID {
		if all := slices.Collect(s.AllGroupsAfter(directory, 0)); len(all) > 0 {
			return rapid.SampledFrom(all).Draw(t, "group").ID
		}
		return uuid.New()
	}
	group = cmp.Or(groupOf(), group)
	connector := rapid.SampledFrom([]string{"github", "jira"}).Draw(t, "connector")
	name := fmt.Sprint("n", rapid.IntRange(0, 9).Draw(t, "name"))
	switch rapid.IntRange(0, 23).Draw(t, "step") {
	case 0, 1, 2:
		w.do(core.CreateUser{Directory: directory, Profile: core.Profile{UserName: name, ExternalID: "x" + name, Email: name + "@example.com", DisplayName: "nul \x00"}, Active: true})
	case 3, 4:
		w.do(core.CreateGroup{Directory: directory, DisplayName: name})
	case 5:
		if u := s.User(user); u != nil {
			w.do(core.UpdateUser{Directory: directory, ID: user, Profile: core.Profile{UserName: u.UserName, ExternalID: u.ExternalID, DisplayName: name}, Active: rapid.Bool().Draw(t, "active")})
		}
	case 6:
		w.do(core.DeleteUser{Directory: directory, ID: user})
	case 7:
		w.do(core.DeleteGroup{Directory: directory, ID: group})
	case 8, 9, 10:
		w.do(core.UpdateGroup{Directory: directory, ID: group, Members: []core.MemberChange{{Op: core.AddMembers, Users: []uuid.UUID{user}}}})
	case 11, 12:
		w.do(core.UpdateGroup{Directory: directory, ID: group, Members: []core.MemberChange{{Op: rapid.SampledFrom([]core.MemberOp{core.AddMembers, core.AddMembers, core.RemoveMembers}).Draw(t, "op"), Groups: []uuid.UUID{groupOf()}}}})
	case 13:
		w.do(core.UpdateGroup{Directory: directory, ID: group, Members: []core.MemberChange{{Op: core.RemoveMembers, Users: []uuid.UUID{user}}}})
	case 14:
		w.do(core.UpdateGroup{Directory: directory, ID: group, DisplayName: &name})
	case 15:
		w.do(core.ConfirmMemberships{ID: user})
	case 16:
		w.do(core.NewApplyPolicy([]*policyv1.Connector{{Id: connector, Url: "https://" + connector + ".example/mcp", Title: name}}, nil))
	case 17, 18:
		var tools []*policyv1.Tool
		for _, one := range []string{"get_issue", "get_repo", "push", "delete"} {
			if rapid.IntRange(0, 3).Draw(t, one) > 0 {
				tools = append(tools, tool(one, strings.HasPrefix(one, "get")))
			}
		}
		w.do(core.NewPinCatalogue(connector, tools))
	case 19:
		if rapid.IntRange(0, 3).Draw(t, "retire") == 0 {
			w.do(core.RetireConnector{ID: connector})
		}
	case 20:
		if rapid.Bool().Draw(t, "place") {
			b := &policyv1.Block{Reason: "why", Target: &policyv1.Block_PersonId{PersonId: user.String()}}
			switch rapid.IntRange(0, 3).Draw(t, "target") {
			case 0:
				b.Target = &policyv1.Block_Connector{Connector: connector}
			case 1:
				b.Target, b.Until = &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: connector, Tool: "push"}}, timestamppb.New(w.now.Add(time.Hour))
			}
			w.do(core.NewPlaceBlock(b))
			return
		}
		for b := range s.Blocks() {
			w.do(core.LiftBlock{ID: uuid.MustParse(b.GetId())})
			break
		}
	case 21:
		w.do(core.RevokeSessions{ID: user})
	default:
		w.grant(user, group, directory, connector)
	}
}

func (w *world) grant(user, group uuid.UUID, directory, connector string) {
	t := w.t
	to := rapid.SampledFrom([]core.Grantee{{Group: group}, {Group: group}, {Person: user}, {Everyone: directory}, {Everyone: core.Everyone}}).Draw(t, "to")
	if rapid.IntRange(0, 5).Draw(t, "remove") == 0 {
		w.do(core.RemoveGrant{To: to, Connector: connector})
		return
	}
	if rapid.IntRange(0, 3).Draw(t, "set") == 0 {
		w.do(core.NewApplyPolicy(nil, nil).WithRuleSets([]*policyv1.RuleSet{{Name: "set", Rules: w.rules()}}))
		return
	}
	spec := core.NewGrantTo(to, connector, w.rules())
	if w.state.RuleSet("set") != nil && rapid.Bool().Draw(t, "with set") {
		spec.RuleSets = []string{"set"}
	}
	if rapid.IntRange(0, 3).Draw(t, "until") == 0 {
		spec.Until = w.now.Add(time.Hour)
	}
	w.do(core.NewApplyPolicy(nil, []core.GrantSpec{spec}))
}

func (w *world) rules() []*policyv1.Rule {
	var all []*policyv1.Rule
	for range rapid.IntRange(1, 3).Draw(w.t, "rules") {
		globs := []string{rapid.SampledFrom([]string{"*", "get_*", "push", "delete"}).Draw(w.t, "glob")}
		r := &policyv1.Rule{}
		switch rapid.IntRange(0, 5).Draw(w.t, "rule") {
		case 0:
			r.Deny = globs
		case 1:
			r.Require, r.Tools = policyv1.Duty_DUTY_CONFIRM, globs
		case 2:
			r.Allow, r.After = globs, policyv1.Duty_DUTY_CONFIRM
		default:
			r.Allow = globs
		}
		if r.GetRequire() == 0 && rapid.IntRange(0, 3).Draw(w.t, "when") == 0 {
			r.When = `args.a == "x"`
		}
		if rapid.IntRange(0, 5).Draw(w.t, "hints") == 0 {
			yes := true
			r.Hints = &policyv1.Hints{ReadOnly: &yes}
		}
		if rapid.IntRange(0, 5).Draw(w.t, "rule until") == 0 {
			r.Until = timestamppb.New(w.now.Add(time.Hour))
		}
		all = append(all, r)
	}
	return all
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// dump is all that tables and views say, by name.
func dump(ctx context.Context, conn *pgx.Conn, schema string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, table := range []string{"directories", "users", "groups", "members", "nesting", "ancestors", "connectors", "tools", "grants", "rules", "rule_tools", "blocks", "changes", "effective_membership", "effective_access"} {
		rows, err := conn.Query(ctx, in(schema, `SELECT x::text FROM $S.`+table+` x`))
		if err != nil {
			return nil, err
		}
		if all[table], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return nil, err
		}
		slices.Sort(all[table])
	}
	return all, nil
}

func same(t interface{ Fatalf(string, ...any) }, what string, got, want map[string][]string) {
	for table := range want {
		if !slices.Equal(got[table], want[table]) {
			t.Fatalf("%s: %s has\n%s\nwant\n%s", what, table, strings.Join(got[table], "\n"), strings.Join(want[table], "\n"))
		}
	}
}

func TestTheTablesAreWhatTheStateIsWhateverHappened(t *testing.T) {
	ctx := within(t)
	url := pgtest.New(t).URL()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the server is removed
	checked := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, state: core.NewState(), now: time.Now().Truncate(time.Microsecond)}
		w.do(core.StartLog{Epoch: "epoch"})
		for _, id := range []string{"okta", "entra"} {
			w.do(core.NewSetDirectory(&policyv1.Directory{Id: id}))
		}
		w.do(core.CreateServiceAccount{Name: "bot"})
		for _, connector := range []string{"github", "jira"} {
			w.do(core.NewApplyPolicy([]*policyv1.Connector{{Id: connector, Url: "https://" + connector + ".example/mcp"}}, nil))
			w.do(core.NewPinCatalogue(connector, []*policyv1.Tool{tool("get_issue", true), tool("push", false)}))
		}
		w.settle()
		for range rapid.IntRange(20, 120).Draw(t, "steps") {
			w.step()
		}
		log := &lived{records: w.log, end: rapid.IntRange(1, len(w.log)).Draw(t, "begin"), cut: rapid.IntRange(1, 12).Draw(t, "cut")}
		open := func(schema string) *Tables {
			tables, err := Open(Config{URL: url, Schema: schema, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			return tables
		}
		followed, whole := open("followed"), open("whole")
		defer followed.Close()
		defer whole.Close()
		if err := followed.rebuild(ctx, conn); err != nil {
			t.Fatal(err)
		}
		log.end = len(w.log)
		if err := followed.follow(ctx, conn, uint64(log.end)); err != nil && !errors.Is(err, errDone) {
			t.Fatal(err)
		}
		if err := whole.rebuild(ctx, conn); err != nil {
			t.Fatal(err)
		}
		got, err := dump(ctx, conn, "followed")
		if err != nil {
			t.Fatal(err)
		}
		want, err := dump(ctx, conn, "whole")
		if err != nil {
			t.Fatal(err)
		}
		same(t, "followed from "+fmt.Sprint(log.cut), got, want)
		same(t, "the state", got, map[string][]string{"effective_membership": membershipOf(w.state), "effective_access": accessOf(t, w.state, w.now)})
		for table, rows := range got {
			checked[table] += len(rows)
		}
	})
	t.Logf("rows compared: %v", checked)
	for table, n := range checked {
		if n == 0 {
			t.Errorf("no history had %s", table)
		}
	}
}

// membershipOf is who is in which groups with effect, by the state.
func membershipOf(s *core.State) []string {
	all := []string{}
	for _, d := range []string{"okta", "entra", core.ServiceDirectory} {
		for g := range s.AllGroupsAfter(d, 0) {
			for u := range s.PeopleOf(g) {
				all = append(all, fmt.Sprintf("(%s,%s)", u.ID, g.ID))
			}
		}
	}
	slices.Sort(all)
	return all
}

// accessOf is who may use what, by the code that decides calls.
func accessOf(t *rapid.T, s *core.State, now time.Time) []string {
	all := []string{}
	for u := range s.AllUsersAfter("", 0) {
		can, err := access.WhatCan(s, u, "", now)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range can {
			word := map[policy.Access]string{policy.Always: "always", policy.Sometimes: "depends"}[c.Outlook.Access]
			if word == "" {
				continue
			}
			after := map[policyv1.Duty]string{policyv1.Duty_DUTY_CONFIRM: "confirm", policyv1.Duty_DUTY_REVIEW: "review"}[c.Outlook.Duty]
			if after == "" {
				after = `""`
			}
			all = append(all, fmt.Sprintf("(%s,%s,%s,%s,%s)", u.ID, c.Connector, c.Tool, word, after))
		}
	}
	slices.Sort(all)
	return all
}

func TestEachEventIsWrittenOnceWhateverIsKilled(t *testing.T) {
	server := pgtest.New(t)
	plane := enginetest.New(t).Start(nil)
	plane.Directory("okta")
	ctx, cancel := context.WithCancel(within(t))
	var running sync.WaitGroup
	for range 2 { // control planes
		tables, err := Open(Config{URL: server.URL(), Log: plane.Engine})
		enginetest.Must(t, err)
		running.Go(func() { tables.Run(ctx); tables.Close() })
	}
	look, err := Open(Config{URL: server.URL(), Log: plane.Engine})
	enginetest.Must(t, err)
	defer look.Close()
	followed := func() {
		t.Helper()
		enginetest.Eventually(t, "the tables to follow", func() bool { return look.Forget(ctx) == nil })
	}
	ann := plane.User("okta", "ann@example.com")
	plane.Group("okta", "Engineers", ann)
	followed()
	for round := range 3 {
		for i := range 20 {
			plane.User("okta", fmt.Sprint("u", round, "-", i))
		}
		server.Kill()
		for i := range 10 {
			plane.User("okta", fmt.Sprint("v", round, "-", i))
		}
		enginetest.Must(t, server.Run())
	}
	followed()
	conn, err := pgx.Connect(ctx, server.URL())
	enginetest.Must(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // the server is removed
	got, err := dump(ctx, conn, "reporting")
	enginetest.Must(t, err)
	if n := len(got["changes"]); n != int(plane.Engine.State().Seq()) {
		t.Errorf("%d changes of %d events", n, plane.Engine.State().Seq())
	}

	// A person who was removed is nowhere, and readers may read alone.
	plane.Do(core.EraseUser{ID: ann.ID})
	followed()
	var users int
	enginetest.Must(t, conn.QueryRow(ctx, `SELECT count(*) FROM reporting.users WHERE user_name LIKE 'ann%'`).Scan(&users))
	if users != 0 {
		t.Error("an erased person is in the tables")
	}
	_, err = conn.Exec(ctx, `SET ROLE sallyport_reporting`)
	enginetest.Must(t, err)
	enginetest.Must(t, conn.QueryRow(ctx, `SELECT count(*) FROM reporting.effective_access`).Scan(&users))
	if _, err := conn.Exec(ctx, `DELETE FROM reporting.users`); err == nil {
		t.Error("a reader may write")
	}
	_, err = conn.Exec(ctx, `RESET ROLE`)
	enginetest.Must(t, err)

	// What the documentation asks can be asked.
	text, err := os.ReadFile("../../../docs/reporting.md")
	enginetest.Must(t, err)
	asked := 0
	for _, part := range strings.Split(string(text), "```sql\n")[1:] {
		query, _, _ := strings.Cut(part, "```")
		rows, err := conn.Query(ctx, query)
		enginetest.Must(t, err)
		rows.Close()
		if asked++; rows.Err() != nil {
			t.Errorf("%s\n%v", query, rows.Err())
		}
	}
	if asked < 5 {
		t.Errorf("the documentation has %d queries", asked)
	}

	// Made anew at a word, they are the same.
	got, err = dump(ctx, conn, "reporting")
	enginetest.Must(t, err)
	enginetest.Must(t, look.Anew(ctx))
	enginetest.Eventually(t, "the tables to be made anew", func() bool {
		_, current, err := look.Position(ctx)
		return err == nil && current
	})
	plane.User("okta", "last")
	followed()
	cancel()
	running.Wait()
	again, err := dump(context.Background(), conn, "reporting")
	enginetest.Must(t, err)
	if len(again["users"]) != len(got["users"])+1 || len(again["changes"]) != len(got["changes"])+2 {
		t.Errorf("made anew there are %d users and %d changes, before %d and %d", len(again["users"]), len(again["changes"]), len(got["users"]), len(got["changes"]))
	}
	t.Logf("%d events, each written once, PostgreSQL killed 3 times", len(again["changes"]))
}
