package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func authorityCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "ca", Short: "Show the authority by which proxies and control planes know each other, and how far a rotation is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewFleetAuthorityServiceClient, adminv1connect.FleetAuthorityServiceClient.GetFleetAuthority,
				&adminv1.GetFleetAuthorityRequest{}, authorityTable)
		},
	}
}

// stagesSaid are stages in words.
var stagesSaid = map[adminv1.FleetAuthorityStage]string{
	adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_SETTLED:   "there is one authority",
	adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_ANNOUNCED: "1 of 2: proxies come to believe the new authority",
	adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_ISSUING:   "2 of 2: proxies get certificates of the new authority",
}

func authorityTable(r *adminv1.GetFleetAuthorityResponse) table {
	t := table{head: []string{"AUTHORITY (SHA-256)", "MADE", "CERTIFIES PROXIES", "CERTIFIES CONTROL PLANES"}}
	for _, a := range r.GetAuthorities() {
		t.rows = append(t.rows, []string{a.GetFingerprint(), when(a.GetMadeAt()), yes(a.GetIssues()), yes(a.GetServes())})
	}
	text := fmt.Sprintf("%s, since %s", stagesSaid[r.GetStage()], when(r.GetSince()))
	if len(r.GetWaitingFor()) > 0 {
		text += "\nwaiting for " + strings.Join(r.GetWaitingFor(), ", ")
	}
	return tables(text, t)
}

func rotateAuthorityCommand(o *options) *cobra.Command {
	var drop, wait bool
	var patience time.Duration
	c := &cobra.Command{
		Use: "rotate-ca", Short: "Replace the authority by which proxies and control planes know each other", Args: cobra.NoArgs,
		Long: "Replace the authority by which proxies and control planes know each other. No proxy has to join again: each comes to believe the new\n" +
			"authority, then gets a certificate of it, and when no live proxy has one of the old any more, that is dropped and its certificates are\n" +
			"refused. It goes on by itself, within a minute or so. Invitations from before are of no use after it: make them again.\n\n" +
			"With --drop-old the old authority is dropped now, as when its key was stolen: proxies without a new certificate must be invited again.",
		Example: "  sallyport proxies rotate-ca --wait\n  sallyport proxies ca\n  sallyport proxies rotate-ca --drop-old",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if drop {
				return call(cmd.Context(), o, adminv1connect.NewFleetAuthorityServiceClient, adminv1connect.FleetAuthorityServiceClient.DropFleetAuthority,
					&adminv1.DropFleetAuthorityRequest{}, func(r *adminv1.DropFleetAuthorityResponse) table {
						if len(r.GetCutOff()) == 0 {
							return line("the old authority is dropped; no live proxy had a certificate of it")
						}
						return line("the old authority is dropped; revoke these proxies and invite them again: %s", strings.Join(r.GetCutOff(), ", "))
					})
			}
			if !wait {
				return call(cmd.Context(), o, adminv1connect.NewFleetAuthorityServiceClient, adminv1connect.FleetAuthorityServiceClient.RotateFleetAuthority,
					&adminv1.RotateFleetAuthorityRequest{}, func(r *adminv1.RotateFleetAuthorityResponse) table {
						return line("the new authority is %s; see how far it is with sallyport proxies ca", r.GetFingerprint())
					})
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			if _, err := ask(ctx, o, adminv1connect.NewFleetAuthorityServiceClient, adminv1connect.FleetAuthorityServiceClient.RotateFleetAuthority, &adminv1.RotateFleetAuthorityRequest{}); err != nil {
				return err
			}
			return o.rotated(ctx)
		},
	}
	c.Flags().BoolVar(&drop, "drop-old", false, "drop the old authority of a rotation that is under way")
	c.Flags().BoolVar(&wait, "wait", false, "return when the old authority is dropped")
	c.Flags().DurationVar(&patience, "timeout", 5*time.Minute, "how long to wait; after it the exit code is 1, and the rotation goes on")
	return c
}

// rotated waits until a rotation is over.
func (o *options) rotated(ctx context.Context) error {
	for {
		r, err := ask(ctx, o, adminv1connect.NewFleetAuthorityServiceClient, adminv1connect.FleetAuthorityServiceClient.GetFleetAuthority, &adminv1.GetFleetAuthorityRequest{})
		if err != nil {
			return err
		}
		if r.GetStage() == adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_SETTLED {
			return o.print(r, func() table { return authorityTable(r) })
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the rotation is not over: %s; waiting for %s", stagesSaid[r.GetStage()], strings.Join(r.GetWaitingFor(), ", "))
		case <-time.After(time.Second):
		}
	}
}
