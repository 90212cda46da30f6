package proof

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

const (
	// MaxItem bounds one item of a file.
	MaxItem = 64 << 20
	// partBytes is how much of a file is looked at at a time.
	partBytes = 256 << 10
)

// Write writes an item to a file.
func Write(w io.Writer, item *auditv1.ExportItem) error {
	_, err := protodelim.MarshalTo(w, item)
	return err
}

// part is a run of items of a file.
type part struct {
	data  []byte
	ends  []int // in data, of each item
	items []item
	ready chan struct{} // closed when the items are there
	err   error         // of what comes after them
}

// item is a record, or another item.
type item struct {
	record record
	other  *auditv1.ExportItem
}

// Read checks an export that lies in a file, as Add does item by item. What an item shows by itself, of which hashes are most, is
// looked at on all processors at once; what their order shows, one after the other.
func (v *Verifier) Read(r io.Reader) error {
	parts, stop := make(chan *part, 2*runtime.GOMAXPROCS(0)), make(chan struct{})
	pool := sync.Pool{New: func() any { return &part{} }}
	go func() {
		defer close(parts)
		b := bufio.NewReaderSize(r, partBytes)
		for more := true; more; {
			p := pool.Get().(*part)
			more = p.read(b)
			go p.look()
			select {
			case parts <- p:
			case <-stop:
				return
			}
		}
	}()
	var err error
	for p := range parts {
		if <-p.ready; err != nil {
			continue // until who reads has ended
		}
		if err = v.part(p); err != nil {
			close(stop)
		}
		pool.Put(p)
	}
	return err
}

func (v *Verifier) part(p *part) (err error) {
	for i := range p.items {
		if it := &p.items[i]; it.other != nil || !v.begun || v.ended {
			err = v.Add(it.other)
		} else {
			err = v.record(&it.record)
		}
		if err != nil {
			return err
		}
	}
	return p.err
}

// read reads some items, and says whether there may be more.
func (p *part) read(b *bufio.Reader) (more bool) {
	*p = part{data: slices.Grow(p.data[:0], partBytes+partBytes/8), ends: p.ends[:0], items: p.items, ready: make(chan struct{})}
	for len(p.data) < partBytes {
		size, err := binary.ReadUvarint(b)
		if errors.Is(err, io.EOF) {
			return false
		}
		begin := len(p.data)
		switch {
		case err != nil:
		case size > MaxItem:
			err = fmt.Errorf("an item has %d bytes, of at most %d", size, MaxItem)
		default:
			p.data = append(p.data, make([]byte, size)...)
			_, err = io.ReadFull(b, p.data[begin:])
		}
		if err != nil {
			p.err = fmt.Errorf("the export cannot be read on: %w", err)
			return false
		}
		p.ends = append(p.ends, len(p.data))
	}
	return true
}

// look looks at each item by itself.
func (p *part) look() {
	defer close(p.ready)
	h, begin := sha256.New(), 0
	p.items = slices.Grow(p.items[:0], len(p.ends))[:len(p.ends)]
	for i, end := range p.ends {
		it, data := &p.items[i], p.data[begin:end]
		it.other, begin = nil, end
		if e, ok := readRecord(data); ok {
			it.record.look(e, h)
			continue
		}
		it.other = &auditv1.ExportItem{}
		if err := proto.Unmarshal(data, it.other); err != nil {
			p.items, p.err = p.items[:i], fmt.Errorf("the export cannot be read on: %w", err)
			return
		}
	}
}
