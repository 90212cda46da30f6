package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func proxiesCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "proxies", Short: "Show the proxies, what they enforce and how far behind they are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewFleetAdminServiceClient, adminv1connect.FleetAdminServiceClient.ListProxies,
				&adminv1.ListProxiesRequest{}, func(r *adminv1.ListProxiesResponse) table {
					t := table{head: []string{"PROXY", "REGION", "CONNECTED", "VERSION", "LAG", "ACKNOWLEDGED", "LEASE UNTIL", "BUILD"}}
					for _, p := range r.GetProxies() {
						t.rows = append(t.rows, []string{
							p.GetName(), p.GetRegion(), connected(p), fmt.Sprint(p.GetVersion()), fmt.Sprint(p.GetLag()), ago(p.GetAcknowledgedAt()), when(p.GetLeaseUntil()), dash(p.GetBuild()),
						})
					}
					return t
				})
		},
	}
}

func connected(p *adminv1.Proxy) string {
	if p.GetRevoked() {
		return "revoked"
	}
	return yes(p.GetConnected())
}

func receiptCommand(o *options) *cobra.Command {
	var version uint64
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "receipt --version N", Short: "Say which proxies enforce a change, and since when", Args: cobra.NoArgs,
		Long:    "Say which proxies enforce a change. A change is enforced everywhere when each proxy acknowledged it or its lease\nran out. With --wait, answer when it is; the exit code is 1 if it is not.",
		Example: "  sallyport receipt --version 42 --wait",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if wait {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			r, err := ask(ctx, o, adminv1connect.NewFleetAdminServiceClient, adminv1connect.FleetAdminServiceClient.GetReceipt,
				&adminv1.GetReceiptRequest{Version: version, Wait: wait})
			if err != nil {
				return err
			}
			if err := o.print(r, func() table { return receiptTable(r) }); err != nil {
				return err
			}
			if !r.GetEnforcedEverywhere() {
				return errors.New("not enforced everywhere yet")
			}
			return nil
		},
	}
	c.Flags().Uint64Var(&version, "version", 0, "the version that a change answered with")
	c.Flags().BoolVar(&wait, "wait", false, "answer when it is enforced everywhere")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	_ = c.MarkFlagRequired("version")
	return c
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
	return t
}
