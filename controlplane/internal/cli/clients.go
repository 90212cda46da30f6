package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// knownBy is how a client came to be known.
func knownBy(c *adminv1.ClientStatus) string {
	switch {
	case c.GetRegistered():
		return "registration"
	case c.GetDocument():
		return "document"
	}
	return "an admin"
}

func clientsCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the clients that admins described or approved, that registered themselves, or whose documents were fetched", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.ListClients, &adminv1.ListClientsRequest{}, func(r *adminv1.ListClientsResponse) table {
				t := table{head: []string{"CLIENT", "NAME", "KNOWN BY", "APPROVED", "BLOCKED", "LAST USED", "EXPIRES", "IS SENT TO"}}
				for _, c := range r.GetClients() {
					t.rows = append(t.rows, []string{c.GetClient().GetId(), dash(c.GetClient().GetName()), knownBy(c), yes(c.GetApproved()), yes(c.GetBlocked()), when(c.GetUsedAt()), when(c.GetExpiresAt()), dash(strings.Join(c.GetClient().GetRedirectUris(), " "))})
				}
				return t
			})
		},
	}
	var redirects []string
	var name string
	var secret, bound bool
	var keys string
	approve := &cobra.Command{
		Use: "approve CLIENT", Aliases: []string{"set"}, Short: "Approve a client, or describe one whole",
		Long: "Approve a client that registered itself or that names itself by the URL of a metadata document. With --redirect-uri the\nclient is described whole: for one that cannot register, and, with a URL as id, in a network that has no way to the document.",
		Example: "  sallyport clients approve https://claude.ai/oauth/mcp-oauth-client-metadata\n" +
			"  sallyport clients approve copilot-studio --name 'Copilot Studio' --redirect-uri https://global.consent.azure-apim.net/redirect --secret\n" +
			"  sallyport clients approve crm-portal --redirect-uri https://crm.example.com/oauth/callback --jwks public.json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.SetClientRequest{Client: &policyv1.Client{Id: args[0], Name: name, RedirectUris: redirects, DpopBoundAccessTokens: bound}, MakeSecret: secret}
			if keys != "" {
				data, err := os.ReadFile(keys)
				if err != nil {
					return fmt.Errorf("reading the client's keys: %w", err)
				}
				req.Client.Jwks = data
			}
			return call(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.SetClient, req, func(r *adminv1.SetClientResponse) table {
				if r.GetClientSecret() != "" {
					return line("client %s is set at version %d; its secret, which is shown once:\n%s", args[0], r.GetVersion(), r.GetClientSecret())
				}
				return line("client %s is approved at version %d", args[0], r.GetVersion())
			})
		},
	}
	approve.Flags().StringSliceVar(&redirects, "redirect-uri", nil, "where the client may be sent (default: where it says itself)")
	approve.Flags().StringVar(&name, "name", "", "what people read (default: what it calls itself)")
	approve.Flags().BoolVar(&secret, "secret", false, "make a secret with which the client authenticates, and print it")
	approve.Flags().StringVar(&keys, "jwks", "", "`file` with a public JSON Web Key, or a set of them, by which the client proves who it is in place of a secret (private_key_jwt)")
	approve.Flags().BoolVar(&bound, "dpop", false, "refuse the client tokens that are not bound to a key of its own (DPoP)")
	remove := &cobra.Command{
		Use: "remove CLIENT", Short: "Take back what was said of a client; one that registered itself is forgotten", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.RemoveClient, &adminv1.RemoveClientRequest{ClientId: args[0]}, func(r *adminv1.RemoveClientResponse) table {
				return line("client %s is removed at version %d; its sessions go on: sallyport sessions revoke --client %s", args[0], r.GetVersion(), args[0])
			})
		},
	}
	var reason string
	var lasts time.Duration
	block := &cobra.Command{
		Use: "block CLIENT", Short: "Block a client everywhere, calls in flight included; see sallyport blocks to lift it", Args: cobra.ExactArgs(1),
		Example: "  sallyport clients block dcr_6HQ2 --reason 'stolen laptop'",
		RunE: func(cmd *cobra.Command, args []string) error {
			b := &policyv1.Block{Reason: reason, Target: &policyv1.Block_ClientId{ClientId: args[0]}}
			if lasts > 0 {
				b.Until = timestamppb.New(time.Now().Add(lasts))
			}
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.PlaceBlock, &adminv1.PlaceBlockRequest{Block: b}, func(r *adminv1.PlaceBlockResponse) table {
				return line("client %s is blocked at version %d by block %s", args[0], r.GetVersion(), r.GetId())
			})
		},
	}
	block.Flags().StringVar(&reason, "reason", "", "why")
	block.Flags().DurationVar(&lasts, "for", 0, "how long (default: until it is lifted)")
	_ = block.MarkFlagRequired("reason")
	return parent("clients", "Agents' programs: which may be used", list, approve, remove, block, clientPolicyCommand(o), clientConfigCommand(o))
}

