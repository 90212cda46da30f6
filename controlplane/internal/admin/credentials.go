package admin

import (
	"context"
	"errors"
	"strconv"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
)

// Credentials is what the API needs of the keeper of upstream credentials.
type Credentials interface {
	// ForDiscovery returns with what an upstream is asked what it offers.
	ForDiscovery(ctx context.Context, connector *core.Connector, admin *core.User) (credentials.Issued, error)
	SetKey(ctx context.Context, by *eventv1.Actor, s *core.State, owner core.Grantee, connector, value string, keepOthers bool) (uint64, error)
	RenewNow(ctx context.Context, by *eventv1.Actor, id uuid.UUID) (credentials.Status, error)
	StatusOf(ctx context.Context, id uuid.UUID) (credentials.Status, error)
	FindServer(ctx context.Context, connector *core.Connector) (credentials.Found, error)
	TrustServer(ctx context.Context, by *eventv1.Actor, connector *core.Connector, digest string) (*policyv1.UpstreamAuthorizationServer, uint64, error)
}

// passing translates what passes by itself; what an admin has to mend is coded already.
func (a *api) passing(ctx context.Context, what string, err error) error {
	if credentials.IsUnavailable(err) {
		a.Log.WarnContext(ctx, what, "error", err)
		return connect.NewError(connect.CodeUnavailable, errors.New(what+": try again; the control plane's log says more"))
	}
	return err
}

func (a *api) forDiscovery(ctx context.Context, c *core.Connector) (credentials.Issued, error) {
	with, err := a.Credentials.ForDiscovery(ctx, c, callerOf(ctx).user)
	return with, a.passing(ctx, "the credential of an upstream cannot be had now", err)
}

// credentialPage is how many credentials a list shows, where nobody says.
const credentialPage = 500

func (a *api) ListCredentials(ctx context.Context, req *connect.Request[adminv1.ListCredentialsRequest]) (*connect.Response[adminv1.ListCredentialsResponse], error) {
	s := a.Engine.State()
	person, err := optionalPerson(s, req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	skip := 0
	if req.Msg.GetPageToken() != "" {
		if skip, err = strconv.Atoi(req.Msg.GetPageToken()); err != nil || skip < 0 {
			return nil, &core.Error{Code: core.InvalidArgument, Field: "page_token", Message: "page_token is not one that this server gave"}
		}
	}
	size := int(req.Msg.GetPageSize())
	if size == 0 {
		size = credentialPage
	}
	res, at := &adminv1.ListCredentialsResponse{}, 0
	var failed error
	put := func(c *core.Credential, w *core.Withdrawal) bool {
		if req.Msg.GetConnectorId() != "" && c.Connector != req.Msg.GetConnectorId() || req.Msg.GetPerson() != "" && c.Owner.Person != person {
			return true
		}
		if at++; at <= skip {
			return true
		}
		if len(res.Credentials) == size {
			res.NextPageToken = strconv.Itoa(at - 1)
			return false
		}
		shown, err := a.credential(ctx, s, c, w)
		if err != nil {
			failed = err
			return false
		}
		res.Credentials = append(res.Credentials, shown)
		return true
	}
	switch {
	case req.Msg.GetWithdrawn():
		s.Withdrawals()(func(w *core.Withdrawal) bool { return put(&w.Credential, w) })
	case req.Msg.GetPerson() != "":
		s.PersonCredentials(person)(func(c *core.Credential) bool { return put(c, nil) })
	default:
		s.Credentials()(func(c *core.Credential) bool { return put(c, nil) })
	}
	return connect.NewResponse(res), failed
}

// optionalPerson finds a person, who may be gone: then by id.
func optionalPerson(s *core.State, ref string) (uuid.UUID, error) {
	if ref == "" {
		return uuid.Nil, nil
	}
	if id, err := uuid.Parse(ref); err == nil {
		return id, nil
	}
	u, err := s.FindUser(ref)
	if err != nil {
		return uuid.Nil, err
	}
	return u.ID, nil
}

func (a *api) credential(ctx context.Context, s *core.State, c *core.Credential, w *core.Withdrawal) (*adminv1.Credential, error) {
	out := &adminv1.Credential{Id: c.ID.String(), Kind: c.Kind, ConnectorId: c.Connector, Owner: "everyone", CreatedAt: moment(c.At)}
	switch {
	case c.Owner.Person != uuid.Nil:
		out.PersonId, out.Owner = c.Owner.Person.String(), c.Owner.Person.String()
		if u := s.User(c.Owner.Person); u != nil {
			out.Owner = u.Directory + "/" + u.UserName
		}
	case c.Owner.Group != uuid.Nil:
		out.GroupId, out.Owner = c.Owner.Group.String(), c.Owner.Group.String()
		if g := s.Group(c.Owner.Group); g != nil {
			out.Owner = g.Name()
		}
	}
	if w != nil {
		out.WithdrawnAt, out.DestroyedAt, out.NextTryAt = moment(w.WithdrawnAt), moment(w.Ended), moment(w.Next)
		out.Outcome, out.Tries = w.Outcome, uint32(w.Tries)
		return out, nil
	}
	status, err := a.Credentials.StatusOf(ctx, c.ID)
	if err != nil {
		return nil, a.passing(ctx, "when credentials were used cannot be read now", err)
	}
	out.RenewedAt, out.UsedAt, out.ExpiresAt, out.FailedAt = moment(status.Renewed), moment(status.Used), moment(status.Expires), moment(status.Failed)
	return out, nil
}

func (a *api) SetKey(ctx context.Context, req *connect.Request[adminv1.SetKeyRequest]) (*connect.Response[adminv1.SetKeyResponse], error) {
	s, err := a.Engine.Fence(ctx)
	if err != nil {
		return nil, err
	}
	var owner core.Grantee
	switch {
	case req.Msg.GetPerson() != "" && req.Msg.GetGroup() == "":
		u, err := s.FindUser(req.Msg.GetPerson())
		if err != nil {
			return nil, err
		}
		owner.Person = u.ID
	case req.Msg.GetGroup() != "" && req.Msg.GetPerson() == "":
		g, err := s.FindGroup(req.Msg.GetGroup())
		if err != nil {
			return nil, err
		}
		owner.Group = g.ID
	default:
		return nil, &core.Error{Code: core.InvalidArgument, Message: "a key is of one person or one group; one for everybody is set with sallyport secrets set"}
	}
	version, err := a.Credentials.SetKey(ctx, callerOf(ctx).actor(), s, owner, req.Msg.GetConnectorId(), req.Msg.GetValue(), req.Msg.GetKeepOthers())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetKeyResponse{Version: version}), nil
}

