package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v4"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func policyCommand(o *options) *cobra.Command {
	return parent("policy", "What a change of policy would do, and how to take one back", planCommand(o), backtestCommand(o), schemaCommand(o), policyTestCommand(o), rollbackCommand(o))
}

// errWouldChange is no failure: what was planned is printed.
var errWouldChange = codedError{errors.New("there is something to apply"), ExitChanges}

// policyFiles reads the resources of -f.
func policyFiles(files []string, stdin io.Reader) (*adminv1.ApplyRequest, error) {
	if len(files) == 0 {
		return nil, usage("say which policy with -f FILE or -f DIR")
	}
	req := &adminv1.ApplyRequest{}
	for _, path := range files {
		if err := readResources(path, stdin, req); err != nil {
			return nil, err
		}
	}
	return req, nil
}

const filesUsage = "a YAML file, a folder of them, or - for standard input"

func planCommand(o *options) *cobra.Command {
	var files []string
	var from source
	c := &cobra.Command{
		Use: "plan -f FILE|DIR", Short: "Say what apply would change: resources, and who gains and loses what",
		Long:    "Say what apply would change: resources, and who gains and loses what.\n\nExit codes: 0 nothing, 2 something; as of any command: 1 refused (and 2 for wrong usage, with nothing on standard output).",
		Example: "  sallyport policy plan -f policy/\n  sallyport policy plan -f policy/ -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := policyFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			from.set(req)
			res, err := ask(cmd.Context(), o, adminv1connect.NewPlanServiceClient, adminv1connect.PlanServiceClient.PlanPolicy, &adminv1.PlanPolicyRequest{Policy: req})
			if err != nil {
				return err
			}
			if err := o.print(res, func() table { return planTable(res.GetVersion(), res.GetChanges(), res.GetEffects(), res.GetPeople()) }); err != nil {
				return err
			}
			for _, change := range res.GetChanges() {
				if change.GetAction() != adminv1.AppliedAction_APPLIED_ACTION_UNCHANGED {
					return errWouldChange
				}
			}
			return nil
		},
	}
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, filesUsage)
	from.flags(c)
	return c
}

// planTable shows what changes, and for whom.
func planTable(version uint64, changes []*adminv1.AppliedChange, effects []*adminv1.AccessEffect, people uint32) table {
	resources := table{head: []string{"KIND", "NAME", "ACTION"}}
	for _, change := range changes {
		if change.GetAction() != adminv1.AppliedAction_APPLIED_ACTION_UNCHANGED {
			resources.rows = append(resources.rows, []string{change.GetKind(), change.GetName(), lower(change.GetAction(), "APPLIED_ACTION_")})
		}
	}
	access := table{head: []string{"PEOPLE", "EFFECT", "TOOL", "BEFORE", "AFTER", "BY"}}
	for _, e := range effects {
		who := peopleOf(e)
		row := func(effect string, t *adminv1.ToolEffect, before, after, by string) {
			access.rows = append(access.rows, []string{who, effect, t.GetConnector() + " " + t.GetTool(), dash(before), dash(after), by})
			who = ""
		}
		for _, t := range e.GetTools() {
			if t.GetEffect() != adminv1.Effect_EFFECT_UNSPECIFIED {
				why := by(t.GetAfter().GetBy())
				if t.GetEffect() == adminv1.Effect_EFFECT_LOSES {
					why = "was by " + by(t.GetBefore().GetBy())
				}
				row(lower(t.GetEffect(), "EFFECT_"), t, accessOf(t.GetBefore()), accessOf(t.GetAfter()), why)
			}
			for _, term := range t.GetTerms() {
				why := by(term.GetBy())
				if term.GetChange() == adminv1.TermChange_TERM_CHANGE_GOES {
					why = "was by " + why
				}
				row(termEffect(term), t, term.GetBefore(), term.GetAfter(), why)
			}
		}
	}
	return tables(fmt.Sprintf("at version %d: %d resources change, and the access of %d people\n", version, len(resources.rows), people), resources, access)
}

