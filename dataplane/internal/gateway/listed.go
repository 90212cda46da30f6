package gateway

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Agents ask for their lists again and again, which would drown everything else in audit. So the first list of its sort is recorded at
// once; what is asked for again within listsEvery, of the same list, is counted, and told then by one record more.
const (
	listsEvery = time.Minute
	// maxLists bounds the sorts that are counted at a time. Beyond that each list is recorded by itself.
	maxLists = 10_000
)

// listSort is what lists are counted by: whoever has another token, session or list has another record.
type listSort struct {
	person, client, session, method, connector, cursor string
	// size is how many bytes it has: when what may be seen changed, it is another list.
	size int
}

// listRecords are the lists of late.
type listRecords struct {
	mu  sync.Mutex
	all map[listSort]*listRecord
}

type listRecord struct {
	first    *auditv1.AuditRecord
	until    time.Time
	repeated int
}

// listed records that a list was given, array being what was in it.
func (g *Gateway) listed(x *exchange, array []byte) {
	of := listSort{person: x.personID(), client: x.ClientID, session: x.sessionID(), method: x.message.Method, connector: x.connector, cursor: clip(string(x.message.Cursor)), size: len(array)}
	now := g.Now()
	g.listRecords.mu.Lock()
	seen := g.listRecords.all[of]
	if seen != nil && now.Before(seen.until) {
		seen.repeated++
		g.listRecords.mu.Unlock()
		return
	}
	g.listRecords.mu.Unlock()
	sum := sha256.Sum256(array)
	r := &auditv1.AuditRecord{
		At: timestamppb.New(x.began), CallId: newID(), Phase: auditv1.Phase_PHASE_COMPLETED, Kind: auditv1.Kind_KIND_LIST, Method: x.message.Method,
		PersonId: of.person, Actor: x.actor(), Groups: x.table.Groups(x.ID), Client: x.client(), Connector: clip(x.connector), Session: of.session, Authentication: x.authentication(),
		SnapshotVersion: x.table.Version(), TraceId: traceID(x), Revision: string(x.revision), Outcome: auditv1.Outcome_OUTCOME_OK,
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED}, Result: &auditv1.Payload{Size: uint64(len(array)), Sha256: sum[:], Truncated: true},
		RequestBytes: uint64(len(x.message.Raw)), ResponseBytes: uint64(len(array)),
	}
	g.listRecords.mu.Lock()
	seen = g.listRecords.all[of] // of two that come first at once, both are recorded
	if g.listRecords.all == nil {
		g.listRecords.all = map[listSort]*listRecord{}
	}
	if seen != nil || len(g.listRecords.all) < maxLists {
		g.listRecords.all[of] = &listRecord{first: r, until: now.Add(listsEvery)}
	}
	g.listRecords.mu.Unlock()
	if seen != nil {
		g.recordRepeat(seen, now)
	}
	g.keep(r)
}

// recordRepeats tells of lists whose time is over; at no time, of all.
func (g *Gateway) recordRepeats(now time.Time) {
	var over []*listRecord
	g.listRecords.mu.Lock()
	maps.DeleteFunc(g.listRecords.all, func(_ listSort, l *listRecord) bool {
		if !now.IsZero() && now.Before(l.until) {
			return false
		}
		over = append(over, l)
		return true
	})
	g.listRecords.mu.Unlock()
	slices.SortFunc(over, func(a, b *listRecord) int { return a.until.Compare(b.until) })
	for _, l := range over {
		g.recordRepeat(l, g.Now())
	}
}

// recordRepeat tells how often a list was asked for again.
func (g *Gateway) recordRepeat(l *listRecord, now time.Time) {
	if l.repeated == 0 {
		return
	}
	r := proto.CloneOf(l.first)
	r.At, r.CallId = timestamppb.New(now), newID()
	r.Details = []*auditv1.Detail{{Key: "repeated", Value: strconv.Itoa(l.repeated)}, {Key: "first", Value: l.first.GetCallId()}}
	g.keep(r)
}
