package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// exporterDocument is an exporter of audit as it is written in YAML.
type exporterDocument struct {
	Kind          string   `yaml:"kind" json:"kind"`
	Name          string   `yaml:"name" json:"name" jsonschema:"Lower-case words joined by single hyphens"`
	Target        string   `yaml:"target" json:"target" jsonschema:"What it sends to"`
	URL           string   `yaml:"url,omitempty" json:"url,omitempty" jsonschema:"Where; not for files"`
	Format        string   `yaml:"format,omitempty" json:"format,omitempty" jsonschema:"How a record is written; default json"`
	Kinds         []string `yaml:"kinds,omitempty" json:"kinds,omitempty" jsonschema:"What records are about, such as call or sign_in_failed; default: everything"`
	Connectors    []string `yaml:"connectors,omitempty" json:"connectors,omitempty" jsonschema:"Of which connectors; default: all, and what is of none"`
	Start         string   `yaml:"start,omitempty" json:"start,omitempty" jsonschema:"Where it starts the first time: now (default), beginning, or a time"`
	Personal      bool     `yaml:"personal,omitempty" json:"personal,omitempty" jsonschema:"Send arguments, results, addresses and user names too: an erasure does not reach what was sent"`
	AllowedRanges []string `yaml:"allowedRanges,omitempty" json:"allowedRanges,omitempty" jsonschema:"Ranges in CIDR for a receiver that is not on the public internet"`
	CA            string   `yaml:"ca,omitempty" json:"ca,omitempty" jsonschema:"Certificates in PEM of who vouches for the receiver; default: those that the system trusts"`
	BatchRecords  uint32   `yaml:"batchRecords,omitempty" json:"batchRecords,omitempty" jsonschema:"The most records of a batch"`
	BatchWait     length   `yaml:"batchWait,omitempty" json:"batchWait,omitempty" jsonschema:"How long the first record of a batch waits for others"`
	MaxTries      uint32   `yaml:"maxTries,omitempty" json:"maxTries,omitempty" jsonschema:"How often a record that the receiver refuses is sent before it is put aside; default 5"`
	Paused        bool     `yaml:"paused,omitempty" json:"paused,omitempty" jsonschema:"Send nothing, and go on from there later"`
	Bucket        string   `yaml:"bucket,omitempty" json:"bucket,omitempty" jsonschema:"Of an object store"`
	Prefix        string   `yaml:"prefix,omitempty" json:"prefix,omitempty" jsonschema:"What objects' names begin with"`
	Region        string   `yaml:"region,omitempty" json:"region,omitempty" jsonschema:"Of an object store; default us-east-1"`
	RotateBytes   uint64   `yaml:"rotateBytes,omitempty" json:"rotateBytes,omitempty" jsonschema:"A file that has so many bytes is completed; default 64 MiB"`
	RotateEvery   length   `yaml:"rotateEvery,omitempty" json:"rotateEvery,omitempty" jsonschema:"A file that is so old is completed with the next record; default 1h"`
	Index         string   `yaml:"index,omitempty" json:"index,omitempty" jsonschema:"Of Splunk; default: the token's"`
	IndexerAck    bool     `yaml:"indexerAck,omitempty" json:"indexerAck,omitempty" jsonschema:"Wait until Splunk has indexed a batch"`
}

var (
	exportTargets = map[string]policyv1.ExportTarget{
		"file": policyv1.ExportTarget_EXPORT_TARGET_FILE, "s3": policyv1.ExportTarget_EXPORT_TARGET_S3, "webhook": policyv1.ExportTarget_EXPORT_TARGET_WEBHOOK,
		"syslog": policyv1.ExportTarget_EXPORT_TARGET_SYSLOG, "otlp": policyv1.ExportTarget_EXPORT_TARGET_OTLP, "splunk": policyv1.ExportTarget_EXPORT_TARGET_SPLUNK,
	}
	exportFormats = map[string]policyv1.ExportFormat{
		"": 0, "json": policyv1.ExportFormat_EXPORT_FORMAT_JSON, "ocsf": policyv1.ExportFormat_EXPORT_FORMAT_OCSF, "cef": policyv1.ExportFormat_EXPORT_FORMAT_CEF,
	}
)

// The words of start that are no time.
const (
	startNow       = "now"
	startBeginning = "beginning"
)

