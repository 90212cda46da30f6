package core

import (
	"iter"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// maxBlocks bounds the blocks that every call is compared with.
const maxBlocks = 10000

// PlaceBlock denies its target before all grants, until its end or until an admin lifts it.
// What it names need not exist: a block may come first.
type PlaceBlock struct {
	Block message[*policyv1.Block]
}

// NewPlaceBlock places a block; its id is given when it is decided.
func NewPlaceBlock(b *policyv1.Block) PlaceBlock { return PlaceBlock{message[*policyv1.Block]{b}} }

func (c PlaceBlock) decide(s *State, env Env) ([]*eventv1.Event, error) {
	b := proto.CloneOf(c.Block.M)
	switch {
	case b.GetTarget() == nil:
		return nil, refuseField(InvalidArgument, "target", "a block needs a target: a person, client, connector, tool or region")
	case b.GetReason() == "":
		return nil, refuseField(InvalidArgument, "reason", "a block needs a reason")
	case b.GetUntil() != nil && !b.GetUntil().AsTime().After(env.Now):
		return nil, refuseField(InvalidArgument, "until", "the block would have ended already")
	case s.blocks.Len() >= maxBlocks:
		return nil, refuse(FailedPrecondition, "there are %d blocks, which is the most: lift some that have ended", maxBlocks)
	}
	b.Id = env.NewID().String()
	return env.events(&eventv1.Event{Body: &eventv1.Event_BlockPlaced{BlockPlaced: &eventv1.BlockPlaced{Block: b}}}), nil
}

// LiftBlock ends a block before its time.
type LiftBlock struct{ ID uuid.UUID }

func (c LiftBlock) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if _, ok := s.blocks.Get(c.ID.String()); !ok {
		return nil, refuse(NotFound, "there is no block %s", c.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_BlockLifted{BlockLifted: &eventv1.BlockLifted{BlockId: c.ID.String()}}}), nil
}

// Blocks yields all blocks in the order in which they were placed, those that have ended included.
func (s *State) Blocks() iter.Seq[*policyv1.Block] {
	return func(yield func(*policyv1.Block) bool) {
		s.blocks.Scan(func(_ string, b *policyv1.Block) bool { return yield(b) })
	}
}
