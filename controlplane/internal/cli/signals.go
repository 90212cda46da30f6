package cli

import (
	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func signalsCommand(o *options) *cobra.Command {
	in := &policyv1.Signals{}
	var off bool
	c := &cobra.Command{
		Use: "signals DIRECTORY", Short: "Let a directory's provider end sessions, by security events or Universal Logout", Args: cobra.ExactArgs(1),
		Long: "Let a directory's provider say that a person's sessions end or that an account is disabled: by security event tokens that\n" +
			"it pushes to /signals/DIRECTORY/events (RFC 8935), or by Okta's Universal Logout at /signals/DIRECTORY/logout, both on the\nSCIM listener.",
		Example: "  sallyport directories signals okta --issuer https://example.okta.com --jwks-url https://example.okta.com/oauth2/v1/keys \\\n" +
			"    --audience https://scim.example.com/signals/okta/logout\n  sallyport directories signals okta --off",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.SetSignalsRequest{DirectoryId: args[0], Signals: in}
			if off {
				req.Signals = nil
			}
			return call(cmd.Context(), o, adminv1connect.NewSignalServiceClient, adminv1connect.SignalServiceClient.SetSignals, req, func(r *adminv1.SetSignalsResponse) table {
				return line("set at version %d", r.GetVersion())
			})
		},
	}
	f := c.Flags()
	f.StringVar(&in.Issuer, "issuer", "", "the transmitter's issuer, as its tokens have it in iss")
	f.StringVar(&in.JwksUrl, "jwks-url", "", "where its keys are")
	f.StringArrayVar(&in.Audiences, "audience", nil, "what its tokens have in aud; repeat it for more")
	f.BoolVar(&off, "off", false, "take nothing any more")
	return c
}
