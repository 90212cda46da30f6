package proto_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

var add = flag.Bool("add", false, "write golden files for messages that have none; those that are there are never changed")

// TestWireMessagesStayWhatTheyWere reads each kind of event and of wire message as it was once written, and
// writes it again. A golden file is never edited once released: a new form gets a new file.
func TestWireMessagesStayWhatTheyWere(t *testing.T) {
	for name, message := range samples() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "golden", name+".hex")
			written, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if os.IsNotExist(err) && *add {
				if err := os.WriteFile(path, []byte(hex.EncodeToString(written)+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v\nFor a new message: go test -run %s -args -add", err, t.Name())
			}
			golden, err := hex.DecodeString(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			read := message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(golden, read); err != nil {
				t.Fatalf("what was once written cannot be read: %v", err)
			}
			if len(read.ProtoReflect().GetUnknown()) > 0 {
				t.Fatal("what was once written has fields that are not known any more")
			}
			again, err := proto.MarshalOptions{Deterministic: true}.Marshal(read)
			if err != nil || string(again) != string(golden) {
				t.Fatalf("what was once written is written otherwise now (%v)", err)
			}
		})
	}
}

// samples are one message for each member of each oneof on the log and between control plane and proxy, with
// every field set.
func samples() map[string]proto.Message {
	all := map[string]proto.Message{"audit_record": filled(&auditv1.AuditRecord{}, "", 0)}
	for prefix, of := range map[string]struct {
		message proto.Message
		oneof   protoreflect.Name
	}{
		"event": {&eventv1.Event{}, "body"}, "sync_request": {&fleetv1.SyncRequest{}, "message"},
		"sync_response": {&fleetv1.SyncResponse{}, "message"}, "entry": {&fleetv1.Entry{}, "value"}, "entry_key": {&fleetv1.EntryKey{}, "key"},
	} {
		fields := of.message.ProtoReflect().Descriptor().Oneofs().ByName(of.oneof).Fields()
		for i := range fields.Len() {
			name := fields.Get(i).Name()
			all[fmt.Sprintf("%s_%s", prefix, name)] = filled(of.message.ProtoReflect().New().Interface(), name, 0)
		}
	}
	return all
}

// filled sets every field; of a oneof the one that is asked for, or else its first. What lies deep is left out.
func filled(m proto.Message, member protoreflect.Name, depth int) proto.Message {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() && f.Name() != member && (o.Fields().ByName(member) != nil || o.Fields().Get(0) != f) {
			continue
		}
		if f.Message() != nil && depth > 3 {
			continue
		}
		if f.IsList() {
			list := r.Mutable(f).List()
			if f.Message() != nil {
				list.Append(protoreflect.ValueOfMessage(filled(list.NewElement().Message().Interface(), "", depth+1).ProtoReflect()))
			} else {
				list.Append(scalar(f))
			}
			continue
		}
		if f.Message() != nil {
			r.Set(f, protoreflect.ValueOfMessage(filled(r.NewField(f).Message().Interface(), "", depth+1).ProtoReflect()))
			continue
		}
		r.Set(f, scalar(f))
	}
	return m
}

// scalar is a value that tells its field from others.
func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := int(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(fmt.Appendf(nil, "bytes %d", n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("text %d", n))
	}
	panic("a field of kind " + f.Kind().String() + " needs a sample value")
}
