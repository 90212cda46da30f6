package strictjson

import (
	"unicode/utf16"
	"unicode/utf8"
)

// escapeLen measures the escape at the start of d. A surrogate pair is one escape.
func escapeLen(d []byte) (int, Reason) {
	if len(d) < 2 {
		return 0, Truncated
	}
	switch d[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, ""
	case 'u':
	default:
		return 0, InvalidEscape
	}
	unit, reason := hex4(d)
	if reason != "" || !utf16.IsSurrogate(unit) {
		return 6, reason
	}
	if unit >= 0xDC00 || len(d) < 8 || d[6] != '\\' || d[7] != 'u' {
		return 0, LoneSurrogate
	}
	low, reason := hex4(d[6:])
	if reason != "" {
		return 0, reason
	}
	if low < 0xDC00 || low > 0xDFFF {
		return 0, LoneSurrogate
	}
	return 12, ""
}

// hex4 reads the code unit of a \u escape.
func hex4(d []byte) (rune, Reason) {
	var unit rune
	for i := 2; i < 6; i++ {
		if i >= len(d) {
			return 0, Truncated
		}
		switch c := d[i]; {
		case c >= '0' && c <= '9':
			unit = unit<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			unit = unit<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			unit = unit<<4 | rune(c-'A'+10)
		default:
			return 0, InvalidEscape
		}
	}
	return unit, ""
}

// Unquote appends to dst what a raw string value that was read stands for. Anything else appends nothing.
func Unquote(dst, raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return dst
	}
	return unescape(dst, raw[1:len(raw)-1])
}

// Text returns what a raw string value that was read stands for, and whether it was a string.
func Text(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	inner := raw[1 : len(raw)-1]
	for _, c := range inner {
		if c == '\\' {
			return string(unescape(make([]byte, 0, len(inner)), inner)), true
		}
	}
	return string(inner), true
}

// unescape appends what the inside of a checked string stands for.
func unescape(dst, inner []byte) []byte {
	for i := 0; i < len(inner); {
		c := inner[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		switch c := inner[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			unit, _ := hex4(inner[i:])
			i += 4
			if utf16.IsSurrogate(unit) {
				low, _ := hex4(inner[i+2:])
				unit = utf16.DecodeRune(unit, low)
				i += 6
			}
			dst = utf8.AppendRune(dst, unit)
		default:
			dst = append(dst, c)
		}
		i += 2
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// Quote appends s to dst as a JSON string. Invalid UTF-8 becomes U+FFFD, so that what is written can be read strictly.
func Quote(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < 0x20 || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
		}
	}
	return append(dst, '"')
}
