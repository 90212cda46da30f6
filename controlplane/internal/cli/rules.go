package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// rule is a rule as it is written in YAML.
type rule struct {
	Allow     []string    `yaml:"allow,omitempty" json:"allow,omitempty" jsonschema:"Globs of tools that it allows; prompt: and resource: before a glob for those"`
	Deny      []string    `yaml:"deny,omitempty" json:"deny,omitempty" jsonschema:"Globs of tools that it denies, whatever else allows them"`
	Require   string      `yaml:"require,omitempty" json:"require,omitempty" jsonschema:"What calls of the tools under tools need, whatever allows them"`
	Tools     []string    `yaml:"tools,omitempty" json:"tools,omitempty" jsonschema:"Globs of tools, of a rule that requires"`
	When      string      `yaml:"when,omitempty" json:"when,omitempty" jsonschema:"A condition in CEL over args, user, tool, connector and request"`
	After     string      `yaml:"after,omitempty" json:"after,omitempty" jsonschema:"Whose yes a call that it allows needs first"`
	Assurance string      `yaml:"assurance,omitempty" json:"assurance,omitempty" jsonschema:"How sure it must be that the person said yes"`
	Review    *ruleReview `yaml:"review,omitempty" json:"review,omitempty" jsonschema:"Who approves, and how long that is good"`
	SignIn    *ruleSignIn `yaml:"signIn,omitempty" json:"signIn,omitempty" jsonschema:"How the person must have signed in"`
	Limit     *ruleLimit  `yaml:"limit,omitempty" json:"limit,omitempty" jsonschema:"How much, of a rule that requires limit"`
	Redact    *redaction  `yaml:"redact,omitempty" json:"redact,omitempty" jsonschema:"What is taken out, of a rule that requires redact"`
	Hints     *ruleHints  `yaml:"hints,omitempty" json:"hints,omitempty" jsonschema:"Only tools whose pinned definition says so"`
	Until     moment      `yaml:"until,omitempty" json:"until,omitempty" jsonschema:"From when on it counts no more"`
}

type ruleReview struct {
	Approvers []string `yaml:"approvers" json:"approvers" jsonschema:"Groups, any of whose people may approve"`
	Approvals uint32   `yaml:"approvals,omitempty" json:"approvals,omitempty" jsonschema:"How many of them must; default 1"`
	Self      bool     `yaml:"self,omitempty" json:"self,omitempty" jsonschema:"The person may be one of them"`
	Wait      length   `yaml:"wait,omitempty" json:"wait,omitempty" jsonschema:"How long the call waits for them"`
	ValidFor  length   `yaml:"validFor,omitempty" json:"validFor,omitempty" jsonschema:"How long it can be approved and used; default 1 hour"`
}

type ruleSignIn struct {
	ACR    []string `yaml:"acr,omitempty" json:"acr,omitempty" jsonschema:"Authentication contexts, one of which it must be"`
	AMR    []string `yaml:"amr,omitempty" json:"amr,omitempty" jsonschema:"Authentication methods, all of which it must have used"`
	MaxAge length   `yaml:"maxAge,omitempty" json:"maxAge,omitempty" jsonschema:"How long ago it may have been"`
}

// ruleLimit is how much may be called and had.
type ruleLimit struct {
	Budget      string   `yaml:"budget,omitempty" json:"budget,omitempty" jsonschema:"Rules that name one budget count together"`
	Window      length   `yaml:"window,omitempty" json:"window,omitempty" jsonschema:"From the first call that counts on, for so long"`
	Calls       uint64   `yaml:"calls,omitempty" json:"calls,omitempty" jsonschema:"Calls within a window"`
	Items       uint64   `yaml:"items,omitempty" json:"items,omitempty" jsonschema:"Items of results within a window"`
	Bytes       uint64   `yaml:"bytes,omitempty" json:"bytes,omitempty" jsonschema:"Bytes of results within a window"`
	ResultItems uint64   `yaml:"resultItems,omitempty" json:"resultItems,omitempty" jsonschema:"Items of one result, or it is withheld"`
	ResultBytes uint64   `yaml:"resultBytes,omitempty" json:"resultBytes,omitempty" jsonschema:"Bytes of one result, or it is withheld"`
	Per         []string `yaml:"per,omitempty" json:"per,omitempty" jsonschema:"What has a budget of its own; default: each person"`
}

