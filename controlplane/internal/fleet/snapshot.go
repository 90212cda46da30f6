package fleet

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
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

// encode makes the chunks.
func (s *snapshot) encode(entries iter.Seq[*fleetv1.Entry], epoch string, digest []byte) {
	chunk, size := &fleetv1.SnapshotChunk{Epoch: epoch, Version: s.version}, 0
	for e := range entries {
		if size >= chunkBytes {
			if !s.add(chunk, false) {
				return
			}
			chunk, size = &fleetv1.SnapshotChunk{Epoch: epoch, Version: s.version}, 0
		}
		chunk.Entries = append(chunk.Entries, e)
		size += proto.Size(e)
	}
	chunk.Last, chunk.Digest = true, digest
	s.add(chunk, true)
}

// add encodes a chunk. It is false where that cannot be done, which ends the snapshot.
func (s *snapshot) add(chunk *fleetv1.SnapshotChunk, last bool) bool {
	message, err := encoded(&fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Chunk{Chunk: chunk}})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.ended, s.err = true, fmt.Errorf("encoding a snapshot: %w", err)
	} else {
		s.chunks, s.ended = append(s.chunks, message), last
	}
	close(s.more)
	s.more = make(chan struct{})
	return err == nil
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
