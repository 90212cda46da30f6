package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"sallyport.dev/dataplane/egress"
	"sallyport.dev/dataplane/internal/mcp"
)

// Target is a connector as it is called. Targets are compared with ==; a zero field means its default.
type Target struct {
	// Connector is the connector's id, which errors name.
	Connector string
	// URL is the MCP endpoint, http or https.
	URL string
	// Revision is the one to speak. Default: the upstream is asked.
	Revision mcp.Revision
	// Allowed are the address ranges that URL may lie in beside the public internet, in CIDR notation, separated by commas.
	Allowed string
	// Local: URL is of this host's own configuration, and may lie anywhere.
	Local bool
	// ConnectTimeout bounds making a connection, and TLS on it. Default 5 s.
	ConnectTimeout time.Duration
	// Timeout bounds how long the answer to a call may take to begin. Default 30 s.
	Timeout time.Duration
	// Silence bounds how long an answer that has begun may pause. Default 5 min: upstreams should keep streams alive.
	Silence time.Duration
	// IdleTimeout is how long a connection is kept without use. Default 90 s.
	IdleTimeout time.Duration
	// MaxIdle is how many connections are kept without use. Default 512.
	MaxIdle int
	// MaxConns bounds the connections. Default: no bound.
	MaxConns int
	// MaxHeader bounds an answer's header, in bytes. Default 64 KiB.
	MaxHeader int64
	// MaxResponse bounds an answer that is one JSON message, in bytes. Default 64 MiB.
	MaxResponse int64
	// MaxEvent bounds one event of a stream, in bytes. Default 16 MiB; each open stream may hold one.
	MaxEvent int
	// Legacy: the upstream speaks HTTP+SSE of 2024-11-05, and URL is that of its event stream.
	Legacy bool
	// Retries is how often a call that may be repeated is, after a failure. Default: never.
	Retries int
	// Failures is after how many in a row the upstream is left alone, OpenFor for how long. Defaults: 5 and 10 s.
	Failures int
	OpenFor  time.Duration
	// MaxSessions bounds the sessions that are kept, one for each identity. Default 10,000.
	MaxSessions int
	// SessionIdle is how long a session is kept without use. Default 30 min.
	SessionIdle time.Duration
}

func orDefault[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

func (t Target) orDefaults() Target {
	orDefault(&t.ConnectTimeout, 5*time.Second)
	orDefault(&t.Timeout, 30*time.Second)
	orDefault(&t.Silence, 5*time.Minute)
	orDefault(&t.IdleTimeout, 90*time.Second)
	orDefault(&t.MaxIdle, 512)
	orDefault(&t.MaxHeader, 64<<10)
	orDefault(&t.MaxResponse, 64<<20)
	orDefault(&t.MaxEvent, 16<<20)
	orDefault(&t.MaxSessions, 10_000)
	orDefault(&t.SessionIdle, 30*time.Minute)
	orDefault(&t.Failures, 5)
	orDefault(&t.OpenFor, 10*time.Second)
	t.MaxConns = max(0, t.MaxConns)
	return t
}

// dialer makes connections to addresses that the target allows.
func (t Target) dialer(c Config) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	if c.Dial != nil {
		return c.Dial, nil
	}
	if t.Local {
		return (&net.Dialer{Timeout: t.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext, nil
	}
	var ranges []string
	if t.Allowed != "" {
		ranges = strings.Split(t.Allowed, ",")
	}
	guard, err := egress.New(ranges...)
	if err != nil {
		return nil, fmt.Errorf("connector %s: %w", t.Connector, err)
	}
	return guard.Dialer(t.ConnectTimeout).DialContext, nil
}

func (t Target) parse() (*url.URL, error) {
	to, err := url.Parse(t.URL)
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" || to.User != nil {
		return nil, fmt.Errorf("connector %s: its URL is not an absolute http or https one without a user", t.Connector)
	}
	to.Fragment, to.RawFragment = "", ""
	if t.Revision != "" {
		if _, ok := mcp.ParseRevision(string(t.Revision)); !ok {
			return nil, fmt.Errorf("connector %s: its protocol version is not supported", t.Connector)
		}
	}
	return to, nil
}

// Config is what all upstreams of a pool share. Zero fields have defaults.
type Config struct {
	// Client is how the gateway presents itself to upstreams. Default: sallyport.
	Client mcp.Server
	// TLS configures connections by https. Default: the system's authorities. Certificates are verified unless it says not to.
	TLS *tls.Config
	// Proxy names the HTTP proxy for a request. Default: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Dial makes connections, wherever to. Default: net's, to addresses that the target allows.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock by which sessions idle. Default: time.Now.
	Now func() time.Time
}

func (c Config) orDefaults() Config {
	if c.Client.Name == "" {
		c.Client.Name = "sallyport"
	}
	if c.Client.Version == "" {
		c.Client.Version = "0"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Credential is the header that authenticates the gateway to an upstream. It is never logged and never part of an error.
type Credential struct {
	// Header and Value; an empty Header sends none.
	Header, Value string
	// Query is a parameter of the URL's query, name=value and encoded; empty: none.
	Query string
	// Identity names whom the upstream takes the caller for. It must
	// differ where the upstream sees different people, and stay when a token is renewed. Empty for what all share.
	Identity string
}

// Party is on whose behalf an upstream is called: what it presents, and which session of the session era is its own.
type Party struct {
	// Credential for the upstream. The agent's own token is never one.
	Credential Credential
	// Session is the agent's own session. Calls of one share a session with the upstream, which may keep something in it, and
	// no others do. An agent of the stateless era has none: there Person and Client stand for it.
	Session        string
	Person, Client string
	// Capabilities is the raw object that is declared when a session is opened. Empty: none.
	Capabilities []byte
	// LogLevel is what the agent wants to be told of; empty: what the upstream tells by itself.
	LogLevel string
}

func (p *Party) key() string {
	whose := p.Session
	if whose == "" {
		whose = p.Person + "\x00" + p.Client
	}
	return p.Credential.Identity + "\x00" + whose + "\x00" + string(p.Capabilities)
}

// String hides the value from formatting.
func (c Credential) String() string { return "credential " + c.Header }

// GoString hides the value from formatting.
func (c Credential) GoString() string { return c.String() }

// check refuses a header that would be no header, or another than one for authentication.
func (c Credential) check(connector string) error {
	for i := 0; i < len(c.Query); i++ {
		if c.Query[i] <= ' ' || c.Query[i] >= 0x7f || c.Query[i] == '#' {
			return fmt.Errorf("connector %s: its credential cannot be sent in a URL", connector)
		}
	}
	if c.Header == "" {
		return nil
	}
	name := http.CanonicalHeaderKey(c.Header)
	bad := strings.HasPrefix(name, "Mcp-")
	switch name {
	case "Accept", "Accept-Encoding", "Connection", "Content-Length", "Content-Type", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Last-Event-Id":
		bad = true
	}
	for i := 0; i < len(name); i++ {
		bad = bad || name[i] <= ' ' || name[i] >= 0x7f || name[i] == ':'
	}
	for i := 0; i < len(c.Value); i++ {
		bad = bad || c.Value[i] < ' ' && c.Value[i] != '\t' || c.Value[i] == 0x7f
	}
	if bad {
		return fmt.Errorf("connector %s: its credential cannot be sent as a header", connector)
	}
	return nil
}
