package cli

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"

	"sallyport.dev/controlplane/internal/clientconfig"
)

func migrationReportCommand(o *options) *cobra.Command {
	req := &adminv1.GetMigrationReportRequest{}
	var idle, scans string
	var people bool
	c := &cobra.Command{
		Use: "report", Short: "Say who has moved to the gateway, who has not, and whom to move next", Args: cobra.NoArgs,
		Long: "Say who has moved to the gateway: who is provisioned, who used it and when last, who never did, by group and by connector.\n" +
			"As a table it is counts, and with --people, --group, --connector, --never or --idle people too; -o csv lists people, and -o json has both.\n" +
			"With --scans it takes in what sallyport migration scan -o json wrote on laptops, a file a machine: what is still there, and whose.",
		Example: "  sallyport migration report\n  sallyport migration report --group okta/Sales --never\n  sallyport migration report --connector github --idle 30d -o csv > github.csv\n" +
			"  sallyport migration report --scans ./collected --people",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if idle != "" {
				d, err := parseAge(idle)
				if err != nil {
					return err
				}
				req.IdleFor = durationpb.New(d)
			}
			listed := people || req.GetGroup() != "" || req.GetConnectorId() != "" || req.GetNever() || idle != ""
			req.SummaryOnly = o.output == "table" && !listed
			left := &clientconfig.Left{}
			if scans != "" {
				var err error
				if left, err = clientconfig.ReadReports(scans); err != nil {
					return usage("%w", err)
				}
				req.SummaryOnly = false // it is people to whom laptops belong
			}
			return o.migrationReport(cmd.Context(), req, left, listed)
		},
	}
	f := c.Flags()
	f.StringVar(&req.DirectoryId, "directory", "", "only people of a directory")
	f.StringVar(&req.Group, "group", "", "only people of a `group`: directory/name, or an id")
	f.StringVar(&req.ConnectorId, "connector", "", "only people to whom something is granted on a connector; --never and --idle are then of it alone")
	f.BoolVar(&req.Never, "never", false, "only who never used it")
	f.StringVar(&idle, "idle", "", "only who used it, but not for so long (720h, 30d)")
	f.BoolVar(&people, "people", false, "list people too")
	f.StringVar(&scans, "scans", "", "`folder` with what laptops reported (*.json)")
	return c
}

// parseAge reads a time that has gone by: a duration, which may be in days.
func parseAge(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); err != nil && ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 15)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, usage("--idle is so long, such as 720h or 30d, not %q", text)
	}
	return d, nil
}

