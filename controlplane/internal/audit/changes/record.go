package changes

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

const (
	// headBytes is how much is kept of what was changed, at most.
	headBytes = 4096
	// maxText and maxList bound each value in it.
	maxText = 400
	maxList = 20
)

// recordsOf are the records of events that were committed one after the other, which began in a state. What changed nothing has none.
func recordsOf(before *core.State, events []core.Record) []*auditv1.AuditRecord {
	var all []*auditv1.AuditRecord
	changed := map[string]facts{} // what an earlier of these events made of something
	then, at := before, 0         // the state just before event at
	for i, e := range events {
		if e.Event.GetBarrier() != nil {
			continue
		}
		r := recordOf(before, changed, e)
		all = append(all, r)
		if a := r.GetActor(); a.GetKind() != auditv1.ActorKind_ACTOR_KIND_PERSON && a.GetKind() != auditv1.ActorKind_ACTOR_KIND_ADMIN {
			continue
		}
		id, err := uuid.Parse(r.GetActor().GetId())
		if err != nil { // a token
			continue
		}
		if at == 0 && i > 0 {
			then = before.Fork()
		}
		for ; at < i; at++ {
			if then.Apply(events[at]) != nil { // the engine stops at it
				return all
			}
		}
		r.Groups = then.GroupNames(id)
	}
	return all
}

func recordOf(before *core.State, changed map[string]facts, e core.Record) *auditv1.AuditRecord {
	ev := e.Event
	r := &auditv1.AuditRecord{
		At: ev.GetAt(), CallId: ev.GetId(), Phase: auditv1.Phase_PHASE_COMPLETED, Kind: kindOf(ev), Method: "log", Action: core.EventName(ev), Target: core.Target(ev),
		Version: e.Seq, SnapshotVersion: e.Seq - 1, Actor: actorOf(ev.GetActor()), PersonId: personOf(before, ev), Connector: connectorOf(ev), Outcome: auditv1.Outcome_OUTCOME_OK,
	}
	if id := ev.GetCommandId(); id != "" {
		r.Details = append(r.Details, &auditv1.Detail{Key: "command", Value: id})
	}
	if role := ev.GetActor().GetRole(); role != 0 {
		r.Details = append(r.Details, &auditv1.Detail{Key: "role", Value: strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_"))})
	}
	if name := groupOf(before, ev); name != "" {
		r.Details = append(r.Details, &auditv1.Detail{Key: "group", Value: name})
	}
	c := changeOf(before, ev)
	if was, ok := changed[c.of]; ok && c.of != "" {
		c.before = was
	}
	if c.of != "" {
		changed[c.of] = c.after
	}
	r.Arguments = c.payload()
	return r
}

// revocations are the events that take access away which somebody had.
var revocations = []string{
	"user_deactivated", "user_sessions_revoked", "user_deleted", "session_revoked", "client_sessions_revoked", "token_revoked", "service_key_removed",
	"credential_withdrawn", "credential_revocation_tried", "credential_destroyed",
}

func kindOf(ev *eventv1.Event) auditv1.Kind {
	if slices.Contains(revocations, core.EventName(ev)) {
		return auditv1.Kind_KIND_REVOCATION
	}
	return auditv1.Kind_KIND_CHANGE // also of a review, which is told by a record of kind review too, with who and what it was about
}

func actorOf(a *eventv1.Actor) *auditv1.Actor {
	kind := auditv1.ActorKind_ACTOR_KIND_SYSTEM
	switch a.GetKind() {
	case eventv1.ActorKind_ACTOR_KIND_ADMIN:
		kind = auditv1.ActorKind_ACTOR_KIND_ADMIN
	case eventv1.ActorKind_ACTOR_KIND_PERSON:
		kind = auditv1.ActorKind_ACTOR_KIND_ADMIN
		if a.GetRole() == 0 { // they acted for themselves
			kind = auditv1.ActorKind_ACTOR_KIND_PERSON
		}
	case eventv1.ActorKind_ACTOR_KIND_SCIM, eventv1.ActorKind_ACTOR_KIND_SIGNAL:
		kind = auditv1.ActorKind_ACTOR_KIND_IDENTITY_PROVIDER
	case eventv1.ActorKind_ACTOR_KIND_PROXY:
		kind = auditv1.ActorKind_ACTOR_KIND_PROXY
	}
	return &auditv1.Actor{Kind: kind, Id: a.GetId()}
}

// personOf is whom the event is about, or whose review or credential it is.
func personOf(before *core.State, ev *eventv1.Event) string {
	body := core.Body(ev)
	for _, of := range []proto.Message{body, ev.GetCredentialSet().GetCredential(), ev.GetBlockPlaced().GetBlock()} {
		if b, ok := of.(interface{ GetUserId() string }); ok && b.GetUserId() != "" {
			return b.GetUserId()
		}
		if b, ok := of.(interface{ GetPersonId() string }); ok && b.GetPersonId() != "" {
			return b.GetPersonId()
		}
	}
	if b, ok := body.(interface{ GetReviewId() string }); ok {
		if id, err := uuid.Parse(b.GetReviewId()); err == nil {
			if review := before.Review(id); review != nil {
				return review.Asked.GetUserId()
			}
		}
	}
	if b, ok := body.(interface{ GetCredentialId() string }); ok {
		if id, err := uuid.Parse(b.GetCredentialId()); err == nil {
			if c := before.Credential(id); c != nil && c.Owner.Person != uuid.Nil {
				return c.Owner.Person.String()
			}
			if w := before.Withdrawal(id); w != nil && w.Owner.Person != uuid.Nil {
				return w.Owner.Person.String()
			}
		}
	}
	return ""
}

// groupOf is the name of the group that the event is about, which its target tells by the id alone.
func groupOf(before *core.State, ev *eventv1.Event) string {
	b, ok := core.Body(ev).(interface{ GetGroupId() string })
	if !ok {
		return ""
	}
	id, err := uuid.Parse(b.GetGroupId())
	if g := before.Group(id); err == nil && g != nil {
		return g.Name()
	}
	return ""
}

func connectorOf(ev *eventv1.Event) string {
	body := core.Body(ev)
	for _, of := range []proto.Message{body, ev.GetCredentialSet().GetCredential()} {
		if b, ok := of.(interface{ GetConnectorId() string }); ok && b.GetConnectorId() != "" {
			return b.GetConnectorId()
		}
	}
	return ev.GetConnectorSet().GetConnector().GetId()
}

// facts are what is told of something, by name, as JSON would have it.
type facts map[string]any

// factsOf are what a message says, but for bytes: digests, keys and definitions are nothing to read.
func factsOf(m proto.Message) facts {
	if m == nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	m = proto.Clone(m)
	withoutBytes(m.ProtoReflect())
	text, err := protojson.Marshal(m)
	if err != nil {
		return facts{"unreadable": err.Error()}
	}
	f := facts{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&f); err != nil {
		return facts{"unreadable": err.Error()}
	}
	return f
}

func withoutBytes(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Kind() == protoreflect.BytesKind:
			m.Clear(field)
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range v.List().Len() {
				withoutBytes(v.List().Get(i).Message())
			}
		default:
			withoutBytes(v.Message())
		}
		return true
	})
}

