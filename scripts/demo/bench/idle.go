package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"sallyport.dev/scripts/demo/quickstart"
)

// idleStreams are open for proxy_idle_stream.
const idleStreams = 10_000

// measureIdle prints proxy_idle_stream: what a stream takes on which nothing happens. The proxy is a fresh one, of another region:
// what the loads before left in memory would hide some of it.
func (l *lab) measureIdle(ctx context.Context, token string) error {
	count := max(int(float64(idleStreams)*l.Scale), 100)
	if err := enough(count); err != nil {
		return err
	}
	l.say("%d streams on which nothing happens", count)
	bare, err := l.serve(ctx, "streams")
	if err != nil {
		return err
	}
	if err := l.installation.StartProxy(ctx, quickstart.EUWest, "--max-open-per-person", fmt.Sprint(2*count)); err != nil {
		return err
	}
	if err := l.installation.Enforced(ctx); err != nil {
		return err
	}
	var each []float64
	for _, of := range []struct{ url, program string }{
		{bare, "streams"}, {l.installation.MCPURL(quickstart.EUWest) + "/" + loaded, quickstart.ProxyOf(quickstart.EUWest)},
	} {
		n, err := l.idle(ctx, of.url, token, l.installation.PID(of.program), count)
		if err != nil {
			return fmt.Errorf("%d idle streams at %s: %w", count, of.program, err)
		}
		each = append(each, n)
	}
	f := Figure{
		Name: "proxy_idle_stream", Value: each[1], Unit: "KiB", Reference: each[0], Scale: l.Scale,
		Load: fmt.Sprintf("resident memory of a fresh proxy with %d open subscriptions/listen of one person, each on a connection of its own and told what it was granted, less that with the first of them, by their number; "+
			"reference: a net/http handler that holds as many event streams open", count),
	}
	f.Ratio = f.Value / f.Reference
	return l.print(f)
}

// enough tells whether so many connections can be open in one program.
func enough(count int) error {
	var most syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most); err != nil {
		return fmt.Errorf("ask how many files may be open: %w", err)
	}
	if need := uint64(count) + 200; most.Max < need {
		return fmt.Errorf("%d files may be open, and %d streams need %d: raise the limit (ulimit -Hn) and measure again", most.Max, count, need)
	}
	return nil
}

// idle opens streams and returns by how much each of them, but the first, let the program's memory grow, in KiB.
func (l *lab) idle(ctx context.Context, endpoint, token string, pid, count int) (float64, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return 0, fmt.Errorf("read the endpoint: %w", err)
	}
	streams := make([]net.Conn, count)
	defer func() {
		for _, s := range streams {
			if s != nil {
				_ = s.Close()
			}
		}
	}()
	if streams[0], err = openStream(ctx, u, token, 1); err != nil {
		return 0, err
	}
	before, _, err := memory(pid)
	if err != nil {
		return 0, err
	}
	failed := make([]error, 16)
	var workers sync.WaitGroup
	for worker := range failed {
		workers.Go(func() {
			for i := 1 + worker; i < count && failed[worker] == nil; i += len(failed) {
				streams[i], failed[worker] = openStream(ctx, u, token, i+1)
			}
		})
	}
	workers.Wait()
	if err := errors.Join(failed...); err != nil {
		return 0, err
	}
	select { // what opening took is given back in part
	case <-time.After(time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, _, err := memory(pid)
	return (after - before) * 1024 / float64(count-1), err
}

// openStream opens one stream and waits for its first event.
func openStream(ctx context.Context, u *url.URL, token string, id int) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+
		`"_meta":{"io.modelcontextprotocol/protocolVersion":%q,"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, id, revision)
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // a connection without deadlines would fail below
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"+
		"Mcp-Protocol-Version: %s\r\nMcp-Method: subscriptions/listen\r\nUser-Agent: sallyport-bench\r\nContent-Length: %d\r\n\r\n%s", u.Path, u.Host, token, revision, len(body), body)
	in := bufio.NewReaderSize(conn, 1024)
	for first := true; err == nil; first = false {
		var line string
		line, err = in.ReadString('\n')
		if first && err == nil && !strings.Contains(line, " 200 ") {
			rest, _ := io.ReadAll(io.LimitReader(in, 500))
			err = fmt.Errorf("no stream: %s%s", line, rest)
		}
		if err == nil && strings.HasPrefix(line, "data: ") {
			return conn, conn.SetDeadline(time.Time{})
		}
	}
	return nil, errors.Join(fmt.Errorf("open a stream: %w", err), conn.Close())
}
