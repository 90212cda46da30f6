package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// document is a resource as it is written in YAML. What is read is what export writes: addTo and the constructor of each kind are inverses.
type document interface {
	addTo(req *adminv1.ApplyRequest) error
}

// documents makes an empty document of each kind.
var documents = map[string]func() document{
	"Connector": func() document { return &connectorDocument{} },
	"RuleSet":   func() document { return &ruleSetDocument{} },
	"Grant":     func() document { return &grantDocument{} },

	"AuditExporter": func() document { return &exporterDocument{} },
}

type connectorDocument struct {
	Kind          string           `yaml:"kind" json:"kind"`
	ID            string           `yaml:"id" json:"id" jsonschema:"Lower-case words joined by single hyphens; part of URLs and tool names"`
	Title         string           `yaml:"title,omitempty" json:"title,omitempty" jsonschema:"What people read; default: the id"`
	URL           string           `yaml:"url" json:"url" jsonschema:"The upstream's MCP endpoint, or stdio:NAME of a runner's program"`
	Regions       []string         `yaml:"regions,omitempty" json:"regions,omitempty" jsonschema:"Whose proxies offer it; default: all"`
	Auth          *upstreamAuth    `yaml:"auth,omitempty" json:"auth,omitempty" jsonschema:"How the gateway authenticates to the upstream; default: not at all"`
	Timeout       length           `yaml:"timeout,omitempty" json:"timeout,omitempty" jsonschema:"Until the upstream begins its answer; default 30s"`
	IdleTimeout   length           `yaml:"idleTimeout,omitempty" json:"idleTimeout,omitempty" jsonschema:"Between two pieces of an answer; default 5m"`
	Transport     string           `yaml:"transport,omitempty" json:"transport,omitempty" jsonschema:"http, or sse for HTTP+SSE of MCP 2024-11-05"`
	Consent       []string         `yaml:"consent,omitempty" json:"consent,omitempty" jsonschema:"What the upstream may ask of agents; default: nothing"`
	Retries       *uint32          `yaml:"retries,omitempty" json:"retries,omitempty" jsonschema:"How often a call that changes nothing is sent again; default 1"`
	Breaker       *breakerDocument `yaml:"breaker,omitempty" json:"breaker,omitempty" jsonschema:"When an upstream that fails is left alone for a while"`
	Redact        []*redaction     `yaml:"redact,omitempty" json:"redact,omitempty" jsonschema:"What is taken out of audit and of results, whoever calls"`
	AllowedRanges []string         `yaml:"allowedRanges,omitempty" json:"allowedRanges,omitempty" jsonschema:"Ranges in CIDR for an upstream that is not on the public internet"`

	Audit *auditDocument `yaml:"audit,omitempty" json:"audit,omitempty" jsonschema:"What audit keeps of calls beside their records"`

	Catalogue *catalogueDocument `yaml:"catalogue,omitempty" json:"catalogue,omitempty" jsonschema:"What becomes of an upstream's list when it differs from what is pinned"`
}

type breakerDocument struct {
	Failures uint32 `yaml:"failures,omitempty" json:"failures,omitempty" jsonschema:"So many in a row; default 5"`
	OpenFor  length `yaml:"openFor,omitempty" json:"openFor,omitempty" jsonschema:"For so long; default 10s"`
}

type ruleSetDocument struct {
	Kind  string `yaml:"kind" json:"kind"`
	Name  string `yaml:"name" json:"name" jsonschema:"By which grants refer to it"`
	Rules []rule `yaml:"rules" json:"rules"`
}

type grantDocument struct {
	Kind           string   `yaml:"kind" json:"kind"`
	Group          string   `yaml:"group,omitempty" json:"group,omitempty" jsonschema:"directory/display name, or the group's id"`
	Person         string   `yaml:"person,omitempty" json:"person,omitempty" jsonschema:"A user name, directory/user name or an id"`
	ServiceAccount string   `yaml:"serviceAccount,omitempty" json:"serviceAccount,omitempty" jsonschema:"Its name"`
	Everyone       string   `yaml:"everyone,omitempty" json:"everyone,omitempty" jsonschema:"A directory's id; *: everyone of every directory"`
	Connector      string   `yaml:"connector" json:"connector" jsonschema:"A connector's id"`
	Rules          []rule   `yaml:"rules,omitempty" json:"rules,omitempty"`
	RuleSets       []string `yaml:"ruleSets,omitempty" json:"ruleSets,omitempty" jsonschema:"Names of rule sets whose rules count as if they stood here"`
	Until          moment   `yaml:"until,omitempty" json:"until,omitempty" jsonschema:"From when on it counts no more"`
}

