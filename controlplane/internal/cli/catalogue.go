package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// errToApprove says by its exit code that an upstream offers what is not pinned.
var errToApprove = codedError{errors.New("there is something to approve"), ExitChanges}

func catalogueCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "Say of each connector what its upstream offers otherwise than it is pinned", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewCatalogueServiceClient, adminv1connect.CatalogueServiceClient.ListCatalogues,
				&adminv1.ListCataloguesRequest{}, cataloguesTable)
		},
	}
	var file string
	diff := &cobra.Command{
		Use: "diff CONNECTOR", Short: "Show in what an upstream's list differs from what is pinned, and what in it looks like hidden instructions", Args: cobra.ExactArgs(1),
		Long: "Show, field by field, in what an upstream's list differs from what is pinned, and what in it looks like hidden\n" +
			"instructions. The upstream is asked now; where it cannot be, what was last seen of it is shown. It changes nothing.\n" +
			"Whatever a terminal would not show is escaped. The exit code is 2 if there is a difference, 0 if there is none.",
		Example: "  sallyport catalogue diff github\n  sallyport catalogue diff github -o json | jq -r .digest\n" +
			"  sallyport-proxy runner list salesforce --config runner.yaml > salesforce.json\n  sallyport catalogue diff salesforce --file salesforce.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			seen, err := look(cmd.Context(), o, args[0], file)
			if err != nil {
				return err
			}
			if err := o.print(seen.DiffCatalogueResponse, func() table { return diffTable(seen) }); err != nil {
				return err
			}
			if len(seen.GetChanges()) > 0 {
				return errToApprove
			}
			return nil
		},
	}
	diff.Flags().StringVar(&file, "file", "", "look at "+fileHelp)
	return parent("catalogue", "Pinned tool definitions, and what upstreams offer beside them", list, diff, approveCommand(o))
}

// fileHelp is what a file of definitions is.
const fileHelp = "what is in this JSON file, for an upstream that control planes do not reach: an object with tools, prompts, resources and resourceTemplates, as MCP lists them"

// offered is what an upstream, or a file, offers beside what is pinned.
type offered struct {
	*adminv1.DiffCatalogueResponse
	connector, file string
	tools           []*policyv1.Tool // of the file
}

// named is how commands name it.
func (d *offered) named() string {
	if d.file == "" {
		return d.connector
	}
	return d.connector + " --file " + d.file
}

// look asks how what an upstream offers, or what a file has, differs from what is pinned.
func look(ctx context.Context, o *options, connector, file string) (*offered, error) {
	d := &offered{connector: connector, file: file}
	var err error
	if file != "" {
		if d.tools, err = readCatalogue(file); err != nil {
			return nil, err
		}
	}
	d.DiffCatalogueResponse, err = ask(ctx, o, adminv1connect.NewCatalogueServiceClient, adminv1connect.CatalogueServiceClient.DiffCatalogue,
		&adminv1.DiffCatalogueRequest{ConnectorId: connector, Tools: d.tools})
	return d, err
}

func approveCommand(o *options) *cobra.Command {
	var digest, file string
	c := &cobra.Command{
		Use: "approve CONNECTOR [TOOL…]", Short: "Pin what an upstream offers: agents see these definitions and no others", Args: cobra.MinimumNArgs(1),
		Long: "Pin what an upstream offers, or only the tools that are named, by the names that `catalogue diff` shows; what is named\n" +
			"and was removed upstream is not pinned any more. With --digest, only if it is what you looked at: `catalogue diff` prints\n" +
			"the digest. Without it, what is offered at this moment is shown and pinned, unless something in it looks like hidden\n" +
			"instructions. With --file what is in the file is pinned, looked at in the same way.",
		Example: "  sallyport catalogue approve github\n  sallyport catalogue approve github create_issue --digest 6d0c…\n" +
			"  sallyport-proxy runner list salesforce --config runner.yaml > salesforce.json\n  sallyport catalogue approve salesforce --file salesforce.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.ApproveCatalogueRequest{ConnectorId: args[0], Digest: digest, Names: args[1:]}
			if digest == "" || file != "" {
				seen, err := lookFirst(cmd.Context(), o, args[0], file, digest, args[1:])
				if err != nil {
					return err
				}
				if req.Digest, req.Tools = seen.GetDigest(), seen.tools; file != "" {
					req.Digest = ""
				}
			}
			return call(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.ApproveCatalogue,
				req, func(r *adminv1.ApproveCatalogueResponse) table {
					said := fmt.Sprintf("%d definitions of %s are pinned at version %d", r.GetPinnedTools(), args[0], r.GetVersion())
					if len(r.GetLeftOut()) > 0 {
						said += "; left out, since they cannot be pinned: " + strings.Join(r.GetLeftOut(), ", ")
					}
					return line("%s", said)
				})
		},
	}
	c.Flags().StringVar(&digest, "digest", "", "pin only if what is offered has this digest")
	c.Flags().StringVar(&file, "file", "", "pin "+fileHelp)
	o.waits(c)
	return c
}

