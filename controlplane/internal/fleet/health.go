package fleet

import (
	"context"
	"maps"
	"slices"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
)

// healthEvery is how often it is looked how proxies and connectors are: what comes and goes in less is not told.
const healthEvery = time.Second

// Health has audit tell when a proxy comes, goes or may no longer serve, and when a proxy finds that a connector fails or is well again.
type Health struct {
	Roster *Roster
	// State is the committed state, Leading whether this control plane is the one that tells.
	State   func() *core.State
	Leading func() bool
	Trail   Trail
	Now     func() time.Time

	last map[string]condition // by token id; nil: not known yet
}

// condition is how a proxy is, and what it finds.
type condition struct {
	Standing
	connected, live bool
	failing         map[string]*trouble // by connector
}

type trouble struct {
	reason    string
	leftAlone bool
}

// Run tells until ctx ends.
func (h *Health) Run(ctx context.Context) {
	ticker := time.NewTicker(healthEvery)
	defer ticker.Stop()
	for {
		h.Look()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Look tells what is otherwise than when it was last looked.
func (h *Health) Look() {
	now := h.Now()
	standings, _, err := h.Roster.Standings(h.State(), now)
	if err != nil {
		return // it is read soon
	}
	leading := h.Leading()
	next := make(map[string]condition, len(standings))
	for _, s := range standings {
		is := conditionOf(s, now)
		next[s.TokenID] = is
		if was := h.last[s.TokenID]; leading && h.last != nil {
			h.compare(was, is)
		}
	}
	for id, was := range h.last {
		if _, there := next[id]; !there && leading && (was.connected || was.live) {
			h.note(was.Standing, "proxy_stopped", "proxy/"+was.Name, "", "its certificate was revoked, and its lease is over")
		}
	}
	h.last = next
}

func conditionOf(s Standing, now time.Time) condition {
	c := condition{Standing: s, connected: s.ServedBy != "", live: s.Live(now), failing: map[string]*trouble{}}
	for _, t := range s.troubles() {
		if t.GetConnector() != "" {
			c.failing[t.GetConnector()] = &trouble{t.GetReason(), t.GetLeftAlone()}
		}
	}
	return c
}

func (h *Health) compare(was, is condition) {
	switch {
	case !was.connected && is.connected:
		h.note(is.Standing, "proxy_connected", "proxy/"+is.Name, "", "")
	case was.connected && !is.connected:
		h.note(is.Standing, "proxy_disconnected", "proxy/"+is.Name, "", "it serves until its lease is over, unless it comes back")
	}
	if was.live && !is.live {
		h.note(is.Standing, "proxy_stopped", "proxy/"+is.Name, "", "its lease is over: it refuses every call, or does not run")
	}
	for _, connector := range slices.Sorted(maps.Keys(is.failing)) {
		t := is.failing[connector]
		switch before := was.failing[connector]; {
		case t.leftAlone && (before == nil || !before.leftAlone):
			h.note(is.Standing, "connector_left_alone", "connector/"+connector, connector, t.reason)
		case before == nil:
			h.note(is.Standing, "connector_failing", "connector/"+connector, connector, t.reason)
		}
	}
	for _, connector := range slices.Sorted(maps.Keys(was.failing)) {
		if is.failing[connector] == nil {
			h.note(is.Standing, "connector_recovered", "connector/"+connector, connector, "")
		}
	}
}

func (h *Health) note(of Standing, action, target, connector, why string) {
	h.Trail.Note(&auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_HEALTH, Method: "fleet", Action: action, Target: target, Connector: connector, Error: why,
		Actor:   &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_PROXY, Id: of.Name},
		Details: []*auditv1.Detail{{Key: "region", Value: of.Region}, {Key: "build", Value: of.Build}},
	})
}
