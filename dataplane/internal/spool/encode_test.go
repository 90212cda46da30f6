package spool

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// fill sets some of a message's fields, whichever the schema has.
func fill(t *rapid.T, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case !rapid.Bool().Draw(t, string(f.Name())):
		case f.IsList():
			list := m.Mutable(f).List()
			for range rapid.IntRange(0, 3).Draw(t, "items") {
				if f.Message() != nil {
					fill(t, list.AppendMutable().Message())
					continue
				}
				list.Append(scalar(t, f))
			}
		case f.Message() != nil:
			fill(t, m.Mutable(f).Message())
		default:
			m.Set(f, scalar(t, f))
		}
	}
}

func scalar(t *rapid.T, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.OneOf(rapid.String(), rapid.StringN(120, 300, -1)).Draw(t, "text"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "bytes"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "flag"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32().Draw(t, "enum")))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	}
	t.Fatalf("%s: a kind of field that no record had before", f.FullName())
	return protoreflect.Value{}
}

func TestARecordIsEncodedAsProtoEncodesIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &auditv1.AuditRecord{}
		fill(t, r.ProtoReflect())
		want, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		ahead := []byte("ahead")
		got, err := appendRecord(ahead, r)
		if err != nil || !bytes.HasPrefix(got, ahead) || !bytes.Equal(got[len(ahead):], want) {
			t.Fatalf("%v is\n%x, want\n%x (%v)", r, got, want, err)
		}
	})
}

func TestWhatAnotherBuildPutIntoARecordIsKept(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7)
	for _, r := range []*auditv1.AuditRecord{{CallId: "c"}, {CallId: "c", Decision: &auditv1.Decision{Rule: 1}}} {
		if r.Decision != nil {
			r.Decision.ProtoReflect().SetUnknown(unknown)
		} else {
			r.ProtoReflect().SetUnknown(unknown)
		}
		b, err := appendRecord(nil, r)
		got := &auditv1.AuditRecord{}
		if err == nil {
			err = proto.Unmarshal(b, got)
		}
		if err != nil || !proto.Equal(got, r) {
			t.Errorf("%v came back as %v (%v)", r, got, err)
		}
	}
}

func TestTextThatIsNotUTF8IsNoRecord(t *testing.T) {
	for _, r := range []*auditv1.AuditRecord{{Method: "\xff"}, {Groups: []string{"a", "\xc3"}}, {Decision: &auditv1.Decision{Text: "\xed\xa0\x80"}}} {
		if b, err := appendRecord(nil, r); err == nil {
			t.Errorf("%v became %x, which no reader takes", r, b)
		}
	}
}
