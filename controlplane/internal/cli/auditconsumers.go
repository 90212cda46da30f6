package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

func consumersCommand(o *options) *cobra.Command {
	var subjects []string
	var start, expires, out string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a durable consumer of the audit stream for another system, and credentials that open it alone", Args: cobra.ExactArgs(1),
		Long: "Make a durable consumer of the audit stream for another system, and NATS credentials that open that consumer and nothing else.\n\n" +
			"The credentials are shown once, or written to --out. On the embedded server they are good at once; on an external cluster whose\nusers are in its configuration, add what is shown to it.",
		Example: "  sallyport audit consumers create siem --subject 'sallyport.audit.*.*.*.denied' --expires 30d --out siem.nk\n  sallyport audit consumers create lake --start beginning",
		RunE: func(cmd *cobra.Command, args []string) error {
			c := &adminv1.AuditConsumer{Name: args[0], Subjects: subjects}
			var err error
			switch start {
			case "", startNow:
			case startBeginning:
				c.FromBeginning = true
			default:
				if c.Since, err = readTime(start); err != nil {
					return err
				}
			}
			req := &adminv1.CreateAuditConsumerRequest{Consumer: c}
			if req.Lifetime, err = parseExpires(expires, time.Now()); err != nil {
				return err
			}
			var file *os.File
			if out != "" { // before the call, so that no credentials are lost for want of a place
				if file, err = os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
					return usage("the credentials cannot be kept: %w", err)
				}
				defer file.Close() //nolint:errcheck // what was written was synced
			}
			res, err := ask(cmd.Context(), o, adminv1connect.NewAuditConsumerServiceClient, adminv1connect.AuditConsumerServiceClient.CreateAuditConsumer, req)
			if err != nil {
				if file != nil {
					_ = os.Remove(out) // nothing is in it
				}
				return err
			}
			if file != nil {
				_, err := file.WriteString(res.GetCredentials())
				if err := errors.Join(err, file.Sync()); err != nil {
					return fmt.Errorf("the credentials could not be written, and are lost: delete the consumer and make it again: %w", err)
				}
				res.Credentials = ""
			}
			return o.print(res, func() table { return line("%s", createdConsumer(res, out)) })
		},
	}
	create.Flags().StringArrayVar(&subjects, "subject", nil, "what it gets, such as 'sallyport.audit.*.*.github.*' (repeat for several; default: everything)")
	create.Flags().StringVar(&start, "start", "", "now (default), beginning, or from when on: a time (RFC 3339) or how long ago (2h)")
	create.Flags().StringVar(&expires, "expires", "", expiresHelp+" (default: in 90 days)")
	create.Flags().StringVar(&out, "out", "", "`file` to write the credentials to, new and readable by you alone, instead of showing them")
	list := &cobra.Command{
		Use: "list", Short: "List the consumers that other systems have", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAuditConsumerServiceClient, adminv1connect.AuditConsumerServiceClient.ListAuditConsumers, &adminv1.ListAuditConsumersRequest{}, func(r *adminv1.ListAuditConsumersResponse) table {
				t := table{head: []string{"NAME", "SUBJECTS", "LAG", "CREATED", "EXPIRES"}}
				for _, c := range r.GetConsumers() {
					end := when(c.GetExpires())
					if time.Now().After(c.GetExpires().AsTime()) {
						end += " (ended)"
					}
					t.rows = append(t.rows, []string{c.GetName(), cmp.Or(strings.Join(c.GetSubjects(), ", "), "everything"), strconv.FormatUint(c.GetLag(), 10), when(c.GetCreated()), end})
				}
				return t
			})
		},
	}
	remove := &cobra.Command{
		Use: "delete NAME", Short: "End a consumer and its credentials, and close what is connected with them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), o, adminv1connect.NewAuditConsumerServiceClient, adminv1connect.AuditConsumerServiceClient.DeleteAuditConsumer, &adminv1.DeleteAuditConsumerRequest{Name: args[0]}, func(*adminv1.DeleteAuditConsumerResponse) table {
				return line("audit consumer %s is deleted", args[0])
			})
		},
	}
	return parent("consumers", "Other systems that read the audit stream themselves", create, list, remove)
}

// createdConsumer says what the other system needs.
func createdConsumer(r *adminv1.CreateAuditConsumerResponse, out string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "stream        AUDIT\nconsumer      %s\ninbox prefix  %s\nends          %s\n", r.GetDurable(), r.GetInboxPrefix(), when(r.GetConsumer().GetExpires()))
	if r.GetServer() != "" {
		fmt.Fprintf(&b, "server        %s\n", r.GetServer())
	}
	if r.GetPublicKey() != "" {
		fmt.Fprintf(&b, "\nAdd to the users of the streams' account in the cluster's configuration, and reload it:\n  { nkey: %s, permissions: {\n      publish: { allow: [%s] }\n      subscribe: { allow: [%s] } } }\n", r.GetPublicKey(), quotedList(r.GetPublish()), quotedList(r.GetSubscribe()))
	}
	if out != "" {
		fmt.Fprintf(&b, "\nThe credentials are in %s.", out)
	} else {
		fmt.Fprintf(&b, "\nThe credentials, which are shown this once:\n%s", r.GetCredentials())
	}
	return b.String()
}

func quotedList(all []string) string {
	quoted := make([]string, len(all))
	for i, s := range all {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, ", ")
}
