package cli

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func scimCommand(o *options) *cobra.Command {
	return parent("scim", "What directories provision, and what that would change", scimStatusCommand(o), scimPreviewCommand(o))
}

func scimStatusCommand(o *options) *cobra.Command {
	req := &adminv1.GetProvisioningStatusRequest{}
	c := &cobra.Command{
		Use: "status", Short: "Show what directories did lately, who waits, and what was refused and why", Args: cobra.NoArgs,
		Example: "  sallyport scim status\n  sallyport scim status --directory okta -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.GetProvisioningStatus, req, provisioningTable)
		},
	}
	c.Flags().StringVar(&req.DirectoryId, "directory", "", "only of this directory")
	return c
}

// provisioningTable is several tables, one below the other.
func provisioningTable(r *adminv1.GetProvisioningStatusResponse) table {
	counts := table{head: []string{"DIRECTORY", "LAST REQUEST", "REQUESTS", "REFUSED", "USERS", "ACTIVE", "GROUPS", "MEMBERSHIPS", "WAITING"}}
	tokens := table{head: []string{"DIRECTORY", "TOKEN", "NAME", "CREATED", "EXPIRES", "LAST USED"}}
	waiting := table{head: []string{"DIRECTORY", "WAITING", "HELD GROUPS"}}
	renamed := table{head: []string{"DIRECTORY", "RENAMED", "SIGNS IN AS"}}
	alarms := table{head: []string{"DIRECTORY", "ALARM", "WHAT", "PEOPLE", "LET PASS WITHIN AN HOUR"}}
	refusals := table{head: []string{"DIRECTORY", "REFUSED", "REQUEST", "STATUS", "WHAT TO DO"}}
	for _, d := range r.GetDirectories() {
		id := dash(d.GetDirectoryId())
		counts.rows = append(counts.rows, []string{
			id, when(d.GetLastRequestAt()), strconv.FormatUint(d.GetRequests(), 10), strconv.FormatUint(d.GetRefused(), 10), number(d.GetUsers()), number(d.GetActiveUsers()),
			number(d.GetGroups()), number(d.GetMemberships()), number(d.GetWaiting()),
		})
		for _, t := range d.GetTokens() {
			tokens.rows = append(tokens.rows, []string{id, t.GetId(), dash(t.GetName()), when(t.GetCreatedAt()), when(t.GetExpiresAt()), when(t.GetLastUsedAt())})
		}
		for _, u := range d.GetWaitingUsers() {
			var held []string
			for _, g := range u.GetHeldGroups() {
				held = append(held, g.GetName())
			}
			waiting.rows = append(waiting.rows, []string{id, u.GetUserName(), strings.Join(held, ", ")})
		}
		for _, u := range d.GetRenamedUsers() {
			renamed.rows = append(renamed.rows, []string{id, u.GetUserName(), u.GetSubject()})
		}
		for _, a := range d.GetAlarms() {
			alarms.rows = append(alarms.rows, []string{id, when(a.GetAt()), a.GetWhat(), fmt.Sprintf("%d of %d", a.GetPeople(), a.GetOf()), fmt.Sprintf("%d%%", a.GetPercent())})
		}
		for _, f := range d.GetRefusals() {
			refusals.rows = append(refusals.rows, []string{id, when(f.GetAt()), f.GetMethod() + " " + f.GetResource(), strings.TrimSpace(fmt.Sprint(f.GetStatus(), " ", f.GetScimType())), f.GetAdvice()})
		}
	}
	t := tables("", alarms, counts, tokens, waiting, renamed, refusals)
	if len(alarms.rows) > 0 {
		t.text += "\n\nnext: see at the provider who did that; if it is a mistake or an attack, revoke the SCIM token (sallyport tokens revoke TOKEN), mend it there,\nand push people and groups again; sallyport audit search and sallyport access what-can PERSON --as-of TIME say what was before"
	}
	if len(waiting.rows) > 0 {
		t.text += "\n\nnext: sallyport users confirm-memberships USER, or --all --directory DIRECTORY, lets held memberships count again"
	}
	if len(renamed.rows) > 0 {
		t.text += "\n\nnext: sallyport users rebind USER lets a person sign in by the new name, if it is the same person"
	}
	return t
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func scimPreviewCommand(o *options) *cobra.Command {
	var members []string
	var file string
	c := &cobra.Command{
		Use: "preview GROUP replace|add|remove", Short: "Show whose access a change of a group's members would change; nothing is changed",
		Long: "Show whose access a change of a group's members would change: which tools at which connectors they would gain or\nlose. Nothing is changed. A tool counts if some call of it may be allowed.",
		Example: "  sallyport scim preview okta/Engineers replace --members-file members.txt    # a full push, an id or user name a line\n" +
			"  sallyport scim preview okta/Engineers add --member ann@example.com --member bob@example.com",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes := map[string]adminv1.MemberChange{
				"replace": adminv1.MemberChange_MEMBER_CHANGE_REPLACE, "add": adminv1.MemberChange_MEMBER_CHANGE_ADD, "remove": adminv1.MemberChange_MEMBER_CHANGE_REMOVE,
			}
			change, known := changes[args[1]]
			if !known {
				return usage("the change is replace, add or remove, not %q", args[1])
			}
			if file != "" {
				data, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("reading the members: %w", err)
				}
				members = append(members, strings.Fields(string(data))...)
			}
			req := &adminv1.PreviewMembersRequest{Group: args[0], Change: change, Members: members}
			return call(cmd.Context(), o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.PreviewMembers, req, previewTable)
		},
	}
	c.Flags().StringArrayVar(&members, "member", nil, "an id or user name; repeat it for more")
	c.Flags().StringVar(&file, "members-file", "", "`file` with ids or user names, separated by white space")
	return c
}

func previewTable(r *adminv1.PreviewMembersResponse) table {
	t := table{head: []string{"USER", "GAINS", "LOSES"}}
	tools := func(all []*policyv1.ConnectorTool) string {
		var names []string
		for _, tool := range all {
			names = append(names, tool.GetConnector()+"/"+tool.GetTool())
		}
		return dash(strings.Join(names, " "))
	}
	for _, c := range r.GetChanges() {
		t.rows = append(t.rows, []string{c.GetUserName(), tools(c.GetGains()), tools(c.GetLoses())})
	}
	var b bytes.Buffer
	if len(t.rows) > 0 {
		_ = t.write(&b) // a buffer takes everything
		b.WriteByte('\n')
	}
	return line("%s%d would join and %d leave; the access of %d changes (at version %d, nothing was changed)", b.String(), r.GetJoining(), r.GetLeaving(), r.GetAffected(), r.GetVersion())
}
