package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

// maxTailPause is the longest wait before a stream that broke is taken up again.
const maxTailPause = 10 * time.Second

func tailAuditCommand(o *options) *cobra.Command {
	var filter filterFlags
	var as lineFormat
	var after uint64
	c := &cobra.Command{
		Use: "tail", Short: "Show audit records as they are stored", Args: cobra.NoArgs,
		Long:    "Show audit records as they are stored, until it is interrupted. Where the control plane goes away meanwhile, it waits for it or\nanother, and goes on after the last record that it showed.",
		Example: "  sallyport audit tail --decision denied\n  sallyport audit tail --format cef --after 120000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := as.check(); err != nil {
				return err
			}
			want, err := filter.read()
			if err != nil {
				return err
			}
			t := tailing{o: o, as: as, req: &adminv1.TailAuditRequest{Filter: want, AfterSequence: after}}
			return t.follow(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	filter.add(c)
	as.add(c)
	c.Flags().Uint64Var(&after, "after", 0, "start after this sequence, as -o json and --format json show it (default: with the next record)")
	return c
}

// tailing is a stream of records that is taken up again where it broke.
type tailing struct {
	o         *options
	as        lineFormat
	req       *adminv1.TailAuditRequest
	connected bool // once
	pause     time.Duration
}

func (t *tailing) follow(ctx context.Context, tell io.Writer) error {
	for {
		err := t.once(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // who followed ended it
		}
		if !t.connected || !broken(err) {
			return err
		}
		if t.pause == 0 {
			if _, err := fmt.Fprintf(tell, "the control plane cannot be reached; it is tried again, from record %d on\n", t.req.GetAfterSequence()+1); err != nil {
				return err
			}
		}
		t.pause = min(max(2*t.pause, 200*time.Millisecond), maxTailPause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.pause):
		}
	}
}

// broken tells whether a stream's end is the connection's, not an answer.
func broken(err error) bool {
	var netErr *net.OpError
	code := connect.CodeOf(err)
	return err == nil || errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || code == connect.CodeUnavailable || code == connect.CodeCanceled || code == connect.CodeInternal
}

// once follows until the stream ends.
func (t *tailing) once(ctx context.Context) error {
	c, err := t.o.dial()
	if err != nil {
		return err
	}
	if t.req.GetAfterSequence() == 0 { // to be able to go on it must be known where it began
		index, err := adminv1connect.NewAuditIndexServiceClient(c.client, c.server, c.with).GetAuditIndex(ctx, connect.NewRequest(&adminv1.GetAuditIndexRequest{}))
		if err != nil {
			return err
		}
		t.req.AfterSequence = index.Msg.GetLast()
	}
	stream, err := adminv1connect.NewAuditServiceClient(c.client, c.server, c.with).TailAudit(ctx, connect.NewRequest(t.req))
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // the stream is over either way
	if len(stream.ResponseHeader()) > 0 {
		t.connected, t.pause = true, 0
	}
	for stream.Receive() {
		rec := stream.Msg().GetRecord()
		done, err := t.as.print(t.o, rec)
		if !done && err == nil {
			err = t.o.print(stream.Msg(), func() table { return line("%s", strings.Join(clean(auditRow(rec)), "  ")) })
		}
		if err != nil {
			return err
		}
		t.req.AfterSequence = rec.GetSequence()
	}
	return stream.Err()
}