// lookFirst shows what is about to be pinned. What looks like hidden instructions is to be looked at in peace, and pinned by its digest.
func lookFirst(ctx context.Context, o *options, connector, file, digest string, names []string) (*offered, error) {
	seen, err := look(ctx, o, connector, file)
	if err != nil {
		return nil, err
	}
	if digest != "" && digest != seen.GetDigest() {
		return nil, fmt.Errorf("%s holds other definitions than those that were approved, and nothing was pinned: look again with sallyport catalogue diff %s", file, seen.named())
	}
	named := map[string]bool{}
	for _, name := range names {
		named[name] = true
	}
	findings := 0
	for _, c := range seen.GetChanges() {
		if len(named) == 0 || named[c.GetName()] {
			findings += len(c.GetFindings())
		}
	}
	if findings > 0 && digest == "" {
		return nil, fmt.Errorf("%d places in what %s offers look like hidden instructions, and nothing was pinned: look at them with sallyport catalogue diff %s, then approve what you saw with --digest %s",
			findings, connector, seen.named(), seen.GetDigest())
	}
	if o.output == "table" {
		return seen, summaryTable(seen).write(o.out)
	}
	return seen, nil
}

func cataloguesTable(r *adminv1.ListCataloguesResponse) table {
	t := table{head: []string{"CONNECTOR", "PINNED", "ADDED", "CHANGED", "REMOVED", "FINDINGS", "SEEN", "LIST OF", "PROBLEM"}}
	for _, c := range r.GetCatalogues() {
		pinned, seen, by := "nothing yet", "", ""
		if c.GetPinned() {
			pinned = fmt.Sprint(c.GetPinnedTools())
		}
		if c.GetSeenAt() != nil {
			seen, by = when(c.GetSeenAt()), listOf(c.GetListOf())
		}
		t.rows = append(t.rows, []string{
			c.GetConnectorId(), pinned, fmt.Sprint(c.GetAdded()), fmt.Sprint(c.GetChanged()), fmt.Sprint(c.GetRemoved()), fmt.Sprint(c.GetFindings()), dash(seen), dash(by), dash(c.GetProblem()),
		})
	}
	return t
}

func listOf(person string) string {
	if person == "" {
		return "everybody"
	}
	return person
}

// summaryTable says what differs, a line for each definition.
func summaryTable(r *offered) table {
	if len(r.GetChanges()) == 0 {
		return line("%s offers the %d definitions that are pinned", r.connector, r.GetUnchanged())
	}
	t := table{head: []string{"CHANGE", "TOOL", "FIELDS"}}
	for _, c := range r.GetChanges() {
		t.rows = append(t.rows, []string{changeWord(c), c.GetName(), fmt.Sprint(len(c.GetFields()))})
	}
	return t
}

func changeWord(c *adminv1.DefinitionChange) string {
	if c.GetUnusable() != "" {
		return "unusable"
	}
	return lower(c.GetKind(), "TOOL_CHANGE_KIND_")
}

