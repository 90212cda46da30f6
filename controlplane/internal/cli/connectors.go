package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

func connectorsCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List connectors", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.ListConnectors,
				&adminv1.ListConnectorsRequest{}, func(r *adminv1.ListConnectorsResponse) table { return connectorsTable(r.GetConnectors()) })
		},
	}
	get := &cobra.Command{
		Use: "get ID", Short: "Show a connector with its pinned tools", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.GetConnector,
				&adminv1.GetConnectorRequest{Id: args[0]}, func(r *adminv1.GetConnectorResponse) table {
					t := table{head: []string{"TOOL", "DEFINITION"}}
					for _, tool := range r.GetTools() {
						t.rows = append(t.rows, []string{policy.Label(tool.GetKind(), tool.GetName()), cut(string(tool.GetDefinition()), 100)})
					}
					return t
				})
		},
	}
	discover := &cobra.Command{
		Use: "discover ID", Short: "Ask an upstream for its tools and list which differ from what is pinned: catalogue diff in short", Args: cobra.ExactArgs(1),
		Long: "Ask an upstream for its tools and list which differ from what is pinned, whole and a line each, for scripts that want the\n" +
			"definitions and exit code 0. To look at a difference and approve it, sallyport catalogue diff is the command: field by\n" +
			"field, with what looks like hidden instructions, and with what was last seen where the upstream cannot be asked.\n" +
			"It changes nothing.",
		Example: "  sallyport connectors discover github -o json | jq -r '.changes[].name'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.DiscoverCatalogue,
				&adminv1.DiscoverCatalogueRequest{ConnectorId: args[0]}, func(r *adminv1.DiscoverCatalogueResponse) table { return changesTable(args[0], r) })
		},
	}
	retire := &cobra.Command{
		Use: "retire ID", Short: "Take a connector, with its grants and its secret, from every agent", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.RetireConnector,
				&adminv1.RetireConnectorRequest{Id: args[0]}, func(r *adminv1.RetireConnectorResponse) table {
					return line("connector %s is retired at version %d", args[0], r.GetVersion())
				})
		},
	}
	return parent("connectors", "Upstream MCP servers", list, get, discover, checkCommand(o), trustCommand(o), retire, healthCommand(o))
}

func connectorsTable(all []*adminv1.ConnectorStatus) table {
	t := table{head: []string{"CONNECTOR", "URL", "REGIONS", "TOOLS", "SECRET"}}
	for _, c := range all {
		secret := secretWord(c)
		regions := strings.Join(c.GetConnector().GetRegions(), ",")
		if regions == "" {
			regions = "all"
		}
		t.rows = append(t.rows, []string{c.GetConnector().GetId(), c.GetConnector().GetUrl(), regions, fmt.Sprint(c.GetPinnedTools()), secret})
	}
	return t
}

// secretWord says what of a connector's credentials an admin has to set.
func secretWord(c *adminv1.ConnectorStatus) string {
	a := c.GetConnector().GetAuth()
	holder := max(a.GetHeader().GetHolder(), a.GetQuery().GetHolder())
	switch {
	case a.GetKind() == nil || a.GetPassThrough() != nil:
		return "not needed"
	case holder == policyv1.KeyHolder_KEY_HOLDER_PERSON:
		return "of each person"
	case holder == policyv1.KeyHolder_KEY_HOLDER_GROUP:
		return "of each group"
	case c.GetSecretSet():
		return "set"
	case a.GetOauth() != nil && a.GetOauth().GetClient().GetId() == "":
		return "not needed"
	}
	return "missing"
}

func changesTable(id string, r *adminv1.DiscoverCatalogueResponse) table {
	if len(r.GetChanges()) == 0 {
		return line("%s offers the %d tools that are pinned", id, r.GetUnchanged())
	}
	t := table{head: []string{"CHANGE", "TOOL", "DEFINITION NOW"}}
	for _, c := range r.GetChanges() {
		t.rows = append(t.rows, []string{lower(c.GetKind(), "TOOL_CHANGE_KIND_"), c.GetName(), dash(cut(string(c.GetOffered()), 100))})
	}
	return t
}

func secretsCommand(o *options) *cobra.Command {
	var connector, header, file string
	var keep bool
	set := &cobra.Command{
		Use: "set", Short: "Set a connector's secret: a key for everybody, or that of the gateway as a client; read from a file or standard input",
		Example: "  printf 'Bearer %s' \"$TOKEN\" | sallyport secrets set --connector salesforce",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			value, err := readSecret(cmd.InOrStdin(), cmp.Or(file, "-"))
			if err != nil {
				return err
			}
			if header != "" {
				if err := o.wantHeader(cmd, connector, header); err != nil {
					return err
				}
			}
			return call(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.SetConnectorSecret,
				&adminv1.SetConnectorSecretRequest{ConnectorId: connector, Value: value, KeepOthers: keep},
				func(r *adminv1.SetConnectorSecretResponse) table {
					return line("the secret of %s is set at version %d", connector, r.GetVersion())
				})
		},
	}
	set.Flags().StringVar(&connector, "connector", "", "the connector")
	set.Flags().StringVar(&header, "header", "", "refuse unless the connector sends the secret in this header")
	set.Flags().StringVar(&file, "value-file", "", "file with the header's value (default: standard input)")
	set.Flags().BoolVar(&keep, "keep-others", false, "keep the one from before beside it: the newest is sent, the other where it is refused")
	_ = set.MarkFlagRequired("connector")
	return parent("secrets", "Upstream secrets, kept in the vault and never shown", set)
}

// wantHeader refuses to store a secret for another header than the admin thinks of.
func (o *options) wantHeader(cmd *cobra.Command, connector, header string) error {
	got, err := ask(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.GetConnector, &adminv1.GetConnectorRequest{Id: connector})
	if err != nil {
		return err
	}
	have := got.GetStatus().GetConnector().GetAuth().GetHeader().GetName()
	if !strings.EqualFold(have, header) {
		return usage("connector %s sends its secret in %q, not in %q: change auth.header in its YAML", connector, have, header)
	}
	return nil
}
