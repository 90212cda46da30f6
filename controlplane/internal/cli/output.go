package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

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
		_, err = fmt.Fprintf(o.out, "%s\n", data)
		return err
	case "yaml":
		data, err := toJSON(answer)
		if err != nil {
			return err
		}
		var value any
		if err := yaml.Unmarshal(data, &value); err != nil {
			return err
		}
		enc := yaml.NewEncoder(o.out)
		if err := enc.Encode(value); err != nil {
			return err
		}
		return enc.Close()
	}
	return usage("--output is table, json or yaml, not %q", o.output)
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
