package admin

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

func (a *api) CreateServiceAccount(ctx context.Context, req *connect.Request[adminv1.CreateServiceAccountRequest]) (*connect.Response[adminv1.CreateServiceAccountResponse], error) {
	out, err := a.do(ctx, core.CreateServiceAccount{Name: req.Msg.GetName(), Description: req.Msg.GetDescription()})
	if err != nil {
		return nil, err
	}
	u := out.State.UserByName(core.ServiceDirectory, req.Msg.GetName())
	if u == nil {
		return nil, &core.Error{Code: core.NotFound, Message: "the service account was made, and deleted again by somebody else"}
	}
	return connect.NewResponse(&adminv1.CreateServiceAccountResponse{Id: u.ID.String(), Version: out.Seq}), nil
}

func (a *api) ListServiceAccounts(context.Context, *connect.Request[adminv1.ListServiceAccountsRequest]) (*connect.Response[adminv1.ListServiceAccountsResponse], error) {
	s := a.Engine.State()
	res := &adminv1.ListServiceAccountsResponse{}
	for u := range s.Users(core.ServiceDirectory, 0) {
		account := &adminv1.ServiceAccount{Id: u.ID.String(), Name: u.UserName, Description: u.DisplayName, Active: u.Active, CreatedAt: moment(u.CreatedAt.Time())}
		for g := range s.GroupsOf(u) {
			account.Groups = append(account.Groups, groupRef(g))
		}
		for _, k := range s.ServiceKeys(u.ID) {
			account.Keys = append(account.Keys, &adminv1.ServiceKey{Id: k.ID, Jwk: k.JWK, CreatedAt: moment(k.CreatedAt), ExpiresAt: moment(k.ExpiresAt)})
		}
		res.Accounts = append(res.Accounts, account)
	}
	for g := range s.Groups(core.ServiceDirectory, 0) {
		res.Groups = append(res.Groups, wireGroup(g))
	}
	return connect.NewResponse(res), nil
}

