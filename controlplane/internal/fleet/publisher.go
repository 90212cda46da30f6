package fleet

import (
	"maps"
	"slices"
	"sync"

	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Publisher turns committed rounds into what each region's proxies are sent.
type Publisher struct {
	ring int

	mu    sync.Mutex
	state *core.State
	feeds map[string]*feed
}

// NewPublisher returns a publisher that begins at a state. Ring is how many rounds a stream may fall
// behind before it gets a full snapshot; 0 stands for 4,096.
func NewPublisher(state *core.State, ring int) *Publisher {
	if ring == 0 {
		ring = 4096
	}
	return &Publisher{ring: ring, state: state, feeds: map[string]*feed{}}
}

// Publish takes the next round: records lead from prev to next. Rounds come in order, by one caller.
func (p *Publisher) Publish(prev, next *core.State, records []core.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for region, f := range p.feeds {
		f.publish(core.Changes(prev, next, records, region), prev.Seq(), next)
	}
	p.state = next
}

// feed returns a region's feed. The first proxy of a region begins its first snapshot, for which rounds do not wait.
func (p *Publisher) feed(region, epoch string) *feed {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[region]
	if f == nil {
		f = newFeed(region, p.state, p.ring)
		f.builds.Go(func() { f.start(epoch) })
		p.feeds[region] = f
	}
	return f
}

// wait returns when no snapshot is being encoded any more.
func (p *Publisher) wait() {
	p.mu.Lock()
	feeds := slices.Collect(maps.Values(p.feeds))
	p.mu.Unlock()
	for _, f := range feeds {
		f.builds.Wait()
	}
}

// encoded is a message that is marshalled once, however many streams send it: its bytes stand in it as
// unknown fields, which a marshaller copies.
func encoded(m *fleetv1.SyncResponse) (*fleetv1.SyncResponse, error) {
	data, err := marshalOptions.Marshal(m)
	if err != nil {
		return nil, err
	}
	out := &fleetv1.SyncResponse{}
	out.ProtoReflect().SetUnknown(data)
	return out, nil
}