func (d *exporterDocument) addTo(req *adminv1.ApplyRequest) error {
	e := &policyv1.AuditExporter{
		Name: d.Name, Url: d.URL, Kinds: d.Kinds, Connectors: d.Connectors, Personal: d.Personal, AllowedRanges: d.AllowedRanges, Ca: d.CA, BatchRecords: d.BatchRecords,
		MaxTries: d.MaxTries, Paused: d.Paused, Bucket: d.Bucket, Prefix: d.Prefix, Region: d.Region, RotateBytes: d.RotateBytes, Index: d.Index, IndexerAck: d.IndexerAck,
	}
	var err error
	if e.Target, err = oneOf("target", d.Target, exportTargets); err != nil {
		return err
	}
	if e.Format, err = oneOf("format", d.Format, exportFormats); err != nil {
		return err
	}
	for _, kind := range d.Kinds {
		if _, there := auditv1.Kind_value["KIND_"+strings.ToUpper(kind)]; !there && kind != "call" || kind == "unspecified" {
			return fmt.Errorf("kinds: %q is none; sallyport audit search --help names them", kind)
		}
	}
	switch d.Start {
	case "", startNow:
	case startBeginning:
		e.FromBeginning = true
	default:
		if e.Since, err = instant("start", d.Start); err != nil {
			return err
		}
	}
	if e.BatchWait, err = d.BatchWait.wire("batchWait"); err != nil {
		return err
	}
	if e.RotateEvery, err = d.RotateEvery.wire("rotateEvery"); err != nil {
		return err
	}
	req.AuditExporters = append(req.AuditExporters, e)
	return nil
}

func exporterDocumentOf(e *policyv1.AuditExporter) *exporterDocument {
	d := &exporterDocument{
		Kind: "AuditExporter", Name: e.GetName(), Target: wordFor(e.GetTarget(), exportTargets), URL: e.GetUrl(), Format: wordFor(e.GetFormat(), exportFormats), Kinds: e.GetKinds(), Connectors: e.GetConnectors(),
		Start: string(momentOf(e.GetSince())), Personal: e.GetPersonal(), AllowedRanges: e.GetAllowedRanges(), CA: e.GetCa(), BatchRecords: e.GetBatchRecords(), BatchWait: lengthOf(e.GetBatchWait()),
		MaxTries: e.GetMaxTries(), Paused: e.GetPaused(), Bucket: e.GetBucket(), Prefix: e.GetPrefix(), Region: e.GetRegion(), RotateBytes: e.GetRotateBytes(), RotateEvery: lengthOf(e.GetRotateEvery()),
		Index: e.GetIndex(), IndexerAck: e.GetIndexerAck(),
	}
	if e.GetFromBeginning() {
		d.Start = startBeginning
	}
	return d
}

func exportersCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the exporters of audit, and how they do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAuditExporterServiceClient, adminv1connect.AuditExporterServiceClient.ListAuditExporters, &adminv1.ListAuditExportersRequest{}, func(r *adminv1.ListAuditExportersResponse) table {
				t := table{head: []string{"NAME", "TARGET", "FORMAT", "HEALTH", "LAG", "SENT", "LAST SENT", "PUT ASIDE", "ERROR"}}
				for _, s := range r.GetExporters() {
					e := s.GetExporter()
					t.rows = append(t.rows, []string{
						e.GetName(), wordFor(e.GetTarget(), exportTargets), cmp.Or(wordFor(e.GetFormat(), exportFormats), "json"), s.GetHealth(), strconv.FormatUint(s.GetLag(), 10), strconv.FormatUint(s.GetSent(), 10),
						when(s.GetLastSent()), strconv.FormatUint(uint64(s.GetDeadLetters()), 10), dash(cut(s.GetError(), 100)),
					})
				}
				return t
			})
		},
	}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show an exporter of audit, and which records it put aside", Args: cobra.ExactArgs(1),
		Example: "  sallyport audit exporters show siem\n  sallyport audit exporters show siem -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAuditExporterServiceClient, adminv1connect.AuditExporterServiceClient.GetAuditExporter, &adminv1.GetAuditExporterRequest{Name: args[0]}, shownExporter)
		},
	}
	remove := &cobra.Command{
		Use: "remove NAME", Short: "End an exporter of audit: one that is made again under its name starts anew", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAuditExporterServiceClient, adminv1connect.AuditExporterServiceClient.RemoveAuditExporter, &adminv1.RemoveAuditExporterRequest{Name: args[0]}, func(r *adminv1.RemoveAuditExporterResponse) table {
				return line("audit exporter %s is removed at version %d", args[0], r.GetVersion())
			})
		},
	}
	var file string
	secret := &cobra.Command{
		Use: "secret NAME", Short: "Set what an exporter of audit shows its receiver, read from a file or standard input", Args: cobra.ExactArgs(1),
		Long: "Set what an exporter of audit shows its receiver, read from a file or standard input. It is kept in the vault and never shown.\n\n" +
			"webhook: the key that signs, at least 24 bytes in base64, whsec_ before it or not\nsplunk: the HTTP Event Collector's token\ns3: ACCESSKEY:SECRETKEY\notlp: the value of the header Authorization, if the receiver wants one",
		Example: "  sallyport audit exporters secret siem --value-file siem.key\n  openssl rand -base64 32 | sallyport audit exporters secret hook",
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := readSecret(cmd.InOrStdin(), cmp.Or(file, "-"))
			if err != nil {
				return err
			}
			return call(cmd.Context(), o, adminv1connect.NewAuditExporterServiceClient, adminv1connect.AuditExporterServiceClient.SetAuditExporterSecret, &adminv1.SetAuditExporterSecretRequest{Name: args[0], Value: value}, func(r *adminv1.SetAuditExporterSecretResponse) table {
				return line("the secret of audit exporter %s is set at version %d", args[0], r.GetVersion())
			})
		},
	}
	secret.Flags().StringVar(&file, "value-file", "", "file with the secret (default: standard input)")
	var sequences []uint
	retry := &cobra.Command{
		Use: "retry NAME", Short: "Send records again that an exporter of audit put aside", Args: cobra.ExactArgs(1),
		Example: "  sallyport audit exporters retry siem                     # all of them\n  sallyport audit exporters retry siem --sequence 120443",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.RetryDeadLettersRequest{Name: args[0]}
			for _, s := range sequences {
				req.Sequences = append(req.Sequences, uint64(s))
			}
			return call(cmd.Context(), o, adminv1connect.NewAuditExporterServiceClient, adminv1connect.AuditExporterServiceClient.RetryDeadLetters, req, func(r *adminv1.RetryDeadLettersResponse) table {
				return line("records that are sent again: %d", r.GetRetried())
			})
		},
	}
	retry.Flags().UintSliceVar(&sequences, "sequence", nil, "a record, by its place on the stream (default: all)")
	return parent("exporters", "What sends audit on to other systems", list, show, secret, retry, remove)
}

// shownExporter shows an exporter line by line, and then what it put aside.
func shownExporter(r *adminv1.GetAuditExporterResponse) table {
	s := r.GetStatus()
	e := s.GetExporter()
	t := table{head: []string{"", ""}}
	add := func(key, value string) { t.rows = append(t.rows, []string{key, dash(value)}) }
	add("name", e.GetName())
	add("target", strings.TrimSpace(wordFor(e.GetTarget(), exportTargets)+" "+e.GetUrl()))
	add("format", cmp.Or(wordFor(e.GetFormat(), exportFormats), "json"))
	add("kinds", strings.Join(e.GetKinds(), ", "))
	add("connectors", strings.Join(e.GetConnectors(), ", "))
	add("personal", strconv.FormatBool(e.GetPersonal()))
	add("secret", map[bool]string{true: "set", false: "not set"}[s.GetSecretSet()])
	add("health", s.GetHealth())
	add("control plane", s.GetControlPlane())
	add("lag", strconv.FormatUint(s.GetLag(), 10))
	add("sent", strconv.FormatUint(s.GetSent(), 10))
	add("last sent", when(s.GetLastSent()))
	if s.GetFailingSince() != nil {
		add("failing since", when(s.GetFailingSince()))
	}
	add("error", s.GetError())
	add("put aside", strconv.FormatUint(uint64(s.GetDeadLetters()), 10))
	for _, d := range r.GetDeadLetters() {
		state := fmt.Sprintf("%s, tries: %d", when(d.GetAt()), d.GetTries())
		if d.GetRetrying() {
			state += ", is sent again"
		}
		t.rows = append(t.rows, []string{fmt.Sprintf("record %d", d.GetSequence()), state + ": " + cut(d.GetReason(), 160)})
	}
	return t
}
