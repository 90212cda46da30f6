package cli

import (
	"bufio"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/bundle"
	"sallyport.dev/controlplane/internal/audit/proof"
)

// span are the flags that say which time is meant.
type span struct{ from, to string }

func (s *span) add(c *cobra.Command) {
	c.Flags().StringVar(&s.from, "from", "", "from then on: a time (RFC 3339) or how long ago (24h; default: the beginning)")
	c.Flags().StringVar(&s.to, "to", "", "until then: a time (RFC 3339) or how long ago (2h; default: now)")
}

func (s *span) read() (*adminv1.ExportAuditRequest, error) {
	from, err := readTime(s.from)
	if err != nil {
		return nil, err
	}
	to, err := readTime(s.to)
	return &adminv1.ExportAuditRequest{From: from, To: to}, err
}

// export calls fn with each item of an export.
func export(cmd *cobra.Command, o *options, req *adminv1.ExportAuditRequest, fn func(*auditv1.ExportItem) error) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	stream, err := adminv1connect.NewAuditProofServiceClient(c.client, c.server, c.with).ExportAudit(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // the stream is over either way
	for stream.Receive() {
		for _, item := range stream.Msg().GetItems() {
			if err := fn(item); err != nil {
				return err
			}
		}
	}
	return stream.Err()
}

// exportTo writes an export to a file, and says how it verifies.
func exportTo(cmd *cobra.Command, o *options, req *adminv1.ExportAuditRequest, f *os.File, verifier *proof.Verifier) (broken, err error) {
	w := bufio.NewWriterSize(f, 1<<20)
	err = export(cmd, o, req, func(item *auditv1.ExportItem) error {
		if broken == nil {
			broken = verifier.Add(item)
		}
		return proof.Write(w, item)
	})
	return broken, errors.Join(err, w.Flush())
}

// writeWhole writes a file that is whole or not there: half of one must not be taken for it.
func writeWhole(path string, write func(*os.File) error) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return usage("the file cannot be written: %w", err)
	}
	defer os.Remove(part) //nolint:errcheck // it is renamed, or of no use
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// selection are the flags that say which records of which time are meant.
type selection struct {
	filter filterFlags
	during span
}

func (s *selection) add(c *cobra.Command) {
	s.filter.add(c)
	s.during.add(c)
}

func (s *selection) read() (*adminv1.ExportAuditRequest, error) {
	req, err := s.during.read()
	if err != nil {
		return nil, err
	}
	filter, err := s.filter.read()
	if err != nil {
		return nil, err
	}
	if !proto.Equal(filter, &adminv1.AuditFilter{}) {
		req.Filter = filter
	}
	return req, nil
}

func exportAuditCommand(o *options) *cobra.Command {
	picked := &selection{}
	c := &cobra.Command{
		Use: "export FILE", Short: "Write audit records to a file, with what proves them", Args: cobra.ExactArgs(1),
		Long: "Write audit records to a file, as they lie on the stream, with what proves them: sallyport audit verify FILE checks it without\n" +
			"a server. With a filter, records that it does not pick are in the file by their digest alone, so that those it picks are proved.",
		Example: "  sallyport audit export --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z november.audit\n  sallyport audit export --person ann@example.com --from 720h ann.audit",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := picked.read()
			if err != nil {
				return err
			}
			verifier := &proof.Verifier{}
			var broken error
			err = writeWhole(args[0], func(f *os.File) (err error) {
				broken, err = exportTo(cmd, o, req, f, verifier)
				return err
			})
			if err != nil {
				return err
			}
			if broken != nil {
				return fmt.Errorf("%s was written, and does not verify: %w", args[0], broken)
			}
			r := verifier.Report
			return o.print(r, func() table {
				return line("%s has %d records, and %d by their digest alone, under %d signed checkpoints\nnext: sallyport audit verify %s", args[0], r.Records, r.DigestsOnly, r.Checkpoints, args[0])
			})
		},
	}
	picked.add(c)
	return c
}