// termEffect says in a word or two what becomes of a limit or a redaction.
func termEffect(e *adminv1.TermEffect) string {
	limit := e.GetTerm() == adminv1.Term_TERM_LIMIT
	switch e.GetChange() {
	case adminv1.TermChange_TERM_CHANGE_COMES:
		if limit {
			return "newly limited"
		}
		return "newly redacted"
	case adminv1.TermChange_TERM_CHANGE_GOES:
		if limit {
			return "limited no more"
		}
		return "redacted no more"
	case adminv1.TermChange_TERM_CHANGE_WIDENS, adminv1.TermChange_TERM_CHANGE_NARROWS, adminv1.TermChange_TERM_CHANGE_CHANGES, adminv1.TermChange_TERM_CHANGE_UNSPECIFIED:
	}
	if limit {
		return "limit " + lower(e.GetChange(), "TERM_CHANGE_")
	}
	if e.GetChange() == adminv1.TermChange_TERM_CHANGE_WIDENS {
		return "less redacted"
	}
	if e.GetChange() == adminv1.TermChange_TERM_CHANGE_NARROWS {
		return "more redacted"
	}
	return "redaction changes"
}

// peopleOf names some people, and says how many the others are.
func peopleOf(e *adminv1.AccessEffect) string {
	const named = 3
	names := e.GetPeople()
	text := strings.Join(names[:min(named, len(names))], ", ")
	if more := int(e.GetCount()) - min(named, len(names)); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// policyTest is a test as it is written in YAML.
type policyTest struct {
	Name  string `yaml:"name"`
	Given struct {
		Person     string         `yaml:"person"`
		Groups     []string       `yaml:"groups"`
		Directory  string         `yaml:"directory"`
		Attributes map[string]any `yaml:"attributes"`
		Connector  string         `yaml:"connector"`
		Tool       string         `yaml:"tool"`
		Args       map[string]any `yaml:"args"`
		Region     string         `yaml:"region"`
		At         string         `yaml:"at"`
		Client     string         `yaml:"client"`
		Address    string         `yaml:"address"`
		ACR        string         `yaml:"acr"`
		AMR        []string       `yaml:"amr"`
		AuthTime   string         `yaml:"authTime"`
	} `yaml:"given"`
	Expect string `yaml:"expect"`
}

func (t *policyTest) wire() (*adminv1.PolicyTest, error) {
	g := &t.Given
	out := &adminv1.PolicyTest{
		Name: t.Name, Person: g.Person, Groups: g.Groups, Directory: g.Directory, Connector: g.Connector, Tool: g.Tool, Region: g.Region, Client: g.Client,
		Address: g.Address, Acr: g.ACR, Amr: g.AMR,
	}
	expected, ok := map[string]adminv1.Expectation{
		"allowed": adminv1.Expectation_EXPECTATION_ALLOWED, "denied": adminv1.Expectation_EXPECTATION_DENIED,
		"confirm": adminv1.Expectation_EXPECTATION_CONFIRM, "review": adminv1.Expectation_EXPECTATION_REVIEW,
	}[t.Expect]
	if !ok {
		return nil, fmt.Errorf("expect is allowed, denied, confirm or review, not %q", t.Expect)
	}
	out.Expect = expected
	var err error
	if g.Args != nil {
		if out.Arguments, err = json.Marshal(g.Args); err != nil {
			return nil, fmt.Errorf("args: %w", err)
		}
	}
	if g.Attributes != nil {
		if out.Attributes, err = json.Marshal(g.Attributes); err != nil {
			return nil, fmt.Errorf("attributes: %w", err)
		}
	}
	if out.At, err = instant("at", g.At); err != nil {
		return nil, err
	}
	out.AuthTime, err = instant("authTime", g.AuthTime)
	return out, err
}

// readTests reads the tests of a file: a list of them in each document.
func readTests(path string) ([]*adminv1.PolicyTest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("%w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var all []*adminv1.PolicyTest
	for {
		var tests []policyTest
		err := decoder.Decode(&tests)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, usage("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		for i := range tests {
			wire, err := tests[i].wire()
			if err != nil {
				return nil, usage("%s, test %d %q: %w", path, len(all)+1, tests[i].Name, err)
			}
			all = append(all, wire)
		}
	}
}

func policyTestCommand(o *options) *cobra.Command {
	var tests, files []string
	c := &cobra.Command{
		Use: "test -f TESTS", Short: "Decide given calls and compare with what is expected, under the policy that stands or under another",
		Example: "  sallyport policy test -f tests.yaml\n  sallyport policy test -f tests.yaml --policy policy/",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &adminv1.TestPolicyRequest{}
			for _, path := range tests {
				read, err := readTests(path)
				if err != nil {
					return err
				}
				req.Tests = append(req.Tests, read...)
			}
			if len(req.GetTests()) == 0 {
				return usage("say which tests with -f FILE: a list of name, given and expect")
			}
			if len(files) > 0 {
				var err error
				if req.Policy, err = policyFiles(files, cmd.InOrStdin()); err != nil {
					return err
				}
			}
			res, err := ask(cmd.Context(), o, adminv1connect.NewPlanServiceClient, adminv1connect.PlanServiceClient.TestPolicy, req)
			if err != nil {
				return err
			}
			failed := 0
			for _, r := range res.GetResults() {
				if !r.GetPassed() {
					failed++
				}
			}
			if err := o.print(res, func() table { return testsTable(req.GetTests(), res) }); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d tests failed", failed, len(res.GetResults()))
			}
			return nil
		},
	}
	c.Flags().StringSliceVarP(&tests, "filename", "f", nil, "a YAML file of tests")
	c.Flags().StringSliceVar(&files, "policy", nil, "what is applied before the tests, for them alone: "+filesUsage)
	return c
}

