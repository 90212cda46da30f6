package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func tokensCommand(o *options) *cobra.Command {
	create := parent("create", "Make a bearer token; it is shown once",
		tokenCreateCommand(o, "scim", adminv1.TokenKind_TOKEN_KIND_SCIM, "for a directory's provisioning", "  sallyport tokens create scim --directory okta"),
		tokenCreateCommand(o, "admin", adminv1.TokenKind_TOKEN_KIND_ADMIN, "for an admin or a script", "  sallyport tokens create admin --name ci --role viewer --expires 30d"),
	)
	list := &cobra.Command{
		Use: "list", Short: "List tokens without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewTokenServiceClient, adminv1connect.TokenServiceClient.ListTokens, &adminv1.ListTokensRequest{}, func(r *adminv1.ListTokensResponse) table {
				t := table{head: []string{"KIND", "NAME", "ROLE", "DIRECTORY", "REGION", "CREATED", "EXPIRES", "LAST USED", "ID"}}
				for _, k := range r.GetTokens() {
					t.rows = append(t.rows, []string{lower(k.GetKind(), "TOKEN_KIND_"), dash(k.GetName()), roleText(k.GetRole()), dash(k.GetDirectoryId()), dash(k.GetRegion()), when(k.GetCreatedAt()), when(k.GetExpiresAt()), when(k.GetLastUsedAt()), k.GetId()})
				}
				return t
			})
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Make a token invalid at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewTokenServiceClient, adminv1connect.TokenServiceClient.RevokeToken, &adminv1.RevokeTokenRequest{Id: args[0]}, func(r *adminv1.RevokeTokenResponse) table {
				return line("token %s is revoked at version %d", args[0], r.GetVersion())
			})
		},
	}
	return parent("tokens", "Bearer tokens of SCIM, admins and proxies", create, list, tokenRotateCommand(o), revoke)
}

func tokenRotateCommand(o *options) *cobra.Command {
	var overlap time.Duration
	var expires string
	c := &cobra.Command{
		Use: "rotate ID", Short: "Make a token in the place of another, which goes on for a while",
		Long:    "Make a token in the place of another, which goes on for a while, so that what uses it can be changed over without a\ngap. It has the other's kind, name and directory. A proxy's token cannot be rotated: its name has one.",
		Example: "  sallyport tokens rotate 0199b2c4-7d1e-7c55-9d3a-1f2e3d4c5b6a\n  sallyport tokens rotate 0199b2c4-7d1e-7c55-9d3a-1f2e3d4c5b6a --overlap 0s    # the old one ends at once",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ttl, err := parseExpires(expires, time.Now())
			if err != nil {
				return err
			}
			req := &adminv1.RotateTokenRequest{Id: args[0], Overlap: durationpb.New(overlap), Ttl: ttl}
			return call(cmd.Context(), o, adminv1connect.NewTokenServiceClient, adminv1connect.TokenServiceClient.RotateToken, req, func(r *adminv1.RotateTokenResponse) table {
				return line("%s\nKeep it now: it is not shown again. Its id, for tokens revoke: %s\nThe old one ends at %s.", r.GetToken(), r.GetId(), when(r.GetOldExpiresAt()))
			})
		},
	}
	c.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old one goes on")
	c.Flags().StringVar(&expires, "expires", "", expiresHelp+" (default: an admin token in 90 days, another when it is revoked)")
	return c
}

func tokenCreateCommand(o *options, use string, kind adminv1.TokenKind, what, example string) *cobra.Command {
	req := &adminv1.CreateTokenRequest{Kind: kind}
	var role, expires, out string
	c := &cobra.Command{
		Use: use, Short: "Make a token " + what, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.Ttl, err = parseExpires(expires, time.Now()); err != nil {
				return err
			}
			if kind == adminv1.TokenKind_TOKEN_KIND_ADMIN {
				if req.Role, err = parseRole(role); err != nil {
					return err
				}
			}
			return showOnce(cmd.Context(), o, adminv1connect.NewTokenServiceClient, adminv1connect.TokenServiceClient.CreateToken, req, out, func(r *adminv1.CreateTokenResponse) string {
				return fmt.Sprintf("It is valid from version %d on.", r.GetVersion())
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", outHelp)
	c.Flags().StringVar(&req.Name, "name", "", "what to call it")
	ends := "when it is revoked"
	switch kind {
	case adminv1.TokenKind_TOKEN_KIND_ADMIN:
		ends = "in 90 days, and at most in 366"
		c.Flags().StringVar(&role, "role", "", "what it may do, never more than you: viewer, auditor, admin or owner")
		_ = c.MarkFlagRequired("role")
	case adminv1.TokenKind_TOKEN_KIND_SCIM:
		c.Flags().StringVar(&req.DirectoryId, "directory", "", "the directory that it may touch")
		_ = c.MarkFlagRequired("directory")
	}
	c.Flags().StringVar(&expires, "expires", "", expiresHelp+" (default: "+ends+")")
	return c
}
