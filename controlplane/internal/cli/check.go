package cli

import (
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// finding is one thing that was looked at.
type finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
}

func checkCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "check ID", Short: "Look whether a connector can be used: its secret, its authorization server, its tools; changes nothing", Args: cobra.ExactArgs(1),
		Example: "  sallyport connectors check github    # exit code 1 where something is missing",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := o.check(cmd, args[0])
			if err != nil {
				return err
			}
			if err := o.print(found, func() table {
				t := table{head: []string{"CHECK", "OK", "FOUND"}}
				for _, f := range found {
					t.rows = append(t.rows, []string{f.Check, yes(f.OK), f.Found})
				}
				return t
			}); err != nil {
				return err
			}
			for _, f := range found {
				if !f.OK {
					return fmt.Errorf("connector %s cannot be used as it is: see what is not OK above", args[0])
				}
			}
			return nil
		},
	}
}

// check looks at each part. What a part answers is a finding; that nothing answers at all is an error.
func (o *options) check(cmd *cobra.Command, id string) ([]finding, error) {
	got, err := ask(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.GetConnector, &adminv1.GetConnectorRequest{Id: id})
	if err != nil {
		return nil, err
	}
	secret := secretWord(got.GetStatus())
	found := []finding{{"secret", secret != "missing", secret}}
	if a := got.GetStatus().GetConnector().GetAuth(); a.GetOauth() != nil || a.GetServiceAccount() != nil || a.GetTokenExchange() != nil || a.GetIdentityAssertion() != nil {
		server, err := ask(cmd.Context(), o, credentialClient, adminv1connect.CredentialServiceClient.FindUpstreamServer, &adminv1.FindUpstreamServerRequest{ConnectorId: id})
		if unanswered(err) {
			return nil, err
		}
		found = append(found, serverFinding(id, server, err))
		if err == nil {
			found = append(found, finding{"the gateway as a client", server.GetIsClient(), server.GetClient()}, finding{"revocation", true, revocationWord(server.GetFound())})
		}
	}
	tools, err := ask(cmd.Context(), o, adminv1connect.NewConnectorServiceClient, adminv1connect.ConnectorServiceClient.DiscoverCatalogue, &adminv1.DiscoverCatalogueRequest{ConnectorId: id})
	switch {
	case unanswered(err):
		return nil, err
	case err != nil:
		found = append(found, finding{"tools", false, Explain(err)})
	case got.GetStatus().GetPinnedTools() == 0:
		found = append(found, finding{"tools", false, "none are pinned: sallyport catalogue approve " + id})
	default:
		found = append(found, finding{"tools", true, fmt.Sprintf("%d are pinned and offered as they were, %d differ: sallyport connectors discover %s", tools.GetUnchanged(), len(tools.GetChanges()), id)})
	}
	return found, nil
}

// unanswered tells whether an error is of the way to the control plane, and no answer of it.
func unanswered(err error) bool {
	var netErr *net.OpError
	return errors.As(err, &netErr) || connect.CodeOf(err) == connect.CodeUnauthenticated && err != nil
}

func serverFinding(id string, r *adminv1.FindUpstreamServerResponse, err error) finding {
	f := finding{Check: "authorization server"}
	switch {
	case err != nil:
		f.Found = Explain(err)
	case r.GetApproved() == nil:
		f.Found = serverName(r.GetFound()) + " is not approved yet: sallyport connectors trust " + id
	case !proto.Equal(r.GetApproved(), r.GetFound()):
		f.Found = "not what was approved: sallyport connectors trust " + id
	default:
		f.OK, f.Found = true, serverName(r.GetApproved())
	}
	return f
}

func revocationWord(s *policyv1.UpstreamAuthorizationServer) string {
	switch {
	case s.GetRevocation() == policyv1.Revocation_REVOCATION_NONE || s.GetRevocationEndpoint() == "":
		return "none: tokens of somebody who goes end by their time"
	case s.GetRevocation() == policyv1.Revocation_REVOCATION_GITHUB:
		return "by GitHub's API"
	}
	return "by RFC 7009"
}
