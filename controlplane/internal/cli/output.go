package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// table is an answer for people: a head and rows, or a line of text.
type table struct {
	head []string
	rows [][]string
	text string
}

func line(format string, args ...any) table { return table{text: fmt.Sprintf(format, args...)} }

// print writes an answer as the user asked for it.
func (o *options) print(answer any, show func() table) error {
	switch o.output {
	case "table":
		return show().write(o.out)
	case "json":
		data, err := toJSON(answer)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(o.out, "%s\n", harden(data, wideInJSON))
		return err
	case "yaml":
		data, err := toJSON(answer)
		if err != nil {
			return err
		}
		var value any
		if err := yaml.Unmarshal(harden(data, wideInYAML), &value); err != nil { // its reader would fold a raw NEL
			return err
		}
		var node yaml.Node
		if err := node.Encode(value); err != nil {
			return err
		}
		markHidden(&node)
		if data, err = yaml.Marshal(&node); err != nil {
			return err
		}
		_, err = o.out.Write(marked.ReplaceAll(data, []byte(`\U$1`)))
		return err
	}
	return usage("--output is table, json or yaml, not %q", o.output)
}

// hidden tells whether a terminal or an editor may act on a character rather than show it.
func hidden(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp))
}

// harden writes what is hidden in JSON, which stands in strings alone, as escapes; wide is that of a character beyond the first 65,536.
func harden(text []byte, wide func([]byte, rune) []byte) []byte {
	if bytes.IndexFunc(text, hidden) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+len(text)/8)
	for _, r := range string(text) {
		switch {
		case !hidden(r):
			out = utf8.AppendRune(out, r)
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = wide(out, r)
		}
	}
	return out
}

func wideInJSON(out []byte, r rune) []byte {
	high, low := utf16.EncodeRune(r)
	return fmt.Appendf(out, `\u%04x\u%04x`, high, low)
}

// wideInYAML is for its reader, which knows no pairs.
func wideInYAML(out []byte, r rune) []byte { return fmt.Appendf(out, `\U%08x`, r) }

// Marks stand in YAML around the code of what is hidden until it is written as an escape, and are hidden themselves.
const (
	markBegin = '\uE000'
	markEnd   = '\uE001'
)

var marked = regexp.MustCompile("\uE000([0-9a-f]{8})\uE001")

// markHidden puts marks in place of what is hidden, in strings that are quoted.
func markHidden(n *yaml.Node) {
	is := func(r rune) bool { return hidden(r) || r == markBegin || r == markEnd }
	if n.Kind == yaml.ScalarNode && strings.ContainsFunc(n.Value, is) {
		var b strings.Builder
		for _, r := range n.Value {
			if is(r) {
				fmt.Fprintf(&b, "%c%08x%c", markBegin, r, markEnd)
			} else {
				b.WriteRune(r)
			}
		}
		n.Value, n.Style = b.String(), yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		markHidden(child)
	}
}

// toJSON writes an answer as JSON whose bytes are the same each time.
func toJSON(answer any) ([]byte, error) {
	m, ok := answer.(proto.Message)
	if !ok {
		return json.MarshalIndent(answer, "", "  ")
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return nil, err
	}
	return json.MarshalIndent(value, "", "  ")
}

// tables is several tables, one below the other, below a line of text. Empty ones are left out.
func tables(text string, all ...table) table {
	var b bytes.Buffer
	b.WriteString(text)
	for _, t := range all {
		if len(t.rows) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if b.Len() == len(text)+1 && text != "" {
			b.WriteByte('\n')
		}
		_ = t.write(&b) // a buffer takes everything
	}
	return line("%s", strings.TrimRight(b.String(), "\n"))
}

func (t table) write(w io.Writer) error {
	if t.text != "" {
		_, err := fmt.Fprintln(w, t.text)
		return err
	}
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, "none")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(t.head, "\t"))
	for _, row := range t.rows {
		for i := range row {
			row[i] = printable(row[i])
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// printable takes out what could steer a terminal or break a table: names and arguments come from outside.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' || r == '\r' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func cut(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

func ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	d := time.Since(t.AsTime()).Round(time.Second)
	if d < 0 {
		return "in " + (-d).String()
	}
	return d.String() + " ago"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// lower is an enum's value without its prefix, in small letters.
func lower(value fmt.Stringer, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value.String(), prefix)), "_", " ")
}
