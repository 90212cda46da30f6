package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"

	"sallyport.dev/controlplane/internal/bearer"
)

// recheckEvery is how often it is looked whether who follows a stream still may.
const recheckEvery = time.Second

// authenticator lets nobody in without a token whose role permits the call, on unary and streaming calls alike, and ends
// a stream when that is over.
type authenticator struct{ *api }

func (i *authenticator) authenticate(ctx context.Context, h http.Header, procedure string, peer connect.Peer, fenced bool) (context.Context, error) {
	c, err := i.identify(ctx, bearer.FromHeader(h), fenced)
	if err != nil {
		i.Log.ErrorContext(ctx, "it could not be looked up who calls", "error", err)
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("it cannot be looked up now who you are: try again in a minute; the control plane's log says why"))
	}
	if c == nil {
		if procedure == adminv1connect.AdminServiceOpenBreakGlassProcedure {
			i.triedBreakGlass(ctx, peer.Addr)
		}
		err := connect.NewError(connect.CodeUnauthenticated,
			errors.New("an admin token is needed that is valid: sign in with sallyport login, or set SALLYPORT_TOKEN or --token-file; the first is made by: sallyport admins first-owner --token-file DATA-DIR/bootstrap-token"))
		if peer.Protocol == connect.ProtocolConnect { // gRPC has trailers alone, where HTTP does not allow it
			err.Meta().Set("WWW-Authenticate", `Bearer realm="sallyport-admin"`)
		}
		return nil, err
	}
	if err := admit(c, procedure); err != nil {
		i.Log.WarnContext(ctx, "an admin call was refused", "procedure", procedure, "actor", c.actor().GetId(), "role", roleName(c.role))
		return nil, err
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// WrapUnary guards unary calls.
func (i *authenticator) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := i.authenticate(ctx, req.Header(), req.Spec().Procedure, req.Peer(), true)
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

// WrapStreamingHandler guards streams, for as long as they last.
func (i *authenticator) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		guard := func(fenced bool) (context.Context, error) {
			return i.authenticate(ctx, conn.RequestHeader(), conn.Spec().Procedure, conn.Peer(), fenced)
		}
		admitted, err := guard(true)
		if err != nil {
			return err
		}
		guarded, end := context.WithCancelCause(admitted)
		var watching sync.WaitGroup
		watching.Go(func() { recheck(guarded, end, guard) })
		err = next(guarded, conn)
		end(nil)
		watching.Wait()
		var refused *connect.Error
		if errors.As(context.Cause(guarded), &refused) {
			return refused
		}
		return err
	}
}

// recheck ends a stream when who follows it may no longer.
func recheck(ctx context.Context, end context.CancelCauseFunc, guard func(fenced bool) (context.Context, error)) {
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if _, err := guard(false); err != nil {
				end(err)
				return
			}
		}
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
