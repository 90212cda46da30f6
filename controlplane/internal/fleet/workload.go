package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/dataplane/spiffe"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/fleetca"
)

// Workloads says which SPIFFE ids are proxies, and knows them by their SVIDs.
type Workloads struct {
	source *spiffe.Source
	rules  []workloadRule
}

// workloadRule names proxies by their SPIFFE ids.
type workloadRule struct {
	id     *regexp.Regexp // of the whole id, with a group for the name, and one for the region
	region string         // where the pattern has none
}

// A place in a pattern is a part of one segment of the path, of which ids of proxies and regions can consist.
const (
	namePlace, regionPlace = "{name}", "{region}"
	nameGroup              = `(?P<name>[a-z0-9-]+)`
	regionGroup            = `(?P<region>[a-z0-9-]+)`
)

// NewWorkloads reads rules: [REGION=]PATTERN, where the pattern is a SPIFFE id with {name} in its path, and {region} unless a region stands before.
func NewWorkloads(source *spiffe.Source, rules []string) (*Workloads, error) {
	w := &Workloads{source: source}
	for _, text := range rules {
		rule, err := readWorkloadRule(text)
		if err != nil {
			return nil, fmt.Errorf("%q does not say which SPIFFE ids are proxies: %w; write spiffe://example.org/sallyport/{region}/{name}, or us-east=spiffe://example.org/us/proxy-{name}", text, err)
		}
		w.rules = append(w.rules, rule)
	}
	if len(w.rules) == 0 {
		return nil, errors.New("--spiffe-proxies must say which SPIFFE ids are proxies, such as spiffe://example.org/sallyport/{region}/{name}")
	}
	return w, nil
}

// Run takes SVIDs and bundles as they change on disk until ctx ends.
func (w *Workloads) Run(ctx context.Context) {
	if w != nil {
		w.source.Run(ctx)
	}
}

func readWorkloadRule(text string) (workloadRule, error) {
	region, pattern, given := strings.Cut(text, "=")
	if !given {
		region, pattern = "", text
	}
	switch {
	case strings.Count(pattern, namePlace) != 1:
		return workloadRule{}, errors.New("{name} stands in it once")
	case given && (region == "" || strings.Contains(pattern, regionPlace)), !given && strings.Count(pattern, regionPlace) != 1:
		return workloadRule{}, errors.New("the region stands before it, or {region} in it once")
	case strings.Contains(pattern, namePlace+regionPlace), strings.Contains(pattern, regionPlace+namePlace):
		return workloadRule{}, errors.New("{name} and {region} are to be told apart")
	}
	example, err := spiffeid.FromString(strings.NewReplacer(namePlace, "n", regionPlace, "r").Replace(pattern))
	if err != nil {
		return workloadRule{}, err
	}
	if !strings.Contains(pattern[len("spiffe://")+len(example.TrustDomain().Name()):], namePlace) || given && len(region) == 0 {
		return workloadRule{}, errors.New("{name} stands in its path")
	}
	expression := strings.NewReplacer(regexp.QuoteMeta(namePlace), nameGroup, regexp.QuoteMeta(regionPlace), regionGroup).Replace(regexp.QuoteMeta(pattern))
	id, err := regexp.Compile("^" + expression + "$")
	return workloadRule{id, region}, err
}

// workload is a proxy by its SPIFFE id, which the certificates of its connection prove as long as still says so.
type workload struct {
	id, name, region string
	still            func() bool
}

// of says which proxy shows a chain of certificates, as of now: bundles change, and certificates end, while a connection is open.
func (w *Workloads) of(chain []*x509.Certificate) (*workload, error) {
	id, err := w.source.Verify(chain)
	if err != nil {
		return nil, err
	}
	name, region, err := w.named(id)
	return &workload{id.String(), name, region, func() bool { _, err := w.of(chain); return err == nil }}, err
}

