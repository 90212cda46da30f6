package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func receiptCommand(o *options) *cobra.Command {
	req := &adminv1.GetReceiptRequest{}
	var timeout time.Duration
	c := &cobra.Command{
		Use: "receipt {--version N | --person PERSON}", Short: "Say which proxies enforce a change, and what became of a person's credentials", Args: cobra.NoArgs,
		Long: "Say which proxies enforce a change. A change is enforced everywhere when each proxy acknowledged it or its lease\nran out. With --wait, answer when it is; the exit code is 1 if it is not.\n\n" +
			"With --person, the change is the last one of that person's access, and for each credential that was taken from them it is said what became of it\nat its upstream and here. What is to be done there by hand is said, and makes the exit code 1.",
		Example: "  sallyport receipt --version 42 --wait\n  sallyport receipt --person ann@example.com --wait     # of an offboarding\n  sallyport receipt --person 0190b5f4-… -o json         # of somebody whom the directory removed",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.GetVersion() == 0 && req.GetPerson() == "" {
				return usage("say which: --version or --person")
			}
			return o.receipt(cmd.Context(), req, timeout)
		},
	}
	c.Flags().Uint64Var(&req.Version, "version", 0, "the version that a change answered with (default, with --person: that of the last change of their access)")
	c.Flags().StringVar(&req.Person, "person", "", "with what became of this person's credentials; who is gone, by id")
	c.Flags().BoolVar(&req.Wait, "wait", false, "answer when it is enforced everywhere, and each upstream was asked")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	return c
}

// receipt prints which proxies enforce a version, and what became of a person's credentials.
func (o *options) receipt(ctx context.Context, req *adminv1.GetReceiptRequest, timeout time.Duration) error {
	if req.GetWait() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	r, err := ask(ctx, o, adminv1connect.NewFleetAdminServiceClient, adminv1connect.FleetAdminServiceClient.GetReceipt, req)
	if err != nil {
		return err
	}
	if err := o.print(r, func() table { return receiptTable(r) }); err != nil {
		return err
	}
	if !r.GetEnforcedEverywhere() {
		return errors.New("not enforced everywhere yet")
	}
	for _, c := range r.GetPerson().GetWithdrawn() {
		if c.GetOutcome() == policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_GIVEN_UP {
			return errors.New("not all could be revoked upstream: see above what is to be done there by hand")
		}
	}
	return nil
}

func receiptTable(r *adminv1.GetReceiptResponse) table {
	t := table{head: []string{"PROXY", "REGION", "ENFORCED", "SINCE"}}
	for _, p := range r.GetProxies() {
		enforced := yes(p.GetEnforced())
		if !p.GetEnforced() && p.GetLeaseExpired() {
			enforced = "lease over: serves nobody"
		}
		t.rows = append(t.rows, []string{p.GetProxy(), p.GetRegion(), enforced, when(p.GetEnforcedAt())})
	}
	if r.GetPerson() == nil {
		return t
	}
	return tables(personLine(r.GetPerson()), t, credentialsTable(&adminv1.ListCredentialsResponse{Credentials: r.GetPerson().GetWithdrawn()}, true))
}

// personLine says how a person stands.
func personLine(p *adminv1.PersonReceipt) string {
	name, stands := cmp.Or(p.GetName(), p.GetPersonId()), "may not act any more"
	switch {
	case p.GetActive():
		stands = "may act"
	case p.GetName() == "":
		stands = "is not known any more"
	}
	return fmt.Sprintf("%s %s; credentials in use: %d; taken out of use: %d", name, stands, p.GetInUse(), len(p.GetWithdrawn()))
}
