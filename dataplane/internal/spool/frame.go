package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// A frame is: magic (8 bytes), payload length (4), CRC32C (4), record number (8), payload. All little-endian.
// The checksum covers payload, length and number.
//
// The magic is derived from the generation's random id, which agents never see. What an agent sends lies inside
// payloads, so a fixed magic would let it plant a frame that a scan past damage would take for a record.
const (
	frameHeader = 24
	// A record that is larger is refused: a delivery must be able to hold at least one. The largest have a whole value in them.
	maxRecord = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func magicOf(generation string) uint64 {
	sum := sha256.Sum256([]byte("sallyport spool frame\x00" + generation))
	return binary.LittleEndian.Uint64(sum[:8])
}

// sealFrame fills in the header of b, whose payload is complete and has the checksum crc.
func sealFrame(b []byte, magic, number uint64, crc uint32) {
	binary.LittleEndian.PutUint64(b[0:], magic)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-frameHeader))
	binary.LittleEndian.PutUint64(b[16:], number)
	binary.LittleEndian.PutUint32(b[12:], frameSum(crc, b))
}

// frameSum extends the payload's checksum by the header's length and number.
func frameSum(crc uint32, b []byte) uint32 {
	crc = crc32.Update(crc, castagnoli, b[8:12])
	return crc32.Update(crc, castagnoli, b[16:24])
}

// frame is a sound frame inside a buffer.
type frame struct {
	number  uint64
	offset  int
	size    int // with the header
	payload []byte
}

// readFrame reads the frame at the start of b. It reports false where there is none that is whole and sound.
func readFrame(b []byte, magic uint64) (frame, bool) {
	if len(b) < frameHeader || binary.LittleEndian.Uint64(b) != magic {
		return frame{}, false
	}
	length := binary.LittleEndian.Uint32(b[8:])
	if length > maxRecord || int(length) > len(b)-frameHeader {
		return frame{}, false
	}
	payload := b[frameHeader : frameHeader+int(length)]
	if frameSum(crc32.Checksum(payload, castagnoli), b) != binary.LittleEndian.Uint32(b[12:]) {
		return frame{}, false
	}
	return frame{
		number:  binary.LittleEndian.Uint64(b[16:]),
		size:    frameHeader + int(length),
		payload: payload,
	}, true
}

// scanFrames visits each sound frame of a segment in order, stepping over damage byte by byte.
func scanFrames(b []byte, magic uint64, visit func(frame)) {
	for at := 0; at < len(b); {
		f, ok := readFrame(b[at:], magic)
		if !ok {
			at++
			continue
		}
		f.offset = at
		visit(f)
		at += f.size
	}
}
