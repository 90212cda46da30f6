package discover

import (
	"cmp"
	"context"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Listen hears an upstream say that one of its lists changed, and tells so by changed, which must not wait: in the session era on the
// session's own stream, in the stateless era by subscriptions/listen. It returns when ctx or the stream ends, and at once where the
// upstream says no such thing.
func (Discoverer) Listen(ctx context.Context, c *policyv1.Connector, header, value, query string, changed func()) error {
	session, done, err := connect(ctx, c, header, value, query, &mcp.ClientOptions{
		ToolListChangedHandler:     func(context.Context, *mcp.ToolListChangedRequest) { changed() },
		PromptListChangedHandler:   func(context.Context, *mcp.PromptListChangedRequest) { changed() },
		ResourceListChangedHandler: func(context.Context, *mcp.ResourceListChangedRequest) { changed() },
	})
	if err != nil {
		return err
	}
	defer done()
	if !tells(session.InitializeResult().Capabilities) {
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err = <-ended:
		return fmt.Errorf("the upstream's stream of changes ended: %w", err)
	case <-ctx.Done():
		done()
		return cmp.Or(context.Cause(ctx), <-ended)
	}
}

// tells tells whether an upstream says when one of its lists changes.
func tells(has *mcp.ServerCapabilities) bool {
	return has != nil && (has.Tools != nil && has.Tools.ListChanged || has.Prompts != nil && has.Prompts.ListChanged || has.Resources != nil && has.Resources.ListChanged)
}
