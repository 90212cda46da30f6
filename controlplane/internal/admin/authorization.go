package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Authorization is what the API needs of the authorization server.
type Authorization interface {
	ListSessions(ctx context.Context, f *adminv1.SessionFilter, size int, after string) (page []*adminv1.Session, next string, err error)
	EndSessions(ctx context.Context, actor *eventv1.Actor, f *adminv1.SessionFilter) (ended int, version uint64, err error)
	// KnownClients lists the clients that registered themselves, and those whose documents are kept.
	KnownClients(ctx context.Context) ([]*adminv1.ClientStatus, error)
	ForgetClient(ctx context.Context, id string) error
	// CheckRedirects refuses redirect URIs that no client may have.
	CheckRedirects(all []string) error
	// Rotate makes a new signing key.
	Rotate(ctx context.Context, actor *eventv1.Actor, compromised bool) (*policyv1.SigningKey, uint64, error)
}

func (a *api) ListSessions(ctx context.Context, req *connect.Request[adminv1.ListSessionsRequest]) (*connect.Response[adminv1.ListSessionsResponse], error) {
	page, next, err := a.Authorization.ListSessions(ctx, req.Msg.GetFilter(), pageSize(req.Msg.GetPageSize()), req.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ListSessionsResponse{Sessions: page, NextPageToken: next}), nil
}

func (a *api) EndSessions(ctx context.Context, req *connect.Request[adminv1.EndSessionsRequest]) (*connect.Response[adminv1.EndSessionsResponse], error) {
	if proto.Size(req.Msg.GetFilter()) == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("which sessions? name a session, a user, a client or a region, or for how long they were not used"))
	}
	ended, version, err := a.Authorization.EndSessions(ctx, callerOf(ctx).actor(), req.Msg.GetFilter())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.EndSessionsResponse{Ended: uint32(ended), Version: version}), nil
}

func (a *api) ListClients(ctx context.Context, _ *connect.Request[adminv1.ListClientsRequest]) (*connect.Response[adminv1.ListClientsResponse], error) {
	s := a.Engine.State()
	known, err := a.Authorization.KnownClients(ctx)
	if err != nil {
		return nil, err
	}
	res := &adminv1.ListClientsResponse{}
	for c := range s.Clients() {
		res.Clients = append(res.Clients, &adminv1.ClientStatus{Client: c, Approved: true})
	}
	for _, c := range known {
		i := slices.IndexFunc(res.Clients, func(o *adminv1.ClientStatus) bool { return o.GetClient().GetId() == c.GetClient().GetId() })
		if i >= 0 {
			res.Clients[i].Registered, res.Clients[i].RegisteredAt = c.GetRegistered(), c.GetRegisteredAt()
			res.Clients[i].Document, res.Clients[i].UsedAt = c.GetDocument(), c.GetUsedAt()
			continue
		}
		res.Clients = append(res.Clients, c)
	}
	for _, c := range res.Clients {
		c.Blocked = s.Blocked("", c.GetClient().GetId(), a.Now())
		c.Client = withoutSecret(c.GetClient())
	}
	return connect.NewResponse(res), nil
}

// withoutSecret is a client as admins are shown it.
func withoutSecret(c *policyv1.Client) *policyv1.Client {
	c = proto.CloneOf(c)
	c.SecretSha256 = nil
	return c
}

func (a *api) SetClient(ctx context.Context, req *connect.Request[adminv1.SetClientRequest]) (*connect.Response[adminv1.SetClientResponse], error) {
	c := proto.CloneOf(req.Msg.GetClient())
	c.SecretSha256 = nil
	if err := checkKeys(c, req.Msg.GetMakeSecret()); err != nil {
		return nil, err
	}
	if err := a.Authorization.CheckRedirects(c.GetRedirectUris()); err != nil {
		return nil, err
	}
	if len(c.GetRedirectUris()) == 0 && a.Engine.State().Client(c.GetId()) == nil {
		known, err := a.Authorization.KnownClients(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range known {
			if r.GetRegistered() && r.GetClient().GetId() == c.GetId() { // from now on it does not expire
				c.RedirectUris = r.GetClient().GetRedirectUris()
				c.DpopBoundAccessTokens = c.GetDpopBoundAccessTokens() || r.GetClient().GetDpopBoundAccessTokens()
				if c.GetName() == "" {
					c.Name = r.GetClient().GetName()
				}
			}
		}
	}
	if before := a.Engine.State().Client(c.GetId()); before != nil && !req.Msg.GetMakeSecret() && c.Jwks == nil {
		c.SecretSha256, c.Jwks = before.GetSecretSha256(), before.GetJwks()
	}
	res := &adminv1.SetClientResponse{}
	if req.Msg.GetMakeSecret() {
		if len(c.GetRedirectUris()) == 0 {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("a client with a secret is described whole: name its redirect URIs"))
		}
		res.ClientSecret = "sallyport_client_" + rand.Text() + rand.Text()
		sum := sha256.Sum256([]byte(res.GetClientSecret()))
		c.SecretSha256 = sum[:]
	}
	out, err := a.do(ctx, core.NewSetClient(c))
	if err != nil {
		return nil, err
	}
	res.Version = out.Seq
	return connect.NewResponse(res), nil
}