var pers = map[string]policyv1.Per{
	"person": policyv1.Per_PER_PERSON, "group": policyv1.Per_PER_GROUP, "tool": policyv1.Per_PER_TOOL, "connector": policyv1.Per_PER_CONNECTOR, "everyone": policyv1.Per_PER_EVERYONE,
}

func (l *ruleLimit) wire() (*policyv1.Limit, error) {
	if l == nil {
		return nil, nil
	}
	out := &policyv1.Limit{Budget: l.Budget, Calls: l.Calls, Items: l.Items, Bytes: l.Bytes, ResultItems: l.ResultItems, ResultBytes: l.ResultBytes}
	var err error
	if out.Window, err = l.Window.wire("limit.window"); err != nil {
		return nil, err
	}
	for _, word := range l.Per {
		per, err := oneOf("limit.per", word, pers)
		if err != nil {
			return nil, err
		}
		out.Per = append(out.Per, per)
	}
	return out, nil
}

func limitOf(l *policyv1.Limit) *ruleLimit {
	if l == nil {
		return nil
	}
	out := &ruleLimit{
		Budget: l.GetBudget(), Window: lengthOf(l.GetWindow()), Calls: l.GetCalls(), Items: l.GetItems(), Bytes: l.GetBytes(), ResultItems: l.GetResultItems(), ResultBytes: l.GetResultBytes(),
	}
	for _, per := range l.GetPer() {
		out.Per = append(out.Per, wordFor(per, pers))
	}
	return out
}

// redaction is what is taken out, of a rule or of a connector.
type redaction struct {
	Tools     []string `yaml:"tools,omitempty" json:"tools,omitempty" jsonschema:"Globs of tools, of a connector's alone; default: whatever it offers"`
	Arguments []string `yaml:"arguments,omitempty" json:"arguments,omitempty" jsonschema:"Names or JSONPaths in what audit keeps of arguments"`
	Results   []string `yaml:"results,omitempty" json:"results,omitempty" jsonschema:"Names or JSONPaths in what audit keeps of results"`
	Agent     bool     `yaml:"agent,omitempty" json:"agent,omitempty" jsonschema:"Results reach the agent without them too"`
}

func (r *redaction) wire() *policyv1.Redaction {
	if r == nil {
		return nil
	}
	return &policyv1.Redaction{Tools: r.Tools, Arguments: r.Arguments, Results: r.Results, Agent: r.Agent}
}

func redactionOf(r *policyv1.Redaction) *redaction {
	if r == nil {
		return nil
	}
	return &redaction{Tools: r.GetTools(), Arguments: r.GetArguments(), Results: r.GetResults(), Agent: r.GetAgent()}
}

type ruleHints struct {
	ReadOnly    *bool `yaml:"readOnly,omitempty" json:"readOnly,omitempty"`
	Destructive *bool `yaml:"destructive,omitempty" json:"destructive,omitempty"`
	Idempotent  *bool `yaml:"idempotent,omitempty" json:"idempotent,omitempty"`
	OpenWorld   *bool `yaml:"openWorld,omitempty" json:"openWorld,omitempty"`
}

var assurances = map[string]policyv1.ConfirmationAssurance{
	"": 0, "client": policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT, "browser": policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER,
}

