package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// incident is what is done about a person, and what their agents did.
type incident struct {
	Person      string
	Block       *adminv1.PlaceBlockResponse
	Sessions    *adminv1.RevokeSessionsResponse
	Credentials *adminv1.RevokeCredentialsResponse
	Receipt     *adminv1.GetReceiptResponse
	Records     []*adminv1.StoredRecord
	// More: the records are the newest, and there are others.
	More   bool
	Failed []string
}

// MarshalJSON writes the answers as other commands do.
func (in *incident) MarshalJSON() ([]byte, error) {
	out := map[string]any{"person": in.Person, "more": in.More, "failed": in.Failed}
	add := func(name string, m proto.Message) error {
		if !m.ProtoReflect().IsValid() {
			return nil
		}
		data, err := toJSON(m)
		out[name] = json.RawMessage(data)
		return err
	}
	err := errors.Join(add("block", in.Block), add("sessions", in.Sessions), add("credentials", in.Credentials), add("receipt", in.Receipt))
	records := make([]json.RawMessage, len(in.Records))
	for i, rec := range in.Records {
		data, failed := toJSON(rec)
		records[i], err = data, errors.Join(err, failed)
	}
	out["records"] = records
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

func incidentCommand(o *options) *cobra.Command {
	var reason string
	var lasts, since, timeout time.Duration
	var limit uint32
	c := &cobra.Command{
		Use: "incident PERSON --reason TEXT", Short: "Block a person, end their sessions, destroy their upstream credentials, wait for the receipt and show what their agents did",
		Long: "Stop a person's agents everywhere and show what they did, in one command:\n\n  1. a block, which no grant, directory, apply or rollback lifts: sallyport blocks lift ends it\n  2. their sessions and tokens end\n  3. their credentials at upstreams are taken out of use, revoked there and destroyed\n" +
			"  4. the receipt: which proxies enforce all that\n  5. what their agents did, newest first\n\nWhat fails is told, and the rest is done all the same; the exit code is 1 then. It may be run again.",
		Example: "  sallyport incident ann@example.com --reason 'laptop stolen'\n  sallyport incident ann@example.com --reason 'odd exports' --since 720h -o json > incident.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := &incident{Person: args[0]}
			block := &policyv1.Block{Reason: reason, Target: &policyv1.Block_PersonId{PersonId: args[0]}}
			if lasts != 0 {
				block.Until = timestamppb.New(time.Now().Add(lasts))
			}
			in.stop(cmd.Context(), o, block, timeout)
			in.read(cmd.Context(), o, since, limit)
			if err := o.print(in, in.table); err != nil {
				return err
			}
			if len(in.Failed) > 0 {
				return errors.New("not all was done: run it again, or do what is missing by hand")
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&reason, "reason", "", "why, as the block and the audit will say")
	f.DurationVar(&lasts, "for", 0, "how long the block stands (default: until it is lifted)")
	f.DurationVar(&since, "since", 30*24*time.Hour, "how far back it is shown what their agents did")
	f.Uint32Var(&limit, "limit", 1000, "how many records of that, the newest")
	f.DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the receipt")
	_ = c.MarkFlagRequired("reason")
	return c
}

// failed notes what could not be done.
func (in *incident) failed(what string, err error) bool {
	if err != nil {
		in.Failed = append(in.Failed, what+": "+Explain(err))
	}
	return err != nil
}

// stop takes all access away, the surest first.
func (in *incident) stop(ctx context.Context, o *options, block *policyv1.Block, timeout time.Duration) {
	version := uint64(0)
	var err error
	in.Block, err = ask(ctx, o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.PlaceBlock, &adminv1.PlaceBlockRequest{Block: block})
	if !in.failed("the block", err) {
		version = max(version, in.Block.GetVersion())
	}
	in.Sessions, err = ask(ctx, o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.RevokeSessions, &adminv1.RevokeSessionsRequest{User: in.Person})
	if !in.failed("ending sessions", err) {
		version = max(version, in.Sessions.GetVersion())
	}
	in.Credentials, err = ask(ctx, o, credentialClient, adminv1connect.CredentialServiceClient.RevokeCredentials, &adminv1.RevokeCredentialsRequest{Person: in.Person})
	if connect.CodeOf(err) == connect.CodeNotFound && in.Sessions != nil { // the person is there, and has none
		in.Credentials, err = &adminv1.RevokeCredentialsResponse{}, nil
	}
	if !in.failed("destroying credentials", err) {
		version = max(version, in.Credentials.GetVersion())
	}
	if version == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	in.Receipt, err = ask(ctx, o, adminv1connect.NewFleetAdminServiceClient, adminv1connect.FleetAdminServiceClient.GetReceipt, &adminv1.GetReceiptRequest{Version: version, Wait: true})
	if !in.failed("the receipt", err) && !in.Receipt.GetEnforcedEverywhere() {
		in.failed("the receipt", errors.New("not enforced everywhere yet"))
	}
}

// read finds what the person's agents did.
func (in *incident) read(ctx context.Context, o *options, since time.Duration, limit uint32) {
	filter := &adminv1.AuditFilter{Person: in.Person, Since: timestamppb.New(time.Now().Add(-since))}
	token := ""
	for {
		page, err := ask(ctx, o, adminv1connect.NewAuditServiceClient, adminv1connect.AuditServiceClient.SearchAudit,
			&adminv1.SearchAuditRequest{Filter: filter, PageSize: min(limit-uint32(len(in.Records)), 1000), PageToken: token})
		if in.failed("what their agents did", err) {
			return
		}
		in.Records, token = append(in.Records, page.GetRecords()...), page.GetNextPageToken()
		if in.More = token != ""; !in.More || uint32(len(in.Records)) >= limit {
			return
		}
	}
}

func (in *incident) table() table {
	text := ""
	if in.Block != nil {
		text += fmt.Sprintf("block %s stands at version %d\n", in.Block.GetId(), in.Block.GetVersion())
	}
	if in.Sessions != nil {
		text += fmt.Sprintf("sessions and tokens ended at version %d\n", in.Sessions.GetVersion())
	}
	if in.Credentials != nil {
		text += fmt.Sprintf("%d credentials at upstreams are out of use; what becomes of them there: sallyport credentials list --withdrawn\n", in.Credentials.GetRevoked())
	}
	for _, failed := range in.Failed {
		text += "FAILED: " + printable(failed) + "\n"
	}
	did := table{head: auditHead}
	for _, rec := range in.Records {
		did.rows = append(did.rows, auditRow(rec))
	}
	if in.More {
		text += fmt.Sprintf("the newest %d records are shown, and there are more: sallyport audit search --person %s\n", len(in.Records), in.Person)
	}
	return tables(text, receiptTable(in.Receipt), did)
}
