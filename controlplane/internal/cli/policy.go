package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func grantsCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List grants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.ListGrants,
				&adminv1.ListGrantsRequest{}, func(r *adminv1.ListGrantsResponse) table {
					t := table{head: []string{"TO", "CONNECTOR", "RULE", "EFFECT", "TOOLS", "LIMITED TO"}}
					for _, g := range r.GetGrants() {
						to := grantedTo(g)
						for i, rule := range g.GetRules() {
							effect, tools := effectOf(rule)
							t.rows = append(t.rows, []string{to, g.GetConnector(), fmt.Sprint(i + 1), effect, cut(strings.Join(tools, ", "), 60), dash(cut(limitsOf(rule), 60))})
						}
						for _, set := range g.GetRuleSets() {
							t.rows = append(t.rows, []string{to, g.GetConnector(), "-", "rule set " + set, "-", "-"})
						}
					}
					return t
				})
		},
	}
	var person, everyone string
	remove := &cobra.Command{
		Use: "remove [GROUP] CONNECTOR", Short: "Take the rules of a group, a person or everyone on a connector away", Args: cobra.RangeArgs(1, 2),
		Example: "  sallyport grants remove 'okta/Junior Engineers' github\n  sallyport grants remove --person ann@example.com github\n  sallyport grants remove --everyone okta github",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == (person != "" || everyone != "") || person != "" && everyone != "" {
				return usage("say whose grant it is by one of GROUP, --person and --everyone")
			}
			req := &adminv1.RemoveGrantRequest{Person: person, Everyone: everyone, Connector: args[len(args)-1]}
			if len(args) == 2 {
				req.Group = args[0]
			}
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.RemoveGrant,
				req, func(r *adminv1.RemoveGrantResponse) table {
					return line("the grant is removed at version %d", r.GetVersion())
				})
		},
	}
	remove.Flags().StringVar(&person, "person", "", "a user, by id or name")
	remove.Flags().StringVar(&everyone, "everyone", "", "a directory, or * for all of them")
	o.waits(remove)
	return parent("grants", "What people may do on connectors", list, remove)
}

// grantedTo says to whom a grant is, and what is special about it.
func grantedTo(g *adminv1.Grant) string {
	to := g.GetGroup()
	switch {
	case g.GetPerson() != "":
		to = "person " + g.GetPerson()
	case g.GetEveryone() == "*":
		to = "everyone"
	case g.GetEveryone() != "":
		to = "everyone of " + g.GetEveryone()
	}
	if g.GetUntil() != nil {
		to += " (until " + when(g.GetUntil()) + ")"
	}
	if g.GetDangling() {
		to += " (gone: gives nothing)"
	}
	return to
}

func blocksCommand(o *options) *cobra.Command {
	var person, client, connector, tool, region, reason string
	var lasts time.Duration
	place := &cobra.Command{
		Use: "place", Short: "Deny a person, client, connector, tool or region at once, before all grants", Args: cobra.NoArgs,
		Example: "  sallyport blocks place --person ann@example.com --reason 'laptop stolen' --for 24h\n" +
			"  sallyport blocks place --connector github --tool delete_branch --reason 'incident 7'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := &policyv1.Block{Reason: reason}
			set := 0
			for _, given := range []string{person, client, connector, region} {
				if given != "" {
					set++
				}
			}
			if set != 1 || tool != "" && connector == "" {
				return usage("give one of --person, --client, --connector (with --tool for one of its tools) and --region")
			}
			switch {
			case person != "":
				b.Target = &policyv1.Block_PersonId{PersonId: person}
			case client != "":
				b.Target = &policyv1.Block_ClientId{ClientId: client}
			case tool != "":
				b.Target = &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: connector, Tool: tool}}
			case connector != "":
				b.Target = &policyv1.Block_Connector{Connector: connector}
			case region != "":
				b.Target = &policyv1.Block_Region{Region: region}
			}
			if lasts != 0 {
				b.Until = timestamppb.New(time.Now().Add(lasts))
			}
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.PlaceBlock,
				&adminv1.PlaceBlockRequest{Block: b}, func(r *adminv1.PlaceBlockResponse) table {
					return line("block %s stands at version %d; where it is enforced: sallyport receipt --version %d --wait", r.GetId(), r.GetVersion(), r.GetVersion())
				})
		},
	}
	f := place.Flags()
	f.StringVar(&person, "person", "", "a user, by id or name")
	f.StringVar(&client, "client", "", "an OAuth client's id")
	f.StringVar(&connector, "connector", "", "a connector")
	f.StringVar(&tool, "tool", "", "one tool of --connector")
	f.StringVar(&region, "region", "", "a region")
	f.StringVar(&reason, "reason", "", "why")
	f.DurationVar(&lasts, "for", 0, "how long (default: until it is lifted)")
	_ = place.MarkFlagRequired("reason")
	lift := &cobra.Command{
		Use: "lift ID", Short: "End a block", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.LiftBlock,
				&adminv1.LiftBlockRequest{Id: args[0]}, func(r *adminv1.LiftBlockResponse) table {
					return line("block %s is lifted at version %d", args[0], r.GetVersion())
				})
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "List blocks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.ListBlocks,
				&adminv1.ListBlocksRequest{}, func(r *adminv1.ListBlocksResponse) table {
					t := table{head: []string{"TARGET", "REASON", "UNTIL", "ID"}}
					for _, b := range r.GetBlocks() {
						t.rows = append(t.rows, []string{blockTarget(b), b.GetReason(), when(b.GetUntil()), b.GetId()})
					}
					return t
				})
		},
	}
	o.waits(place, lift)
	return parent("blocks", "Denials that come before all grants", place, lift, list)
}

