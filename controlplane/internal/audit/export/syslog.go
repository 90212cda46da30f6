package export

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit/format"
)

// enterprise is the number under which structured data has names of its own. This one is for documentation (RFC 5612).
const enterprise = "32473"

// auditFacility is "log audit" (RFC 5424, section 6.2.1).
const auditFacility = 13

// syslog sends batches of RFC 5424 over TLS, counted by octets (RFC 5425). The protocol acknowledges nothing but the end of a connection: so
// each batch has a connection of its own, and is there once the receiver, which must read all that was sent before it, has answered the end.
type syslog struct {
	dialer  *net.Dialer
	tls     *tls.Config
	address string
	text    bool // lines are no JSON
}

func openSyslog(e *policyv1.AuditExporter) (*syslog, error) {
	u, err := url.Parse(e.GetUrl())
	if err != nil {
		return nil, fmt.Errorf("its url cannot be used: %w", err)
	}
	dialer, config, err := reach(e)
	if err != nil {
		return nil, err
	}
	config.ServerName, config.ClientSessionCache = u.Hostname(), tls.NewLRUClientSessionCache(1)
	name, _ := formatOf(e)
	return &syslog{dialer: dialer, tls: config, address: u.Host, text: name == "cef"}, nil
}

// Send writes a batch on a connection of its own.
func (s *syslog) Send(ctx context.Context, items []Item) error {
	var all bytes.Buffer
	for _, item := range items {
		m := s.message(item)
		fmt.Fprintf(&all, "%d ", len(m))
		all.Write(m)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{NetDialer: s.dialer, Config: s.tls}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return plain(err)
	}
	defer conn.Close() // both sides ended it, or it is given up
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	secure := conn.(*tls.Conn) //nolint:forcetypeassert // a tls.Dialer makes no other
	if _, err := secure.Write(all.Bytes()); err != nil {
		return plain(err)
	}
	if err := secure.CloseWrite(); err != nil {
		return plain(err)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(secure, maxAnswer)); err != nil {
		return fmt.Errorf("the receiver did not say that it read all: %w", err)
	}
	return nil
}

// message is a record as RFC 5424 says it.
func (s *syslog) message(item Item) []byte {
	line := item.Line
	if !s.text {
		line = format.ASCII(line)
	}
	var m bytes.Buffer
	fmt.Fprintf(&m, "<%d>1 %s %s sallyport - %s [sallyport@%s id=\"%s\" sequence=\"%d\"] ",
		auditFacility*8+item.SyslogSeverity(), time.UnixMilli(item.Millis()).UTC().Format("2006-01-02T15:04:05.000Z07:00"), word(item.GetProxy(), 255), word(item.What(), 32), enterprise, parameter(item.ID()), item.Sequence)
	if !isASCII(line) {
		m.WriteString("\xef\xbb\xbf") // what is UTF-8 says so (section 6.4)
	}
	m.Write(line)
	return m.Bytes()
}

func isASCII(b []byte) bool {
	return bytes.IndexFunc(b, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// word is a text as a field of the header: printable US-ASCII without spaces.
func word(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f {
			return r
		}
		return '_'
	}, s)
	if s = s[:min(len(s), most)]; s == "" {
		return "-"
	}
	return s
}

// parameter is a text as a value of structured data, in which three signs are escaped, and no others can be (section 6.3.3).
func parameter(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(shown(s))
}

// shown is a text without what a terminal, an editor or a log viewer may act on.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// Close has nothing to let go of.
func (s *syslog) Close() error { return nil }
