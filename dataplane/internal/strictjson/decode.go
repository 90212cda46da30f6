package strictjson

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Decode reads data as strictly as Validate does into map[string]any, []any, string, bool, nil and, for numbers,
// float64 where a float64 holds the number and json.Number where it does not, so that a reader refuses such a number
// only if it reads it. A float64 holds a number if writing it back in its shortest form gives the same decimal value:
// it holds 0.1, and neither 9007199254740993 nor 1e400.
func Decode(data []byte, limits Limits) (any, error) {
	var s scanner
	s.reset(data, limits)
	s.space()
	v := s.decode(0)
	s.end()
	if s.err != nil {
		return nil, s.err
	}
	return v, nil
}

// decode reads one value as value does, and builds it. What it returns after an error means nothing.
func (s *scanner) decode(depth int) any {
	if s.err != nil {
		return nil
	}
	if s.pos >= len(s.data) {
		s.unexpected()
		return nil
	}
	start := s.pos
	switch s.data[start] {
	case '{':
		return s.decodeObject(depth)
	case '[':
		return s.decodeArray(depth)
	case '"':
		escaped, _, ok := s.str()
		if !ok {
			return nil
		}
		inner := s.data[start+1 : s.pos-1]
		if escaped {
			inner = unescape(make([]byte, 0, len(inner)), inner)
		}
		return string(inner)
	case 't':
		return s.literal("true")
	case 'f':
		s.literal("false")
		return false
	case 'n':
		s.literal("null")
		return nil
	default:
		if !s.number() {
			return nil
		}
		return decodeNumber(string(s.data[start:s.pos]))
	}
}

func (s *scanner) decodeObject(depth int) any {
	if depth >= s.limits.MaxDepth {
		s.fail(TooDeep)
		return nil
	}
	s.pos++
	m := map[string]any{}
	f := frame{base: s.keys, first: true}
	for s.member(&f) {
		name := string(s.key(s.keys - 1))
		m[name] = s.decode(depth + 1)
		if s.err != nil {
			return nil
		}
	}
	return m
}

func (s *scanner) decodeArray(depth int) any {
	if depth >= s.limits.MaxDepth {
		s.fail(TooDeep)
		return nil
	}
	s.pos++
	list := []any{}
	for first := true; s.element(first); first = false {
		list = append(list, s.decode(depth+1))
		if s.err != nil {
			return nil
		}
	}
	return list
}

func decodeNumber(literal string) any {
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil {
		return json.Number(literal) // out of range
	}
	// A decimal of up to 15 digits survives the way through a float64, if it is not near the ends of its range.
	if len(literal) <= 15 && !strings.ContainsAny(literal, "eE") {
		return f
	}
	if sameDecimal(literal, strconv.FormatFloat(f, 'e', -1, 64)) {
		return f
	}
	return json.Number(literal)
}

// sameDecimal compares two JSON numbers by value.
func sameDecimal(a, b string) bool {
	an, ad, ae, aok := decimal(a)
	bn, bd, be, bok := decimal(b)
	return aok && bok && ad == bd && (ad == "" || an == bn && ae == be)
}

// decimal splits a JSON number into sign, significant digits without zeros at either end, and the power of ten of
// the last of them. It is not ok if the exponent has no bounds worth computing with.
func decimal(literal string) (negative bool, digits string, exponent int, ok bool) {
	literal, negative = strings.CutPrefix(literal, "-")
	mantissa, exp := literal, ""
	if i := strings.IndexAny(literal, "eE"); i >= 0 {
		mantissa, exp = literal[:i], strings.TrimPrefix(literal[i+1:], "+")
	}
	if exp != "" {
		var err error
		if exponent, err = strconv.Atoi(exp); err != nil || exponent > 1<<30 || exponent < -(1<<30) {
			return negative, "", 0, strings.Trim(mantissa, "0.") == ""
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent -= len(fraction)
	digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	return negative, trimmed, exponent + len(digits) - len(trimmed), true
}
