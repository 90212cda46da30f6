package cli

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

var credentialClient = adminv1connect.NewCredentialServiceClient

func credentialsCommand(o *options) *cobra.Command {
	c := parent("credentials", "What the vault holds for upstreams: whose, for what, how old; never a value",
		credentialsListCommand(o), credentialsSetCommand(o), credentialsRotateCommand(o), credentialsRevokeCommand(o))
	c.Long = "What the vault holds for upstreams: keys that admins set, tokens that people let the gateway have, and what their\nsign-in was exchanged for. Who is deactivated loses all of theirs with that; --withdrawn says what became of it upstream."
	return c
}

func credentialsListCommand(o *options) *cobra.Command {
	req := &adminv1.ListCredentialsRequest{}
	list := &cobra.Command{
		Use: "list", Short: "List credentials, or with --withdrawn what became of those that are out of use", Args: cobra.NoArgs,
		Example: "  sallyport credentials list --connector github\n  sallyport credentials list --person ann@example.com --withdrawn",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := &adminv1.ListCredentialsResponse{}
			for {
				page, err := ask(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.ListCredentials, req)
				if err != nil {
					return err
				}
				all.Credentials = append(all.Credentials, page.GetCredentials()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			return o.print(all, func() table { return credentialsTable(all, req.GetWithdrawn()) })
		},
	}
	list.Flags().StringVar(&req.ConnectorId, "connector", "", "only of this connector")
	list.Flags().StringVar(&req.Person, "person", "", "only of this person, who may be gone (then by id)")
	list.Flags().BoolVar(&req.Withdrawn, "withdrawn", false, "those that are out of use, for 90 days after they were destroyed")
	return list
}

func credentialsTable(r *adminv1.ListCredentialsResponse, withdrawn bool) table {
	t := table{head: []string{"OWNER", "CONNECTOR", "KIND", "CREATED", "LAST USED", "EXPIRES", "ID"}}
	if withdrawn {
		t.head = []string{"OWNER", "CONNECTOR", "KIND", "WITHDRAWN", "UPSTREAM", "DESTROYED HERE", "ID"}
	}
	for _, c := range r.GetCredentials() {
		row := []string{c.GetOwner(), cmp.Or(c.GetConnectorId(), "(identity provider)"), lower(c.GetKind(), "CREDENTIAL_KIND_")}
		if withdrawn {
			row = append(row, ago(c.GetWithdrawnAt()), upstreamWord(c), ago(c.GetDestroyedAt()))
		} else {
			expires := ago(c.GetExpiresAt())
			if c.GetFailedAt() != nil {
				expires += " (renewal failed " + ago(c.GetFailedAt()) + ")"
			}
			row = append(row, ago(c.GetCreatedAt()), ago(c.GetUsedAt()), expires)
		}
		t.rows = append(t.rows, append(row, c.GetId()))
	}
	return t
}

// upstreamWord says plainly what became of a withdrawn credential at its upstream.
func upstreamWord(c *adminv1.Credential) string {
	switch c.GetOutcome() {
	case policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_REVOKED:
		return "revoked"
	case policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_NO_REVOCATION:
		if c.GetKind() == policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
			return "a key cannot be revoked from here: withdraw it there by hand, if others know it"
		}
		return "cannot be revoked there: ends by its time"
	case policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_GIVEN_UP:
		return "NOT revoked, given up: revoke it there by hand"
	case policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_FAILED:
		return "failed, again " + ago(c.GetNextTryAt())
	case policyv1.CredentialOutcome_CREDENTIAL_OUTCOME_GONE:
		return "nothing was left"
	}
	return "under way"
}

func credentialsSetCommand(o *options) *cobra.Command {
	req := &adminv1.SetKeyRequest{}
	var file string
	set := &cobra.Command{
		Use: "set", Short: "Set the key of a person or a group; read from a file or standard input", Args: cobra.NoArgs,
		Example: "  sallyport credentials set --connector analytics --group okta/Sales --value-file key\n  sallyport credentials set --connector analytics --person ann@example.com --keep-others < key    # rotate without a gap",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.Value, err = readSecret(cmd.InOrStdin(), cmp.Or(file, "-")); err != nil {
				return err
			}
			return call(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.SetKey, req, func(r *adminv1.SetKeyResponse) table {
				return line("the key of %s on %s is set at version %d", req.GetPerson()+req.GetGroup(), req.GetConnectorId(), r.GetVersion())
			})
		},
	}
	set.Flags().StringVar(&req.ConnectorId, "connector", "", "the connector")
	set.Flags().StringVar(&req.Person, "person", "", "the person")
	set.Flags().StringVar(&req.Group, "group", "", "the group")
	set.Flags().StringVar(&file, "value-file", "", "file with the key (default: standard input)")
	set.Flags().BoolVar(&req.KeepOthers, "keep-others", false, "keep the one from before beside it: the newest is sent, the other where it is refused")
	_ = set.MarkFlagRequired("connector")
	return set
}

func credentialsRotateCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "rotate ID", Short: "Renew the tokens of a credential now; proxies get the new ones at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.RenewCredential, &adminv1.RenewCredentialRequest{Id: args[0]},
				func(r *adminv1.RenewCredentialResponse) table {
					return line("renewed; the new token expires %s", ago(r.GetExpiresAt()))
				})
		},
	}
}

func credentialsRevokeCommand(o *options) *cobra.Command {
	req := &adminv1.RevokeCredentialsRequest{}
	revoke := &cobra.Command{
		Use: "revoke [ID…]", Short: "Take credentials out of use at once, revoke them upstream and destroy them",
		Example: "  sallyport credentials revoke 0190b5f4-…\n  sallyport credentials revoke --person ann@example.com --connector github",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && req.GetPerson() == "" && req.GetConnectorId() == "" {
				return usage("say which: ids, --person or --connector")
			}
			req.Ids = args
			return call(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.RevokeCredentials, req, func(r *adminv1.RevokeCredentialsResponse) table {
				return line("%d credentials are out of use at version %d; what becomes of them upstream: sallyport credentials list --withdrawn", r.GetRevoked(), r.GetVersion())
			})
		},
	}
	revoke.Flags().StringVar(&req.ConnectorId, "connector", "", "all of this connector")
	revoke.Flags().StringVar(&req.Person, "person", "", "all of this person")
	return revoke
}

func trustCommand(o *options) *cobra.Command {
	var yes bool
	var digest string
	c := &cobra.Command{
		Use: "trust ID", Short: "Show where an upstream's tokens come from, and with --yes approve it", Args: cobra.ExactArgs(1),
		Long:    "Show which authorization server a connector's upstream names, beside the one that is approved. Tokens are asked for at the\napproved one and nowhere else: when an upstream names another, nobody is sent there until an admin approves it.",
		Example: "  sallyport connectors trust jira          # look\n  sallyport connectors trust jira --yes    # approve",
		RunE: func(cmd *cobra.Command, args []string) error {
			if yes {
				return call(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.TrustUpstreamServer, &adminv1.TrustUpstreamServerRequest{ConnectorId: args[0], Digest: digest},
					func(r *adminv1.TrustUpstreamServerResponse) table {
						return line("%s gets its tokens from %s, as of version %d", args[0], serverName(r.GetApproved()), r.GetVersion())
					})
			}
			return call(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.FindUpstreamServer, &adminv1.FindUpstreamServerRequest{ConnectorId: args[0]},
				func(r *adminv1.FindUpstreamServerResponse) table { return trustTable(args[0], r) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "approve what is found")
	c.Flags().StringVar(&digest, "digest", "", "with --yes: refuse unless it is still what was shown")
	return c
}

func serverName(s *policyv1.UpstreamAuthorizationServer) string {
	return cmp.Or(s.GetIssuer(), s.GetTokenEndpoint())
}

func trustTable(connector string, r *adminv1.FindUpstreamServerResponse) table {
	t := table{head: []string{"", "NAMED NOW", "APPROVED"}}
	row := func(what string, of func(*policyv1.UpstreamAuthorizationServer) string) {
		t.rows = append(t.rows, []string{what, dash(of(r.GetFound())), dash(of(r.GetApproved()))})
	}
	row("issuer", (*policyv1.UpstreamAuthorizationServer).GetIssuer)
	row("people say yes at", (*policyv1.UpstreamAuthorizationServer).GetAuthorizationEndpoint)
	row("tokens", (*policyv1.UpstreamAuthorizationServer).GetTokenEndpoint)
	row("registration", (*policyv1.UpstreamAuthorizationServer).GetRegistrationEndpoint)
	row("revocation", (*policyv1.UpstreamAuthorizationServer).GetRevocationEndpoint)
	row("resource", (*policyv1.UpstreamAuthorizationServer).GetResource)
	row("scopes", func(s *policyv1.UpstreamAuthorizationServer) string { return strings.Join(s.GetScopes(), " ") })
	t.rows = append(t.rows, []string{"the gateway there", r.GetClient(), ""}, []string{"its redirect URI", r.GetRedirectUri(), ""})
	return tables("", t, table{head: []string{"NEXT"}, rows: [][]string{{"sallyport connectors trust " + connector + " --yes --digest " + r.GetDigest()}}})
}
