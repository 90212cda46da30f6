package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// rule is a rule as it is written in YAML.
type rule struct {
	Allow     []string `yaml:"allow"`
	Deny      []string `yaml:"deny"`
	Require   string   `yaml:"require"`
	Tools     []string `yaml:"tools"`
	When      string   `yaml:"when"`
	After     string   `yaml:"after"`
	Assurance string   `yaml:"assurance"`
	Review    *struct {
		Approvers []string `yaml:"approvers"`
		Approvals uint32   `yaml:"approvals"`
		Self      bool     `yaml:"self"`
		Wait      string   `yaml:"wait"`
		ValidFor  string   `yaml:"validFor"`
	} `yaml:"review"`
	SignIn *struct {
		ACR    []string `yaml:"acr"`
		AMR    []string `yaml:"amr"`
		MaxAge string   `yaml:"maxAge"`
	} `yaml:"signIn"`
	Hints *struct {
		ReadOnly    *bool `yaml:"readOnly"`
		Destructive *bool `yaml:"destructive"`
		Idempotent  *bool `yaml:"idempotent"`
		OpenWorld   *bool `yaml:"openWorld"`
	} `yaml:"hints"`
	Until string `yaml:"until"`
}

func rulesOf(all []rule) ([]*policyv1.Rule, error) {
	var out []*policyv1.Rule
	for i, r := range all {
		wire, err := r.wire()
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		out = append(out, wire)
	}
	return out, nil
}

func (r *rule) wire() (*policyv1.Rule, error) {
	out := &policyv1.Rule{Allow: r.Allow, Deny: r.Deny, Tools: r.Tools, When: r.When}
	var err error
	if out.After, err = dutyOf("after", r.After); err != nil {
		return nil, err
	}
	if out.Require, err = dutyOf("require", r.Require); err != nil {
		return nil, err
	}
	switch r.Assurance {
	case "":
	case "client":
		out.Assurance = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT
	case "browser":
		out.Assurance = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
	default:
		return nil, fmt.Errorf("assurance is client or browser, not %q", r.Assurance)
	}
	if r.Hints != nil {
		out.Hints = &policyv1.Hints{ReadOnly: r.Hints.ReadOnly, Destructive: r.Hints.Destructive, Idempotent: r.Hints.Idempotent, OpenWorld: r.Hints.OpenWorld}
	}
	if r.SignIn != nil {
		out.SignIn = &policyv1.Assurance{Acr: r.SignIn.ACR, Amr: r.SignIn.AMR}
		if out.SignIn.MaxAge, err = duration("signIn.maxAge", r.SignIn.MaxAge); err != nil {
			return nil, err
		}
	}
	if r.Review != nil {
		out.Review = &policyv1.Review{Approvers: r.Review.Approvers, Approvals: r.Review.Approvals, Self: r.Review.Self}
		if out.Review.Wait, err = duration("review.wait", r.Review.Wait); err != nil {
			return nil, err
		}
		if out.Review.ValidFor, err = duration("review.validFor", r.Review.ValidFor); err != nil {
			return nil, err
		}
	}
	out.Until, err = instant("until", r.Until)
	return out, err
}

func dutyOf(field, said string) (policyv1.Duty, error) {
	switch said {
	case "":
		return policyv1.Duty_DUTY_UNSPECIFIED, nil
	case "confirm":
		return policyv1.Duty_DUTY_CONFIRM, nil
	case "review":
		return policyv1.Duty_DUTY_REVIEW, nil
	case "sign-in":
		if field == "require" {
			return policyv1.Duty_DUTY_SIGN_IN, nil
		}
		return 0, fmt.Errorf("%s is confirm or review: how the person must have signed in stands under signIn", field)
	}
	return 0, fmt.Errorf("%s is confirm, review or, of require, sign-in, not %q", field, said)
}

// instant reads a point in time, or none: with its zone, or a day, which begins in UTC.
func instant(field, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fmt.Errorf("%s is a day, as 2027-01-31, or a time with its zone, as 2027-01-31T18:00:00Z, not %q", field, text)
}

// effectOf is what a rule does, and to which tools, in words.
func effectOf(r *policyv1.Rule) (effect string, tools []string) {
	switch {
	case len(r.GetDeny()) > 0:
		effect, tools = "deny", r.GetDeny()
	case r.GetRequire() != 0:
		effect, tools = "require "+lower(r.GetRequire(), "DUTY_"), r.GetTools()
	case r.GetAfter() != 0:
		effect, tools = "allow after "+lower(r.GetAfter(), "DUTY_"), r.GetAllow()
	default:
		effect, tools = "allow", r.GetAllow()
	}
	if r.GetAssurance() != 0 {
		effect += " (" + lower(r.GetAssurance(), "CONFIRMATION_ASSURANCE_") + ")"
	}
	if n := r.GetReview().GetApprovals(); n > 1 {
		effect += fmt.Sprintf(" (%d approvals)", n)
	}
	return effect, tools
}

// limitsOf is what narrows a rule, in words.
func limitsOf(r *policyv1.Rule) string {
	var all []string
	if r.GetWhen() != "" {
		all = append(all, "when "+r.GetWhen())
	}
	if h := r.GetHints(); h != nil {
		for _, hint := range []struct {
			name string
			is   *bool
		}{{"readOnly", h.ReadOnly}, {"destructive", h.Destructive}, {"idempotent", h.Idempotent}, {"openWorld", h.OpenWorld}} {
			if hint.is != nil {
				all = append(all, fmt.Sprintf("%s: %t", hint.name, *hint.is))
			}
		}
	}
	if s := r.GetSignIn(); s != nil {
		if len(s.GetAcr()) > 0 {
			all = append(all, "signed in with acr "+strings.Join(s.GetAcr(), " or "))
		}
		if len(s.GetAmr()) > 0 {
			all = append(all, "signed in with amr "+strings.Join(s.GetAmr(), " and "))
		}
		if s.GetMaxAge() != nil {
			all = append(all, "signed in within "+s.GetMaxAge().AsDuration().String())
		}
	}
	if r.GetUntil() != nil {
		all = append(all, "until "+when(r.GetUntil()))
	}
	return strings.Join(all, ", ")
}

func ruleSetsCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List rule sets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewRuleSetServiceClient, adminv1connect.RuleSetServiceClient.ListRuleSets,
				&adminv1.ListRuleSetsRequest{}, func(r *adminv1.ListRuleSetsResponse) table {
					t := table{head: []string{"RULE SET", "GRANTS", "RULE", "EFFECT", "TOOLS", "LIMITED TO"}}
					for _, set := range r.GetRuleSets() {
						for i, rule := range set.GetRuleSet().GetRules() {
							effect, tools := effectOf(rule)
							t.rows = append(t.rows, []string{
								set.GetRuleSet().GetName(), fmt.Sprint(set.GetGrants()), fmt.Sprint(i + 1), effect, cut(strings.Join(tools, ", "), 60), dash(cut(limitsOf(rule), 60)),
							})
						}
					}
					return t
				})
		},
	}
	remove := &cobra.Command{
		Use: "remove NAME", Short: "Take a rule set away that no grant refers to", Args: cobra.ExactArgs(1),
		Example: "  sallyport rulesets remove read-only",
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewRuleSetServiceClient, adminv1connect.RuleSetServiceClient.RemoveRuleSet,
				&adminv1.RemoveRuleSetRequest{Name: args[0]}, func(r *adminv1.RemoveRuleSetResponse) table {
					return line("the rule set is removed at version %d", r.GetVersion())
				})
		},
	}
	o.waits(remove)
	return parent("rulesets", "Rules under a name, which grants refer to", list, remove)
}
