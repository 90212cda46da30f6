package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// Shown is a JSON text for people who decide by it: on lines of its own, and with what cannot be seen, or changes how other characters
// are seen, as escapes.
func Shown(text []byte) string {
	var lines bytes.Buffer
	if json.Indent(&lines, text, "", "  ") != nil {
		lines.Reset()
		lines.Write(text)
	}
	var b strings.Builder
	for _, r := range lines.String() {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