// diffTable writes a difference for people: all of it, since what is cut is what one would hide.
func diffTable(r *offered) table {
	var b strings.Builder
	if r.GetProblem() != "" {
		fmt.Fprintf(&b, "This is the list of %s as it was seen at %s: %s\n\n", listOf(r.GetListOf()), when(r.GetSeenAt()), printable(r.GetProblem()))
	}
	if len(r.GetChanges()) == 0 {
		fmt.Fprintf(&b, "%s offers the %d definitions that are pinned", r.connector, r.GetUnchanged())
		return line("%s", b.String())
	}
	findings := 0
	for _, c := range r.GetChanges() {
		fmt.Fprintf(&b, "%s %s\n", changeWord(c), c.GetName())
		if c.GetUnusable() != "" {
			fmt.Fprintf(&b, "    cannot be pinned: %s\n", c.GetUnusable())
		}
		for _, f := range c.GetFields() {
			fmt.Fprintf(&b, "  %s\n", cmp.Or(f.GetPath(), "/"))
			if f.GetPinned() != "" {
				fmt.Fprintf(&b, "    - %s\n", f.GetPinned())
			}
			if f.GetOffered() != "" {
				fmt.Fprintf(&b, "    + %s\n", f.GetOffered())
			}
		}
		for _, f := range c.GetFindings() {
			findings++
			fmt.Fprintf(&b, "  ! %s at %s: %s\n      %s\n", f.GetKind(), f.GetPath(), f.GetText(), f.GetExcerpt())
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%d differ, %d are as they are pinned", len(r.GetChanges()), r.GetUnchanged())
	if findings > 0 {
		fmt.Fprintf(&b, "; %d places (!) look like hidden instructions", findings)
	}
	fmt.Fprintf(&b, "\nTo pin what you see: sallyport catalogue approve %s --digest %s", r.named(), r.GetDigest())
	return line("%s", b.String())
}

// readCatalogue reads definitions from a file: MCP's lists as members of one object.
func readCatalogue(file string) ([]*policyv1.Tool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, usage("%w", err)
	}
	var lists struct {
		Tools             []json.RawMessage `json:"tools"`
		Prompts           []json.RawMessage `json:"prompts"`
		Resources         []json.RawMessage `json:"resources"`
		ResourceTemplates []json.RawMessage `json:"resourceTemplates"`
	}
	if err := json.Unmarshal(data, &lists); err != nil {
		return nil, usage("%s holds no object of lists: %w", file, err)
	}
	var all []*policyv1.Tool
	for _, list := range []struct {
		kind policyv1.Kind
		of   []json.RawMessage
	}{
		{policyv1.Kind_KIND_TOOL, lists.Tools}, {policyv1.Kind_KIND_PROMPT, lists.Prompts},
		{policyv1.Kind_KIND_RESOURCE, lists.Resources}, {policyv1.Kind_KIND_RESOURCE_TEMPLATE, lists.ResourceTemplates},
	} {
		for _, definition := range list.of {
			var named struct{ Name, URI, URITemplate string }
			if err := json.Unmarshal(definition, &named); err != nil {
				return nil, usage("%s: a definition is no object: %w", file, err)
			}
			name := map[policyv1.Kind]string{policyv1.Kind_KIND_RESOURCE: named.URI, policyv1.Kind_KIND_RESOURCE_TEMPLATE: named.URITemplate}[list.kind]
			all = append(all, &policyv1.Tool{Kind: list.kind, Name: cmp.Or(name, named.Name), Definition: definition})
		}
	}
	if len(all) == 0 {
		return nil, usage("%s lists nothing", file)
	}
	return all, nil
}

// catalogueDocument is how a connector's YAML says how its upstream's list is followed.
type catalogueDocument struct {
	Changes string `yaml:"changes,omitempty" json:"changes,omitempty" jsonschema:"What becomes of a pinned tool that the upstream changed: hold, withhold or accept; default hold"`
	Added   string `yaml:"added,omitempty" json:"added,omitempty" jsonschema:"What becomes of what is new upstream: hold or accept; default hold"`
	Every   length `yaml:"every,omitempty" json:"every,omitempty" jsonschema:"How often the upstream is asked; default 5m"`
	As      string `yaml:"as,omitempty" json:"as,omitempty" jsonschema:"Where each person has their own credential: whose is used to ask"`
}

var catalogueChanges = map[string]policyv1.CatalogueChange{
	"": 0, "hold": policyv1.CatalogueChange_CATALOGUE_CHANGE_HOLD, "withhold": policyv1.CatalogueChange_CATALOGUE_CHANGE_WITHHOLD,
	"accept": policyv1.CatalogueChange_CATALOGUE_CHANGE_ACCEPT,
}

func (d *catalogueDocument) wire() (*policyv1.CatalogueSettings, error) {
	c := &policyv1.CatalogueSettings{As: d.As}
	var err error
	if c.Changes, err = oneOf("catalogue.changes", d.Changes, catalogueChanges); err != nil {
		return nil, err
	}
	if c.Added, err = oneOf("catalogue.added", d.Added, catalogueChanges); err != nil {
		return nil, err
	}
	c.Every, err = d.Every.wire("catalogue.every")
	return c, err
}

func catalogueDocumentOf(c *policyv1.CatalogueSettings) *catalogueDocument {
	if c == nil {
		return nil
	}
	return &catalogueDocument{
		Changes: wordFor(c.GetChanges(), catalogueChanges), Added: wordFor(c.GetAdded(), catalogueChanges), Every: lengthOf(c.GetEvery()), As: c.GetAs(),
	}
}
