package authserver

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ownSchemes are those that programs on a desk registered for themselves, without the dot that RFC 8252 asks for. A scheme
// with a dot is taken from anybody.
var ownSchemes = []string{"cursor", "vscode", "vscode-insiders", "vscodium", "windsurf", "claude", "zed", "jetbrains", "warp", "raycast", "lmstudio", "goose"}

const maxRedirect = 2000

// checkRedirect refuses what no browser may be sent to: anything but https, http on loopback, and programs' own schemes.
func checkRedirect(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > maxRedirect || !printable(raw):
		return errors.New("a redirect URI cannot be read")
	case strings.Contains(raw, "#") || strings.Contains(raw, `\`):
		return errors.New("a redirect URI has a fragment or a backslash")
	case u.User != nil || strings.Contains(authority(raw), "@"):
		return errors.New("a redirect URI has a user name")
	case strings.Contains(raw, "*"):
		return errors.New("a redirect URI has a wildcard: it is compared to the letter")
	}
	for _, part := range strings.Split(u.EscapedPath(), "/") {
		if plain, err := url.PathUnescape(part); err != nil || plain == "." || plain == ".." {
			return errors.New("a redirect URI has dots for a path's part")
		}
	}
	switch u.Scheme {
	case "https":
		if !plainHost(u) {
			return errors.New("a redirect URI's host is no name or address in ASCII, as browsers write it")
		}
		return nil
	case "http":
		if _, _, ok := loopback(raw); !ok {
			return errors.New("a redirect URI is http to another host than 127.0.0.1, [::1] or localhost")
		}
		return nil
	}
	if strings.Contains(u.Scheme, ".") || slices.Contains(ownSchemes, u.Scheme) {
		return nil
	}
	return errors.New("a redirect URI is neither https, nor http on loopback, nor of a program's own scheme, such as com.example.app")
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// plainHost tells whether a URL's host means the same to everybody: to browsers, which read 127.1 and 0x7f000001 as addresses
// and end names at a last dot or not; to lists of hosts; and to a page's policy, of which a semicolon would be a part.
func plainHost(u *url.URL) bool {
	host := u.Hostname()
	if port := u.Port(); port == "" && strings.HasSuffix(u.Host, ":") || port != "" && !validPort(port) {
		return false
	}
	if strings.HasPrefix(u.Host, "[") {
		a, err := netip.ParseAddr(host)
		return err == nil && a.Zone() == ""
	}
	if len(host) > 253 || !namePattern.MatchString(host) {
		return false
	}
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		a, err := netip.ParseAddr(host)
		return err == nil && a.String() == host
	}
	return true
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// authority is what stands between :// and the path.
func authority(raw string) string {
	_, rest, _ := strings.Cut(raw, "://")
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return rest[:i]
	}
	return rest
}

// loopback splits an http URI of the loopback interface into its host and what follows the port.
func loopback(raw string) (host, rest string, ok bool) {
	after, ok := strings.CutPrefix(raw, "http://")
	if !ok {
		return "", "", false
	}
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
		rest, ok := strings.CutPrefix(after, host)
		if !ok {
			continue
		}
		if port, isPort := strings.CutPrefix(rest, ":"); isPort {
			rest = strings.TrimLeft(port, "0123456789")
			if !validPort(port[:len(port)-len(rest)]) {
				return "", "", false
			}
		}
		return host, rest, rest == "" || rest[0] == '/' || rest[0] == '?'
	}
	return "", "", false
}

// redirectAllowed compares to the letter, but for the port on loopback, which a program picks when it begins (RFC 8252,
// section 7.3).
func redirectAllowed(registered []string, asked string) bool {
	if slices.Contains(registered, asked) {
		return true
	}
	host, rest, ok := loopback(asked)
	if !ok {
		return false
	}
	return slices.ContainsFunc(registered, func(r string) bool {
		h, tail, ok := loopback(r)
		return ok && h == host && tail == rest
	})
}

// withoutPort is a redirect URI as consent knows it: that of a program on loopback has no port.
func withoutPort(raw string) string {
	if host, rest, ok := loopback(raw); ok {
		return "http://" + host + rest
	}
	return raw
}

// lead is a redirect URI with the answer in its query.
func lead(redirect string, answer url.Values) string {
	join := "?"
	if strings.Contains(redirect, "?") {
		join = "&"
	}
	return redirect + join + answer.Encode()
}

// formAction is what a browser must know of a redirect URI, to let a form's answer lead there.
func formAction(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil {
		return ""
	}
	if u.Scheme == "http" && strings.Contains(u.Host, "[") {
		return "http:" // a policy cannot name an IPv6 address
	}
	if u.Scheme == "https" || u.Scheme == "http" {
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + ":"
}