// person is a row of a report.
type person struct {
	User      string            `json:"user"`
	Email     string            `json:"email"`
	FirstUsed string            `json:"first_used"`
	LastUsed  string            `json:"last_used"`
	Used      map[string]string `json:"used"`
	Unused    []string          `json:"unused"`
	// OnLaptops are hosts and programs that the person's machines still have beside the gateway.
	OnLaptops []string `json:"on_laptops,omitempty"`
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// migrationReport writes people as they come, however many they are.
func (o *options) migrationReport(ctx context.Context, req *adminv1.GetMigrationReportRequest, left *clientconfig.Left, listed bool) error {
	w := bufio.NewWriter(o.out)
	var write reportWriter
	switch o.output {
	case "table":
		write = &reportTable{listed: listed}
	case "csv":
		write = &reportCSV{w: csv.NewWriter(w)}
	case "json":
		write = &reportJSON{w: w}
	default:
		return usage("--output is table, csv or json, not %q", o.output)
	}
	c, err := o.dial()
	if err != nil {
		return err
	}
	stream, err := adminv1connect.NewMigrationServiceClient(c.client, c.server, c.with).GetMigrationReport(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	var summary *adminv1.MigrationSummary
	for stream.Receive() {
		for _, p := range stream.Msg().GetPeople() {
			row := person{User: p.GetUser(), Email: p.GetEmail(), FirstUsed: stamp(p.GetFirstUsedAt()), LastUsed: stamp(p.GetLastUsedAt()), Used: map[string]string{}, Unused: p.GetUnused()}
			for _, u := range p.GetUsed() {
				row.Used[u.GetConnectorId()] = stamp(u.GetLastUsedAt())
			}
			row.OnLaptops = left.Of(p.GetUser(), p.GetEmail())
			if err := write.person(row); err != nil {
				return err
			}
		}
		summary = stream.Msg().GetSummary()
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if summary == nil {
		return errors.New("the report ended before its end: ask for it again")
	}
	if err := write.end(w, summary, left); err != nil {
		return err
	}
	return w.Flush()
}

// reportWriter writes a report in one form.
type reportWriter interface {
	person(p person) error
	end(w io.Writer, s *adminv1.MigrationSummary, left *clientconfig.Left) error
}

// mostListed is the most people of a table: more are for a file.
const mostListed = 10_000

type reportTable struct {
	listed bool
	rows   [][]string
	more   int
}

func (t *reportTable) person(p person) error {
	switch {
	case !t.listed:
	case len(t.rows) == mostListed:
		t.more++
	default:
		last := "never"
		if at, err := time.Parse(time.RFC3339, p.LastUsed); err == nil {
			last = at.Local().Format("2006-01-02 15:04")
		}
		t.rows = append(t.rows, []string{p.User, last, dash(strings.Join(sortedKeys(p.Used), " ")), dash(strings.Join(p.Unused, " ")), dash(cut(strings.Join(p.OnLaptops, " "), 60))})
	}
	return nil
}

func (t *reportTable) end(w io.Writer, s *adminv1.MigrationSummary, left *clientconfig.Left) error {
	counts := func(head string, all []*adminv1.MigrationCount) table {
		c := table{head: []string{head, "PEOPLE", "USED IT", "WITHIN 30 DAYS", "NEVER"}}
		// Where most are to be moved comes first.
		slices.SortStableFunc(all, func(a, b *adminv1.MigrationCount) int {
			return int(max(min(int64(b.GetNever())-int64(a.GetNever()), 1), -1))
		})
		for _, n := range all {
			c.rows = append(c.rows, []string{n.GetName(), num(n.GetPeople()), num(n.GetUsed()), num(n.GetUsedLately()), num(n.GetNever())})
		}
		return c
	}
	a := s.GetAll()
	text := fmt.Sprintf("%d active people: %d used the gateway, %d of them within 30 days; %d never did", a.GetPeople(), a.GetUsed(), a.GetUsedLately(), a.GetNever())
	if t.more > 0 {
		text += fmt.Sprintf("\n%d more people than are listed fit: write them to a file with -o csv", t.more)
	}
	people := table{head: []string{"PERSON", "LAST USED", "CONNECTORS USED", "GRANTED, NEVER USED", "STILL ON LAPTOPS"}, rows: t.rows}
	servers := table{head: []string{"STILL ON LAPTOPS", "MACHINES", "PEOPLE", "WITH A CREDENTIAL IN THE CLEAR"}}
	for _, l := range left.Servers() {
		servers.rows = append(servers.rows, []string{l.Where, strconv.Itoa(l.Machines), strconv.Itoa(l.People), strconv.Itoa(l.InTheClear)})
	}
	unknown := table{head: []string{"ON LAPTOPS, OF NOBODY WHO IS PROVISIONED"}}
	for _, user := range left.Unmatched() {
		unknown.rows = append(unknown.rows, []string{user})
	}
	return tables(text, counts("GROUP", s.GetGroups()), counts("CONNECTOR", s.GetConnectors()), people, servers, unknown).write(w)
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

type reportCSV struct {
	w     *csv.Writer
	begun bool
}

func (c *reportCSV) head() error {
	if c.begun {
		return nil
	}
	c.begun = true
	return c.w.Write([]string{"user", "email", "first_used", "last_used", "connectors_used", "connectors_never_used", "on_laptops"})
}

func (c *reportCSV) person(p person) error {
	if err := c.head(); err != nil {
		return err
	}
	row := []string{p.User, p.Email, p.FirstUsed, p.LastUsed, strings.Join(sortedKeys(p.Used), " "), strings.Join(p.Unused, " "), strings.Join(p.OnLaptops, " ")}
	for i := range row {
		row[i] = cell(row[i])
	}
	return c.w.Write(row)
}

func (c *reportCSV) end(io.Writer, *adminv1.MigrationSummary, *clientconfig.Left) error {
	if err := c.head(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

// cell is a text that no spreadsheet takes for a formula, and that has no characters that steer a terminal.
func cell(s string) string {
	s = printable(s)
	if strings.IndexAny(strings.TrimLeft(s, " "), "=+-@|%") == 0 {
		return "'" + s
	}
	return s
}

type reportJSON struct {
	w     io.Writer
	begun bool
}

func (j *reportJSON) person(p person) error {
	between := ",\n"
	if !j.begun {
		j.begun, between = true, "{\"people\": [\n"
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(j.w, "%s%s", between, data)
	return err
}

func (j *reportJSON) end(w io.Writer, s *adminv1.MigrationSummary, left *clientconfig.Left) error {
	if !j.begun {
		if _, err := io.WriteString(w, "{\"people\": ["); err != nil {
			return err
		}
	}
	summary, err := toJSON(s)
	if err != nil {
		return err
	}
	laptops, err := toJSON(map[string]any{"servers": left.Servers(), "unmatched": left.Unmatched()})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n],\n\"summary\": %s,\n\"laptops\": %s}\n", summary, laptops)
	return err
}
