package format

import (
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// JSON writes a record as an object whose members are the fields of sallyport.audit.v1.AuditRecord by their names there;
// what is not set is left out. Before them stand `id`, and `sequence`, `stored` and `person` where they are known.
// Enums are words in lower case, times RFC 3339, durations milliseconds, arguments' and results' heads text, digests
// and other bytes hexadecimal.
func JSON(r Record) []byte {
	out := appendString([]byte(`{"id":`), r.ID())
	if r.Sequence > 0 {
		out = strconv.AppendUint(append(out, `,"sequence":`...), r.Sequence, 10)
	}
	if !r.Stored.IsZero() {
		out = append(r.Stored.UTC().AppendFormat(append(out, `,"stored":"`...), time.RFC3339Nano), '"')
	}
	if r.Person != "" {
		out = appendString(append(out, `,"person":`...), r.Person)
	}
	if r.GetKind() == 0 {
		out = append(out, `,"kind":"call"`...)
	}
	out = appendFields(out, r.ProtoReflect(), false)
	return harden(append(out, '}'))
}

// appendFields writes the members of an object that is open.
func appendFields(out []byte, m protoreflect.Message, first bool) []byte {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(append(append(out, '"'), f.Name()...), '"', ':')
		v := m.Get(f)
		if !f.IsList() {
			out = appendValue(out, f, v)
			continue
		}
		out = append(out, '[')
		for j := range v.List().Len() {
			if j > 0 {
				out = append(out, ',')
			}
			out = appendValue(out, f, v.List().Get(j))
		}
		out = append(out, ']')
	}
	return out
}

func appendValue(out []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(out, v.Bool())
	case protoreflect.EnumKind:
		return appendString(out, enumWord(f.Enum(), v.Enum()))
	case protoreflect.BytesKind:
		if f.Name() == "head" {
			return appendString(out, string(v.Bytes()))
		}
		return appendString(out, hex.EncodeToString(v.Bytes()))
	case protoreflect.StringKind:
		return appendString(out, v.String())
	case protoreflect.MessageKind:
		return appendMessage(out, f.Message(), v.Message())
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(out, v.Uint(), 10)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return strconv.AppendFloat(out, v.Float(), 'g', -1, 64)
	default:
		return strconv.AppendInt(out, v.Int(), 10)
	}
}

func appendMessage(out []byte, d protoreflect.MessageDescriptor, m protoreflect.Message) []byte {
	get := func(name protoreflect.Name) int64 { return m.Get(d.Fields().ByName(name)).Int() }
	switch d.FullName() {
	case "google.protobuf.Timestamp":
		at := time.Unix(get("seconds"), get("nanos")).UTC()
		if at.Year() < 0 || at.Year() > 9999 { // RFC 3339 has no such year
			return append(out, "null"...)
		}
		return append(at.AppendFormat(append(out, '"'), time.RFC3339Nano), '"')
	case "google.protobuf.Duration":
		return strconv.AppendFloat(out, float64(get("seconds"))*1e3+float64(get("nanos"))/1e6, 'f', -1, 64)
	}
	return append(appendFields(append(out, '{'), m, true), '}')
}

// enumWord is a value of an enum without what all of its values begin with.
func enumWord(d protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := d.Values().ByNumber(n)
	if v == nil {
		return strconv.Itoa(int(n))
	}
	prefix := strings.TrimSuffix(string(d.Values().ByNumber(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

// appendString writes a text as a JSON string. What is no UTF-8 becomes U+FFFD.
func appendString(out []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // a string can always be written
		quoted = []byte(`""`)
	}
	return append(out, quoted...)
}