// addDocument reads one document by its kind; one that is empty is none.
func addDocument(node *yaml.Node, req *adminv1.ApplyRequest) error {
	var head *struct {
		Kind string `yaml:"kind"`
	}
	if err := node.Load(&head); err != nil || head == nil {
		return err
	}
	empty := documents[head.Kind]
	if empty == nil {
		return fmt.Errorf("kind is %s, not %q", strings.Join(slices.Sorted(maps.Keys(documents)), ", "), head.Kind)
	}
	d := empty()
	if err := node.Load(d, yaml.WithKnownFields()); err != nil {
		return fmt.Errorf("a %s: %w", head.Kind, err)
	}
	return d.addTo(req)
}

var transports = map[string]policyv1.Transport{"": 0, "http": policyv1.Transport_TRANSPORT_STREAMABLE_HTTP, "sse": policyv1.Transport_TRANSPORT_SSE}

// consents are what an upstream may ask, each with its place.
var consents = map[string]func(*policyv1.Consent) *bool{
	"sampling":    func(c *policyv1.Consent) *bool { return &c.Sampling },
	"elicitation": func(c *policyv1.Consent) *bool { return &c.Elicitation },
	"roots":       func(c *policyv1.Consent) *bool { return &c.Roots },
}

func (d *connectorDocument) addTo(req *adminv1.ApplyRequest) error {
	c := &policyv1.Connector{Id: d.ID, Title: d.Title, Url: d.URL, Regions: d.Regions, Retries: d.Retries, AllowedRanges: d.AllowedRanges}
	var err error
	if d.Auth != nil {
		if c.Auth, err = d.Auth.wire(); err != nil {
			return err
		}
	}
	if c.Timeout, err = d.Timeout.wire("timeout"); err != nil {
		return err
	}
	if c.IdleTimeout, err = d.IdleTimeout.wire("idleTimeout"); err != nil {
		return err
	}
	if c.Transport, err = oneOf("transport", d.Transport, transports); err != nil {
		return err
	}
	for _, what := range d.Consent {
		if c.Consent == nil {
			c.Consent = &policyv1.Consent{}
		}
		at, err := oneOf("consent", what, consents)
		if err != nil {
			return err
		}
		*at(c.Consent) = true
	}
	if d.Breaker != nil {
		c.Breaker = &policyv1.Breaker{Failures: d.Breaker.Failures}
		if c.Breaker.OpenFor, err = d.Breaker.OpenFor.wire("breaker.openFor"); err != nil {
			return err
		}
	}
	for _, r := range d.Redact {
		c.Redactions = append(c.Redactions, r.wire())
	}
	if d.Audit != nil {
		if c.Audit, err = d.Audit.wire(); err != nil {
			return err
		}
	}
	if d.Catalogue != nil {
		if c.Catalogue, err = d.Catalogue.wire(); err != nil {
			return err
		}
	}
	req.Connectors = append(req.Connectors, c)
	return nil
}

func connectorDocumentOf(c *policyv1.Connector) *connectorDocument {
	d := &connectorDocument{
		Kind: "Connector", ID: c.GetId(), Title: c.GetTitle(), URL: c.GetUrl(), Regions: c.GetRegions(), Auth: authOf(c.GetAuth()), Timeout: lengthOf(c.GetTimeout()),
		IdleTimeout: lengthOf(c.GetIdleTimeout()), Transport: wordFor(c.GetTransport(), transports), Retries: c.Retries, AllowedRanges: c.GetAllowedRanges(),
	}
	for _, what := range slices.Sorted(maps.Keys(consents)) {
		if c.GetConsent() != nil && *consents[what](c.GetConsent()) {
			d.Consent = append(d.Consent, what)
		}
	}
	d.Audit, d.Catalogue = auditDocumentOf(c.GetAudit()), catalogueDocumentOf(c.GetCatalogue())
	for _, r := range c.GetRedactions() {
		d.Redact = append(d.Redact, redactionOf(r))
	}
	if b := c.GetBreaker(); b != nil {
		d.Breaker = &breakerDocument{Failures: b.GetFailures(), OpenFor: lengthOf(b.GetOpenFor())}
	}
	return d
}

