package fleet

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/fleetca"
)

func wire(h fleetca.Holding) *fleetv1.Authorities {
	a := &fleetv1.Authorities{Issuer: h.Issuer[:]}
	for _, t := range h.Trusted {
		a.Trusted = append(a.Trusted, t[:])
	}
	return a
}

// holding takes what the proxy says that it holds of the fleet's authorities. Nil: what it said before.
func (c *cursor) holding(a *fleetv1.Authorities) {
	if a == nil {
		return
	}
	c.holds.Store(a)
	c.server.config.Roster.Holds(c.token, a)
}

// Holds takes what a proxy holds of the fleet's authorities.
func (r *Roster) Holds(proxy *core.Token, a *fleetv1.Authorities) {
	issuer, trusts := hex.EncodeToString(a.GetIssuer()), trusted(a)
	r.change(proxy, func(s *Standing) { s.Issuer, s.Trusts = issuer, trusts })
}

func trusted(a *fleetv1.Authorities) string {
	all := make([]string, len(a.GetTrusted()))
	for i, t := range a.GetTrusted() {
		all[i] = hex.EncodeToString(t)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// Lacking names the live proxies that do not hold what they are to hold. An error says that not all of them are known yet.
func (r *Roster) Lacking(s *core.State, now time.Time, want fleetca.Holding) ([]string, error) {
	all, _, err := r.Standings(s, now)
	if err != nil {
		return nil, err
	}
	w := wire(want)
	issuer, trusts := hex.EncodeToString(w.GetIssuer()), trusted(w)
	var lacking []string
	for _, p := range all {
		if !p.Revoked && p.SPIFFEID == "" && p.Live(now) && (p.Issuer != issuer || p.Trusts != trusts) {
			lacking = append(lacking, p.Name)
		}
	}
	return lacking, nil
}

// Rotation rotates the fleet's authority, as admins ask for it and as proxies follow.
type Rotation struct {
	Authority *fleetca.Authority
	Engine    Engine
	Roster    *Roster
	// Trail takes records of what was done. Nil: nobody does.
	Trail Trail
	Now   func() time.Time
}

// Ready tells whether every live proxy holds what it is to hold.
func (r *Rotation) Ready(want fleetca.Holding) (bool, error) {
	lacking, err := r.Roster.Lacking(r.Engine.State(), r.Now(), want)
	return err == nil && len(lacking) == 0, err
}

var stages = map[fleetca.Stage]adminv1.FleetAuthorityStage{
	fleetca.Settled:   adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_SETTLED,
	fleetca.Announced: adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_ANNOUNCED,
	fleetca.Issuing:   adminv1.FleetAuthorityStage_FLEET_AUTHORITY_STAGE_ISSUING,
}

// Standing says how the authorities stand.
func (r *Rotation) Standing(ctx context.Context) (*adminv1.GetFleetAuthorityResponse, error) {
	now, err := r.Authority.Standing(ctx)
	if err != nil {
		return nil, err
	}
	res := &adminv1.GetFleetAuthorityResponse{Stage: stages[now.Stage], Since: timestamppb.New(now.Since)}
	for _, a := range now.Authorities {
		res.Authorities = append(res.Authorities, &adminv1.FleetAuthority{Fingerprint: hex.EncodeToString(a.Fingerprint[:]), MadeAt: timestamppb.New(a.Made), Issues: a.Issues, Serves: a.Serves})
	}
	if now.Stage != fleetca.Settled {
		if res.WaitingFor, err = r.Roster.Lacking(r.Engine.State(), r.Now(), r.Authority.Wanted()); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// Rotate begins a rotation and returns the new authority's fingerprint.
func (r *Rotation) Rotate(ctx context.Context, by *auditv1.Actor) (string, error) {
	fingerprint, err := r.Authority.Rotate(ctx)
	if err != nil {
		return "", err
	}
	text := hex.EncodeToString(fingerprint[:])
	r.note(by, "fleet_authority_rotated", text)
	return text, nil
}

// Drop ends a rotation at once, and names the live proxies that it cuts off: those whose certificate is not of the new authority.
func (r *Rotation) Drop(ctx context.Context, by *auditv1.Actor) ([]string, error) {
	if err := r.Authority.Drop(ctx); err != nil {
		return nil, err
	}
	wanted := r.Authority.Wanted()
	issuer := hex.EncodeToString(wanted.Issuer[:])
	r.note(by, "fleet_authority_dropped", issuer)
	all, _, err := r.Roster.Standings(r.Engine.State(), r.Now())
	var cut []string
	for _, p := range all {
		if !p.Revoked && p.SPIFFEID == "" && p.Live(r.Now()) && p.Issuer != issuer {
			cut = append(cut, p.Name)
		}
	}
	return cut, err
}

// Told notes that a rotation went on by itself.
func (r *Rotation) Told(stage fleetca.Stage) {
	r.note(&auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_SYSTEM}, "fleet_authority_"+string(stage), "")
}

func (r *Rotation) note(by *auditv1.Actor, action, fingerprint string) {
	if r.Trail == nil {
		return
	}
	rec := &auditv1.AuditRecord{Kind: auditv1.Kind_KIND_HEALTH, Actor: by, Action: action, Target: "fleet/authority"}
	if fingerprint != "" {
		rec.Details = []*auditv1.Detail{{Key: "authority", Value: fingerprint}}
	}
	r.Trail.Note(rec)
}
