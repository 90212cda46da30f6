package fleet

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"
)

// chunkBytes is about how large a snapshot's chunks are.
const chunkBytes = 512 << 10

// snapshot is all that a region's proxies enforce at some version. Its chunks can be sent while later ones are encoded:
// a proxy takes as long to take one in as it takes to make the next.
type snapshot struct {
	version uint64

	mu     sync.Mutex
	chunks []*fleetv1.SyncResponse
	ended  bool
	err    error
	// more is closed and replaced when there is another chunk, or the end.
	more chan struct{}
}

func newSnapshot(version uint64) *snapshot {
	return &snapshot{version: version, more: make(chan struct{})}
}

// encode makes the chunks and returns the digest of all entries. Each entry is encoded once, for both.
func (s *snapshot) encode(entries iter.Seq[*fleetv1.Entry], epoch string) (digest policy.Digest) {
	var chunk, entry []byte
	var failed error
	for e := range entries {
		var err error
		if entry, err = marshalOptions.MarshalAppend(entry[:0], e); err != nil {
			failed = err // the digest goes on without it, as every other does
			continue
		}
		digest.AddEncoded(entry)
		if len(chunk) >= chunkBytes {
			s.add(&fleetv1.SnapshotChunk{Epoch: epoch, Version: s.version}, chunk, failed)
			chunk = chunk[:0]
		}
		chunk = protowire.AppendBytes(protowire.AppendTag(chunk, entriesField, protowire.BytesType), entry)
	}
	s.add(&fleetv1.SnapshotChunk{Epoch: epoch, Version: s.version, Last: true, Digest: digest.Bytes()}, chunk, failed)
	return digest
}

// entriesField is where a chunk has its entries.
var entriesField = new(fleetv1.SnapshotChunk).ProtoReflect().Descriptor().Fields().ByName("entries").Number()

// add adds a chunk with entries that are encoded already, or ends the snapshot with an error.
func (s *snapshot) add(chunk *fleetv1.SnapshotChunk, entries []byte, err error) {
	var message *fleetv1.SyncResponse
	if err == nil {
		chunk.ProtoReflect().SetUnknown(entries)
		message, err = encoded(&fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Chunk{Chunk: chunk}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.ended, s.err = true, fmt.Errorf("encoding a snapshot: %w", err)
	} else {
		s.chunks, s.ended = append(s.chunks, message), chunk.GetLast()
	}
	close(s.more)
	s.more = make(chan struct{})
}

// chunk waits for a chunk. Nil: there are no more.
func (s *snapshot) chunk(ctx context.Context, i int) (*fleetv1.SyncResponse, error) {
	for {
		chunk, more, err := s.look(i)
		if chunk != nil || more == nil {
			return chunk, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-more:
		}
	}
}

// look returns a chunk, or what is closed when there is another; neither at the end.
func (s *snapshot) look(i int) (chunk *fleetv1.SyncResponse, more <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case i < len(s.chunks):
		return s.chunks[i], nil, nil
	case s.ended:
		return nil, nil, s.err
	}
	return nil, s.more, nil
}

func (s *snapshot) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}
