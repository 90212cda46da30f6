package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// parent groups commands under a noun.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(children...)
	return c
}

func directoriesCommand(o *options) *cobra.Command {
	var issuer, audience, claim, attribute string
	var keep bool
	var alarm uint32
	set := &cobra.Command{
		Use: "create ID", Aliases: []string{"set"}, Short: "Create a directory, or replace its settings",
		Long: "Create a directory: one identity provider's population. People sign in at its issuer and are matched to\nprovisioned users by one pair: a claim of the access token and an attribute that SCIM provisions.",
		Example: "  # Okta with a custom authorization server\n" +
			"  sallyport directories create okta --issuer https://example.okta.com/oauth2/default \\\n" +
			"    --audience https://mcp.example.com --user-claim uid --user-attribute externalId",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &policyv1.Directory{Id: args[0], KeepMemberships: keep, AlarmPercent: alarm}
			switch attribute {
			case "externalId":
				d.MatchAttribute = policyv1.MatchAttribute_MATCH_ATTRIBUTE_EXTERNAL_ID
			case "userName":
				d.MatchAttribute = policyv1.MatchAttribute_MATCH_ATTRIBUTE_USER_NAME
			default:
				return usage("--user-attribute is externalId or userName, not %q", attribute)
			}
			if issuer != "" {
				d.Issuers = []*policyv1.Issuer{{Url: issuer, Audience: audience, UserClaim: claim}}
			}
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.SetDirectory, &adminv1.SetDirectoryRequest{Directory: d}, func(r *adminv1.SetDirectoryResponse) table {
				return line("directory %s is set at version %d\nnext: sallyport tokens create scim --directory %s", args[0], r.GetVersion(), args[0])
			})
		},
	}
	set.Flags().StringVar(&issuer, "issuer", "", "issuer of access tokens that agents present")
	set.Flags().StringVar(&audience, "audience", "", "audience that a token must carry (default: the resource URL)")
	set.Flags().StringVar(&claim, "user-claim", "sub", "claim that holds the person's unchanging id")
	set.Flags().StringVar(&attribute, "user-attribute", "externalId", "SCIM attribute that equals the claim: externalId or userName")
	set.Flags().BoolVar(&keep, "keep-memberships", false, "let a reactivated person's old memberships count at once")
	set.Flags().Uint32Var(&alarm, "alarm-percent", 0, "raise an alarm where more than this share of the active people is deactivated, or gets other groups, within an hour (default 20; fewer than ten people are never one)")
	list := &cobra.Command{
		Use: "list", Short: "List directories", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.ListDirectories, &adminv1.ListDirectoriesRequest{}, func(r *adminv1.ListDirectoriesResponse) table {
				t := table{head: []string{"DIRECTORY", "MATCHED BY", "SIGN-IN AT", "ISSUERS"}}
				for _, d := range r.GetDirectories() {
					issuers := ""
					for _, i := range d.GetIssuers() {
						issuers += i.GetUrl() + " "
					}
					t.rows = append(t.rows, []string{d.GetId(), lower(d.GetMatchAttribute(), "MATCH_ATTRIBUTE_"), dash(d.GetSignIn().GetIssuer()), dash(issuers)})
				}
				return t
			})
		},
	}
	return parent("directories", "Identity providers' populations", set, list, signInCommand(o), signalsCommand(o))
}

// pageFlags are the flags of commands that list.
func pageFlags(c *cobra.Command, limit *uint32, token *string) {
	c.Flags().Uint32Var(limit, "limit", 100, "how many to show, at most 1000")
	c.Flags().StringVar(token, "page-token", "", "next_page_token of the page before")
}

func usersCommand(o *options) *cobra.Command {
	var directory, token string
	var limit uint32
	list := &cobra.Command{
		Use: "list", Short: "List provisioned users", Args: cobra.NoArgs, Example: "  sallyport users list --directory okta -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.ListUsers, &adminv1.ListUsersRequest{DirectoryId: directory, PageSize: limit, PageToken: token}, func(r *adminv1.ListUsersResponse) table {
				return usersTable(r.GetUsers())
			})
		},
	}
	list.Flags().StringVar(&directory, "directory", "", "only of this directory")
	pageFlags(list, &limit, &token)
	get := &cobra.Command{
		Use: "get USER", Short: "Show a user", Long: "Show a user, by id, user name, or directory/user name.", Args: cobra.ExactArgs(1), Example: "  sallyport users get ann@example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.GetUser, &adminv1.GetUserRequest{User: args[0]}, func(r *adminv1.GetUserResponse) table { return usersTable([]*adminv1.User{r.GetUser()}) })
		},
	}
	revoke := &cobra.Command{
		Use: "revoke-sessions USER", Short: "End a person's sessions, streams and calls in flight everywhere", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.RevokeSessions, &adminv1.RevokeSessionsRequest{User: args[0]}, func(r *adminv1.RevokeSessionsResponse) table {
				return line("revoked at version %d; where it is enforced: sallyport receipt --version %d --wait", r.GetVersion(), r.GetVersion())
			})
		},
	}
	return parent("users", "Provisioned users", list, get, revoke, confirmCommand(o), rebindCommand(o), eraseCommand(o), erasuresCommand(o))
}

