package core

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// Offer is what an upstream was last seen to offer.
type Offer struct {
	// Tools are all of it, ascending by kind and name.
	Tools []*policyv1.Tool
	// At is when it was first seen to be so.
	At time.Time
	// Person is the id of whose list it is, where each has their own. Empty: it is everybody's.
	Person string
	// Tally is what the upstream caused on the log in an hour; nil: nothing.
	Tally *eventv1.OfferTally
	// Unsettled: the upstream changes too often, and nothing is noted before that hour is over.
	Unsettled bool
}

// What one upstream may cause on the log in an hour. One that changes all of its list each time that it is asked would fill any disk.
const (
	offersAnHour     = 60
	offerBytesAnHour = 8 << 20
)

// Until is when the hour of an offer's tally is over.
func (o *Offer) Until() time.Time { return o.Tally.GetSince().AsTime().Add(time.Hour) }

// tally is what an upstream caused in the hour that is now.
func (o *Offer) tally(now time.Time) *eventv1.OfferTally {
	if o == nil || o.Tally == nil || !now.Before(o.Until()) {
		return &eventv1.OfferTally{Since: timestamppb.New(now)}
	}
	return proto.CloneOf(o.Tally)
}

// NoteOffer says what an upstream offers now. It pins nothing but what the connector's settings let through, and that only of what is
// offered to everybody: one person's list is a proposal.
type NoteOffer struct {
	Connector string
	Tools     []message[*policyv1.Tool]
	// Person whose list it is, by id. Empty: it is everybody's.
	Person string
}

// NewNoteOffer notes what an upstream lists for everybody, or for a person.
func NewNoteOffer(connector string, tools []*policyv1.Tool, person string) NoteOffer {
	return NoteOffer{Connector: connector, Tools: wrap(tools), Person: person}
}

func (c NoteOffer) decide(s *State, env Env) ([]*eventv1.Event, error) {
	connector := s.Connector(c.Connector)
	if connector == nil {
		return nil, refuse(NotFound, "there is no connector %q", c.Connector)
	}
	if c.Person != "" && connector.Asked() {
		return nil, nil // control planes see for themselves
	}
	offered, _ := Usable(connector.Tools, unwrap(c.Tools))
	if err := checkTools(offered); err != nil {
		return nil, err
	}
	pinned := connector.Tools
	var events []*eventv1.Event
	if next, some := s.letThrough(connector, offered); some && c.Person == "" {
		pinned = next
		events = append(events, pinnedEvent(c.Connector, next))
	}
	ev := offeredEvent(connector, pinned, offered, c.Person)
	if ev == nil && events == nil {
		return nil, nil
	}
	if ev == nil { // what is let through counts too
		ev = &eventv1.Event{Body: &eventv1.Event_CatalogueOffered{CatalogueOffered: differing(c.Connector, pinned, offered, c.Person)}}
	}
	tally := connector.Offer.tally(env.Now)
	tally.Offers++
	for _, written := range append(events, ev) {
		tally.Bytes += uint64(proto.Size(written))
	}
	if tally.Offers <= offersAnHour && tally.Bytes <= offerBytesAnHour {
		ev.GetCatalogueOffered().Tally = tally
		return env.events(append(events, ev)...), nil
	}
	if connector.Offer.Unsettled {
		return nil, nil
	}
	last := differing(c.Connector, connector.Tools, connector.Offer.Tools, connector.Offer.Person)
	last.Tally, last.Unsettled = connector.Offer.Tally, true
	return env.events(&eventv1.Event{Body: &eventv1.Event_CatalogueOffered{CatalogueOffered: last}}), nil
}

func pinnedEvent(connector string, tools []*policyv1.Tool) *eventv1.Event {
	return &eventv1.Event{Body: &eventv1.Event_CataloguePinned{CataloguePinned: &eventv1.CataloguePinned{ConnectorId: connector, Tools: tools}}}
}

// differing says in what an upstream's list differs from what is pinned.
func differing(connector string, pinned, offered []*policyv1.Tool, person string) *eventv1.CatalogueOffered {
	ev := &eventv1.CatalogueOffered{ConnectorId: connector, PersonId: person}
	for _, d := range Differences(pinned, offered) {
		if d.Offered == nil {
			ev.Gone = append(ev.Gone, &policyv1.Tool{Kind: d.Pinned.GetKind(), Name: d.Pinned.GetName()})
		} else {
			ev.Tools = append(ev.Tools, d.Offered)
		}
	}
	return ev
}

// offerOf is what an upstream offers that differs so from what is pinned.
func offerOf(pinned []*policyv1.Tool, ev *eventv1.CatalogueOffered, at time.Time) *Offer {
	return &Offer{Tools: replaced(pinned, ev.GetTools(), ev.GetGone()), At: at, Person: ev.GetPersonId(), Tally: ev.GetTally(), Unsettled: ev.GetUnsettled()}
}

