package cli

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

var serviceClient = adminv1connect.NewServiceAccountServiceClient

func serviceAccountsCommand(o *options) *cobra.Command {
	var description string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a service account, without keys and in no group", Args: cobra.ExactArgs(1),
		Example: "  sallyport service-accounts create nightly-report --description 'reads Jira every night; asks: reporting@example.com'",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.CreateServiceAccountRequest{Name: args[0], Description: description}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.CreateServiceAccount, req, func(r *adminv1.CreateServiceAccountResponse) table {
				return line("service account %s is made at version %d; its id, and client id: %s\nnext: sallyport service-accounts keys generate %s --out key.json; sallyport service-accounts groups add GROUP %s; sallyport service-accounts token %s --key key.json --issuer URL",
					args[0], r.GetVersion(), r.GetId(), args[0], args[0], r.GetId())
			})
		},
	}
	create.Flags().StringVar(&description, "description", "", "what it is for, and who answers for it")
	list := &cobra.Command{
		Use: "list", Short: "List service accounts with their groups and keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.ListServiceAccounts, &adminv1.ListServiceAccountsRequest{}, serviceAccountsTable)
		},
	}
	c := parent("service-accounts", "Agents that act for no person", create, list,
		serviceActiveCommand(o, "disable", "Disable an account: all that it has ends at once", false),
		serviceActiveCommand(o, "enable", "Enable an account again, in the groups it had", true),
		serviceDeleteCommand(o), serviceKeysCommand(o), serviceGroupsCommand(o), serviceTokenCommand(o))
	c.Long = "Agents that act for no person. A service account proves who it is by a private key and is in groups of the directory\n\"service\", which admins keep; grants name these as any others: service/deployers."
	return c
}

func serviceAccountsTable(r *adminv1.ListServiceAccountsResponse) table {
	accounts := table{head: []string{"NAME", "ACTIVE", "GROUPS", "KEYS", "DESCRIPTION", "ID"}}
	keys := table{head: []string{"ACCOUNT", "KEY", "CREATED", "EXPIRES"}}
	for _, a := range r.GetAccounts() {
		var groups []string
		for _, g := range a.GetGroups() {
			groups = append(groups, g.GetName())
		}
		accounts.rows = append(accounts.rows, []string{a.GetName(), yes(a.GetActive()), dash(strings.Join(groups, ", ")), fmt.Sprint(len(a.GetKeys())), dash(cut(a.GetDescription(), 60)), a.GetId()})
		for _, k := range a.GetKeys() {
			keys.rows = append(keys.rows, []string{a.GetName(), k.GetId(), when(k.GetCreatedAt()), when(k.GetExpiresAt())})
		}
	}
	groups := table{head: []string{"GROUP", "ACCOUNTS"}}
	for _, g := range r.GetGroups() {
		groups.rows = append(groups.rows, []string{g.GetDirectoryId() + "/" + g.GetDisplayName(), number(g.GetMemberCount())})
	}
	if len(accounts.rows)+len(groups.rows) == 0 {
		return accounts
	}
	return tables("", accounts, keys, groups)
}

func serviceActiveCommand(o *options, use, short string, active bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.SetServiceAccountActiveRequest{Account: args[0], Active: active}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.SetServiceAccountActive, req, func(r *adminv1.SetServiceAccountActiveResponse) table {
				return line("service account %s is %sd at version %d", args[0], use, r.GetVersion())
			})
		},
	}
}

func serviceDeleteCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove an account for good; audit keeps its id", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.DeleteServiceAccountRequest{Account: args[0]}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.DeleteServiceAccount, req, func(r *adminv1.DeleteServiceAccountResponse) table {
				return line("service account %s is gone at version %d", args[0], r.GetVersion())
			})
		},
	}
}