var duties = map[string]policyv1.Duty{"": 0, "confirm": policyv1.Duty_DUTY_CONFIRM, "review": policyv1.Duty_DUTY_REVIEW, "sign-in": policyv1.Duty_DUTY_SIGN_IN, "redact": policyv1.Duty_DUTY_REDACT, "limit": policyv1.Duty_DUTY_LIMIT}

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
	out := &policyv1.Rule{Allow: r.Allow, Deny: r.Deny, Tools: r.Tools, When: r.When, Redact: r.Redact.wire()}
	var err error
	if out.After, err = oneOf("after", r.After, duties); err != nil {
		return nil, err
	}
	if out.After == policyv1.Duty_DUTY_SIGN_IN {
		return nil, errors.New("after is confirm or review: how the person must have signed in stands under signIn")
	}
	if out.Limit, err = r.Limit.wire(); err != nil {
		return nil, err
	}
	if out.After == policyv1.Duty_DUTY_LIMIT {
		return nil, errors.New("after is confirm or review: how much stands under limit in a rule with require: limit")
	}
	if out.After == policyv1.Duty_DUTY_REDACT {
		return nil, errors.New("after is confirm or review: what is taken out stands under redact in a rule with require: redact")
	}
	if out.Require, err = oneOf("require", r.Require, duties); err != nil {
		return nil, err
	}
	if out.Assurance, err = oneOf("assurance", r.Assurance, assurances); err != nil {
		return nil, err
	}
	if r.Hints != nil {
		out.Hints = &policyv1.Hints{ReadOnly: r.Hints.ReadOnly, Destructive: r.Hints.Destructive, Idempotent: r.Hints.Idempotent, OpenWorld: r.Hints.OpenWorld}
	}
	if r.SignIn != nil {
		out.SignIn = &policyv1.Assurance{Acr: r.SignIn.ACR, Amr: r.SignIn.AMR}
		if out.SignIn.MaxAge, err = r.SignIn.MaxAge.wire("signIn.maxAge"); err != nil {
			return nil, err
		}
	}
	if r.Review != nil {
		out.Review = &policyv1.Review{Approvers: r.Review.Approvers, Approvals: r.Review.Approvals, Self: r.Review.Self}
		if out.Review.Wait, err = r.Review.Wait.wire("review.wait"); err != nil {
			return nil, err
		}
		if out.Review.ValidFor, err = r.Review.ValidFor.wire("review.validFor"); err != nil {
			return nil, err
		}
	}
	out.Until, err = r.Until.wire("until")
	return out, err
}

// ruleOf is a rule as wire would read it.
func ruleOf(r *policyv1.Rule) rule {
	out := rule{
		Allow: r.GetAllow(), Deny: r.GetDeny(), Tools: r.GetTools(), When: r.GetWhen(), After: wordFor(r.GetAfter(), duties), Require: wordFor(r.GetRequire(), duties),
		Assurance: wordFor(r.GetAssurance(), assurances), Redact: redactionOf(r.GetRedact()), Limit: limitOf(r.GetLimit()), Until: momentOf(r.GetUntil()),
	}
	if h := r.GetHints(); h != nil {
		out.Hints = &ruleHints{ReadOnly: h.ReadOnly, Destructive: h.Destructive, Idempotent: h.Idempotent, OpenWorld: h.OpenWorld}
	}
	if s := r.GetSignIn(); s != nil {
		out.SignIn = &ruleSignIn{ACR: s.GetAcr(), AMR: s.GetAmr(), MaxAge: lengthOf(s.GetMaxAge())}
	}
	if v := r.GetReview(); v != nil {
		out.Review = &ruleReview{Approvers: v.GetApprovers(), Approvals: v.GetApprovals(), Self: v.GetSelf(), Wait: lengthOf(v.GetWait()), ValidFor: lengthOf(v.GetValidFor())}
	}
	return out
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
	if l := r.GetLimit(); l != nil {
		all = append(all, policy.LimitText(l))
	}
	if d := r.GetRedact(); d != nil {
		all = append(all, takenOut(d))
	}
	if r.GetUntil() != nil {
		all = append(all, "until "+when(r.GetUntil()))
	}
	return strings.Join(all, ", ")
}

// takenOut is what a redaction takes out, in words.
func takenOut(d *policyv1.Redaction) string {
	var parts []string
	if len(d.GetArguments()) > 0 {
		parts = append(parts, "arguments "+strings.Join(d.GetArguments(), " "))
	}
	if len(d.GetResults()) > 0 {
		whose := "results in audit "
		if d.GetAgent() {
			whose = "results "
		}
		parts = append(parts, whose+strings.Join(d.GetResults(), " "))
	}
	return "without " + strings.Join(parts, ", ")
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