// offeredEvent says what an upstream offers beside what is pinned, or will be in the same round. Nil: that is known.
func offeredEvent(c *Connector, pinned, offered []*policyv1.Tool, person string) *eventv1.Event {
	ev := differing(c.Settings.GetId(), pinned, offered, person)
	if c.Offer == nil && len(ev.GetTools())+len(ev.GetGone()) == 0 {
		return nil
	}
	if c.Offer != nil && c.Offer.Person == person && !c.Offer.Unsettled && sameTools(c.Offer.Tools, offered) {
		return nil
	}
	return &eventv1.Event{Body: &eventv1.Event_CatalogueOffered{CatalogueOffered: ev}}
}

// letThrough returns the catalogue with what the connector's settings let through of an offer, and whether that is anything. What looks
// like hidden instructions is not let through, nor what a rule does not fit.
func (s *State) letThrough(c *Connector, offered []*policyv1.Tool) (next []*policyv1.Tool, some bool) {
	settings := c.Settings.GetCatalogue()
	if c.Tools == nil {
		return nil, false
	}
	var taken []*policyv1.Tool
	for _, d := range Differences(c.Tools, offered) {
		may := settings.GetAdded()
		if d.Pinned != nil {
			may = settings.GetChanges()
		}
		if d.Offered == nil || may != policyv1.CatalogueChange_CATALOGUE_CHANGE_ACCEPT || len(NewFindings(d.Pinned, d.Offered)) > 0 {
			continue
		}
		if s.rulesFit(c.Settings, []*policyv1.Tool{d.Offered}) == nil {
			taken = append(taken, d.Offered)
		}
	}
	if len(taken) == 0 {
		return nil, false
	}
	next = replaced(c.Tools, taken, nil)
	return next, checkTools(next) == nil
}

// rulesFit refuses tools that some rule or redaction on a connector does not fit.
func (s *State) rulesFit(settings *policyv1.Connector, tools []*policyv1.Tool) error {
	connector := settings.GetId()
	if err := checkRedactions(settings, tools, FailedPrecondition); err != nil {
		return err
	}
	for g := range s.GrantsOn(connector) {
		if err := s.fits(g.Rules, tools, "the grant of %s on %s", s.GranteeName(g.To), connector); err != nil {
			return err
		}
		for _, name := range g.RuleSets {
			if err := s.fits(s.RuleSet(name).GetRules(), tools, "rule set %s, which the grant of %s on %s refers to,", name, s.GranteeName(g.To), connector); err != nil {
				return err
			}
		}
	}
	return nil
}

// Difference is a definition that is offered otherwise than it is pinned. Pinned is nil for a new one, Offered for one that is gone.
type Difference struct{ Pinned, Offered *policyv1.Tool }

// Label names what differs, as rules do.
func (d Difference) Label() string {
	t := cmp.Or(d.Offered, d.Pinned)
	return policy.Label(t.GetKind(), t.GetName())
}

// Differences compares what is offered with what is pinned, ascending by kind and name.
func Differences(pinned, offered []*policyv1.Tool) []Difference {
	was := byLabel(pinned)
	now := byLabel(offered)
	var all []Difference
	for _, t := range pinned {
		o := now[labelOf(t)]
		if o == nil || !bytes.Equal(o.GetDefinition(), t.GetDefinition()) {
			all = append(all, Difference{Pinned: t, Offered: o})
		}
	}
	for _, t := range offered {
		if was[labelOf(t)] == nil {
			all = append(all, Difference{Offered: t})
		}
	}
	slices.SortStableFunc(all, func(a, b Difference) int {
		return compareTools(cmp.Or(a.Offered, a.Pinned), cmp.Or(b.Offered, b.Pinned))
	})
	return all
}

// Unusable is what an upstream offers and what cannot be pinned so.
type Unusable struct {
	Tool *policyv1.Tool
	Why  string
}

// Usable returns what of an upstream's list can be pinned, ascending by kind and name, and what cannot: definitions that are broken, and
// several of one name, of which nobody can say which is meant. One that means the same as the pinned one is that.
func Usable(pinned, offered []*policyv1.Tool) (usable []*policyv1.Tool, not []Unusable) {
	was := byLabel(pinned)
	times := map[string]int{}
	for _, t := range offered {
		times[labelOf(t)]++
	}
	for _, t := range sortedTools(offered) {
		label := labelOf(t)
		if times[label] > 1 {
			not = append(not, Unusable{t, "it is offered more than once"})
			continue
		}
		if err := policy.CheckTool(t); err != nil {
			not = append(not, Unusable{t, err.Error()})
			continue
		}
		if p := was[label]; p != nil && sameDefinition(p.GetDefinition(), t.GetDefinition()) {
			t = p
		}
		usable = append(usable, t)
	}
	return usable, not
}

