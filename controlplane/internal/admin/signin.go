package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// SignInSecrets keeps the secrets of the clients with which directories' people are signed in.
type SignInSecrets interface {
	PutSignInSecret(ctx context.Context, directory, value string) (secretID string, err error)
	DestroySignInSecret(ctx context.Context, secretID string) error
}

// SetSignIn keeps the secret first and says so in the log second, as SetConnectorSecret does.
func (a *api) SetSignIn(ctx context.Context, req *connect.Request[adminv1.SetSignInRequest]) (*connect.Response[adminv1.SetSignInResponse], error) {
	id := req.Msg.GetDirectoryId()
	before := a.Engine.State().Directory(id).GetSignIn()
	in := proto.CloneOf(req.Msg.GetSignIn())
	in.SecretId = ""
	if before.GetIssuer() == in.GetIssuer() && before.GetClientId() == in.GetClientId() {
		in.SecretId = before.GetSecretId()
	}
	if slices.Contains(in.GetScopes(), "offline_access") {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("offline_access is not asked for: Sallyport keeps no tokens of the identity provider"))
	}
	for i, domain := range in.GetEmailDomains() {
		in.EmailDomains[i] = strings.ToLower(domain)
	}
	if secret := req.Msg.GetClientSecret(); secret != "" {
		var err error
		if in.SecretId, err = a.SignInSecrets.PutSignInSecret(ctx, id, secret); err != nil {
			return nil, fmt.Errorf("keeping the secret of a directory's client: %w", err)
		}
	}
	out, err := a.do(ctx, core.NewSetSignIn(id, in))
	if err != nil {
		a.forgetSignIn(ctx, in, before)
		return nil, err
	}
	a.forgetSignIn(ctx, before, in)
	res := &adminv1.SetSignInResponse{Version: out.Seq}
	if a.SignInURL != "" {
		res.RedirectUri = a.SignInURL + "/signin/callback/" + id
	}
	return connect.NewResponse(res), nil
}

func (a *api) RemoveSignIn(ctx context.Context, req *connect.Request[adminv1.RemoveSignInRequest]) (*connect.Response[adminv1.RemoveSignInResponse], error) {
	before := a.Engine.State().Directory(req.Msg.GetDirectoryId()).GetSignIn()
	out, err := a.do(ctx, core.NewSetSignIn(req.Msg.GetDirectoryId(), nil))
	if err != nil {
		return nil, err
	}
	a.forgetSignIn(ctx, before, nil)
	return connect.NewResponse(&adminv1.RemoveSignInResponse{Version: out.Seq}), nil
}

// forgetSignIn destroys the secret of settings that do not count any more, unless those that count have the same.
func (a *api) forgetSignIn(ctx context.Context, gone, counts *policyv1.SignIn) {
	if gone.GetSecretId() == "" || gone.GetSecretId() == counts.GetSecretId() {
		return
	}
	if err := a.SignInSecrets.DestroySignInSecret(context.WithoutCancel(ctx), gone.GetSecretId()); err != nil {
		a.Log.ErrorContext(ctx, "a secret that is no longer used could not be destroyed", "secret_id", gone.GetSecretId(), "error", err)
	}
}
