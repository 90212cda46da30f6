package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

// errFindings: the doctor found problems. The findings are printed; this says so in the exit code.
var errFindings = errors.New("problems were found: see what to do next to each")

func doctorCommand(o *options) *cobra.Command {
	return parent("doctor", "Look whether an identity provider and Sallyport fit together", doctorOktaCommand(o), doctorEntraCommand(o))
}

const doctorLong = "It looks whether SCIM reaches Sallyport, whether people can sign in, whether the pair that joins the two agrees, and who has\n" +
	"the one without the other, and says what to do about each. It asks the provider for its metadata and keys, and whether it\nknows the client and its secret. Nothing is changed. The exit code is 1 where there is a problem.\n"

func doctorOktaCommand(o *options) *cobra.Command {
	var directory, tokenFile string
	var asked okta
	c := &cobra.Command{
		Use: "okta", Short: "Look whether Okta and Sallyport fit together", Args: cobra.NoArgs,
		Long: doctorLong + "\nWithout Okta's API it can tell only of people who tried to sign in. With a read-only API token (okta.apps.read) it compares who\n" +
			"is assigned to the two apps with who is provisioned. The token is used by this command alone: it is not sent to Sallyport.",
		Example: "  sallyport doctor okta\n  sallyport doctor okta -o json\n" +
			"  sallyport doctor okta --okta-url https://example.okta.com --okta-token-file token --oidc-app 0oa1 --scim-app 0oa2    # or OKTA_API_TOKEN",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asked.url != "" || asked.oidc != "" || asked.scim != "" || tokenFile != "" {
				asked.token = os.Getenv("OKTA_API_TOKEN")
				if tokenFile != "" {
					data, err := os.ReadFile(tokenFile)
					if err != nil {
						return usage("reading Okta's API token: %w", err)
					}
					asked.token = strings.TrimSpace(string(data))
				}
				if err := asked.complete(); err != nil {
					return err
				}
			}
			return diagnose(cmd.Context(), o, directory, adminv1.Provider_PROVIDER_OKTA, &asked)
		},
	}
	f := c.Flags()
	f.StringVar(&directory, "directory", "okta", "the directory")
	f.StringVar(&asked.url, "okta-url", "", "URL of the Okta org, such as https://example.okta.com, to ask its API who is assigned")
	f.StringVar(&tokenFile, "okta-token-file", "", "file with a read-only API token of Okta (default: env OKTA_API_TOKEN)")
	f.StringVar(&asked.oidc, "oidc-app", "", "id of the OIDC app at Okta (0oa…)")
	f.StringVar(&asked.scim, "scim-app", "", "id of the SCIM app at Okta (0oa…)")
	return c
}

func doctorEntraCommand(o *options) *cobra.Command {
	var directory string
	c := &cobra.Command{
		Use: "entra", Short: "Look whether Entra ID and Sallyport fit together", Args: cobra.NoArgs, Long: doctorLong, Example: "  sallyport doctor entra --directory entra",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return diagnose(cmd.Context(), o, directory, adminv1.Provider_PROVIDER_ENTRA, nil)
		},
	}
	c.Flags().StringVar(&directory, "directory", "entra", "the directory")
	return c
}

func diagnose(ctx context.Context, o *options, directory string, provider adminv1.Provider, asked *okta) error {
	res, err := ask(ctx, o, adminv1connect.NewDoctorServiceClient, adminv1connect.DoctorServiceClient.DiagnoseDirectory, &adminv1.DiagnoseDirectoryRequest{DirectoryId: directory, Provider: provider})
	if err != nil {
		return err
	}
	if asked != nil && asked.url != "" {
		more, err := asked.compare(ctx, o, directory)
		if err != nil {
			return err
		}
		// What could not be told without Okta is told now.
		res.Findings = slices.DeleteFunc(res.GetFindings(), func(f *adminv1.Finding) bool { return f.GetCheck() == "people: never signed in" })
		res.Findings = append(res.Findings, more...)
	}
	if err := o.print(res, func() table { return findingsTable(res) }); err != nil {
		return err
	}
	if slices.ContainsFunc(res.GetFindings(), func(f *adminv1.Finding) bool { return f.GetSeverity() == adminv1.Severity_SEVERITY_PROBLEM }) {
		return errFindings
	}
	return nil
}

// findingsTable is a line for each finding, then what to do about those that ask for something, and whom they concern.
func findingsTable(r *adminv1.DiagnoseDirectoryResponse) table {
	found := table{head: []string{"", "CHECK", "FOUND"}}
	next := table{head: []string{"CHECK", "WHAT TO DO NEXT"}}
	whom := table{head: []string{"CHECK", "CONCERNS"}}
	for _, f := range r.GetFindings() {
		found.rows = append(found.rows, []string{strings.ToUpper(lower(f.GetSeverity(), "SEVERITY_")), f.GetCheck(), f.GetText()})
		if f.GetNext() != "" && f.GetSeverity() != adminv1.Severity_SEVERITY_GOOD {
			next.rows = append(next.rows, []string{f.GetCheck(), f.GetNext()})
		}
		if people := f.GetPeople(); len(people) > 0 {
			text := strings.Join(people, ", ")
			if more := int(f.GetCount()) - len(people); more > 0 {
				text += fmt.Sprintf(" and %d more", more)
			}
			whom.rows = append(whom.rows, []string{f.GetCheck(), text})
		}
	}
	return tables("", found, next, whom)
}
