package core

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// checkpointChunk is how many values one gob message carries: enough to be quick, few enough to stay small.
const checkpointChunk = 8192

// checkpointHead begins a checkpoint; what counts there says how much of each kind follows.
type checkpointHead struct {
	Seq                 uint64
	Epoch               string
	Level               uint32
	LastUser, LastGroup uint32
	LastErasure         uint64
	Erasing             []Erasure
	Erased              []uuid.UUID
	Directories         [][]byte
	Blocks              [][]byte
	Connectors          []checkpointConnector
	RuleSets            [][]byte
	Exporters           []checkpointExporter
	Grants              []checkpointGrant
	Applied             []checkpointApplied
	Tokens              []checkpointToken
	Authorization       checkpointAuthorization
	Sealing             map[string]uint64
	Barred              []Barred
	AdminDirectory      string
	Roles               []checkpointRole
	BreakGlass          []BreakGlassUse
	ServiceKeys         []checkpointServiceKeys
	Credentials         []Credential
	Withdrawals         []checkpointWithdrawal
	Reviews             []checkpointReview
}

type checkpointReview struct {
	Asked     []byte
	At        time.Time
	Approvals []ReviewApproval
	Refused   uuid.UUID
	Reason    string
	Used      bool
}

type checkpointServiceKeys struct {
	Account uuid.UUID
	Keys    []ServiceKey
}

type checkpointRole struct {
	Group uuid.UUID
	Role  policyv1.Role
}

type checkpointConnector struct {
	Settings []byte
	Pinned   bool
	Tools    [][]byte
	Offer    *checkpointOffer
	SecretID string
	Server   []byte
	// Credentials is where on the log they last changed.
	Credentials uint64
}

// checkpointOffer is an offer as the event says it: in what it differs from what is pinned.
type checkpointOffer struct {
	Differs []byte
	At      time.Time
}

type checkpointGrant struct {
	To        Grantee
	Connector string
	Rules     [][]byte
	RuleSets  []string
	Until     int64 // Unix nanoseconds; zero: it has no end
}

// checkpointApplied is what files said of a resource when they were applied.
type checkpointApplied struct{ Key, Digest string }

type checkpointToken struct {
	Token  Token
	SHA256 []byte
}

// said is what is said of a person, for EncodeSealed.
type said struct {
	Profile Profile
	Subject string
}

// EncodeSealed writes the state with what is said of each person sealed for them, so that it goes with their key. DecodeSealed reads it
// again.
func (s *State) EncodeSealed(w io.Writer, seal func(person uuid.UUID, plain []byte) ([]byte, error)) error {
	return s.encode(w, func(u *User) error {
		plain, err := json.Marshal(said{u.Profile, u.Subject})
		if err != nil {
			return err
		}
		u.Profile, u.Subject = Profile{}, ""
		u.Attributes, err = seal(u.ID, plain)
		return err
	})
}

// DecodeSealed reads what EncodeSealed wrote. Of people whose seals open to nothing, ids are left.
func DecodeSealed(r io.Reader, open func(person uuid.UUID, sealed []byte) ([]byte, error)) (*State, error) {
	return decodeState(r, func(u *User) error {
		plain, err := open(u.ID, u.Attributes)
		u.Attributes = nil
		if err != nil || plain == nil {
			return err
		}
		var of said
		if err := json.Unmarshal(plain, &of); err != nil {
			return err
		}
		u.Profile, u.Subject = of.Profile, of.Subject
		return nil
	})
}

// Encode writes the state, personal data in the open: the caller seals it. DecodeState reads it again.
func (s *State) Encode(w io.Writer) error { return s.encode(w, func(*User) error { return nil }) }