var admissions = map[string]policyv1.Admission{
	"open": policyv1.Admission_ADMISSION_OPEN, "approved": policyv1.Admission_ADMISSION_APPROVED, "off": policyv1.Admission_ADMISSION_OFF,
}

func clientPolicyCommand(o *options) *cobra.Command {
	var documents, registration string
	var allow, deny []string
	var idle, most, window time.Duration
	c := &cobra.Command{
		Use: "policy", Short: "Show what the authorization server permits, or set it",
		Long:    "Show what the authorization server permits. With flags: set it; what is not named stays.",
		Example: "  sallyport clients policy --registration off --documents approved\n  sallyport clients policy --allow-host claude.ai --allow-host '*.example.com'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			have, err := ask(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.GetAuthorizationPolicy, &adminv1.GetAuthorizationPolicyRequest{})
			if err != nil {
				return err
			}
			p, f := have.GetPolicy(), cmd.Flags()
			if p == nil {
				p = &policyv1.AuthorizationPolicy{}
			}
			changed := false
			for name, set := range map[string]func() bool{
				"documents":    func() bool { a, ok := admissions[documents]; p.MetadataDocuments = a; return ok },
				"registration": func() bool { a, ok := admissions[registration]; p.DynamicRegistration = a; return ok },
				"allow-host":   func() bool { p.AllowHosts = allow; return true },
				"deny-host":    func() bool { p.DenyHosts = deny; return true },
				"session-idle": func() bool { p.SessionIdle = durationpb.New(idle); return true },
				"session-max":  func() bool { p.SessionMax = durationpb.New(most); return true },
				"reuse-window": func() bool { p.ReuseWindow = durationpb.New(window); return true },
			} {
				if !f.Changed(name) {
					continue
				}
				changed = true
				if !set() {
					return usage("--%s is open, approved or off", name)
				}
			}
			if !changed {
				return o.print(p, func() table { return policyTable(p) })
			}
			return call(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.SetAuthorizationPolicy, &adminv1.SetAuthorizationPolicyRequest{Policy: p}, func(r *adminv1.SetAuthorizationPolicyResponse) table {
				return line("set at version %d", r.GetVersion())
			})
		},
	}
	f := c.Flags()
	f.StringVar(&documents, "documents", "", "clients that name themselves by a metadata document: open, approved or off")
	f.StringVar(&registration, "registration", "", "clients that register themselves: open, approved or off")
	f.StringSliceVar(&allow, "allow-host", nil, "hosts whose metadata documents are taken, such as claude.ai or '*.example.com' (none: all that are not denied)")
	f.StringSliceVar(&deny, "deny-host", nil, "hosts whose metadata documents are not taken")
	f.DurationVar(&idle, "session-idle", 0, "how long a session may lie unused (default 336h)")
	f.DurationVar(&most, "session-max", 0, "how long a session may live in all (default 2160h)")
	f.DurationVar(&window, "reuse-window", 0, "how long a superseded refresh token answers with its successor (default 2m)")
	return c
}

func policyTable(p *policyv1.AuthorizationPolicy) table {
	admission := func(a policyv1.Admission) string {
		if a == policyv1.Admission_ADMISSION_UNSPECIFIED {
			return "open"
		}
		return lower(a, "ADMISSION_")
	}
	lasts := func(d *durationpb.Duration, otherwise string) string {
		if d == nil {
			return otherwise
		}
		return d.AsDuration().String()
	}
	return table{head: []string{"SETTING", "VALUE"}, rows: [][]string{
		{"metadata documents", admission(p.GetMetadataDocuments())}, {"dynamic registration", admission(p.GetDynamicRegistration())},
		{"allowed hosts", dash(strings.Join(p.GetAllowHosts(), " "))}, {"denied hosts", dash(strings.Join(p.GetDenyHosts(), " "))},
		{"session idle", lasts(p.GetSessionIdle(), "336h0m0s")}, {"session max", lasts(p.GetSessionMax(), "2160h0m0s")}, {"reuse window", lasts(p.GetReuseWindow(), "2m0s")},
	}}
}

func keysCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the keys that sign access tokens", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.ListSigningKeys, &adminv1.ListSigningKeysRequest{}, func(r *adminv1.ListSigningKeysResponse) table {
				t := table{head: []string{"KEY", "ISSUER", "SIGNS FROM"}}
				for _, k := range r.GetKeys() {
					t.rows = append(t.rows, []string{k.GetId(), k.GetIssuer(), when(k.GetNotBefore())})
				}
				return t
			})
		},
	}
	var compromised bool
	rotate := &cobra.Command{
		Use: "rotate", Short: "Make a new key to sign access tokens with",
		Long:    "Make a new key. It signs once every proxy knows it, after one lease; the old ones go when their last token has expired.",
		Example: "  sallyport keys rotate\n  sallyport keys rotate --compromised   # every agent has to refresh its token now",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewClientServiceClient, adminv1connect.ClientServiceClient.RotateSigningKeys, &adminv1.RotateSigningKeysRequest{Compromised: compromised}, func(r *adminv1.RotateSigningKeysResponse) table {
				return line("key %s was made at version %d and signs from %s on", r.GetKey().GetId(), r.GetVersion(), when(r.GetKey().GetNotBefore()))
			})
		},
	}
	rotate.Flags().BoolVar(&compromised, "compromised", false, "sign with the new key at once, and let no token count that another signed")
	return parent("keys", "Keys that sign access tokens", list, rotate)
}

func sessionsCommand(o *options) *cobra.Command {
	var limit uint32
	var token string
	listed, ended := &adminv1.SessionFilter{}, &adminv1.SessionFilter{}
	var listUnused, endUnused time.Duration
	list := &cobra.Command{
		Use: "list", Short: "List people's sessions with agents", Args: cobra.NoArgs,
		Example: "  sallyport sessions list --user ann@example.com\n  sallyport sessions list --region eu-west --unused-for 168h -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if listUnused > 0 {
				listed.UnusedFor = durationpb.New(listUnused)
			}
			return call(cmd.Context(), o, adminv1connect.NewSessionServiceClient, adminv1connect.SessionServiceClient.ListSessions, &adminv1.ListSessionsRequest{Filter: listed, PageSize: limit, PageToken: token}, func(r *adminv1.ListSessionsResponse) table {
				t := table{head: []string{"SESSION", "USER", "CLIENT", "REGION", "ADDRESS", "BEGAN", "USED", "EXPIRES"}}
				for _, x := range r.GetSessions() {
					name := x.GetClientName()
					if name == "" {
						name = x.GetClientId()
					}
					t.rows = append(t.rows, []string{x.GetId(), x.GetUser(), cut(name, 40), dash(x.GetRegion()), dash(x.GetAddress()), ago(x.GetBeganAt()), ago(x.GetUsedAt()), when(x.GetExpiresAt())})
				}
				return t
			})
		},
	}
	pageFlags(list, &limit, &token)
	sessionFlags(list, listed, &listUnused)
	revoke := &cobra.Command{
		Use: "revoke [SESSION]", Short: "End sessions, with their streams and calls in flight, everywhere", Args: cobra.MaximumNArgs(1),
		Example: "  sallyport sessions revoke 0198f3c2-…\n  sallyport sessions revoke --client dcr_6HQ2\n  sallyport sessions revoke --unused-for 720h",
		RunE: func(cmd *cobra.Command, args []string) error {
			if endUnused > 0 {
				ended.UnusedFor = durationpb.New(endUnused)
			}
			if len(args) == 1 {
				ended.SessionId = args[0]
			}
			return call(cmd.Context(), o, adminv1connect.NewSessionServiceClient, adminv1connect.SessionServiceClient.EndSessions, &adminv1.EndSessionsRequest{Filter: ended}, func(r *adminv1.EndSessionsResponse) table {
				return line("%d sessions ended at version %d; where that is enforced: sallyport receipt --version %d --wait", r.GetEnded(), r.GetVersion(), r.GetVersion())
			})
		},
	}
	sessionFlags(revoke, ended, &endUnused)
	return parent("sessions", "People's sessions with agents", list, revoke)
}

func sessionFlags(c *cobra.Command, f *adminv1.SessionFilter, unused *time.Duration) {
	c.Flags().StringVar(&f.User, "user", "", "of this user: an id, a user name, or directory/user name")
	c.Flags().StringVar(&f.ClientId, "client", "", "with this client")
	c.Flags().StringVar(&f.Region, "region", "", "used last in this region")
	c.Flags().DurationVar(unused, "unused-for", 0, "not used for so long")
}