// checkKeys refuses keys by which a client cannot prove who it is, and keeps of the others nothing but the keys.
func checkKeys(c *policyv1.Client, secret bool) error {
	if len(c.GetJwks()) == 0 {
		c.Jwks = nil
		return nil
	}
	if secret || len(c.GetRedirectUris()) == 0 {
		return &core.Error{Code: core.InvalidArgument, Field: "client.jwks", Message: "a client with keys is described whole, with its redirect URIs, and has no secret"}
	}
	given := struct {
		Keys []json.RawMessage `json:"keys"`
	}{}
	if err := json.Unmarshal(c.GetJwks(), &given); err != nil || given.Keys == nil {
		given.Keys = []json.RawMessage{c.GetJwks()}
	}
	kept := given
	kept.Keys = nil
	for _, one := range given.Keys {
		_, public, err := publicKey(one)
		if err != nil {
			return err
		}
		kept.Keys = append(kept.Keys, public)
	}
	if len(kept.Keys) == 0 || len(kept.Keys) > maxClientKeys {
		return &core.Error{Code: core.InvalidArgument, Field: "client.jwks", Message: fmt.Sprintf("a client has from 1 to %d keys", maxClientKeys)}
	}
	var err error
	c.Jwks, err = json.Marshal(kept)
	return err
}

// maxClientKeys is how many keys a client has at most: enough to change them one by one.
const maxClientKeys = 10

func (a *api) RemoveClient(ctx context.Context, req *connect.Request[adminv1.RemoveClientRequest]) (*connect.Response[adminv1.RemoveClientResponse], error) {
	out, err := a.do(ctx, core.RemoveClient{ID: req.Msg.GetClientId()})
	if err != nil {
		return nil, err
	}
	if err := a.Authorization.ForgetClient(ctx, req.Msg.GetClientId()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RemoveClientResponse{Version: out.Seq}), nil
}

func (a *api) GetAuthorizationPolicy(_ context.Context, _ *connect.Request[adminv1.GetAuthorizationPolicyRequest]) (*connect.Response[adminv1.GetAuthorizationPolicyResponse], error) {
	return connect.NewResponse(&adminv1.GetAuthorizationPolicyResponse{Policy: a.Engine.State().AuthorizationPolicy()}), nil
}

func (a *api) SetAuthorizationPolicy(ctx context.Context, req *connect.Request[adminv1.SetAuthorizationPolicyRequest]) (*connect.Response[adminv1.SetAuthorizationPolicyResponse], error) {
	out, err := a.do(ctx, core.NewSetAuthorizationPolicy(req.Msg.GetPolicy()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetAuthorizationPolicyResponse{Version: out.Seq}), nil
}

func (a *api) ListSigningKeys(_ context.Context, _ *connect.Request[adminv1.ListSigningKeysRequest]) (*connect.Response[adminv1.ListSigningKeysResponse], error) {
	res := &adminv1.ListSigningKeysResponse{}
	for k := range a.Engine.State().SigningKeys("") {
		res.Keys = append(res.Keys, k)
	}
	return connect.NewResponse(res), nil
}

func (a *api) RotateSigningKeys(ctx context.Context, req *connect.Request[adminv1.RotateSigningKeysRequest]) (*connect.Response[adminv1.RotateSigningKeysResponse], error) {
	key, version, err := a.Authorization.Rotate(ctx, callerOf(ctx).actor(), req.Msg.GetCompromised())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RotateSigningKeysResponse{Version: version, Key: key}), nil
}
