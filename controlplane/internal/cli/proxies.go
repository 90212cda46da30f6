package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func proxiesCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "proxies", Short: "Show the proxies, what they enforce and how far behind they are; invite and revoke them", Args: cobra.NoArgs,
		Example: "  sallyport proxies\n  sallyport proxies invite us-east-1 --region us-east\n  sallyport proxies revoke us-east-1\n  sallyport proxies rotate-ca",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewFleetAdminServiceClient, adminv1connect.FleetAdminServiceClient.ListProxies,
				&adminv1.ListProxiesRequest{}, func(r *adminv1.ListProxiesResponse) table {
					t := table{head: []string{"PROXY", "REGION", "CONNECTED", "VERSION", "LAG", "ACKNOWLEDGED", "LEASE UNTIL", "BUILD", "SPIFFE ID", "TROUBLES"}}
					for _, p := range r.GetProxies() {
						t.rows = append(t.rows, []string{
							p.GetName(), p.GetRegion(), connected(p), fmt.Sprint(p.GetVersion()), fmt.Sprint(p.GetLag()), ago(p.GetAcknowledgedAt()), when(p.GetLeaseUntil()), dash(p.GetBuild()), dash(p.GetSpiffeId()), dash(troubles(p)),
						})
					}
					for _, b := range r.GetBarred() {
						t.rows = append(t.rows, []string{b.GetName(), b.GetRegion(), "barred", "-", "-", ago(b.GetAt()), "-", "-", b.GetSpiffeId(), "-"})
					}
					return t
				})
		},
	}
	c.AddCommand(inviteCommand(o), authorityCommand(o), rotateAuthorityCommand(o), &cobra.Command{
		Use: "revoke NAME", Short: "Expel a proxy at once, or take its invitation back", Args: cobra.ExactArgs(1),
		Long: "Expel a proxy at once, or take its invitation back. The keys that seal sessions in its region are replaced, so that agents\nthere open their sessions anew. The proxy itself stops when its lease is over, if it cannot be told. One that joined by a SPIFFE\nid stays out, whatever SVIDs it is given, until sallyport proxies readmit.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewProxyServiceClient, adminv1connect.ProxyServiceClient.RevokeProxy,
				&adminv1.RevokeProxyRequest{Name: args[0]}, func(r *adminv1.RevokeProxyResponse) table {
					return line("proxy %s is revoked at version %d", args[0], r.GetVersion())
				})
		},
	}, &cobra.Command{
		Use: "readmit SPIFFE-ID", Short: "Let a proxy with a SPIFFE id join again that was revoked", Args: cobra.ExactArgs(1),
		Example: "  sallyport proxies readmit spiffe://example.org/sallyport/us-east/us-east-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewProxyServiceClient, adminv1connect.ProxyServiceClient.ReadmitProxy,
				&adminv1.ReadmitProxyRequest{SpiffeId: args[0]}, func(r *adminv1.ReadmitProxyResponse) table {
					return line("%s may join again as of version %d", args[0], r.GetVersion())
				})
		},
	})
	return c
}

func inviteCommand(o *options) *cobra.Command {
	req := &adminv1.InviteProxyRequest{}
	var ttl time.Duration
	var out string
	c := &cobra.Command{
		Use: "invite NAME --region REGION", Short: "Make an invitation with which a proxy joins the fleet, once", Args: cobra.ExactArgs(1),
		Example: "  sallyport proxies invite us-east-1 --region us-east --out invitation\n  sallyport-proxy serve --name us-east-1 --region us-east --invitation-file invitation …",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Ttl = args[0], durationpb.New(ttl)
			return showOnce(cmd.Context(), o, adminv1connect.NewProxyServiceClient, adminv1connect.ProxyServiceClient.InviteProxy, req, out, func(r *adminv1.InviteProxyResponse) string {
				return "It is good once, until " + when(r.GetExpiresAt()) + "."
			})
		},
	}
	c.Flags().StringVar(&req.Region, "region", "", "the proxy's region")
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good, at most 168h")
	c.Flags().StringVar(&out, "out", "", outHelp)
	_ = c.MarkFlagRequired("region")
	return c
}

// troubles says in few words what is wrong at a proxy.
func troubles(p *adminv1.Proxy) string {
	connectors, names := 0, 0
	for _, t := range p.GetTroubles() {
		if t.GetConnector() != "" {
			connectors++
		} else {
			names++
		}
	}
	var said []string
	if connectors > 0 {
		said = append(said, fmt.Sprintf("%d failing: see connectors health", connectors))
	}
	if names > 0 {
		said = append(said, fmt.Sprintf("%d names hidden: see connectors health", names))
	}
	return strings.Join(said, "; ")
}

// healthCommand shows what proxies say of the connectors' upstreams, and of names that collide.
func healthCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Show which connectors fail at which proxies, and names at /mcp that are hidden because they collide", Args: cobra.NoArgs,
		Long:    "Show which connectors fail at which proxies: those whose upstream failed more than once in a row, and those that are left alone for\na while because of that. A name that several tools or prompts would have at the endpoint of all connectors is hidden there, all of\nthem: rename one of the connectors. Proxies tell with each heartbeat. A connector that nobody calls is not listed.",
		Example: "  sallyport connectors health\n  sallyport connectors health -o json | jq '.proxies[] | select(.troubles)'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewFleetAdminServiceClient, adminv1connect.FleetAdminServiceClient.ListProxies,
				&adminv1.ListProxiesRequest{}, healthTable)
		},
	}
}

func healthTable(r *adminv1.ListProxiesResponse) table {
	t := table{head: []string{"WHAT", "PROXY", "REGION", "STATE", "SINCE", "REASON"}}
	for _, p := range r.GetProxies() {
		for _, trouble := range p.GetTroubles() {
			what, state, since, reason := "connector "+trouble.GetConnector(), "failing", ago(trouble.GetSince()), trouble.GetReason()
			if trouble.GetLeftAlone() {
				state = "left alone"
			}
			if trouble.GetConnector() == "" {
				what, state, since, reason = trouble.GetHiddenName(), "hidden", "-", "several would have this name"
			}
			t.rows = append(t.rows, []string{what, p.GetName(), p.GetRegion(), state, since, reason})
		}
	}
	if len(t.rows) == 0 {
		return line("no proxy reports a connector that fails, or a name that is hidden")
	}
	slices.SortFunc(t.rows, slices.Compare)
	return t
}

func connected(p *adminv1.Proxy) string {
	if p.GetRevoked() {
		return "revoked"
	}
	return yes(p.GetConnected())
}
