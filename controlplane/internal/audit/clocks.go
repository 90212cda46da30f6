package audit

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"
)

// A search by time begins where the stream stored records of that time. That is right as long as clocks agree and none goes back. How
// far they were seen not to is written to the stream before it stores what was recorded by them, and searches look that much further back.

// apartKey is where the stream's metadata say how far clocks were seen apart.
const apartKey = "sallyport_clocks_apart"

const (
	// clockSlack is how far clocks may be apart, that of a proxy ahead of the stream's, or the stream's behind what it was, without a note.
	clockSlack = 5 * time.Minute
	// mostApart is more than from the first record to the last time that is searched for.
	mostApart = 200 * 365 * 24 * time.Hour
	// noteWithin bounds what a note takes, and noteAgain is when one is tried again that failed.
	noteWithin = 2 * time.Second
	noteAgain  = 10 * time.Second
)

// clocks is what was seen of them.
type clocks struct {
	clock func() time.Time // this machine's; nil, save in tests: time.Now

	mu     sync.Mutex
	ahead  time.Duration // of the stream's clock, before this machine's
	latest time.Time     // that the stream's clock was seen to show
	apart  time.Duration // that the stream notes
	again  time.Time     // before which no note is tried
}

func (c *clocks) now() time.Time {
	if c.clock == nil {
		return time.Now()
	}
	return c.clock()
}

// heard takes note of what the stream says of its clock.
func (c *clocks) heard(info *jetstream.StreamInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if noted, err := time.ParseDuration(info.Config.Metadata[apartKey]); err == nil {
		c.apart = max(c.apart, min(noted, mostApart))
	}
	if !info.TimeStamp.IsZero() {
		c.ahead = info.TimeStamp.Sub(c.now())
	}
	if info.State.LastTime.After(c.latest) {
		c.latest = info.State.LastTime
	}
}

// known is how far clocks were seen apart, as far as the stream says.
func (c *clocks) known() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apart
}

// off returns how far clocks are apart for records of which the newest says such a time: how far that is ahead of the stream's clock, or that
// clock behind what it showed before.
func (c *clocks) off(newest time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now().Add(c.ahead).Round(0) // without the reading that never goes back
	off := min(max(newest.Sub(now), c.latest.Sub(now)), mostApart/2)
	if now.After(c.latest) {
		c.latest = now
	}
	if 2*off <= max(clockSlack, c.apart) || c.now().Before(c.again) {
		return 0
	}
	return off
}

// noteClocks has the stream say how far clocks are apart, before messages are stored by which that shows. Where it cannot, they are stored
// all the same, and it is tried again.
func (s *Store) noteClocks(ctx context.Context, messages []message) {
	off := s.clocks.off(newest(messages))
	if off == 0 {
		return
	}
	// Records ahead and a clock that goes back may come together, hence twice as far; in few steps.
	apart := clockSlack
	for apart < 2*off {
		apart *= 2
	}
	apart = min(apart, mostApart)
	ctx, cancel := context.WithTimeout(ctx, noteWithin)
	defer cancel()
	if err := s.noteApart(ctx, apart); err != nil {
		s.clocks.mu.Lock()
		s.clocks.again = s.clocks.now().Add(noteAgain)
		s.clocks.mu.Unlock()
		s.log.WarnContext(ctx, "clocks are apart, and the audit stream could not be told; it is tried again. Until then a search by time may miss records", "by", off, "error", err)
		return
	}
	s.log.WarnContext(ctx, "a proxy's clock is ahead of the audit stream's, or that one went back: searches by time look further back from now on, and take longer. Have the clocks kept by NTP", "by", off, "searched_back", apart)
}

func (s *Store) noteApart(ctx context.Context, apart time.Duration) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	if s.clocks.known() >= apart { // another control plane saw it too
		return nil
	}
	config := info.Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[apartKey] = apart.String()
	stream, err := s.js.UpdateStream(ctx, config)
	if err == nil {
		s.clocks.heard(stream.CachedInfo())
	}
	return err
}

// newest returns the latest time that records say of themselves, by their own or by the id of their call.
func newest(messages []message) time.Time {
	var latest time.Time
	for i := range messages {
		if at := saidAt(messages[i].core); at.After(latest) {
			latest = at
		}
	}
	return latest
}

// The fields of AuditRecord that tell a time.
const (
	fieldAt     protowire.Number = 5
	fieldCallID protowire.Number = 6
)

// saidAt reads from an encoded record when it says that it happened.
func saidAt(core []byte) time.Time {
	var at, start time.Time
	for len(core) > 0 && (at.IsZero() || start.IsZero()) {
		number, kind, n := protowire.ConsumeTag(core)
		if n < 0 {
			break
		}
		size := protowire.ConsumeFieldValue(number, kind, core[n:])
		if size < 0 {
			break
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(core[n:])
			switch number {
			case fieldAt:
				at = second(value)
			case fieldCallID:
				start = began(string(value))
			}
		}
		core = core[n+size:]
	}
	if start.After(at) {
		return start
	}
	return at
}

// second is an encoded google.protobuf.Timestamp in whole seconds.
func second(timestamp []byte) time.Time {
	number, kind, n := protowire.ConsumeTag(timestamp)
	if n < 0 || number != 1 || kind != protowire.VarintType {
		return time.Time{}
	}
	seconds, size := protowire.ConsumeVarint(timestamp[n:])
	if size < 0 || int64(seconds) > endOfTime.Unix() {
		return endOfTime
	}
	return time.Unix(int64(seconds), 0)
}

// began is when a call began, as far as its id tells; zero: it does not.
func began(callID string) time.Time {
	if id, err := uuid.Parse(callID); err == nil && id.Version() == 7 {
		return time.Unix(id.Time().UnixTime())
	}
	return time.Time{}
}
