package core

import (
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Fold is the one rule by which names are compared: NFC, case-folded, NFC again.
// Two names with the same fold are the same name.
func Fold(name string) string {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c >= 0x80 {
			return norm.NFC.String(cases.Fold().String(norm.NFC.String(name)))
		} else if 'A' <= c && c <= 'Z' {
			return foldASCII(name, i)
		}
	}
	return name
}

// foldASCII lower-cases a name whose first i bytes are lower already, and leaves the rule
// for the rest of Unicode to Fold.
func foldASCII(name string, i int) string {
	b := []byte(name)
	for ; i < len(b); i++ {
		if b[i] >= 0x80 {
			return norm.NFC.String(cases.Fold().String(norm.NFC.String(name)))
		}
		if 'A' <= b[i] && b[i] <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}
