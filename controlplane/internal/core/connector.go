package core

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// maxTools bounds a catalogue, so that its event fits the log.
const (
	maxTools          = 2000
	maxCatalogueBytes = 900 * 1024
)

// Connector is an upstream with what is pinned of it.
type Connector struct {
	Settings *policyv1.Connector
	// Tools are the pinned definitions, of whatever the upstream offers, ascending by kind and name. Nil: nothing was
	// approved yet.
	Tools []*policyv1.Tool
	// Digest is DigestTools of Tools; empty where nothing is pinned.
	Digest string
	// Offer is what the upstream was last seen to offer. Nil: it was not asked since something was approved.
	Offer *Offer
	// Withheld are pinned and may not be used now.
	Withheld []*fleetv1.WithheldTool
	// SecretID names the connector's own secret in the vault, the newest; empty where none was set.
	SecretID string
	// Server is the authorization server that was approved. Nil: none.
	Server *policyv1.UpstreamAuthorizationServer

	// served are the settings as proxies get them: with where on the log what is sent for more than one person last changed.
	served      *policyv1.Connector
	credentials uint64
	// catalogue is what proxies get; nil: nothing is pinned.
	catalogue *fleetv1.Catalogue
}

// DigestTools is the hexadecimal SHA-256 by which a catalogue is approved. Order does not matter.
func DigestTools(tools []*policyv1.Tool) string {
	sorted := sortedTools(tools)
	h := sha256.New()
	var size [8]byte
	for _, t := range sorted {
		for _, part := range [][]byte{[]byte(policy.Label(t.GetKind(), t.GetName())), t.GetDefinition()} {
			binary.BigEndian.PutUint64(size[:], uint64(len(part)))
			h.Write(size[:])
			h.Write(part)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sortedTools(tools []*policyv1.Tool) []*policyv1.Tool {
	return slices.SortedStableFunc(slices.Values(tools), compareTools)
}

// toolKind is what a definition is of: where it does not say, a tool.
func toolKind(t *policyv1.Tool) policyv1.Kind { return max(t.GetKind(), policyv1.Kind_KIND_TOOL) }

// RetireConnector takes a connector, its catalogue, its secret and its grants away.
type RetireConnector struct{ ID string }

func (c RetireConnector) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.Connector(c.ID) == nil {
		return nil, refuse(NotFound, "there is no connector %q", c.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ConnectorRetired{ConnectorRetired: &eventv1.ConnectorRetired{ConnectorId: c.ID}}}), nil
}

// PinCatalogue pins what an upstream was seen to offer: what agents may see. Every grant on the connector is
// checked against it: a condition that no longer fits refuses the catalogue.
type PinCatalogue struct {
	Connector string
	// Tools are all that the upstream offers.
	Tools []message[*policyv1.Tool]
	// Only these, by their labels, are approved, and the rest stays as it is pinned. Empty: all.
	Only []string
}

// NewPinCatalogue pins tools.
func NewPinCatalogue(connector string, tools []*policyv1.Tool, only ...string) PinCatalogue {
	return PinCatalogue{Connector: connector, Tools: wrap(tools), Only: only}
}

func (c PinCatalogue) decide(s *State, env Env) ([]*eventv1.Event, error) {
	connector := s.Connector(c.Connector)
	if connector == nil {
		return nil, refuse(NotFound, "there is no connector %q", c.Connector)
	}
	if len(c.Only) == 0 { // or else what is broken is left out by not being named
		if err := checkTools(sortedTools(unwrap(c.Tools))); err != nil {
			return nil, err
		}
	}
	offered, _ := Usable(connector.Tools, unwrap(c.Tools))
	tools, err := c.approved(connector, offered)
	if err != nil {
		return nil, err
	}
	if err := checkTools(tools); err != nil {
		return nil, err
	}
	if err := s.rulesFit(connector.Settings, tools); err != nil {
		return nil, err
	}
	var events []*eventv1.Event
	if connector.Tools == nil || connector.Digest != DigestTools(tools) {
		events = append(events, pinnedEvent(c.Connector, tools))
	}
	if ev := offeredEvent(connector, tools, offered, ""); ev != nil {
		events = append(events, ev)
	}
	return env.events(events...), nil
}

// approved is the catalogue that an approval makes.
func (c PinCatalogue) approved(connector *Connector, offered []*policyv1.Tool) ([]*policyv1.Tool, error) {
	if len(c.Only) == 0 {
		return offered, nil
	}
	var in, out []*policyv1.Tool
	differ := map[string]Difference{}
	for _, d := range Differences(connector.Tools, offered) {
		differ[d.Label()] = d
	}
	for _, label := range c.Only {
		d, known := differ[label]
		switch {
		case !known:
			return nil, refuse(NotFound, "%q is not among what %s offers otherwise than it is pinned: see sallyport catalogue diff %s", label, c.Connector, c.Connector)
		case d.Offered == nil:
			out = append(out, d.Pinned)
		default:
			in = append(in, d.Offered)
		}
	}
	return replaced(connector.Tools, in, out), nil
}

// fits refuses rules that do not fit tools that are to be pinned.
func (s *State) fits(rules []*policyv1.Rule, tools []*policyv1.Tool, of string, args ...any) error {
	for i, rule := range rules {
		if err := policy.Check(rule, tools); err != nil {
			return refuse(FailedPrecondition, "rule %d of %s does not fit these tools: %v; change the rule first", i+1, fmt.Sprintf(of, args...), err)
		}
	}
	return nil
}

func checkTools(tools []*policyv1.Tool) error {
	if len(tools) > maxTools {
		return refuse(InvalidArgument, "a catalogue has at most %d definitions, this one has %d", maxTools, len(tools))
	}
	size := 0
	for i, t := range tools {
		if i > 0 && toolKind(tools[i-1]) == toolKind(t) && tools[i-1].GetName() == t.GetName() {
			return refuse(InvalidArgument, "%q is in the catalogue twice", policy.Label(t.GetKind(), t.GetName()))
		}
		if err := policy.CheckTool(t); err != nil {
			return refuse(InvalidArgument, "%q: %v", policy.Label(t.GetKind(), t.GetName()), err)
		}
		size += len(t.GetName()) + len(t.GetDefinition()) + 16
	}
	if size > maxCatalogueBytes {
		return refuse(TooLarge, "the definitions have %d bytes, at most %d fit one catalogue", size, maxCatalogueBytes)
	}
	return nil
}

// SetConnectorSecret says that the vault holds a new upstream secret for a connector.
type SetConnectorSecret struct {
	Connector string
	SecretID  string
	// KeepOthers that were set before.
	KeepOthers bool
}

func (c SetConnectorSecret) decide(s *State, env Env) ([]*eventv1.Event, error) {
	connector := s.Connector(c.Connector)
	if connector == nil {
		return nil, refuse(NotFound, "there is no connector %q", c.Connector)
	}
	if !takesSecret(connector.Settings.GetAuth()) {
		return nil, refuse(FailedPrecondition, "connector %q takes no secret of its own: its YAML says under auth what it sends, such as {type: header, header: Authorization}", c.Connector)
	}
	if c.KeepOthers && s.countCredentials(Shared, c.Connector) >= maxKeys {
		return nil, refuse(FailedPrecondition, "connector %q has %d secrets, which is the most: revoke one first", c.Connector, maxKeys)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ConnectorSecretSet{ConnectorSecretSet: &eventv1.ConnectorSecretSet{
		ConnectorId: c.Connector, SecretId: c.SecretID, KeepOthers: c.KeepOthers,
	}}}), nil
}

// Connector returns a connector by id, or nil.
func (s *State) Connector(id string) *Connector {
	c, _ := s.connectors.Get(id)
	return c
}

// Connectors yields all connectors, by id.
func (s *State) Connectors() iter.Seq[*Connector] {
	return func(yield func(*Connector) bool) {
		s.connectors.Scan(func(_ string, c *Connector) bool { return yield(c) })
	}
}

func (s *State) applyConnectorSet(rec Record, settings *policyv1.Connector) error {
	c := Connector{}
	if old := s.Connector(settings.GetId()); old != nil {
		if authIdentity(old.Settings) != authIdentity(settings) {
			if err := s.withdrawOn(rec, settings.GetId()); err != nil {
				return err
			}
			old = s.Connector(settings.GetId())
		}
		c = *old
		if authIdentity(old.Settings) != authIdentity(settings) {
			c.Server = nil
		}
	}
	c.Settings = settings
	c.serve(c.credentials)
	c.settle()
	s.connectors.Set(settings.GetId(), &c)
	return nil
}

func (s *State) changeConnector(id string, change func(*Connector)) error {
	old := s.Connector(id)
	if old == nil {
		return invalidLog("there is no connector %q", id)
	}
	c := *old
	change(&c)
	s.connectors.Set(id, &c)
	return nil
}

func (s *State) applyConnectorRetired(rec Record, id string) error {
	if err := s.withdrawOn(rec, id); err != nil {
		return err
	}
	s.connectors.Delete(id)
	var gone []grantKey
	for g := range s.GrantsOn(id) {
		gone = append(gone, g.key())
	}
	for _, key := range gone {
		s.putGrant(key, nil)
	}
	return nil
}