func (a *api) SetServiceAccountActive(ctx context.Context, req *connect.Request[adminv1.SetServiceAccountActiveRequest]) (*connect.Response[adminv1.SetServiceAccountActiveResponse], error) {
	u, err := a.serviceAccount(req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.UpdateUser{Directory: core.ServiceDirectory, ID: u.ID, Profile: u.Profile, Active: req.Msg.GetActive()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetServiceAccountActiveResponse{Version: out.Seq}), nil
}

func (a *api) DeleteServiceAccount(ctx context.Context, req *connect.Request[adminv1.DeleteServiceAccountRequest]) (*connect.Response[adminv1.DeleteServiceAccountResponse], error) {
	u, err := a.serviceAccount(req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.DeleteUser{Directory: core.ServiceDirectory, ID: u.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.DeleteServiceAccountResponse{Version: out.Seq}), nil
}

func (a *api) AddServiceKey(ctx context.Context, req *connect.Request[adminv1.AddServiceKeyRequest]) (*connect.Response[adminv1.AddServiceKeyResponse], error) {
	u, err := a.serviceAccount(req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	id, key, err := publicKey(req.Msg.GetJwk())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.AddServiceKey{Account: u.ID, ID: id, JWK: key, ExpiresAt: a.ends(eventv1.TokenKind_TOKEN_KIND_UNSPECIFIED, req.Msg.GetTtl())})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.AddServiceKeyResponse{KeyId: id, AccountId: u.ID.String(), Version: out.Seq}), nil
}

func (a *api) RemoveServiceKey(ctx context.Context, req *connect.Request[adminv1.RemoveServiceKeyRequest]) (*connect.Response[adminv1.RemoveServiceKeyResponse], error) {
	u, err := a.serviceAccount(req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.RemoveServiceKey{Account: u.ID, ID: req.Msg.GetKeyId()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RemoveServiceKeyResponse{Version: out.Seq}), nil
}

func (a *api) CreateServiceGroup(ctx context.Context, req *connect.Request[adminv1.CreateServiceGroupRequest]) (*connect.Response[adminv1.CreateServiceGroupResponse], error) {
	out, err := a.do(ctx, core.CreateServiceGroup{Name: req.Msg.GetName()})
	if err != nil {
		return nil, err
	}
	g, err := out.State.FindGroup(core.ServiceDirectory + "/" + req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.CreateServiceGroupResponse{Id: g.ID.String(), Version: out.Seq}), nil
}

func (a *api) DeleteServiceGroup(ctx context.Context, req *connect.Request[adminv1.DeleteServiceGroupRequest]) (*connect.Response[adminv1.DeleteServiceGroupResponse], error) {
	g, err := a.serviceGroup(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.DeleteGroup{Directory: core.ServiceDirectory, ID: g.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.DeleteServiceGroupResponse{Version: out.Seq}), nil
}

func (a *api) ChangeServiceGroup(ctx context.Context, req *connect.Request[adminv1.ChangeServiceGroupRequest]) (*connect.Response[adminv1.ChangeServiceGroupResponse], error) {
	g, err := a.serviceGroup(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	add, err := a.serviceAccounts(req.Msg.GetAdd())
	if err != nil {
		return nil, err
	}
	remove, err := a.serviceAccounts(req.Msg.GetRemove())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.UpdateGroup{Directory: core.ServiceDirectory, ID: g.ID, Members: []core.MemberChange{
		{Op: core.AddMembers, Users: add}, {Op: core.RemoveMembers, Users: remove},
	}})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ChangeServiceGroupResponse{Version: out.Seq}), nil
}

// serviceAccount finds a service account by name or id, and no person.
func (a *api) serviceAccount(ref string) (*core.User, error) {
	s := a.Engine.State()
	if id, err := uuid.Parse(ref); err == nil {
		if u := s.User(id); u != nil && u.Service() {
			return u, nil
		}
	}
	if u := s.UserByName(core.ServiceDirectory, strings.TrimPrefix(ref, core.ServiceDirectory+"/")); u != nil {
		return u, nil
	}
	return nil, &core.Error{Code: core.NotFound, Field: "account", Message: fmt.Sprintf("there is no service account %q: see sallyport service-accounts list", ref)}
}

func (a *api) serviceAccounts(refs []string) ([]uuid.UUID, error) {
	ids := make([]uuid.UUID, len(refs))
	for i, ref := range refs {
		u, err := a.serviceAccount(ref)
		if err != nil {
			return nil, err
		}
		ids[i] = u.ID
	}
	return ids, nil
}

func (a *api) serviceGroup(ref string) (*core.Group, error) {
	if _, err := uuid.Parse(ref); err != nil {
		ref = core.ServiceDirectory + "/" + strings.TrimPrefix(ref, core.ServiceDirectory+"/")
	}
	return a.Engine.State().FindGroup(ref)
}

// publicKey reads a public key by which an account may prove who it is, and names it by its thumbprint where it has no name.
func publicKey(data []byte) (id string, public []byte, err error) {
	refuse := func(format string, args ...any) (string, []byte, error) {
		return "", nil, &core.Error{Code: core.InvalidArgument, Field: "jwk", Message: fmt.Sprintf(format, args...)}
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(data); err != nil {
		return refuse("this is no JSON Web Key (RFC 7517) that can be read")
	}
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return refuse("an RSA key has 2,048 bits or more, not %d", k.N.BitLen())
		}
	default:
		if !key.IsPublic() {
			return refuse("give the public half of the key, never the private one: take another key now, since this one was sent")
		}
		return refuse("the key is EC, Ed25519 or RSA")
	}
	if !key.Valid() {
		return refuse("this is no JSON Web Key (RFC 7517) that can be used")
	}
	if key.KeyID == "" {
		sum, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			return refuse("the key has no thumbprint")
		}
		key.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	// Of what was sent only the key and its name are kept.
	public, err = (&jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID, Use: "sig"}).MarshalJSON()
	return key.KeyID, public, err
}
