package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func adminsCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List what makes somebody an admin", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.ListAdmins, &adminv1.ListAdminsRequest{}, adminsTable)
		},
	}
	directory := &cobra.Command{
		Use: "directory [DIRECTORY]", Short: "Name the one directory whose people may be admins; without a name, nobody's may", Args: cobra.MaximumNArgs(1),
		Long: "Name the one directory whose people may be admins. They are when they are in a group with a role (admins grant) and\n" +
			"have signed in there lately (sallyport login). Roles of another directory's groups end. From then on only an owner changes\nthe directory's settings or makes SCIM tokens for it.",
		Example: "  sallyport admins directory okta",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.NameAdminDirectoryRequest{DirectoryId: strings.Join(args, "")}
			return call(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.NameAdminDirectory, req, func(r *adminv1.NameAdminDirectoryResponse) table {
				if req.GetDirectoryId() == "" {
					return line("no directory's people are admins, at version %d", r.GetVersion())
				}
				return line("people of %s may be admins, at version %d\nnext: sallyport admins grant %s/GROUP ROLE", req.GetDirectoryId(), r.GetVersion(), req.GetDirectoryId())
			})
		},
	}
	return parent("admins", "Who the admins are", list, directory, adminsGrantCommand(o), adminsRevokeCommand(o), firstOwnerCommand(o))
}

const rolesHelp = "viewer reads what is set up, auditor reads audit too, admin changes what is set up, owner says who the admins are:\neach may do all that those before it may."

func adminsGrantCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "grant GROUP viewer|auditor|admin|owner", Short: "Give a group's people a role", Args: cobra.ExactArgs(2),
		Long:    "Give the people of a group a role, in place of the one that it gave: " + rolesHelp,
		Example: "  sallyport admins grant okta/Sallyport-Owners owner\n  sallyport admins grant okta/SOC auditor",
		RunE: func(cmd *cobra.Command, args []string) error {
			role, err := parseRole(args[1])
			if err != nil {
				return err
			}
			return setGroupRole(cmd, o, args[0], role, func(r *adminv1.SetGroupRoleResponse) table {
				return line("people of %s who sign in are %s, at version %d", args[0], args[1], r.GetVersion())
			})
		},
	}
}

func adminsRevokeCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "revoke GROUP", Short: "Take the role away that a group gives; sessions by it end at once", Args: cobra.ExactArgs(1),
		Example: "  sallyport admins revoke okta/SOC",
		RunE: func(cmd *cobra.Command, args []string) error {
			return setGroupRole(cmd, o, args[0], policyv1.Role_ROLE_UNSPECIFIED, func(r *adminv1.SetGroupRoleResponse) table {
				return line("%s gives no role any more, at version %d", args[0], r.GetVersion())
			})
		},
	}
}

func setGroupRole(cmd *cobra.Command, o *options, group string, role policyv1.Role, show func(*adminv1.SetGroupRoleResponse) table) error {
	return call(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.SetGroupRole, &adminv1.SetGroupRoleRequest{Group: group, Role: role}, show)
}

func parseRole(text string) (policyv1.Role, error) {
	role, known := policyv1.Role_value["ROLE_"+strings.ToUpper(text)]
	if !known || role == 0 {
		return 0, usage("a role is viewer, auditor, admin or owner, not %q", text)
	}
	return policyv1.Role(role), nil
}

func adminsTable(r *adminv1.ListAdminsResponse) table {
	groups := table{head: []string{"GROUP", "ROLE", "PEOPLE", "WHO"}}
	for _, g := range r.GetGroups() {
		var who []string
		for _, u := range g.GetUsers() {
			who = append(who, u.GetUserName())
		}
		groups.rows = append(groups.rows, []string{g.GetGroup().GetName(), roleText(g.GetRole()), number(g.GetPeople()), cut(dash(strings.Join(who, ", ")), 80)})
	}
	tokens := table{head: []string{"TOKEN", "KIND", "ROLE", "NAME", "EXPIRES"}}
	for _, t := range r.GetTokens() {
		tokens.rows = append(tokens.rows, []string{t.GetId(), lower(t.GetKind(), "TOKEN_KIND_"), roleText(t.GetRole()), dash(t.GetName()), when(t.GetExpiresAt())})
	}
	uses := table{head: []string{"BREAK-GLASS USED", "CREDENTIAL", "TOKEN", "REASON"}}
	for _, u := range r.GetBreakGlassUses() {
		uses.rows = append(uses.rows, []string{when(u.GetAt()), u.GetTokenId(), u.GetOpenedId(), u.GetReason()})
	}
	text := "people of " + strconv.Quote(r.GetDirectoryId()) + " may be admins, by these groups and when they sign in"
	if r.GetDirectoryId() == "" {
		text = "no directory is named for admins (sallyport admins directory): only tokens make somebody an admin"
	}
	return tables(text, groups, tokens, uses)
}