func testsTable(tests []*adminv1.PolicyTest, r *adminv1.TestPolicyResponse) table {
	t := table{head: []string{"TEST", "RESULT", "EXPECTED", "GOT", "BECAUSE"}}
	for i, one := range r.GetResults() {
		result := "passed"
		if !one.GetPassed() {
			result = "FAILED"
		}
		t.rows = append(t.rows, []string{
			dash(one.GetName()), result, lower(tests[i].GetExpect(), "EXPECTATION_"), lower(one.GetGot(), "EXPECTATION_"), cut(one.GetDecision().GetText(), 100),
		})
	}
	return tables(fmt.Sprintf("at version %d\n", r.GetVersion()), t)
}

func rollbackCommand(o *options) *cobra.Command {
	req := &adminv1.RollbackPolicyRequest{}
	c := &cobra.Command{
		Use: "rollback --to SEQ", Short: "Make connectors, catalogues, rule sets and grants what they were at a version of the log", Args: cobra.NoArgs,
		Long: "Make connectors' settings, catalogues, rule sets and grants what they were at a version of the log, all or none. People, blocks and\n" +
			"secrets stay as they are; a connector that came since stays, without grants; what was granted to a group or person that is gone stays away.\n" +
			"With --dry-run it says what would change, and for whom, as policy plan does.",
		Example: "  sallyport policy rollback --to 812 --dry-run\n  sallyport policy rollback --to 812 --wait",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.GetDryRun() {
				o.wait = false
			}
			return call(cmd.Context(), o, adminv1connect.NewPlanServiceClient, adminv1connect.PlanServiceClient.RollbackPolicy, req, func(r *adminv1.RollbackPolicyResponse) table {
				return planTable(r.GetVersion(), r.GetChanges(), r.GetEffects(), r.GetPeople())
			})
		},
	}
	c.Flags().Uint64Var(&req.Version, "to", 0, "the version whose policy is to stand again")
	c.Flags().BoolVar(&req.DryRun, "dry-run", false, "say what it would do, but change nothing")
	_ = c.MarkFlagRequired("to")
	o.waits(c)
	return c
}
