package bundle

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/audit/proof"
)

// rowsShown is how many rows the page has at most: the newest. A browser takes that many, and records.audit has all.
const rowsShown = 5000

//go:embed report.html
var page string

var report = template.Must(template.New("report").Funcs(template.FuncMap{
	"time": func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format("2006-01-02 15:04:05.000")
	},
	"visible": Visible,
}).Parse(page))

// row is a call, or another record, on the page.
type row struct {
	At                             time.Time
	What, Person, Connector, Tool  string
	Decision, Why                  string
	Arguments, Outcome, Result     string
	Client, Address, Proxy, Region string
	CallID                         string
	Refused                        bool
}

// tally is how often a tool was called.
type tally struct {
	Connector, Tool             string
	Allowed, Denied, Failed     int
	First, Last                 time.Time
	RequestBytes, ResponseBytes uint64
}

// sheet is what the page shows.
type sheet struct {
	*Investigation
	Report  *proof.Report
	Rows    []*row
	Left    int // rows that are not shown
	Tallies []*tally
	open    map[string]*row // calls without an end, by id
	tallies map[[2]string]*tally
}

// writeReport writes the page of an export's records.
func writeReport(to io.Writer, in *Investigation, verified *proof.Report, records io.Reader) error {
	s := &sheet{Investigation: in, Report: verified, open: map[string]*row{}, tallies: map[[2]string]*tally{}}
	if err := Records(records, func(r format.Record) error {
		s.add(r.AuditRecord)
		return nil
	}); err != nil {
		return err
	}
	for _, t := range s.tallies {
		s.Tallies = append(s.Tallies, t)
	}
	slices.SortFunc(s.Tallies, func(a, b *tally) int {
		return strings.Compare(a.Connector+"\x00"+a.Tool, b.Connector+"\x00"+b.Tool)
	})
	if extra := len(s.Rows) - rowsShown; extra > 0 {
		s.Rows, s.Left = s.Rows[extra:], s.Left+extra
	}
	return report.Execute(to, s)
}

// Records calls fn with each record that an export has in full.
func Records(r io.Reader, fn func(format.Record) error) error {
	b := bufio.NewReaderSize(r, 1<<20)
	for {
		item := &auditv1.ExportItem{}
		err := protodelim.UnmarshalOptions{MaxSize: proof.MaxItem}.UnmarshalFrom(b, item)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		stored := item.GetRecord()
		if len(stored.GetCore()) == 0 {
			continue
		}
		rec := format.Record{AuditRecord: &auditv1.AuditRecord{}, Sequence: stored.GetSequence(), Stored: stored.GetStored().AsTime()}
		if err := proto.Unmarshal(slices.Concat(stored.GetCore(), stored.GetPersonal()), rec.AuditRecord); err != nil {
			return fmt.Errorf("record %d: %w", rec.Sequence, err)
		}
		if err := fn(rec); err != nil {
			return err
		}
	}
}

func (s *sheet) add(r *auditv1.AuditRecord) {
	s.count(r)
	if began := s.open[r.GetCallId()]; began != nil && r.GetPhase() == auditv1.Phase_PHASE_COMPLETED {
		delete(s.open, r.GetCallId())
		began.Outcome, began.Result = outcome(r), payload(r.GetResult())
		return
	}
	one := &row{
		At: r.GetAt().AsTime(), What: what(r), Person: s.person(r), Connector: r.GetConnector(), Tool: r.GetTool(),
		Decision: word(r.GetDecision().GetVerdict(), "VERDICT_"), Why: why(r), Arguments: payload(r.GetArguments()), Outcome: outcome(r), Result: payload(r.GetResult()),
		Client: strings.TrimSpace(r.GetClient().GetName() + " " + r.GetClient().GetVersion()), Address: r.GetClient().GetAddress(),
		Proxy: r.GetProxy(), Region: r.GetRegion(), CallID: r.GetCallId(), Refused: r.GetDecision().GetVerdict() == auditv1.Verdict_VERDICT_DENIED,
	}
	if r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED && r.GetCallId() != "" {
		one.Outcome = "no end is recorded"
		s.open[r.GetCallId()] = one
	}
	if s.Rows = append(s.Rows, one); len(s.Rows) >= 2*rowsShown {
		s.Rows, s.Left = append(s.Rows[:0], s.Rows[len(s.Rows)-rowsShown:]...), s.Left+len(s.Rows)-rowsShown
	}
}

func (s *sheet) count(r *auditv1.AuditRecord) {
	if r.GetTool() == "" {
		return
	}
	key := [2]string{r.GetConnector(), r.GetTool()}
	t := s.tallies[key]
	if t == nil {
		t = &tally{Connector: key[0], Tool: key[1], First: r.GetAt().AsTime()}
		s.tallies[key] = t
	}
	t.Last = r.GetAt().AsTime()
	switch r.GetPhase() {
	case auditv1.Phase_PHASE_AUTHORIZED:
		t.Allowed++
	case auditv1.Phase_PHASE_REFUSED:
		t.Denied++
	case auditv1.Phase_PHASE_COMPLETED:
		if r.GetOutcome() != auditv1.Outcome_OUTCOME_OK {
			t.Failed++
		}
		t.RequestBytes += r.GetRequestBytes()
		t.ResponseBytes += r.GetResponseBytes()
	default:
	}
}

func (s *sheet) person(r *auditv1.AuditRecord) string {
	switch id := r.GetPersonId(); {
	case id == "" && r.GetActor() != nil:
		return strings.TrimSpace(word(r.GetActor().GetKind(), "ACTOR_KIND_") + " " + r.GetActor().GetId())
	case s.Names[id] != "":
		return s.Names[id]
	default:
		return id
	}
}

// what is what a record is about.
func what(r *auditv1.AuditRecord) string {
	text := r.GetMethod()
	if r.GetKind() != auditv1.Kind_KIND_UNSPECIFIED {
		text = word(r.GetKind(), "KIND_")
	}
	return strings.TrimSpace(text + " " + r.GetAction() + " " + r.GetTarget())
}

func why(r *auditv1.AuditRecord) string {
	d := r.GetDecision()
	if d == nil {
		return ""
	}
	text := word(d.GetReason(), "REASON_")
	if d.GetRule() != 0 {
		text += fmt.Sprintf(", %s rule %d", d.GetGroup(), d.GetRule())
	}
	return fmt.Sprintf("%s, policy version %d", text, r.GetSnapshotVersion())
}

func outcome(r *auditv1.AuditRecord) string {
	text := word(r.GetOutcome(), "OUTCOME_")
	if r.GetDuration() != nil {
		text += " in " + r.GetDuration().AsDuration().Round(time.Microsecond).String()
	}
	return strings.TrimSpace(text + " " + r.GetError())
}

func payload(p *auditv1.Payload) string {
	text := string(p.GetHead())
	if p.GetTruncated() {
		text += fmt.Sprintf(" … of %d bytes, SHA-256 %x", p.GetSize(), p.GetSha256())
	}
	return text
}

func word(value fmt.Stringer, prefix string) string {
	name := strings.TrimPrefix(value.String(), prefix)
	if name == "UNSPECIFIED" {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(name), "_", " ")
}

// Visible writes what a reader would not see, or would see elsewhere than it stands, as its code: controls, invisible characters and
// those that turn the direction of writing.
func Visible(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, "⟨%04X⟩", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) && r != '\n' || r == unicode.ReplacementChar }
