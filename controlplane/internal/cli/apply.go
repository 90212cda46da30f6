package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// maxPolicyFile bounds a file of resources.
const maxPolicyFile = 4 << 20

// resource is one YAML document: a connector, a rule set or a grant.
type resource struct {
	Kind string `yaml:"kind"`

	// Connector.
	ID          string        `yaml:"id"`
	Title       string        `yaml:"title"`
	URL         string        `yaml:"url"`
	Regions     []string      `yaml:"regions"`
	Auth        *upstreamAuth `yaml:"auth"`
	Timeout     string        `yaml:"timeout"`
	IdleTimeout string        `yaml:"idleTimeout"`
	Transport   string        `yaml:"transport"`
	Consent     []string      `yaml:"consent"`
	Retries     *uint32       `yaml:"retries"`
	Breaker     *struct {
		Failures uint32 `yaml:"failures"`
		OpenFor  string `yaml:"openFor"`
	} `yaml:"breaker"`
	AllowedRanges []string `yaml:"allowedRanges"`

	// Grant.
	Group          string   `yaml:"group"`
	Person         string   `yaml:"person"`
	Everyone       string   `yaml:"everyone"`
	ServiceAccount string   `yaml:"serviceAccount"`
	Connector      string   `yaml:"connector"`
	RuleSets       []string `yaml:"ruleSets"`
	Until          string   `yaml:"until"`

	// RuleSet.
	Name string `yaml:"name"`

	// Both.
	Rules []rule `yaml:"rules"`
}

func applyCommand(o *options) *cobra.Command {
	var files []string
	var dryRun bool
	c := &cobra.Command{
		Use: "apply -f FILE|DIR", Short: "Create or replace connectors, rule sets and grants from YAML files, all or none",
		Example: "  sallyport apply -f policy/\n  sallyport apply -f grants.yaml --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := policyFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if req.DryRun = dryRun; dryRun {
				o.wait = false
			}
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.Apply, req, func(r *adminv1.ApplyResponse) table {
				t := table{head: []string{"KIND", "NAME", "ACTION"}}
				for _, change := range r.GetChanges() {
					t.rows = append(t.rows, []string{change.GetKind(), change.GetName(), lower(change.GetAction(), "APPLIED_ACTION_")})
				}
				return t
			})
		},
	}
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, filesUsage)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and show, but change nothing")
	o.waits(c)
	return c
}

// readResources adds the documents of a file, or of each YAML file of a folder in the order of their names.
func readResources(path string, stdin io.Reader, req *adminv1.ApplyRequest) error {
	if path == "-" {
		return readDocuments("standard input", stdin, req)
	}
	info, err := os.Stat(path)
	if err != nil {
		return usage("%w", err)
	}
	paths := []string{path}
	if info.IsDir() {
		paths = nil
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if ext := filepath.Ext(p); err == nil && !d.IsDir() && (ext == ".yaml" || ext == ".yml") {
				paths = append(paths, p)
			}
			return err
		})
		if err != nil {
			return usage("%w", err)
		}
		if len(paths) == 0 {
			return usage("%s holds no .yaml file", path)
		}
		slices.Sort(paths)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return usage("%w", err)
		}
		if err := readDocuments(p, bytes.NewReader(data), req); err != nil {
			return err
		}
	}
	return nil
}

func readDocuments(name string, r io.Reader, req *adminv1.ApplyRequest) error {
	decoder := yaml.NewDecoder(io.LimitReader(r, maxPolicyFile))
	decoder.KnownFields(true)
	for i := 1; ; i++ {
		var doc *resource
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && doc != nil {
			err = doc.addTo(req)
		}
		if err != nil {
			return usage("%s, document %d: %s", name, i, strings.TrimPrefix(err.Error(), "yaml: "))
		}
	}
}