func roleText(r policyv1.Role) string {
	if r == policyv1.Role_ROLE_UNSPECIFIED {
		return "-"
	}
	return lower(r, "ROLE_")
}

func firstOwnerCommand(o *options) *cobra.Command {
	var name, expires, out string
	c := &cobra.Command{
		Use: "first-owner", Short: "Exchange the bootstrap token for an owner's admin token", Args: cobra.NoArgs,
		Long: "Exchange the bootstrap token, which a control plane that nobody owns writes to DATA-DIR/bootstrap-token, for an owner's\n" +
			"admin token. It works once, within an hour of the start.",
		Example: "  sallyport admins first-owner --token-file DATA-DIR/bootstrap-token --name ann\n" +
			"  sallyport admins first-owner --token-file DATA-DIR/bootstrap-token --name set-up --expires 24h --out owner-token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ttl, err := parseExpires(expires, time.Now())
			if err != nil {
				return err
			}
			return showOnce(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.BecomeFirstOwner,
				&adminv1.BecomeFirstOwnerRequest{Name: name, Ttl: ttl}, out, func(r *adminv1.BecomeFirstOwnerResponse) string {
					return "It ends at " + when(r.GetExpiresAt()) + "."
				})
		},
	}
	c.Flags().StringVar(&name, "name", "owner", "what to call the token")
	c.Flags().StringVar(&expires, "expires", "", expiresHelp+" (default: in 90 days)")
	c.Flags().StringVar(&out, "out", "", outHelp)
	return c
}

func breakGlassCommand(o *options) *cobra.Command {
	return parent("break-glass", "The owner's credential for the day on which nobody can sign in", breakGlassCreateCommand(o), breakGlassOpenCommand(o))
}

func breakGlassCreateCommand(o *options) *cobra.Command {
	req := &adminv1.CreateBreakGlassRequest{}
	var out string
	c := &cobra.Command{
		Use: "create", Short: "Make the credential, in place of the one before; it is shown once, to be sealed", Args: cobra.NoArgs,
		Long: "Make the break-glass credential, in place of the one before. Print it, seal it, lock it away: it works without the identity\n" +
			"provider, and each use is an alarm. It opens nothing itself: break-glass open exchanges it for an owner's token of an hour.",
		Example: "  sallyport break-glass create --name 'safe in room 12'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showOnce(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.CreateBreakGlass,
				req, out, func(*adminv1.CreateBreakGlassResponse) string {
					return "Seal it and lock it away. To use it: sallyport break-glass open --token-file FILE --reason …"
				})
		},
	}
	c.Flags().StringVar(&req.Name, "name", "", "who keeps it, or where it lies")
	c.Flags().StringVar(&out, "out", "", outHelp)
	_ = c.MarkFlagRequired("name")
	return c
}

func breakGlassOpenCommand(o *options) *cobra.Command {
	req := &adminv1.OpenBreakGlassRequest{}
	var out string
	c := &cobra.Command{
		Use: "open", Short: "Exchange the credential for an owner's token of an hour; this is an alarm", Args: cobra.NoArgs,
		Example: "  sallyport break-glass open --token-file /media/sealed --reason 'Okta is down, INC-4711' --out owner-token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showOnce(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.OpenBreakGlass,
				req, out, func(r *adminv1.OpenBreakGlassResponse) string {
					return fmt.Sprintf("It ends at %s. The use is on the log, at version %d.", when(r.GetExpiresAt()), r.GetVersion())
				})
		},
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why; kept on the log")
	c.Flags().StringVar(&out, "out", "", outHelp)
	_ = c.MarkFlagRequired("reason")
	return c
}

func whoamiCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show as whom the control plane takes you, and what you may do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAdminServiceClient, adminv1connect.AdminServiceClient.WhoAmI, &adminv1.WhoAmIRequest{}, func(r *adminv1.WhoAmIResponse) table {
				who, id := r.GetName(), r.GetUserId()
				if id == "" {
					who, id = lower(r.GetTokenKind(), "TOKEN_KIND_")+" token "+strconv.Quote(r.GetName()), r.GetTokenId()
				}
				return table{head: []string{"WHO", "ROLE", "EXPIRES", "ID"}, rows: [][]string{{who, roleText(r.GetRole()), when(r.GetExpiresAt()), id}}}
			})
		},
	}
}
