package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v4"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func exportCommand(o *options) *cobra.Command {
	var at string
	c := &cobra.Command{
		Use: "export", Short: "Write the policy that stands, or stood, as YAML that apply takes", Args: cobra.NoArgs,
		Long: "Write the policy that stands as YAML that apply takes: connectors, rule sets, grants and audit exporters, always in the same order.\n" +
			"To apply it changes nothing.\n\n" +
			"Catalogues, blocks and secrets are no part of it. Grants to groups and people who are gone give nothing; a comment names them.",
		Example: "  sallyport export > policy/all.yaml\n  sallyport export | diff policy/all.yaml -\n  sallyport export --as-of 2026-11-03T14:00:00Z",
		RunE: func(cmd *cobra.Command, _ []string) error {
			asOf, err := asOf(at)
			if err != nil {
				return err
			}
			res, err := ask(cmd.Context(), o, adminv1connect.NewExportServiceClient, adminv1connect.ExportServiceClient.ExportPolicy, &adminv1.ExportPolicyRequest{AsOf: asOf})
			if err != nil {
				return err
			}
			if o.output == "json" {
				return o.print(res, nil)
			}
			return writeExport(o.out, res)
		},
	}
	c.Flags().StringVar(&at, "as-of", "", asOfUsage)
	return c
}

// writeExport writes a document for each resource.
func writeExport(w io.Writer, r *adminv1.ExportPolicyResponse) error {
	if _, err := fmt.Fprintf(w, "# The policy at version %d%s.\n", r.GetVersion(), stood(r.GetStanding())); err != nil {
		return err
	}
	for _, g := range r.GetDangling() {
		if _, err := fmt.Fprintf(w, "# Left out, since its group or person is gone: the grant of %s on %s\n", g.GetGroup()+g.GetPerson(), g.GetConnector()); err != nil {
			return err
		}
	}
	var all []any
	for _, c := range r.GetConnectors() {
		all = append(all, connectorDocumentOf(c))
	}
	for _, set := range r.GetRuleSets() {
		all = append(all, ruleSetDocumentOf(set))
	}
	for _, g := range r.GetGrants() {
		all = append(all, grantDocumentOf(g))
	}
	for _, e := range r.GetAuditExporters() {
		all = append(all, exporterDocumentOf(e))
	}
	if len(all) == 0 {
		return nil
	}
	data, err := yaml.Dump(all, yaml.WithAllDocuments(), yaml.WithExplicitStart(), yaml.WithLineWidth(-1))
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
