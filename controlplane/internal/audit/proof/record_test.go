package proof

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// FuzzReadRecord holds what is read in place to what protobuf reads of the same bytes.
func FuzzReadRecord(f *testing.F) {
	for _, r := range []*auditv1.ExportedRecord{
		{Sequence: 7, Stored: timestamppb.Now(), Core: []byte("core"), Personal: []byte("personal"), Head: "key.signature"},
		{Sequence: 8, Leaf: bytes.Repeat([]byte{1}, 32)},
		{},
	} {
		data, err := proto.Marshal(&auditv1.ExportItem{Item: &auditv1.ExportItem_Record{Record: r}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(data, 0x12, 2, 8, 9))        // merged with another record
		f.Add(append(data, 0x22, 2, 8, 9))        // an end in place of the record
		f.Add([]byte("\x12\x04\x1a\x02\xff\xff")) // a core of any bytes
		f.Add([]byte("\x12\x04\x2a\x02\xff\xff")) // a head that is no text
		f.Add([]byte("\x12\x04\x12\x02\x08\x01")) // a time
		f.Add([]byte("\x12\x04\x12\x02\x0a\x01")) // no time
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, ok := readRecord(data)
		if !ok {
			return
		}
		item := &auditv1.ExportItem{}
		if err := proto.Unmarshal(data, item); err != nil {
			t.Fatalf("protobuf does not read it: %v", err)
		}
		r := item.GetRecord()
		if r == nil || r.GetSequence() != e.sequence || !same(r.GetCore(), e.core) || !same(r.GetPersonal(), e.personal) || !same(r.GetLeaf(), e.leaf) || r.GetHead() != e.head {
			t.Fatalf("read %v, and protobuf %v", e, r)
		}
	})
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