func labelOf(t *policyv1.Tool) string { return policy.Label(t.GetKind(), t.GetName()) }

func byLabel(tools []*policyv1.Tool) map[string]*policyv1.Tool {
	out := make(map[string]*policyv1.Tool, len(tools))
	for _, t := range tools {
		out[labelOf(t)] = t
	}
	return out
}

func compareTools(a, b *policyv1.Tool) int {
	return cmp.Or(cmp.Compare(toolKind(a), toolKind(b)), strings.Compare(a.GetName(), b.GetName()))
}

func sameTools(a, b []*policyv1.Tool) bool {
	return slices.EqualFunc(a, b, func(x, y *policyv1.Tool) bool {
		return labelOf(x) == labelOf(y) && bytes.Equal(x.GetDefinition(), y.GetDefinition())
	})
}

// replaced returns tools with some put in, each in the place of one of its name, and some taken out.
func replaced(tools, in, out []*policyv1.Tool) []*policyv1.Tool {
	all := byLabel(tools)
	for _, t := range out {
		delete(all, labelOf(t))
	}
	for _, t := range in {
		all[labelOf(t)] = t
	}
	kept := make([]*policyv1.Tool, 0, len(all))
	for _, t := range all {
		kept = append(kept, t)
	}
	return sortedTools(kept)
}

func (s *State) applyCatalogueOffered(rec Record, ev *eventv1.CatalogueOffered) error {
	return s.changeConnector(ev.GetConnectorId(), func(c *Connector) {
		c.Offer = offerOf(c.Tools, ev, rec.Event.GetAt().AsTime())
		c.settle()
	})
}

// settle finds what proxies get of the catalogue: what is pinned, without what its upstream offers no more or, where the settings say
// so, otherwise; of one that changes too often to be followed nobody knows what it is. One person's list, where each has their own, takes nothing away from the others.
func (c *Connector) settle() {
	c.Withheld, c.catalogue = nil, nil
	if c.Tools == nil {
		return
	}
	served := c.Tools
	if c.Offer != nil {
		now := byLabel(c.Offer.Tools)
		served = make([]*policyv1.Tool, 0, len(c.Tools))
		for _, t := range c.Tools {
			o := now[labelOf(t)]
			switch {
			case o == nil && (c.Asked() || !c.ofEachPerson()):
				c.Withheld = append(c.Withheld, &fleetv1.WithheldTool{Label: labelOf(t)})
			case o != nil && c.Settings.GetCatalogue().GetChanges() == policyv1.CatalogueChange_CATALOGUE_CHANGE_WITHHOLD && (c.Offer.Unsettled || !bytes.Equal(o.GetDefinition(), t.GetDefinition())):
				c.Withheld = append(c.Withheld, &fleetv1.WithheldTool{Label: labelOf(t), Changed: true})
			default:
				served = append(served, t)
			}
		}
	}
	c.catalogue = &fleetv1.Catalogue{Connector: c.Settings.GetId(), Tools: served, Withheld: c.Withheld}
}

// ofEachPerson tells whether an upstream knows who calls, so that what it lists may be of one person.
func (c *Connector) ofEachPerson() bool {
	a := c.Settings.GetAuth()
	return a.GetKind() != nil && a.GetServiceAccount() == nil && KeyHolder(a) != policyv1.KeyHolder_KEY_HOLDER_SHARED
}

// Asked tells whether control planes ask the upstream themselves what it offers: it is no program beside the proxies, and they know as
// whom. What they see is then what counts.
func (c *Connector) Asked() bool {
	return !strings.HasPrefix(c.Settings.GetUrl(), "stdio:") && (!c.ofEachPerson() || c.Settings.GetCatalogue().GetAs() != "")
}

// Unsettled says of a connector whose upstream changes too often what that means and what to do.
func Unsettled(c *Connector) string {
	id := c.Settings.GetId()
	stands := "agents go on with what is pinned"
	if c.Settings.GetCatalogue().GetChanges() == policyv1.CatalogueChange_CATALOGUE_CHANGE_WITHHOLD {
		stands = "its tools are withheld, as catalogue.changes says"
	}
	return fmt.Sprintf("its list changes too often (%d times, %d bytes within an hour): nothing more of it is noted before %s UTC, and %s; see sallyport catalogue diff %s, ask whoever runs it, and block the connector if nobody can say why",
		c.Offer.Tally.GetOffers(), c.Offer.Tally.GetBytes(), c.Offer.Until().UTC().Format(time.DateTime), stands, id)
}
