package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
)

type actorKey struct{}

// actor is who calls, as the authenticator found.
func actor(ctx context.Context) *eventv1.Actor {
	a, _ := ctx.Value(actorKey{}).(*eventv1.Actor)
	return a
}

// authenticator lets nobody in without an admin token, on unary and streaming calls alike.
type authenticator struct{ *api }

func (i *authenticator) authenticate(ctx context.Context, h http.Header, protocol string) (context.Context, error) {
	token := bearer.Check(i.Engine.State(), eventv1.TokenKind_TOKEN_KIND_ADMIN, bearer.FromHeader(h), i.Now())
	if token == nil {
		err := connect.NewError(connect.CodeUnauthenticated,
			errors.New("an admin token is needed: set SALLYPORT_TOKEN or --token-file; the first one is in the file admin-token of the data folder"))
		if protocol == connect.ProtocolConnect { // gRPC has trailers alone, where HTTP does not allow it
			err.Meta().Set("WWW-Authenticate", `Bearer realm="sallyport-admin"`)
		}
		return nil, err
	}
	return context.WithValue(ctx, actorKey{}, &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_ADMIN, Id: token.ID.String()}), nil
}

// WrapUnary guards unary calls.
func (i *authenticator) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := i.authenticate(ctx, req.Header(), req.Peer().Protocol)
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient leaves clients alone: this is a server's guard.
func (i *authenticator) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler guards streams.
func (i *authenticator) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, err := i.authenticate(ctx, conn.RequestHeader(), conn.Peer().Protocol)
		if err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// failures shows clients what the core refused and hides what is internal, which it logs.
type failures struct{ log *slog.Logger }

func (i *failures) translate(ctx context.Context, procedure string, err error) error {
	var wire *connect.Error
	switch err = coded(err); {
	case err == nil:
		return nil
	case errors.As(err, &wire):
		return err
	case ctx.Err() != nil:
		return connect.NewError(connect.CodeCanceled, ctx.Err())
	}
	i.log.ErrorContext(ctx, "admin call failed", "procedure", procedure, "error", err)
	return connect.NewError(connect.CodeUnavailable, errors.New("the call could not be completed, or it is not known whether it was: look, then try again; the control plane's log says why"))
}

// WrapUnary translates errors of unary calls.
func (i *failures) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		return res, i.translate(ctx, req.Spec().Procedure, err)
	}
}

// WrapStreamingClient leaves clients alone.
func (i *failures) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler translates errors of streams.
func (i *failures) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return i.translate(ctx, conn.Spec().Procedure, next(ctx, conn))
	}
}