// others tells whether a document of one kind says what belongs to another.
func (d *resource) others() error {
	connector := d.ID != "" || d.URL != "" || d.Title != "" || d.Regions != nil || d.Auth != nil || d.Timeout != "" ||
		d.IdleTimeout != "" || d.Transport != "" || d.Consent != nil || d.Retries != nil || d.Breaker != nil ||
		d.AllowedRanges != nil
	grant := d.Group != "" || d.Person != "" || d.Everyone != "" || d.ServiceAccount != "" || d.Connector != "" || d.RuleSets != nil || d.Until != ""
	switch {
	case d.Kind == "Connector" && (grant || d.Name != "" || d.Rules != nil):
		return errors.New("a Connector has no name, rules, nor anybody to whom it is")
	case d.Kind == "Grant" && (connector || d.Name != ""):
		return errors.New("a Grant has one of group, person, serviceAccount and everyone, and connector, rules, ruleSets and until only")
	case d.Kind == "RuleSet" && (connector || grant):
		return errors.New("a RuleSet has name and rules only")
	}
	return nil
}

func (d *resource) addTo(req *adminv1.ApplyRequest) error {
	if err := d.others(); err != nil {
		return err
	}
	switch d.Kind {
	case "Connector":
		c, err := d.connector()
		if err != nil {
			return err
		}
		req.Connectors = append(req.Connectors, c)
	case "Grant":
		g := &adminv1.Grant{Group: d.Group, Person: d.Person, Everyone: d.Everyone, Connector: d.Connector, RuleSets: d.RuleSets}
		if d.ServiceAccount != "" {
			if d.Person != "" {
				return errors.New("a Grant is to one of group, person, serviceAccount and everyone")
			}
			g.Person = "service/" + d.ServiceAccount
		}
		var err error
		if g.Rules, err = rulesOf(d.Rules); err != nil {
			return err
		}
		if g.Until, err = instant("until", d.Until); err != nil {
			return err
		}
		req.Grants = append(req.Grants, g)
	case "RuleSet":
		rules, err := rulesOf(d.Rules)
		if err != nil {
			return err
		}
		req.RuleSets = append(req.RuleSets, &policyv1.RuleSet{Name: d.Name, Rules: rules})
	default:
		return fmt.Errorf("kind is Connector, RuleSet or Grant, not %q", d.Kind)
	}
	return nil
}

// connector is what a document of that kind says.
func (d *resource) connector() (*policyv1.Connector, error) {
	var auth *policyv1.UpstreamAuth
	var err error
	if d.Auth != nil {
		if auth, err = d.Auth.wire(); err != nil {
			return nil, err
		}
	}
	c := &policyv1.Connector{Id: d.ID, Title: d.Title, Url: d.URL, Regions: d.Regions, Auth: auth, Retries: d.Retries, AllowedRanges: d.AllowedRanges}
	if c.Timeout, err = duration("timeout", d.Timeout); err != nil {
		return nil, err
	}
	if c.IdleTimeout, err = duration("idleTimeout", d.IdleTimeout); err != nil {
		return nil, err
	}
	switch d.Transport {
	case "":
	case "http":
		c.Transport = policyv1.Transport_TRANSPORT_STREAMABLE_HTTP
	case "sse":
		c.Transport = policyv1.Transport_TRANSPORT_SSE
	default:
		return nil, fmt.Errorf("transport is http or sse, not %q", d.Transport)
	}
	for _, what := range d.Consent {
		if c.Consent == nil {
			c.Consent = &policyv1.Consent{}
		}
		switch what {
		case "sampling":
			c.Consent.Sampling = true
		case "elicitation":
			c.Consent.Elicitation = true
		case "roots":
			c.Consent.Roots = true
		default:
			return nil, fmt.Errorf("consent lists sampling, elicitation and roots, not %q", what)
		}
	}
	if d.Breaker != nil {
		c.Breaker = &policyv1.Breaker{Failures: d.Breaker.Failures}
		if c.Breaker.OpenFor, err = duration("breaker.openFor", d.Breaker.OpenFor); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// duration reads one, or none.
func duration(field, text string) (*durationpb.Duration, error) {
	if text == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return durationpb.New(d), nil
}
