package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// block is a block's entry.
type block struct {
	id     string
	target target
	until  time.Time // zero: until it is lifted
	digest Digest
}

func (b *block) hash() uint64 { return hashOf(b.id) }

func (b *block) stands(now time.Time) bool { return b.until.IsZero() || now.Before(b.until) }

// target is what a block is against: exactly one is set.
type target struct {
	person          uuid.UUID
	client          string
	connector, tool string // a tool with its connector, or the connector alone
	region          string
}

func newBlock(b *policyv1.Block, d Digest) (*block, error) {
	out := &block{id: b.GetId(), digest: d}
	if b.GetUntil() != nil {
		out.until = b.GetUntil().AsTime()
	}
	switch v := b.GetTarget().(type) {
	case *policyv1.Block_PersonId:
		id, err := uuid.Parse(v.PersonId)
		if err != nil {
			return nil, fmt.Errorf("the person of block %q: %w", b.GetId(), err)
		}
		out.target.person = id
	case *policyv1.Block_ClientId:
		out.target.client = v.ClientId
	case *policyv1.Block_Connector:
		out.target.connector = v.Connector
	case *policyv1.Block_Tool:
		out.target.connector, out.target.tool = v.Tool.GetConnector(), v.Tool.GetTool()
		if out.target.tool == "" {
			return nil, fmt.Errorf("block %q names no tool", b.GetId())
		}
	case *policyv1.Block_Region:
		out.target.region = v.Region
	}
	if out.target == (target{}) {
		return nil, errors.New("a block is against something that this build does not know: upgrade it")
	}
	return out, nil
}

// blockList is all blocks against one target.
type blockList struct {
	target target
	blocks []*block
}

func (l *blockList) hash() uint64 { return hashOf(l.target) }

// blocked finds blocks by what they are against.
type blocked struct {
	lists trie[*blockList]
	// How many targets there are of a kind: what nobody blocks is not looked for.
	people, clients, connectors, tools, regions int
}

func (b *blocked) list(to target) *blockList {
	l, _ := b.lists.find(hashOf(to), func(l *blockList) bool { return l.target == to })
	return l
}

// set makes blocks those against a target.
func (b *blocked) set(o *owner, to target, blocks []*block) {
	before := b.lists.size
	is := func(l *blockList) bool { return l.target == to }
	if len(blocks) > 0 {
		b.lists.put(o, &blockList{to, blocks}, is)
	} else {
		b.lists.remove(o, hashOf(to), is)
	}
	more := b.lists.size - before
	switch {
	case to.person != uuid.UUID{}:
		b.people += more
	case to.client != "":
		b.clients += more
	case to.tool != "":
		b.tools += more
	case to.connector != "":
		b.connectors += more
	default:
		b.regions += more
	}
}

// stand tells whether a block stands against a request. A request without a tool is about the connector.
func (b *blocked) stand(r *Request) bool {
	if b.lists.size == 0 {
		return false
	}
	return b.people > 0 && b.stands(target{person: r.Person}, r.Now) ||
		b.clients > 0 && b.stands(target{client: r.Client}, r.Now) ||
		b.connectors > 0 && b.stands(target{connector: r.Connector}, r.Now) ||
		b.tools > 0 && b.stands(target{connector: r.Connector, tool: r.Tool}, r.Now) ||
		b.regions > 0 && b.stands(target{region: r.Region}, r.Now)
}

func (b *blocked) stands(against target, now time.Time) bool {
	l := b.list(against)
	if l == nil {
		return false
	}
	for _, one := range l.blocks {
		if one.stands(now) {
			return true
		}
	}
	return false
}