func (s *State) encode(w io.Writer, hide func(*User) error) error {
	enc := gob.NewEncoder(w)
	head, err := s.checkpointHead()
	if err != nil {
		return err
	}
	if err := enc.Encode(head); err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	users := chunkWriter[User]{enc: enc}
	s.users.Scan(func(_ uint32, u *User) bool {
		hidden := *u
		if users.err = hide(&hidden); users.err != nil {
			return false
		}
		return users.put(hidden)
	})
	groups := chunkWriter[Group]{enc: enc}
	if err := users.close(); err != nil {
		return err
	}
	s.groups.Scan(func(_ uint32, g *Group) bool { return groups.put(*g) })
	if err := groups.close(); err != nil {
		return err
	}
	for _, set := range []*pairs{&s.memberOf, &s.held, &s.parents} {
		out := chunkWriter[uint64]{enc: enc}
		for a, b := range set.all() {
			if !out.put(pair(a, b)) {
				break
			}
		}
		if err := out.close(); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) checkpointHead() (*checkpointHead, error) {
	head := &checkpointHead{Seq: s.seq, Epoch: s.epoch, Level: s.level, LastUser: s.lastUser, LastGroup: s.lastGroup, LastErasure: s.lastErasure}
	head.Erasing = slices.Collect(s.Erasures())
	s.erased.Scan(func(key string, _ struct{}) bool {
		head.Erased = append(head.Erased, uuid.UUID([]byte(key)))
		return true
	})
	var failed error
	marshal := func(m proto.Message) []byte {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			failed = fmt.Errorf("writing a checkpoint: %w", err)
		}
		return data
	}
	for d := range s.Directories() {
		head.Directories = append(head.Directories, marshal(d))
	}
	for b := range s.Blocks() {
		head.Blocks = append(head.Blocks, marshal(b))
	}
	for c := range s.Connectors() {
		out := checkpointConnector{Settings: marshal(c.Settings), Pinned: c.Tools != nil, SecretID: c.SecretID, Credentials: c.credentials}
		if c.Server != nil {
			out.Server = marshal(c.Server)
		}
		for _, t := range c.Tools {
			out.Tools = append(out.Tools, marshal(t))
		}
		if c.Offer != nil {
			differs := differing(c.Settings.GetId(), c.Tools, c.Offer.Tools, c.Offer.Person)
			differs.Tally, differs.Unsettled = c.Offer.Tally, c.Offer.Unsettled
			out.Offer = &checkpointOffer{Differs: marshal(differs), At: c.Offer.At}
		}
		head.Connectors = append(head.Connectors, out)
	}
	for set := range s.RuleSets() {
		head.RuleSets = append(head.RuleSets, marshal(set))
	}
	head.Exporters = s.checkpointExporters(marshal)
	for g := range s.Grants() {
		out := checkpointGrant{To: g.To, Connector: g.Connector, RuleSets: g.RuleSets}
		if !g.Until.IsZero() {
			out.Until = g.Until.UnixNano()
		}
		for _, r := range g.Rules {
			out.Rules = append(out.Rules, marshal(r))
		}
		head.Grants = append(head.Grants, out)
	}
	s.applied.Scan(func(key, digest string) bool {
		head.Applied = append(head.Applied, checkpointApplied{key, digest})
		return true
	})
	for t := range s.Tokens() {
		head.Tokens = append(head.Tokens, checkpointToken{Token: *t, SHA256: t.sha256})
	}
	s.checkpointCredentials(head, marshal)
	head.Authorization = s.authorization.checkpoint(marshal)
	head.Sealing = map[string]uint64{}
	s.sealing.Scan(func(region string, seq uint64) bool {
		head.Sealing[region] = seq
		return true
	})
	head.Barred = slices.Collect(s.AllBarred())
	head.AdminDirectory, head.BreakGlass = s.adminDirectory, s.breakGlass
	s.serviceKeys.Scan(func(key string, keys []ServiceKey) bool {
		head.ServiceKeys = append(head.ServiceKeys, checkpointServiceKeys{Account: uuid.UUID([]byte(key)), Keys: keys})
		return true
	})
	for r := range s.Reviews() {
		head.Reviews = append(head.Reviews, checkpointReview{Asked: marshal(r.Asked), At: r.At, Approvals: r.Approvals, Refused: r.Refused, Reason: r.Reason, Used: r.Used})
	}
	for g, role := range s.GroupRoles() {
		head.Roles = append(head.Roles, checkpointRole{Group: g.ID, Role: role})
	}
	return head, failed
}