func serviceKeysCommand(o *options) *cobra.Command {
	var file, expires string
	added := func(r *adminv1.AddServiceKeyResponse) table {
		return line("key %s is good from version %d on, for client id %s", r.GetKeyId(), r.GetVersion(), r.GetAccountId())
	}
	add := &cobra.Command{
		Use: "add NAME", Short: "Add the public half of a key that was made elsewhere", Args: cobra.ExactArgs(1),
		Example: "  sallyport service-accounts keys add nightly-report --jwk public.json --expires 180d",
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("reading the key: %w", err)
			}
			ttl, err := parseExpires(expires, time.Now())
			if err != nil {
				return err
			}
			req := &adminv1.AddServiceKeyRequest{Account: args[0], Jwk: data, Ttl: ttl}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.AddServiceKey, req, added)
		},
	}
	add.Flags().StringVar(&file, "jwk", "", "`file` with a public JSON Web Key")
	add.Flags().StringVar(&expires, "expires", "", expiresHelp+" (default: when it is removed)")
	_ = add.MarkFlagRequired("jwk")

	var out string
	generate := &cobra.Command{
		Use: "generate NAME", Short: "Make a key here, keep its private half in a file, and add the public one", Args: cobra.ExactArgs(1),
		Long:    "Make a key on this machine. Its private half is written to --out, readable by you alone, and leaves it for nowhere.",
		Example: "  sallyport service-accounts keys generate nightly-report --out key.json --expires 180d",
		RunE: func(cmd *cobra.Command, args []string) error {
			ttl, err := parseExpires(expires, time.Now())
			if err != nil {
				return err
			}
			private, public, err := newServiceKey()
			if err != nil {
				return err
			}
			handle, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usage("the key cannot be kept: %w", err)
			}
			_, err = handle.Write(private)
			if closed := handle.Close(); err == nil {
				err = closed
			}
			if err != nil {
				return fmt.Errorf("keeping the key: %w", err)
			}
			req := &adminv1.AddServiceKeyRequest{Account: args[0], Jwk: public, Ttl: ttl}
			res, err := ask(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.AddServiceKey, req)
			if err != nil {
				_ = os.Remove(out)
				return err
			}
			return o.print(res, func() table { return added(res) })
		},
	}
	generate.Flags().StringVar(&out, "out", "", "`file` for the private half, new")
	generate.Flags().StringVar(&expires, "expires", "", expiresHelp+" (default: when it is removed)")
	_ = generate.MarkFlagRequired("out")

	remove := &cobra.Command{
		Use: "remove NAME KEY", Short: "Remove a key; all that was issued to the account ends at once", Args: cobra.ExactArgs(2),
		Long:    "Remove a key, named by its id as `service-accounts list` shows it. Whatever was issued to the account ends at once.",
		Example: "  sallyport service-accounts keys remove nightly-report 3q2-7wAAAbQ\n  sallyport service-accounts keys remove nightly-report -- -Lixj3hHI1U   # an id that begins with a dash",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.RemoveServiceKeyRequest{Account: args[0], KeyId: args[1]}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.RemoveServiceKey, req, func(r *adminv1.RemoveServiceKeyResponse) table {
				return line("key %s of %s is gone at version %d", args[1], args[0], r.GetVersion())
			})
		},
	}
	return parent("keys", "Keys by which accounts prove who they are", add, generate, remove)
}

// newServiceKey makes a key, as two JSON Web Keys.
func newServiceKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	jwk := jose.JSONWebKey{Key: key, Algorithm: string(jose.ES256), Use: "sig"}
	half := jwk.Public()
	sum, err := half.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("naming a key: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum) // RFC 7638
	half.KeyID = jwk.KeyID
	if private, err = jwk.MarshalJSON(); err == nil {
		public, err = half.MarshalJSON()
	}
	return private, public, err
}

func serviceGroupsCommand(o *options) *cobra.Command {
	create := &cobra.Command{
		Use: "create GROUP", Short: "Make a group of service accounts", Args: cobra.ExactArgs(1),
		Example: "  sallyport service-accounts groups create deployers    # grants name it service/deployers",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.CreateServiceGroupRequest{Name: args[0]}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.CreateServiceGroup, req, func(r *adminv1.CreateServiceGroupResponse) table {
				return line("group service/%s is made at version %d", args[0], r.GetVersion())
			})
		},
	}
	remove := &cobra.Command{
		Use: "delete GROUP", Short: "Delete a group; its grants dangle and give nothing", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.DeleteServiceGroupRequest{Group: args[0]}
			return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.DeleteServiceGroup, req, func(r *adminv1.DeleteServiceGroupResponse) table {
				return line("group %s is gone at version %d", args[0], r.GetVersion())
			})
		},
	}
	change := func(use, short string, fill func(*adminv1.ChangeServiceGroupRequest, []string)) *cobra.Command {
		return &cobra.Command{
			Use: use + " GROUP NAME…", Short: short, Args: cobra.MinimumNArgs(2),
			Example: "  sallyport service-accounts groups " + use + " deployers nightly-report",
			RunE: func(cmd *cobra.Command, args []string) error {
				req := &adminv1.ChangeServiceGroupRequest{Group: args[0]}
				fill(req, args[1:])
				return call(cmd.Context(), o, serviceClient, adminv1connect.ServiceAccountServiceClient.ChangeServiceGroup, req, func(r *adminv1.ChangeServiceGroupResponse) table {
					return line("group %s is as it was asked for at version %d", args[0], r.GetVersion())
				})
			},
		}
	}
	return parent("groups", "Groups of service accounts", create, remove,
		change("add", "Put accounts into a group", func(r *adminv1.ChangeServiceGroupRequest, names []string) { r.Add = names }),
		change("remove", "Take accounts out of a group", func(r *adminv1.ChangeServiceGroupRequest, names []string) { r.Remove = names }))
}
