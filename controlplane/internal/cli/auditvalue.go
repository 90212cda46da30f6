package cli

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// auditDocument is a connector's settings of audit, in files.
type auditDocument struct {
	Keep     string `yaml:"keep,omitempty" json:"keep,omitempty" jsonschema:"part (default): arguments and results as far as records have them; whole: whole as well"`
	MaxBytes uint32 `yaml:"maxBytes,omitempty" json:"maxBytes,omitempty" jsonschema:"The largest that is kept, at most 3145728; default 1048576"`
	Days     uint32 `yaml:"days,omitempty" json:"days,omitempty" jsonschema:"For how many days, at most 3650; default 30"`
}

// keeps are what audit keeps of a value.
var keeps = map[string]bool{"": false, "part": false, "whole": true}

func (d *auditDocument) wire() (*policyv1.AuditSettings, error) {
	whole, err := oneOf("audit.keep", d.Keep, keeps)
	return &policyv1.AuditSettings{Whole: whole, MaxBytes: d.MaxBytes, Days: d.Days}, err
}

func auditDocumentOf(s *policyv1.AuditSettings) *auditDocument {
	if s == nil {
		return nil
	}
	return &auditDocument{Keep: wordFor(s.GetWhole(), keeps), MaxBytes: s.GetMaxBytes(), Days: s.GetDays()}
}

func valueAuditCommand(o *options) *cobra.Command {
	var result bool
	var out string
	c := &cobra.Command{
		Use: "value CALL", Short: "Show a call's arguments or its result whole, where its connector has them kept", Args: cobra.ExactArgs(1),
		Long: "Show what a call's arguments or its result were, whole, masked and redacted as its record is: a record has 4 KiB of them. What is larger is kept\n" +
			"where the connector says audit: {keep: whole}, for as long as it says. It is compared with the record's size and SHA-256. To read it is audited.",
		Example: "  sallyport audit value 019a6f3e-1c1b-7d7e-8f4b-0a8c5f1d2e3f --result\n  sallyport audit value 019a6f3e-1c1b-7d7e-8f4b-0a8c5f1d2e3f --result --out result.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			sequence, err := valueRecord(cmd, o, args[0], result)
			if err != nil {
				return err
			}
			v, err := ask(cmd.Context(), o, adminv1connect.NewAuditValueServiceClient, adminv1connect.AuditValueServiceClient.GetAuditValue, &adminv1.GetAuditValueRequest{Sequence: sequence, Result: result})
			if err != nil {
				return err
			}
			if out == "" {
				return o.print(v, func() table { return line("%s", printable(string(v.GetValue()))) })
			}
			if err := writeWhole(out, func(f *os.File) error { _, err := f.Write(v.GetValue()); return err }); err != nil {
				return err
			}
			v.Value = nil
			return o.print(v, func() table {
				return line("%s has %d bytes, SHA-256 %x", out, v.GetPayload().GetSize(), v.GetPayload().GetSha256())
			})
		},
	}
	c.Flags().BoolVar(&result, "result", false, "the result, and not the arguments")
	c.Flags().StringVar(&out, "out", "", "`file` to write the bytes to as they are; shown, what could steer a terminal is replaced")
	return c
}

// valueRecord finds the record of a call, or of a sequence, that has the value.
func valueRecord(cmd *cobra.Command, o *options, call string, result bool) (uint64, error) {
	if n, err := strconv.ParseUint(call, 10, 64); err == nil {
		return n, nil
	}
	found := &adminv1.SearchAuditResponse{}
	for first := true; first || found.GetNextPageToken() != ""; first = false {
		var err error
		found, err = ask(cmd.Context(), o, adminv1connect.NewAuditServiceClient, adminv1connect.AuditServiceClient.SearchAudit,
			&adminv1.SearchAuditRequest{Filter: &adminv1.AuditFilter{CallId: call}, PageSize: 100, PageToken: found.GetNextPageToken()})
		if err != nil {
			return 0, err
		}
		for _, r := range found.GetRecords() {
			of := func(r *auditv1.AuditRecord) *auditv1.Payload { return r.GetArguments() }
			if result {
				of = func(r *auditv1.AuditRecord) *auditv1.Payload { return r.GetResult() }
			}
			if of(r.GetRecord()) != nil {
				return r.GetSequence(), nil
			}
		}
	}
	what := "arguments"
	if result {
		what = "result"
	}
	return 0, fmt.Errorf("audit has no record of call %s with its %s: look with sallyport audit search --call %s", call, what, call)
}