func verifyAuditCommand(o *options) *cobra.Command {
	during := &span{}
	var keys []string
	var witness string
	c := &cobra.Command{
		Use: "verify [FILE]", Short: "Check that no audit record was changed, removed, put in or moved, and that no tail is missing", Args: cobra.MaximumNArgs(1),
		Long: "Check that no audit record was changed, removed, put in or moved, and that no tail is missing: of a file that audit export or audit bundle\n" +
			"wrote, without a server, or else of what the control plane holds. All is computed here; the control plane is believed nothing but its keys,\n" +
			"and not even those with --key. With --witness, history must be the one of which a checkpoint was kept.",
		Example: "  sallyport audit verify --from 24h\n  sallyport audit verify november.audit --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --key 3q2+7w...=\n  sallyport audit checkpoint -o json > kept.json; sallyport audit verify --witness kept.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := during.read()
			if err != nil {
				return err
			}
			v := &proof.Verifier{}
			if v.Keys, err = readKeys(keys); err != nil {
				return err
			}
			if witness != "" {
				if v.Witness, err = readWitness(witness); err != nil {
					return err
				}
			}
			if len(args) == 1 {
				var f *os.File
				if f, err = os.Open(args[0]); err != nil {
					return usage("the export cannot be read: %w", err)
				}
				err = errors.Join(verifyFile(f, v), f.Close())
			} else {
				err = export(cmd, o, req, v.Add)
			}
			from, to := time.Time{}, time.Time{}
			if req.GetFrom() != nil {
				from = req.GetFrom().AsTime()
			}
			if req.GetTo() != nil {
				to = req.GetTo().AsTime()
			}
			if err == nil {
				err = v.Finish(from, to)
			}
			if err != nil {
				return fmt.Errorf("NOT VERIFIED: %w", err)
			}
			return o.print(v.Report, func() table { return line("%s", reportText(v.Report, len(keys) == 0)) })
		},
	}
	during.add(c)
	c.Flags().StringArrayVar(&keys, "key", nil, "a public key of the control plane, in base64, that is trusted (default: those that come with the records)")
	c.Flags().StringVar(&witness, "witness", "", "file with a checkpoint that was kept, as audit checkpoint -o json prints it")
	return c
}

// verifyFile verifies an export or a bundle.
func verifyFile(f *os.File, v *proof.Verifier) error {
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 0); err == nil && string(magic) == "PK\x03\x04" {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return bundle.Verify(f, info.Size(), v)
	}
	return v.Read(f)
}

func reportText(r proof.Report, unpinned bool) string {
	text := fmt.Sprintf("verified: %d records, %d by their digest alone, %d signed heads of chains, %d signed checkpoints", r.Records, r.DigestsOnly, r.Heads, r.Checkpoints)
	if r.Removed > 0 {
		text += fmt.Sprintf("\nthe %d records before these, stored before %s, were removed because their time was over, as the control plane signed", r.Removed, r.RemovedBefore.Local().Format(time.DateTime))
	}
	if r.Erased > 0 {
		text += fmt.Sprintf("\nof %d records the person's fields are gone, and the chain holds", r.Erased)
	}
	if r.Tail > 0 {
		text += fmt.Sprintf("\n%d records at the end are younger than the last checkpoint", r.Tail)
	}
	if !r.To.IsZero() {
		text += "\nsigned up to " + r.To.Local().Format(time.DateTime)
	}
	if text += "\nkeys: " + strings.Join(r.Keys, ", "); unpinned {
		text += ", as the records say: compare them with sallyport audit checkpoint, or name them with --key"
	}
	return text
}

func readKeys(texts []string) (proof.Keys, error) {
	all := proof.Keys{}
	for _, text := range texts {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, usage("--key is 32 bytes in base64, as audit checkpoint prints them, not %q", text)
		}
		all[proof.KeyID(key)] = key
	}
	return all, nil
}

func readWitness(path string) (*auditv1.Checkpoint, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("the checkpoint cannot be read: %w", err)
	}
	kept := &adminv1.GetAuditCheckpointResponse{}
	if err := protojson.Unmarshal(data, kept); err != nil || kept.GetCheckpoint() == nil {
		return nil, usage("%s is no checkpoint, as audit checkpoint -o json prints it", path)
	}
	return kept.GetCheckpoint(), nil
}

func checkpointAuditCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "checkpoint", Short: "Sign what audit holds now, to be kept elsewhere", Args: cobra.NoArgs,
		Long:    "Sign what audit holds now. Kept where nobody who runs the control plane can change it, a checkpoint shows later whether history\nwas changed, even by who has the signing key: sallyport audit verify --witness FILE.",
		Example: "  sallyport audit checkpoint -o json > /mnt/kept/$(date +%F).json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAuditProofServiceClient, adminv1connect.AuditProofServiceClient.GetAuditCheckpoint, &adminv1.GetAuditCheckpointRequest{}, func(r *adminv1.GetAuditCheckpointResponse) table {
				text := fmt.Sprintf("%d records up to %d, root %x, at %s", r.GetCheckpoint().GetSize(), r.GetCheckpoint().GetSequence(), r.GetCheckpoint().GetRoot(), when(r.GetCheckpoint().GetAt()))
				for _, key := range r.GetPublicKeys() {
					text += fmt.Sprintf("\nkey %s: %s", proof.KeyID(key), base64.StdEncoding.EncodeToString(key))
				}
				return line("%s", text)
			})
		},
	}
}