// named says which proxy an id is: as all rules that know it agree.
func (w *Workloads) named(id spiffeid.ID) (name, region string, err error) {
	for _, r := range w.rules {
		m := r.id.FindStringSubmatch(id.String())
		if m == nil {
			continue
		}
		here := r.region
		if i := r.id.SubexpIndex("region"); i > 0 {
			here = m[i]
		}
		if n := m[r.id.SubexpIndex("name")]; name == "" {
			name, region = n, here
		} else if n != name || here != region {
			return "", "", fmt.Errorf("the rules of --spiffe-proxies name %s differently", id)
		}
	}
	if name == "" {
		return "", "", fmt.Errorf("%s is no proxy by the rules of --spiffe-proxies", id)
	}
	return name, region, nil
}

// TLS is how a control plane meets proxies: by the fleet's authority or, where workloads are known too and a client asks for it, by SPIFFE ids.
// The two never mix: an authority of the one world certifies nobody in the other.
func TLS(authority *fleetca.Authority, w *Workloads) *tls.Config {
	config := authority.ServerTLS()
	if w == nil {
		return config
	}
	own := config.GetConfigForClient
	bySPIFFE := w.source.Server(func(id spiffeid.ID) error {
		_, _, err := w.named(id)
		return err
	})
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName == spiffe.ServerName {
			return bySPIFFE, nil
		}
		return own(hello)
	}
	return config
}

// admitted is the token of a workload, which joins if it is not of the fleet yet.
func (s *Server) admitted(ctx context.Context, by *workload) (*core.Token, error) {
	state := s.config.Engine.State()
	token := state.WorkloadToken(by.id)
	if token != nil && token.Name == by.name && token.Region == by.region {
		return token, nil
	}
	if state.Barred(by.id) { // what is barred at the log's end, the command is refused for
		return nil, s.notAdmitted(ctx, by, &core.Error{Code: core.Forbidden, Message: "it was revoked: an admin lets it in again with sallyport proxies readmit " + by.id})
	}
	id := uuid.New()
	out, err := s.config.Commands.Do(ctx, &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_PROXY, Id: id.String()}, core.AdmitProxy{ID: id, SPIFFEID: by.id, Name: by.name, Region: by.region})
	var refused *core.Error
	switch {
	case errors.As(err, &refused):
		return nil, s.notAdmitted(ctx, by, refused)
	case err != nil:
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("joining could not be written down: try again"))
	case len(out.Events) > 0:
		s.config.Log.InfoContext(ctx, "a proxy joined", "proxy", by.name, "region", by.region, "spiffe_id", by.id)
	}
	if token = out.State.WorkloadToken(by.id); token == nil { // revoked meanwhile
		return nil, errNoProxy()
	}
	return token, nil
}

// notAdmitted records a refusal, once in a while for each id.
func (s *Server) notAdmitted(ctx context.Context, by *workload, why *core.Error) error {
	if s.refusals.due(by.id, s.config.Now()) {
		s.config.Log.WarnContext(ctx, "a workload may not join", "spiffe_id", by.id, "proxy", by.name, "region", by.region, "error", why)
		if s.config.Trail != nil {
			s.config.Trail.Note(&auditv1.AuditRecord{
				Kind: auditv1.Kind_KIND_HEALTH, Action: "proxy_refused", Target: "proxy/" + by.name, Region: by.region, Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_PROXY, Id: by.name},
				Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED}, Error: why.Message, Details: []*auditv1.Detail{{Key: "spiffe_id", Value: by.id}},
			})
		}
	}
	return connect.NewError(connect.CodeUnauthenticated, why)
}

// refusals remember whose refusal was recorded lately.
type refusals struct {
	mu sync.Mutex
	at map[string]time.Time
}

const refusalsFor = time.Minute

func (r *refusals) due(id string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.at[id]) < refusalsFor {
		return false
	}
	for other, at := range r.at {
		if now.Sub(at) >= refusalsFor {
			delete(r.at, other)
		}
	}
	if r.at == nil {
		r.at = map[string]time.Time{}
	}
	r.at[id] = now
	return true
}