func blockTarget(b *policyv1.Block) string {
	switch t := b.GetTarget().(type) {
	case *policyv1.Block_PersonId:
		return "person " + t.PersonId
	case *policyv1.Block_ClientId:
		return "client " + t.ClientId
	case *policyv1.Block_Connector:
		return "connector " + t.Connector
	case *policyv1.Block_Tool:
		return "tool " + t.Tool.GetConnector() + " " + t.Tool.GetTool()
	case *policyv1.Block_Region:
		return "region " + t.Region
	}
	return "-"
}

func explainCommand(o *options) *cobra.Command {
	var arguments, at, signedIn, past string
	req := &adminv1.ExplainRequest{}
	c := &cobra.Command{
		Use: "explain PERSON CONNECTOR TOOL | PERSON CONNECTOR__TOOL", Short: "Say why a person may call a tool with these arguments, or why not, by the code that proxies run",
		Example: "  sallyport access explain ann@example.com github push_files --args '{\"branch\":\"main\"}'\n" +
			"  sallyport access explain ann@example.com github push_files --args '{\"branch\":\"main\"}' --as-of 2026-11-03T14:00:00Z",
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.At, err = instant("--at", at); err != nil {
				return usage("%w", err)
			}
			if req.AuthTime, err = instant("--auth-time", signedIn); err != nil {
				return usage("%w", err)
			}
			if req.AsOf, err = asOf(past); err != nil {
				return err
			}
			if req.Connector, req.Tool, err = toolNamed(args[1:]); err != nil {
				return err
			}
			req.Person, req.Arguments = args[0], []byte(arguments)
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.Explain, req, explanation)
		},
	}
	f := c.Flags()
	f.StringVar(&arguments, "args", "{}", "the tool's arguments, a JSON object")
	f.StringVar(&req.Region, "region", "", "the region whose proxies are asked (default: any)")
	f.StringVar(&at, "at", "", "when the call is made, as 2027-01-31T18:00:00Z (default: now, or the time of --as-of)")
	f.StringVar(&past, "as-of", "", asOfUsage)
	f.StringVar(&req.Client, "client", "", "the OAuth client that makes it")
	f.StringVar(&req.Address, "address", "", "the address that it comes from")
	f.StringVar(&req.Acr, "acr", "", "how the person was authenticated: the claim acr")
	f.StringSliceVar(&req.Amr, "amr", nil, "and the claim amr")
	f.StringVar(&signedIn, "auth-time", "", "and when, as 2027-01-31T18:00:00Z: the claim auth_time")
	return c
}

func explanation(r *adminv1.ExplainResponse) table {
	var b strings.Builder
	verdict := "DENIED"
	if r.GetDecision().GetVerdict() == auditv1.Verdict_VERDICT_ALLOWED {
		verdict = "ALLOWED"
	}
	fmt.Fprintf(&b, "%s at version %d%s: %s\n", verdict, r.GetVersion(), stood(r.GetStanding()), printable(r.GetDecision().GetText()))
	var groups []string
	for i, g := range r.GetGroups() {
		name := g.GetName()
		if i < len(r.GetPaths()) && len(r.GetPaths()[i].GetGroups()) > 1 {
			var below []string
			for _, of := range r.GetPaths()[i].GetGroups()[:len(r.GetPaths()[i].GetGroups())-1] {
				below = append(below, of.GetName())
			}
			name += " (by " + strings.Join(below, " in ") + ")"
		}
		groups = append(groups, printable(name))
	}
	fmt.Fprintf(&b, "groups: %s\n", dash(strings.Join(groups, ", ")))
	for _, by := range r.GetLimits() {
		fmt.Fprintf(&b, "limited by %s\n", printable(by))
	}
	for _, by := range r.GetRedactions() {
		fmt.Fprintf(&b, "taken out by %s\n", printable(by))
	}
	for _, rule := range r.GetRules() {
		fmt.Fprintf(&b, "  %s", printable(rule.GetGroup()))
		if rule.GetRuleSet() != "" {
			fmt.Fprintf(&b, ", rule set %s,", printable(rule.GetRuleSet()))
		}
		fmt.Fprintf(&b, " rule %d, %s", rule.GetRule(), rule.GetEffect())
		if rule.GetDuty() != 0 {
			fmt.Fprintf(&b, " %s", lower(rule.GetDuty(), "DUTY_"))
		}
		fmt.Fprintf(&b, " %s", printable(strings.Join(rule.GetTools(), ", ")))
		if rule.GetWhen() != "" {
			fmt.Fprintf(&b, " when %s", printable(rule.GetWhen()))
		}
		fmt.Fprintf(&b, ": %s", lower(rule.GetResult(), "RULE_RESULT_"))
		if rule.GetText() != "" {
			fmt.Fprintf(&b, " (%s)", printable(rule.GetText()))
		}
		b.WriteByte('\n')
	}
	return table{text: strings.TrimRight(b.String(), "\n")}
}