func (a *api) RenewCredential(ctx context.Context, req *connect.Request[adminv1.RenewCredentialRequest]) (*connect.Response[adminv1.RenewCredentialResponse], error) {
	status, err := a.Credentials.RenewNow(ctx, callerOf(ctx).actor(), uuid.MustParse(req.Msg.GetId()))
	if err != nil {
		return nil, a.passing(ctx, "the tokens cannot be renewed now", err)
	}
	return connect.NewResponse(&adminv1.RenewCredentialResponse{ExpiresAt: moment(status.Expires)}), nil
}

func (a *api) RevokeCredentials(ctx context.Context, req *connect.Request[adminv1.RevokeCredentialsRequest]) (*connect.Response[adminv1.RevokeCredentialsResponse], error) {
	s, err := a.Engine.Fence(ctx)
	if err != nil {
		return nil, err
	}
	person, err := optionalPerson(s, req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	if len(req.Msg.GetIds()) == 0 && req.Msg.GetPerson() == "" && req.Msg.GetConnectorId() == "" {
		return nil, &core.Error{Code: core.InvalidArgument, Message: "say which credentials: ids, a person or a connector"}
	}
	wanted := map[string]bool{}
	for _, id := range req.Msg.GetIds() {
		wanted[uuid.MustParse(id).String()] = true
	}
	var ids []uuid.UUID
	for c := range s.Credentials() {
		if (len(wanted) == 0 || wanted[c.ID.String()]) && (req.Msg.GetPerson() == "" || c.Owner.Person == person) && (req.Msg.GetConnectorId() == "" || c.Connector == req.Msg.GetConnectorId()) {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) == 0 {
		return nil, &core.Error{Code: core.NotFound, Message: "there is no such credential in use: see sallyport credentials list"}
	}
	res := &adminv1.RevokeCredentialsResponse{}
	for len(ids) > 0 {
		n := min(len(ids), core.MaxEvents)
		out, err := a.do(ctx, core.WithdrawCredentials{IDs: ids[:n]})
		if err != nil {
			return nil, err
		}
		res.Revoked, res.Version, ids = res.Revoked+uint32(n), out.Seq, ids[n:]
	}
	return connect.NewResponse(res), nil
}

func (a *api) FindUpstreamServer(ctx context.Context, req *connect.Request[adminv1.FindUpstreamServerRequest]) (*connect.Response[adminv1.FindUpstreamServerResponse], error) {
	c, err := a.connector(req.Msg.GetConnectorId())
	if err != nil {
		return nil, err
	}
	found, err := a.Credentials.FindServer(ctx, c)
	if err != nil {
		return nil, a.passing(ctx, "the upstream or its authorization server cannot be asked now", err)
	}
	return connect.NewResponse(&adminv1.FindUpstreamServerResponse{Found: found.Server, Approved: c.Server, Digest: found.Digest, RedirectUri: found.RedirectURI, Client: found.Client, IsClient: found.IsClient}), nil
}

func (a *api) TrustUpstreamServer(ctx context.Context, req *connect.Request[adminv1.TrustUpstreamServerRequest]) (*connect.Response[adminv1.TrustUpstreamServerResponse], error) {
	c, err := a.connector(req.Msg.GetConnectorId())
	if err != nil {
		return nil, err
	}
	approved, version, err := a.Credentials.TrustServer(ctx, callerOf(ctx).actor(), c, req.Msg.GetDigest())
	if err != nil {
		return nil, a.passing(ctx, "the upstream or its authorization server cannot be asked now", err)
	}
	return connect.NewResponse(&adminv1.TrustUpstreamServerResponse{Approved: approved, Version: version}), nil
}
