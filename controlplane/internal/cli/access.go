package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func accessCommand(o *options) *cobra.Command {
	var asOfWho, asOfWhat string
	who := &adminv1.WhoCanRequest{}
	whoCan := &cobra.Command{
		Use: "who-can CONNECTOR TOOL | CONNECTOR__TOOL", Short: "List the people who may call a tool, with some arguments or with all", Args: cobra.RangeArgs(1, 2),
		Example: "  sallyport access who-can github delete_branch\n  sallyport access who-can github__delete_branch -o json\n  sallyport access who-can github delete_branch --as-of 2026-11-03T14:00:00Z",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if who.Connector, who.Tool, err = toolNamed(args); err != nil {
				return err
			}
			if who.AsOf, err = asOf(asOfWho); err != nil {
				return err
			}
			return call(cmd.Context(), o, adminv1connect.NewAccessServiceClient, adminv1connect.AccessServiceClient.WhoCan, who, whoTable)
		},
	}
	whoCan.Flags().Uint32Var(&who.PageSize, "limit", 0, "how many people are listed, at most 10,000 (default 1,000)")
	whoCan.Flags().StringVar(&who.PageToken, "after", "", "go on where another answer ended: its next_page_token")

	whoCan.Flags().StringVar(&asOfWho, "as-of", "", asOfUsage)

	what := &adminv1.WhatCanRequest{}
	whatCan := &cobra.Command{
		Use: "what-can PERSON", Short: "List the tools that a person may call, with some arguments or with all", Args: cobra.ExactArgs(1),
		Example: "  sallyport access what-can ann@example.com\n  sallyport access what-can ann@example.com --connector github",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if what.AsOf, err = asOf(asOfWhat); err != nil {
				return err
			}
			what.Person = args[0]
			return call(cmd.Context(), o, adminv1connect.NewAccessServiceClient, adminv1connect.AccessServiceClient.WhatCan, what, func(r *adminv1.WhatCanResponse) table {
				t := table{head: []string{"CONNECTOR", "TOOL", "ACCESS", "BY"}}
				for _, one := range r.GetTools() {
					t.rows = append(t.rows, []string{one.GetConnector(), one.GetTool(), accessOf(one.GetOutlook()), by(one.GetOutlook().GetBy())})
				}
				return tables(fmt.Sprintf("at version %d%s\n", r.GetVersion(), stood(r.GetStanding())), t)
			})
		},
	}
	whatCan.Flags().StringVar(&what.Connector, "connector", "", "only of this connector")
	whatCan.Flags().StringVar(&asOfWhat, "as-of", "", asOfUsage)
	return parent("access", "What people may do, and why", explainCommand(o), whoCan, whatCan)
}

// oldExplain is `access explain` by the name that scripts know from before there was `access`.
func oldExplain(o *options) *cobra.Command {
	c := explainCommand(o)
	c.Hidden = true
	return c
}

const asOfUsage = "as it was at a time (2027-01-31T18:00:00Z, or a day) or at a version of the log"

// asOf reads which state is meant; nil: the one that stands.
func asOf(text string) (*adminv1.AsOf, error) {
	if text == "" {
		return nil, nil
	}
	if version, err := strconv.ParseUint(text, 10, 64); err == nil && version > 0 {
		return &adminv1.AsOf{At: &adminv1.AsOf_Version{Version: version}}, nil
	}
	at, err := instant("--as-of", text)
	if err != nil {
		return nil, usage("%w, or a version", err)
	}
	return &adminv1.AsOf{At: &adminv1.AsOf_Time{Time: at}}, nil
}

// stood says how long a state that was asked for was the newest.
func stood(s *adminv1.Standing) string {
	switch {
	case s == nil:
		return ""
	case s.GetUntil() == nil:
		return ", which stands since " + when(s.GetSince())
	}
	return ", which stood from " + when(s.GetSince()) + " to " + when(s.GetUntil())
}

// toolNamed reads a tool's name, as a connector's own or as agents see it at the endpoint of all connectors.
func toolNamed(args []string) (connector, tool string, err error) {
	if len(args) == 2 {
		return args[0], args[1], nil
	}
	connector, tool, ok := strings.Cut(args[0], "__")
	if !ok || connector == "" || tool == "" {
		return "", "", usage("%q names no tool: write CONNECTOR TOOL or CONNECTOR__TOOL", args[0])
	}
	return connector, tool, nil
}

func whoTable(r *adminv1.WhoCanResponse) table {
	t := table{head: []string{"PERSON", "ACCESS", "BY"}}
	for _, one := range r.GetPeople() {
		t.rows = append(t.rows, []string{one.GetUserName(), accessOf(one.GetOutlook()), by(one.GetOutlook().GetBy())})
	}
	text := fmt.Sprintf("at version %d%s: %d always, %d sometimes\n", r.GetVersion(), stood(r.GetStanding()), r.GetAlways(), r.GetSometimes())
	if r.GetNextPageToken() != "" {
		text += fmt.Sprintf("the first %d are listed; go on with --after %s\n", len(r.GetPeople()), r.GetNextPageToken())
	}
	return tables(text, t)
}

// accessOf is an outlook in a word or two.
func accessOf(o *adminv1.Outlook) string {
	text := lower(o.GetAccess(), "ACCESS_")
	if o.GetAsked() != "" {
		text += ", after " + o.GetAsked()
	}
	return text
}

func by(rules []string) string { return dash(cut(strings.Join(rules, "; "), 100)) }
