package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"

	"sallyport.dev/controlplane/internal/audit/bundle"
	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/audit/proof"
)

// peopleNamed is how many people a bundle's page has by name. Others are there by id.
const peopleNamed = 500

func bundleAuditCommand(o *options) *cobra.Command {
	picked := &selection{}
	c := &cobra.Command{
		Use: "bundle FILE.zip", Short: "Write a whole investigation to one file: records, proofs, the policy as it was, and a page for people", Args: cobra.ExactArgs(1),
		Long: "Write a whole investigation to one file: the records that a filter picks with what proves them, the policy at the beginning and at\n" +
			"the end of the time, what the person could do then, and a page for people that needs a browser alone. Whoever gets it checks it with\n" +
			"sallyport audit verify FILE.zip, without a server.",
		Example: "  sallyport audit bundle --person ann@example.com --from 720h ann.zip\n  sallyport audit bundle --connector salesforce --decision denied --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z november.zip",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := picked.read()
			if err != nil {
				return err
			}
			verifier := &proof.Verifier{}
			if err := writeWhole(args[0], func(f *os.File) error { return writeBundle(cmd, o, req, f, verifier) }); err != nil {
				return err
			}
			r := verifier.Report
			return o.print(r, func() table {
				return line("%s has %d records, and %d by their digest alone, under %d signed checkpoints\nnext: open report.html in it, or check it: sallyport audit verify %s", args[0], r.Records, r.DigestsOnly, r.Checkpoints, args[0])
			})
		},
	}
	picked.add(c)
	return c
}

// writeBundle has the records exported to a file of their own first: how they verify stands on the page, before them.
func writeBundle(cmd *cobra.Command, o *options, req *adminv1.ExportAuditRequest, to *os.File, verifier *proof.Verifier) error {
	ctx := cmd.Context()
	if req.GetTo() == nil { // signed, so that no record at the end is without a checkpoint
		if _, err := ask(ctx, o, adminv1connect.NewAuditProofServiceClient, adminv1connect.AuditProofServiceClient.GetAuditCheckpoint, &adminv1.GetAuditCheckpointRequest{}); err != nil {
			return err
		}
	}
	records, err := os.CreateTemp("", "sallyport-bundle-*")
	if err != nil {
		return err
	}
	defer os.Remove(records.Name()) //nolint:errcheck // its content is in the bundle
	defer records.Close()           //nolint:errcheck // nothing is written to it any more
	broken, err := exportTo(cmd, o, req, records, verifier)
	if err != nil {
		return err
	}
	if broken != nil {
		return fmt.Errorf("the records do not verify: %w; keep them as they are with sallyport audit export", broken)
	}
	in := &bundle.Investigation{Asked: "all records", MadeAt: time.Now(), Names: map[string]string{}}
	if f := req.GetFilter(); f != nil {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(f)
		if err != nil {
			return err
		}
		in.Asked = string(text)
	}
	if req.GetFrom() != nil {
		in.From = req.GetFrom().AsTime()
		addPolicy(ctx, o, in, "policy-from.yaml", "The policy at the beginning", req.GetFrom())
	}
	end := req.GetTo()
	if end != nil {
		in.To = end.AsTime()
	}
	addPolicy(ctx, o, in, "policy-to.yaml", "The policy at the end", end)
	addAccess(ctx, o, in, req.GetFilter().GetPerson(), end)
	if err := namePeople(ctx, o, in, records); err != nil {
		return err
	}
	if _, err := records.Seek(0, 0); err != nil {
		return err
	}
	return bundle.Write(to, in, records)
}

// asOfTime is the state at a time; absent: the one that stands.
func asOfTime(at *timestamppb.Timestamp) *adminv1.AsOf {
	if at == nil {
		return nil
	}
	return &adminv1.AsOf{At: &adminv1.AsOf_Time{Time: at}}
}

// addPolicy adds the policy as it was. What cannot be had is told, and the bundle is made all the same.
func addPolicy(ctx context.Context, o *options, in *bundle.Investigation, name, about string, at *timestamppb.Timestamp) {
	res, err := ask(ctx, o, adminv1connect.NewExportServiceClient, adminv1connect.ExportServiceClient.ExportPolicy, &adminv1.ExportPolicyRequest{AsOf: asOfTime(at)})
	var text bytes.Buffer
	if err == nil {
		err = writeExport(&text, res)
	}
	if err != nil {
		in.Missing = append(in.Missing, name+": "+Explain(err))
		return
	}
	in.Files = append(in.Files, bundle.File{Name: name, About: about, Data: text.Bytes()})
}

// addAccess adds what the person could do.
func addAccess(ctx context.Context, o *options, in *bundle.Investigation, person string, at *timestamppb.Timestamp) {
	if person == "" {
		return
	}
	res, err := ask(ctx, o, adminv1connect.NewAccessServiceClient, adminv1connect.AccessServiceClient.WhatCan, &adminv1.WhatCanRequest{Person: person, AsOf: asOfTime(at)})
	var text []byte
	if err == nil {
		text, err = toJSON(res)
	}
	if err != nil {
		in.Missing = append(in.Missing, "access.json: "+Explain(err))
		return
	}
	in.Files = append(in.Files, bundle.File{Name: "access.json", About: "What the person could do at the end", Data: text})
}

// errEnough: as many people are known as are looked for.
var errEnough = errors.New("enough")

// namePeople asks for the names of those that the records are of. Who is gone stays an id.
func namePeople(ctx context.Context, o *options, in *bundle.Investigation, records *os.File) error {
	if _, err := records.Seek(0, 0); err != nil {
		return err
	}
	err := bundle.Records(records, func(r format.Record) error {
		id := r.GetPersonId()
		if _, known := in.Names[id]; id == "" || known {
			return nil
		}
		if len(in.Names) >= peopleNamed {
			in.Missing = append(in.Missing, fmt.Sprintf("the names of more than %d people: others are shown by id", peopleNamed))
			return errEnough
		}
		res, err := ask(ctx, o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.GetUser, &adminv1.GetUserRequest{User: id})
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			return err
		}
		in.Names[id] = res.GetUser().GetUserName()
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