func (d *ruleSetDocument) addTo(req *adminv1.ApplyRequest) error {
	rules, err := rulesOf(d.Rules)
	if err != nil {
		return err
	}
	req.RuleSets = append(req.RuleSets, &policyv1.RuleSet{Name: d.Name, Rules: rules})
	return nil
}

func ruleSetDocumentOf(set *policyv1.RuleSet) *ruleSetDocument {
	return &ruleSetDocument{Kind: "RuleSet", Name: set.GetName(), Rules: writtenRules(set.GetRules())}
}

// ofService begins the names of service accounts, where people and they stand side by side.
const ofService = "service/"

func (d *grantDocument) addTo(req *adminv1.ApplyRequest) error {
	g := &adminv1.Grant{Group: d.Group, Person: d.Person, Everyone: d.Everyone, Connector: d.Connector, RuleSets: d.RuleSets}
	if d.ServiceAccount != "" {
		if d.Person != "" {
			return errors.New("a Grant is to one of group, person, serviceAccount and everyone")
		}
		g.Person = ofService + d.ServiceAccount
	}
	var err error
	if g.Rules, err = rulesOf(d.Rules); err != nil {
		return err
	}
	if g.Until, err = d.Until.wire("until"); err != nil {
		return err
	}
	req.Grants = append(req.Grants, g)
	return nil
}

func grantDocumentOf(g *adminv1.Grant) *grantDocument {
	d := &grantDocument{
		Kind: "Grant", Group: g.GetGroup(), Everyone: g.GetEveryone(), Connector: g.GetConnector(), Rules: writtenRules(g.GetRules()), RuleSets: g.GetRuleSets(), Until: momentOf(g.GetUntil()),
	}
	if account, ok := strings.CutPrefix(g.GetPerson(), ofService); ok {
		d.ServiceAccount = account
	} else {
		d.Person = g.GetPerson()
	}
	return d
}

func writtenRules(rules []*policyv1.Rule) []rule {
	var out []rule
	for _, r := range rules {
		out = append(out, ruleOf(r))
	}
	return out
}

// length is a length of time as it is written: 90s, 5m, 1h30m.
type length string

// wire reads it, or none.
func (l length) wire(field string) (*durationpb.Duration, error) {
	if l == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(string(l))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return durationpb.New(d), nil
}

func lengthOf(d *durationpb.Duration) length {
	if d == nil {
		return ""
	}
	return length(d.AsDuration().String())
}

// moment is a point in time as it is written: with its zone, or a day, which begins in UTC.
type moment string

func (m moment) wire(field string) (*timestamppb.Timestamp, error) { return instant(field, string(m)) }

func momentOf(t *timestamppb.Timestamp) moment {
	if t == nil {
		return ""
	}
	return moment(t.AsTime().Format(time.RFC3339Nano))
}

// instant reads a point in time, or none.
func instant(field, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fmt.Errorf("%s is a day, as 2027-01-31, or a time with its zone, as 2027-01-31T18:00:00Z, not %q", field, text)
}

// wordsOf are the words that oneOf reads.
func wordsOf[T any](known map[string]T) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(s string) bool { return s == "" })
}

// oneOf reads a word of several.
func oneOf[T any](field, value string, known map[string]T) (T, error) {
	v, ok := known[value]
	if !ok {
		return v, fmt.Errorf("%s is %s, not %q", field, strings.Join(wordsOf(known), ", "), value)
	}
	return v, nil
}

// wordFor is the word that oneOf reads as a value; where nothing needs to be said, none.
func wordFor[T comparable](value T, known map[string]T) string {
	if known[""] == value {
		return ""
	}
	for _, word := range wordsOf(known) {
		if known[word] == value {
			return word
		}
	}
	return ""
}
