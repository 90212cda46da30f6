package clientconfig

import (
	"net"
	"net/url"
	"regexp"
	"strings"
)

// withheld stands for what could be a secret.
const withheld = "(withheld)"

// credentialName is what names of headers, variables, parameters and flags have that carry credentials.
var credentialName = regexp.MustCompile(`(?i)auth|token|secret|passw|passphrase|pwd|api[-_]?key|access[-_]?key|apikey|credential|cookie|session|signature|private|bearer|(^|[-_])(key|pat|sig|jwt|sid)([-_]|$)|[a-z]Key$`)

var (
	uuidForm = regexp.MustCompile(`(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	wordForm = regexp.MustCompile(`[A-Za-z0-9+/=]+`)
	// reference is a value that lies elsewhere: ${VAR}, ${input:key}, $VAR, %VAR%.
	reference = regexp.MustCompile(`\$\{[^{}]*\}|\$[A-Za-z_][A-Za-z0-9_]*|%[A-Za-z_][A-Za-z0-9_()]*%`)
)

// secretLooking tells whether a text could be a secret, or have one in it, by its form alone: long runs in which letters and digits mix, or that are
// longer than words are. It would rather withhold a name too many.
func secretLooking(s string) bool {
	if len(s) > 200 || uuidForm.MatchString(s) {
		return true
	}
	for _, word := range wordForm.FindAllString(s, -1) {
		for _, run := range strings.Split(word, "/") {
			if len(run) >= 32 || len(run) >= 12 && mixed(run) {
				return true
			}
		}
	}
	return false
}

// mixed tells whether letters and digits take turns, as they do in keys and not in names such as "server2024".
func mixed(run string) bool {
	turns := 0
	for i := 1; i < len(run); i++ {
		if isDigit(run[i]) != isDigit(run[i-1]) {
			turns++
		}
	}
	return turns >= 3
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// shown is a name as a report may have it.
func shown(s string) string {
	if secretLooking(s) {
		return withheld
	}
	return s
}

// isReference tells whether a value points to where the secret lies, and is none itself.
func isReference(value string) bool {
	rest := reference.ReplaceAllString(value, "")
	return rest != value && !secretLooking(rest)
}

// host is a URL's host and port, in which a part that could be a secret is withheld.
func host(u *url.URL) string {
	name := strings.ToLower(u.Hostname())
	if reference.MatchString(u.Host) {
		return "(a variable)"
	}
	if net.ParseIP(name) == nil {
		labels := strings.Split(name, ".")
		for i, label := range labels {
			labels[i] = shown(label)
		}
		name = strings.Join(labels, ".")
	}
	if port := u.Port(); port != "" {
		return net.JoinHostPort(name, port)
	}
	return name
}

// secretInURL tells whether a URL holds a credential, and whether in the clear.
func secretInURL(u *url.URL) (has, clear bool) {
	note := func(value string) {
		has = true
		clear = clear || !isReference(value)
	}
	if u.User != nil {
		note(u.User.String())
	}
	for _, pair := range strings.FieldsFunc(u.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		if value != "" && (credentialName.MatchString(name) || secretLooking(value)) {
			note(value)
		}
	}
	if u.Fragment != "" && secretLooking(u.Fragment) {
		note(u.Fragment)
	}
	for _, segment := range strings.Split(u.Path, "/") {
		if secretLooking(segment) {
			note(segment)
		}
	}
	return has, clear
}
