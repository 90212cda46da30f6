// Package cli is the admin command line: each command is a call of the admin API, its output a table for
// people and JSON or YAML for scripts.
//
// Exit codes: 0 done, 1 refused or failed, 2 wrong usage or a plan that would change something, 3 the control plane cannot be reached,
// 4 the token is missing or not valid. The package holds no rules and keeps no state.
package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// Exit codes for scripts.
const (
	ExitFailed          = 1
	ExitUsage           = 2
	ExitChanges         = 2
	ExitUnreachable     = 3
	ExitUnauthenticated = 4
)

// options are the flags that all commands share.
type options struct {
	server    string
	tokenFile string
	output    string
	out       io.Writer
	// wait: a change is answered when it is enforced everywhere, within patience.
	wait     bool
	patience time.Duration
}

// Commands returns every admin command, to be added to a root command.
func Commands(root *cobra.Command) {
	o := &options{out: os.Stdout}
	flags := root.PersistentFlags()
	flags.StringVar(&o.server, "server", envOr("SALLYPORT_SERVER", "http://127.0.0.1:7401"), "URL of the admin API (env SALLYPORT_SERVER)")
	flags.StringVar(&o.tokenFile, "token-file", "", "file with an admin token (default: env SALLYPORT_TOKEN, else what sallyport login left)")
	flags.StringVarP(&o.output, "output", "o", "table", "output: table, json or yaml")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if strings.HasPrefix(err.Error(), "unknown shorthand flag") {
			return usage("%w. An argument that begins with a dash, as the id of a key may, goes behind --", err)
		}
		return usageError{err}
	})
	root.AddCommand(
		directoriesCommand(o), usersCommand(o), groupsCommand(o), tokensCommand(o), connectorsCommand(o), catalogueCommand(o),
		secretsCommand(o), credentialsCommand(o), vaultCommand(o), applyCommand(o), exportCommand(o), grantsCommand(o), ruleSetsCommand(o), blocksCommand(o), accessCommand(o), oldExplain(o), policyCommand(o), incidentCommand(o), proxiesCommand(o),
		receiptCommand(o), auditCommand(o), scimCommand(o),
		adminsCommand(o), breakGlassCommand(o), whoamiCommand(o), loginCommand(o), logoutCommand(o), serviceAccountsCommand(o),
		clientsCommand(o), sessionsCommand(o), keysCommand(o), doctorCommand(o), reviewsCommand(o), limitsCommand(o), migrationCommand(o),
	)
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// usageError is wrong usage: exit code 2.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// codedError has an exit code of its own.
type codedError struct {
	error
	code int
}

// ExitCode is the code with which to exit after an error.
func ExitCode(err error) int {
	var wrong usageError
	var coded codedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &wrong), strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "accepts "),
		strings.HasPrefix(err.Error(), "required flag"):
		return ExitUsage
	case connect.CodeOf(err) == connect.CodeUnauthenticated:
		return ExitUnauthenticated
	case unreachable(err) != nil:
		return ExitUnreachable
	}
	return ExitFailed
}

// Explain is an error as people should read it.
func Explain(err error) string {
	var wire *connect.Error
	if away := unreachable(err); away != nil {
		return fmt.Sprintf("the control plane cannot be reached: %v\nIs it running? Name it with --server or SALLYPORT_SERVER.", away)
	}
	if errors.As(err, &wire) {
		return wire.Message()
	}
	return err.Error()
}

// unreachable is what the network said where a request did not get through; nil: it was something else, such as a database that the
// control plane itself does not reach.
func unreachable(err error) *net.OpError {
	var request *url.Error
	var said *net.OpError
	if errors.As(err, &request) && errors.As(request, &said) {
		return said
	}
	return nil
}

// connection is how to reach the admin API.
type connection struct {
	client *http.Client
	server string
	with   connect.ClientOption
}

func (o *options) dial() (*connection, error) {
	token := os.Getenv("SALLYPORT_TOKEN")
	if o.tokenFile != "" {
		data, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return nil, usage("reading the admin token: %w", err)
		}
		token = strings.TrimSpace(string(data))
	}
	if !strings.HasPrefix(o.server, "http://") && !strings.HasPrefix(o.server, "https://") {
		return nil, usage("--server must be a URL, such as http://127.0.0.1:7401, not %q", o.server)
	}
	if token == "" {
		token = storedSession(o.server)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment}
	return &connection{
		client: &http.Client{Transport: transport}, server: strings.TrimSuffix(o.server, "/"), with: connect.WithInterceptors(bearerToken(token)),
	}, nil
}

// bearerToken puts the admin token on every call, unary and streaming.
type bearerToken string

func (t bearerToken) set(h http.Header) {
	if t != "" {
		h.Set("Authorization", "Bearer "+string(t))
	}
}

// WrapUnary sets the token on unary calls.
func (t bearerToken) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		t.set(req.Header())
		return next(ctx, req)
	}
}

// WrapStreamingClient sets the token on streams.
func (t bearerToken) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		t.set(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler leaves servers alone.
func (t bearerToken) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// newClient is a generated constructor of a service's client.
type newClient[C any] func(connect.HTTPClient, string, ...connect.ClientOption) C

// method is a method of a service's client.
type method[C, Req, Res any] func(C, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)

// ask makes one unary call.
func ask[C, Req, Res any](ctx context.Context, o *options, client newClient[C], m method[C, Req, Res], req *Req) (*Res, error) {
	c, err := o.dial()
	if err != nil {
		return nil, err
	}
	res, err := m(client(c.client, c.server, c.with), ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// call makes one unary call, prints its answer and, where that is asked for, waits until what it changed is enforced.
func call[C, Req, Res any](ctx context.Context, o *options, client newClient[C], m method[C, Req, Res], req *Req, show func(*Res) table) error {
	res, err := ask(ctx, o, client, m, req)
	if err != nil {
		return err
	}
	if err := o.print(res, func() table { return show(res) }); err != nil || !o.wait {
		return err
	}
	change, ok := any(res).(interface{ GetVersion() uint64 })
	if !ok {
		return nil
	}
	return o.receipt(ctx, &adminv1.GetReceiptRequest{Version: change.GetVersion(), Wait: true}, o.patience)
}

// waits gives commands that change something the flag to wait until that is enforced.
func (o *options) waits(commands ...*cobra.Command) {
	for _, c := range commands {
		c.Flags().BoolVar(&o.wait, "wait", false, "return when every live proxy enforces the change, and print the receipt")
		c.Flags().DurationVar(&o.patience, "timeout", time.Minute, "how long to wait; after it the exit code is 1, and the change stands")
	}
}
