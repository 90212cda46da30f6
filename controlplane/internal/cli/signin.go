package cli

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// signInCommand says how a directory's people sign in with a browser.
func signInCommand(o *options) *cobra.Command {
	in := &policyv1.SignIn{Assurance: &policyv1.Assurance{}}
	var secretFile string
	var session, maxAge time.Duration
	var remove bool
	c := &cobra.Command{
		Use: "sign-in DIRECTORY", Short: "Say how a directory's people sign in with a browser",
		Long: "Say how a directory's people sign in with a browser: by OpenID Connect at their identity provider, as a client that is\n" +
			"registered there with the redirect URI that this command prints. A claim of the ID token must equal the attribute by\n" +
			"which the directory matches people.",
		Example: "  sallyport directories sign-in okta --issuer https://example.okta.com --client-id 0oa1b2c3d4 \\\n" +
			"    --client-secret-file okta.secret --email-domain example.com --contact 'the IT desk, it@example.com'\n" +
			"  sallyport directories sign-in okta --remove",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if remove {
				return call(cmd.Context(), o, adminv1connect.NewSignInServiceClient, adminv1connect.SignInServiceClient.RemoveSignIn, &adminv1.RemoveSignInRequest{DirectoryId: args[0]}, func(r *adminv1.RemoveSignInResponse) table {
					return line("nobody of %s can sign in any more, since version %d; who is signed in stays so", args[0], r.GetVersion())
				})
			}
			if in.GetIssuer() == "" || in.GetClientId() == "" {
				return usage("--issuer and --client-id are needed")
			}
			secret, err := readSecret(cmd.InOrStdin(), secretFile)
			if err != nil {
				return err
			}
			if session > 0 {
				in.Session = durationpb.New(session)
			}
			if maxAge > 0 {
				in.Assurance.MaxAge = durationpb.New(maxAge)
			}
			req := &adminv1.SetSignInRequest{DirectoryId: args[0], SignIn: in, ClientSecret: secret}
			return call(cmd.Context(), o, adminv1connect.NewSignInServiceClient, adminv1connect.SignInServiceClient.SetSignIn, req, func(r *adminv1.SetSignInResponse) table {
				if r.GetRedirectUri() == "" {
					return line("people of %s sign in at %s, since version %d", args[0], in.GetIssuer(), r.GetVersion())
				}
				return line("people of %s sign in at %s, since version %d\nnext: give the client there this redirect URI: %s", args[0], in.GetIssuer(), r.GetVersion(), r.GetRedirectUri())
			})
		},
	}
	f := c.Flags()
	f.StringVar(&in.Issuer, "issuer", "", "the OpenID provider's issuer: https, or http on loopback")
	f.StringVar(&in.ClientId, "client-id", "", "the client's id at the provider")
	f.StringVar(&secretFile, "client-secret-file", "", "file with the client's secret, - for standard input (default: the one that was set; none for a public client)")
	f.StringSliceVar(&in.Scopes, "scope", []string{"profile", "email"}, "scopes to ask for beside openid")
	f.StringSliceVar(&in.EmailDomains, "email-domain", nil, "domain of email addresses that lead here, where there are several directories")
	f.StringVar(&in.UserClaim, "user-claim", "", `claim of the ID token that holds the person's unchanging id (default "sub")`)
	f.StringVar(&in.Title, "title", "", "what people choose by, where there are several directories (default: the directory's id)")
	f.StringVar(&in.Contact, "contact", "", "whom to ask for access, as pages say it (default: your administrator)")
	f.DurationVar(&session, "session", 0, "how long a browser stays signed in (default 8h)")
	f.StringSliceVar(&in.Assurance.Acr, "acr", nil, "authentication contexts, of which each sign-in must have one")
	f.StringSliceVar(&in.Assurance.Amr, "amr", nil, "authentication methods, all of which each sign-in must have used, such as mfa")
	f.DurationVar(&maxAge, "max-age", 0, "how long ago the person may have signed in at the provider (default: any)")
	f.BoolVar(&remove, "remove", false, "let nobody of the directory sign in any more")
	return c
}

// maxSecret bounds a secret that is read.
const maxSecret = 64 << 10

// readSecret reads a secret from a file, or from in for -. No file: no secret.
func readSecret(in io.Reader, file string) (string, error) {
	var data []byte
	var err error
	switch file {
	case "":
		return "", nil
	case "-":
		data, err = io.ReadAll(io.LimitReader(in, maxSecret))
	default:
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return "", usage("reading the secret: %w", err)
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", usage("the secret is empty")
	}
	return secret, nil
}