func confirmCommand(o *options) *cobra.Command {
	var all bool
	var directory string
	c := &cobra.Command{
		Use: "confirm-memberships [USER]", Short: "Let a reactivated person's held memberships count again",
		Long:    "Let a reactivated person's held memberships count again. sallyport scim status lists who waits.",
		Example: "  sallyport users confirm-memberships ann@example.com\n  sallyport users confirm-memberships --all --directory okta",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) == 0 && directory != "":
				return confirmAll(cmd.Context(), o, directory)
			case !all && len(args) == 1 && directory == "":
				return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.ConfirmMemberships, &adminv1.ConfirmMembershipsRequest{User: args[0]}, func(r *adminv1.ConfirmMembershipsResponse) table {
					return line("confirmed at version %d", r.GetVersion())
				})
			}
			return usage("name a user, or --all and --directory")
		},
	}
	c.Flags().BoolVar(&all, "all", false, "everybody of a directory who waits")
	c.Flags().StringVar(&directory, "directory", "", "the directory of --all")
	return c
}

func rebindCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "rebind USER", Short: "Let a person who was renamed sign in by the userName that they have now",
		Long:    "Let a person who was renamed sign in by the userName that they have now. Where a directory matches people by userName,\nthey sign in by the one under which they were provisioned, so that no rename hands anybody's access to another.\nsallyport scim status lists who was renamed. Be sure that it is the same person.",
		Example: "  sallyport users rebind ann.new@example.com", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.RebindUser, &adminv1.RebindUserRequest{User: args[0]}, func(r *adminv1.RebindUserResponse) table {
				return line("bound again at version %d", r.GetVersion())
			})
		},
	}
}

// confirmAll confirms who waits, as the status lists them, until nobody does.
func confirmAll(ctx context.Context, o *options, directory string) error {
	client := adminv1connect.NewDirectoryServiceClient
	confirmed := 0
	for {
		status, err := ask(ctx, o, client, adminv1connect.DirectoryServiceClient.GetProvisioningStatus, &adminv1.GetProvisioningStatusRequest{DirectoryId: directory})
		if err != nil {
			return err
		}
		waiting := status.GetDirectories()[0].GetWaitingUsers()
		if len(waiting) == 0 {
			return o.print(map[string]int{"confirmed": confirmed}, func() table { return line("the memberships of %d people are confirmed", confirmed) })
		}
		for _, u := range waiting {
			if _, err := ask(ctx, o, client, adminv1connect.DirectoryServiceClient.ConfirmMemberships, &adminv1.ConfirmMembershipsRequest{User: u.GetId()}); err != nil {
				return err
			}
			confirmed++
		}
	}
}

func usersTable(users []*adminv1.User) table {
	t := table{head: []string{"USER", "NAME", "ACTIVE", "GROUPS", "ID"}}
	for _, u := range users {
		groups := ""
		for i, g := range u.GetGroups() {
			if i > 0 {
				groups += ", "
			}
			groups += g.GetName()
		}
		if n := len(u.GetHeldGroups()); n > 0 {
			groups += fmt.Sprintf(" (+%d held)", n)
		}
		t.rows = append(t.rows, []string{u.GetDirectoryId() + "/" + u.GetUserName(), dash(u.GetDisplayName()), yes(u.GetActive()), dash(groups), u.GetId()})
	}
	return t
}

func groupsCommand(o *options) *cobra.Command {
	var directory, token string
	var limit uint32
	list := &cobra.Command{
		Use: "list", Short: "List provisioned groups", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.ListGroups, &adminv1.ListGroupsRequest{DirectoryId: directory, PageSize: limit, PageToken: token}, func(r *adminv1.ListGroupsResponse) table {
				t := table{head: []string{"GROUP", "MEMBERS", "ID"}}
				for _, g := range r.GetGroups() {
					t.rows = append(t.rows, []string{g.GetDirectoryId() + "/" + g.GetDisplayName(), fmt.Sprint(g.GetMemberCount()), g.GetId()})
				}
				return t
			})
		},
	}
	list.Flags().StringVar(&directory, "directory", "", "only of this directory")
	pageFlags(list, &limit, &token)
	get := &cobra.Command{
		Use: "get GROUP", Short: "Show a group's members", Args: cobra.ExactArgs(1), Example: "  sallyport groups get 'okta/Senior Engineers'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.GetGroup, &adminv1.GetGroupRequest{Group: args[0], PageSize: limit, PageToken: token}, func(r *adminv1.GetGroupResponse) table { return usersTable(r.GetMembers()) })
		},
	}
	pageFlags(get, &limit, &token)
	return parent("groups", "Provisioned groups", list, get)
}
