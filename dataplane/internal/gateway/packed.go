package gateway

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"strconv"
	"strings"
)

// packed is the array of a list, and the same compressed. It is compressed once, by itself: nothing of a request is ever compressed
// together with it, so that the length of an answer tells nothing.
type packed struct {
	plain    []byte
	deflated []byte // blocks of DEFLATE (RFC 1951) that end with a byte, none of them the last; nil: it is not worth it
}

// packFrom is the size from which on an array is compressed: a smaller one fits a packet or two.
const packFrom = 2 << 10

func (p *packed) pack() {
	if len(p.plain) < packFrom {
		return
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		return // the level is one that there is
	}
	_, _ = w.Write(p.plain) // a buffer never fails
	_ = w.Flush()
	p.deflated = bytes.Clone(b.Bytes())
}

func (p *packed) size() int { return len(p.plain) + len(p.deflated) }

// gzip returns what makes, before and after the compressed array, one gzip member (RFC 1952) of it between two other texts, which are
// stored as they are and have less than 64 KiB, as an id has. One member and not three: some clients read no further than the first.
func (p *packed) gzip(before, after []byte) (head, tail []byte) {
	sum := crc32.Update(crc32.Update(crc32.ChecksumIEEE(before), crc32.IEEETable, p.plain), crc32.IEEETable, after)
	b := make([]byte, 0, len(before)+len(after)+32)
	b = append(b, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255) // DEFLATE, no name, no time, no system
	b = appendStored(b, before, 0)
	n := len(b)
	b = appendStored(b, after, 1)
	b = binary.LittleEndian.AppendUint32(b, sum)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(before)+len(p.plain)+len(after))) //nolint:gosec // modulo 2^32, as the format has it
	return b[:n:n], b[n:]
}

// appendStored appends a stored block, of which last is 1 if it ends the data.
func appendStored(b, text []byte, last byte) []byte {
	n := uint16(len(text)) //nolint:gosec // see gzip
	b = append(b, last)
	b = binary.LittleEndian.AppendUint16(b, n)
	return append(binary.LittleEndian.AppendUint16(b, ^n), text...)
}

// acceptsGzip tells whether an Accept-Encoding names gzip, and not to refuse it (RFC 9110, section 12.5.3).
func acceptsGzip(values []string) bool {
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			coding, weight, weighted := strings.Cut(one, ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			if !weighted {
				return true
			}
			name, number, _ := strings.Cut(strings.TrimSpace(weight), "=")
			q, err := strconv.ParseFloat(number, 64)
			return strings.EqualFold(name, "q") && err == nil && q > 0
		}
	}
	return false
}