// payload is what is otherwise than before: {"before": {…}, "after": {…}}, in short.
func (c change) payload() *auditv1.Payload {
	before, after := facts{}, facts{}
	for key, was := range c.before {
		if is, there := c.after[key]; !there || !same(was, is) {
			before[key] = short(was)
		}
	}
	for key, is := range c.after {
		if was, there := c.before[key]; !there || !same(was, is) {
			after[key] = short(is)
		}
	}
	said := facts{}
	if len(before) > 0 {
		said["before"] = before
	}
	if len(after) > 0 {
		said["after"] = after
	}
	if len(said) == 0 {
		return nil
	}
	text, err := json.Marshal(said)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(text)
	p := &auditv1.Payload{Head: text, Size: uint64(len(text)), Sha256: sum[:]}
	if len(text) > headBytes {
		p.Head, p.Truncated = text[:headBytes], true
	}
	return p
}

func same(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// short is a value without what is beyond anybody's reading.
func short(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > maxText {
			return strings.ToValidUTF8(v[:maxText], "") + fmt.Sprintf("… (%d bytes)", len(v))
		}
	case []string:
		all := make([]any, len(v))
		for i := range v {
			all[i] = v[i]
		}
		return short(all)
	case []any:
		all := make([]any, 0, min(len(v), maxList+1))
		for i, one := range v {
			if i == maxList {
				return append(all, fmt.Sprintf("… and %d more", len(v)-maxList))
			}
			all = append(all, short(one))
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for key, one := range v {
			all[key] = short(one)
		}
		return all
	}
	return v
}
