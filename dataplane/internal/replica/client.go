package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/internal/spool"
)

const (
	// One message may be this large: a chunk of a snapshot is much smaller, but holds whole entries.
	maxMessage  = 64 << 20
	callTimeout = 15 * time.Second
)

// Client calls the control planes as one proxy. When one of them fails, the next call goes to the next.
type Client struct {
	urls    []*url.URL
	tls     *tls.Config
	open    atomic.Pointer[connections]
	current atomic.Uint32
}

// connections are those to all control planes.
type connections struct {
	peers      []peer
	transports []*http.Transport
}

// peer is a control plane.
type peer struct {
	fleetv1connect.FleetServiceClient
	approvals fleetv1connect.ApprovalServiceClient
	limits    fleetv1connect.LimitServiceClient
}

// NewClient returns a client for the control planes at the URLs, https, or http (HTTP/2 without TLS) in tests. tlsConfig shows who the proxy is.
func NewClient(urls []string, tlsConfig *tls.Config) (*Client, error) {
	if len(urls) == 0 {
		return nil, errors.New("a proxy needs a control plane's URL")
	}
	c := &Client{tls: tlsConfig}
	for _, u := range urls {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
			return nil, fmt.Errorf("control plane %q: not an http or https URL", u)
		}
		c.urls = append(c.urls, parsed)
	}
	c.Reconnect()
	return c, nil
}

// Reconnect has all that is asked from now on go over new connections: the proxy has another certificate. What is under way ends over the old ones.
func (c *Client) Reconnect() {
	now := &connections{}
	for _, u := range c.urls {
		t := transport(u.Scheme, c.tls.Clone()) // net/http changes that of each
		over, most := &http.Client{Transport: t}, connect.WithReadMaxBytes(maxMessage)
		now.transports = append(now.transports, t)
		now.peers = append(now.peers, peer{fleetv1connect.NewFleetServiceClient(over, u.String(), append(compression(u), most)...), fleetv1connect.NewApprovalServiceClient(over, u.String(), most), fleetv1connect.NewLimitServiceClient(over, u.String(), most)})
	}
	if before := c.open.Swap(now); before != nil {
		for _, t := range before.transports {
			t.CloseIdleConnections()
		}
	}
}

// transport speaks HTTP/2 and nothing else: the stream goes both ways at once.
func transport(scheme string, tlsConfig *tls.Config) *http.Transport {
	var p http.Protocols
	p.SetHTTP2(scheme == "https")
	p.SetUnencryptedHTTP2(scheme == "http")
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, Protocols: &p, TLSClientConfig: tlsConfig, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 2 * time.Minute,
		// A peer that is gone without a word is noticed.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
}

// peer returns the control plane to call now.
func (c *Client) peer() peer {
	open := c.open.Load()
	return open.peers[int(c.current.Load())%len(open.peers)]
}

// failed moves on to the next control plane where this one cannot serve.
func (c *Client) failed(err error) {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeUnknown, connect.CodeDeadlineExceeded, connect.CodeInternal, connect.CodeUnimplemented:
		c.current.Add(1)
	}
}

// DeliverAudit hands audit records to the control plane. It is a spool's Send.
func (c *Client) DeliverAudit(ctx context.Context, generation string, records []spool.Record) (uint64, error) {
	req := &fleetv1.DeliverAuditRequest{SpoolGeneration: generation}
	req.ProtoReflect().SetUnknown(encoded(records))
	resp, err := c.peer().DeliverAudit(ctx, connect.NewRequest(req))
	if err != nil {
		c.failed(err)
		return 0, fmt.Errorf("delivering audit: %w", err)
	}
	return resp.Msg.GetAcknowledged(), nil
}

// recordsField is the number of DeliverAuditRequest.records.
var recordsField = (&fleetv1.DeliverAuditRequest{}).ProtoReflect().Descriptor().Fields().ByName("records").Number()

// encoded is the field records in the wire format. The records are encoded already: to decode them only to encode them again would
// cost more than all else that a delivery does.
func encoded(records []spool.Record) []byte {
	size := 0
	for _, r := range records {
		size += len(r.Data) + 8
	}
	b := make([]byte, 0, size)
	for _, r := range records {
		b = protowire.AppendBytes(protowire.AppendTag(b, recordsField, protowire.BytesType), r.Data)
	}
	return b
}