// DecodeState reads what Encode wrote.
func DecodeState(r io.Reader) (*State, error) {
	return decodeState(r, func(*User) error { return nil })
}

func decodeState(r io.Reader, show func(*User) error) (*State, error) {
	dec := gob.NewDecoder(r)
	var head checkpointHead
	if err := dec.Decode(&head); err != nil {
		return nil, fmt.Errorf("reading a checkpoint: %w", err)
	}
	s := NewState()
	if err := s.restoreHead(&head); err != nil {
		return nil, fmt.Errorf("reading a checkpoint: %w", err)
	}
	err := readChunks(dec, func(u User) error {
		if s.populations[u.Directory] == nil {
			return invalidLog("there is no directory %q", u.Directory)
		}
		if err := show(&u); err != nil {
			return err
		}
		s.putUser(nil, &u)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = readChunks(dec, func(g Group) error {
		p := s.populations[g.Directory]
		if p == nil {
			return invalidLog("there is no directory %q", g.Directory)
		}
		s.groupByID.Set(idKey(g.ID), g.No)
		p.groups.Set(g.No, struct{}{})
		s.groups.Set(g.No, &g)
		s.indexGroup(&g)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.restoreMemberships(dec); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *State) restoreMemberships(dec *gob.Decoder) error {
	for _, set := range []*pairs{&s.memberOf, &s.held, &s.parents} {
		var first uint32
		var run []uint32
		err := readChunks(dec, func(k uint64) error {
			a, b := uint32(k>>32), uint32(k)
			if a != first && len(run) > 0 {
				set.put(first, slices.Clone(run))
				run = run[:0]
			}
			if len(run) > 0 && b <= run[len(run)-1] {
				return errors.New("memberships are out of order")
			}
			first, run = a, append(run, b)
			return nil
		})
		if err != nil {
			return err
		}
		if len(run) > 0 {
			set.put(first, slices.Clone(run))
		}
	}
	s.members, s.children = s.memberOf.swapped(), s.parents.swapped()
	return nil
}

func (s *State) restoreHead(head *checkpointHead) error {
	s.seq, s.epoch, s.level, s.lastUser, s.lastGroup = head.Seq, head.Epoch, head.Level, head.LastUser, head.LastGroup
	s.lastErasure = head.LastErasure
	for _, e := range head.Erasing {
		s.erasing.Set(idKey(e.ID), e)
	}
	for _, id := range head.Erased {
		s.erased.Set(idKey(id), struct{}{})
	}
	directories, err := unmarshalAll[policyv1.Directory](head.Directories)
	if err != nil {
		return err
	}
	for _, d := range directories {
		s.applyDirectorySet(d)
	}
	blocks, err := unmarshalAll[policyv1.Block](head.Blocks)
	if err != nil {
		return err
	}
	for _, b := range blocks {
		s.blocks.Set(b.GetId(), b)
	}
	for _, c := range head.Connectors {
		settings, err := unmarshalAll[policyv1.Connector]([][]byte{c.Settings})
		if err != nil {
			return err
		}
		tools, err := unmarshalAll[policyv1.Tool](c.Tools)
		if err != nil {
			return err
		}
		connector := &Connector{Settings: settings[0], SecretID: c.SecretID}
		connector.serve(c.Credentials)
		if c.Server != nil {
			connector.Server = &policyv1.UpstreamAuthorizationServer{}
			if err := proto.Unmarshal(c.Server, connector.Server); err != nil {
				return err
			}
		}
		if c.Pinned {
			connector.Tools, connector.Digest = tools, DigestTools(tools)
		}
		if c.Offer != nil {
			differs := &eventv1.CatalogueOffered{}
			if err := proto.Unmarshal(c.Offer.Differs, differs); err != nil {
				return err
			}
			connector.Offer = offerOf(connector.Tools, differs, c.Offer.At)
		}
		connector.settle()
		s.connectors.Set(settings[0].GetId(), connector)
	}
	sets, err := unmarshalAll[policyv1.RuleSet](head.RuleSets)
	if err != nil {
		return err
	}
	for _, set := range sets {
		s.putRuleSet(set.GetName(), set)
	}
	if err := s.restoreExporters(head.Exporters); err != nil {
		return err
	}
	for _, g := range head.Grants {
		rules, err := unmarshalAll[policyv1.Rule](g.Rules)
		if err != nil {
			return err
		}
		grant := &Grant{To: g.To, Connector: g.Connector, Rules: rules, RuleSets: g.RuleSets}
		if g.Until != 0 {
			grant.Until = time.Unix(0, g.Until).UTC()
		}
		s.putGrant(grant.key(), grant)
	}
	for _, a := range head.Applied {
		s.applied.Set(a.Key, a.Digest)
	}
	for _, t := range head.Tokens {
		token := t.Token
		token.sha256 = t.SHA256
		s.putToken(&token)
	}
	for region, seq := range head.Sealing {
		s.sealing.Set(region, seq)
	}
	for _, b := range head.Barred {
		s.barred.Set(b.SPIFFEID, b)
	}
	if err := s.restoreCredentials(head); err != nil {
		return err
	}
	if err := s.authorization.restore(head.Authorization); err != nil {
		return err
	}
	s.adminDirectory, s.breakGlass = head.AdminDirectory, head.BreakGlass
	for _, k := range head.ServiceKeys {
		s.serviceKeys.Set(idKey(k.Account), k.Keys)
	}
	for _, r := range head.Reviews {
		review := &Review{Asked: &eventv1.ReviewRequested{}, At: r.At, Approvals: r.Approvals, Refused: r.Refused, Reason: r.Reason, Used: r.Used}
		if err := proto.Unmarshal(r.Asked, review.Asked); err != nil {
			return fmt.Errorf("reading a checkpoint: %w", err)
		}
		s.putReview(review)
	}
	for _, r := range head.Roles {
		s.roles.Set(idKey(r.Group), r.Role)
	}
	return nil
}

func unmarshalAll[T any, M interface {
	*T
	proto.Message
}](all [][]byte) ([]M, error) {
	messages := make([]M, len(all))
	for i, data := range all {
		messages[i] = M(new(T))
		if err := proto.Unmarshal(data, messages[i]); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

// chunkWriter writes values in chunks, an empty one last.
type chunkWriter[T any] struct {
	enc *gob.Encoder
	buf []T
	err error
}

func (c *chunkWriter[T]) put(v T) bool {
	c.buf = append(c.buf, v)
	if len(c.buf) == checkpointChunk {
		c.flush()
	}
	return c.err == nil
}

func (c *chunkWriter[T]) flush() {
	if c.err == nil {
		if err := c.enc.Encode(c.buf); err != nil {
			c.err = fmt.Errorf("writing a checkpoint: %w", err)
		}
	}
	c.buf = c.buf[:0]
}

func (c *chunkWriter[T]) close() error {
	if len(c.buf) > 0 {
		c.flush()
	}
	c.flush()
	return c.err
}

func readChunks[T any](dec *gob.Decoder, put func(T) error) error {
	for {
		var chunk []T
		if err := dec.Decode(&chunk); err != nil {
			return fmt.Errorf("reading a checkpoint: %w", err)
		}
		if len(chunk) == 0 {
			return nil
		}
		for _, v := range chunk {
			if err := put(v); err != nil {
				return fmt.Errorf("reading a checkpoint: %w", err)
			}
		}
	}
}
