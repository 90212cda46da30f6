package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/audit/format"
)

// lineFormat is the flag by which records are written as other systems read them, in place of a table.
type lineFormat string

func (f *lineFormat) add(c *cobra.Command) {
	c.Flags().StringVar((*string)(f), "format", "", "write each record as a line of "+formatNames()+", in place of a table")
}

func formatNames() string { return strings.Join(slices.Sorted(maps.Keys(format.Formats)), ", ") }

// check refuses a format that there is not.
func (f lineFormat) check() error {
	if f != "" && format.Formats[string(f)] == nil {
		return usage("--format is %s, not %q", formatNames(), string(f))
	}
	return nil
}

// print writes a record as a line. With no format it does nothing and says so.
func (f lineFormat) print(o *options, r *adminv1.StoredRecord) (bool, error) {
	write := format.Formats[string(f)]
	if write == nil {
		return false, nil
	}
	_, err := fmt.Fprintf(o.out, "%s\n", write(format.Record{AuditRecord: r.GetRecord(), Sequence: r.GetSequence(), Person: r.GetPersonName()}))
	return true, err
}
