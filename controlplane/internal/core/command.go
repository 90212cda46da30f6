package core

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Env is what a decision may know of the world.
type Env struct {
	Now   time.Time
	NewID func() uuid.UUID
	// Actor is who asks: what an admin hands out is never more than the admin's own.
	Actor *eventv1.Actor
}

// events completes events with their id and time.
func (e Env) events(all ...*eventv1.Event) []*eventv1.Event {
	for _, ev := range all {
		ev.Id = e.NewID().String()
		ev.At = timestamppb.New(e.Now)
	}
	return all
}

// Command asks for a change. It is refused or becomes events; deciding changes nothing.
type Command interface {
	decide(s *State, env Env) ([]*eventv1.Event, error)
}

// MaxEvents is the most events that one command may become: they are written as one batch.
const MaxEvents = 1000

// Decide returns the events that a command becomes in a state: none if what it asks for is so already.
// A refusal is an *Error. The state is not changed.
func Decide(s *State, c Command, env Env) ([]*eventv1.Event, error) {
	events, err := c.decide(s, env)
	if err != nil {
		return nil, err
	}
	if len(events) > MaxEvents {
		return nil, refuse(TooLarge, "this change needs %d events, at most %d fit one change: split it", len(events), MaxEvents)
	}
	return events, nil
}

// IsSecurity tells whether a command takes access away: such commands are decided before others that wait.
func IsSecurity(c Command) bool {
	switch c := c.(type) {
	case UpdateUser:
		return !c.Active
	case SetGroupRole:
		return c.Role == policyv1.Role_ROLE_UNSPECIFIED
	case AddSigningKey:
		return c.Alone
	case DeleteUser, EraseUser, WithdrawCredentials, RemoveServiceKey, RevokeSessions, EndSession, EndClientSessions, RefuseReview, RetireSigningKey, PlaceBlock, RevokeToken, RetireConnector, RemoveGrant:
		return true
	}
	return false
}

// commands names each kind of command on the wire between control planes.
var commands = map[string]func(json.RawMessage) (Command, error){
	"StartLog":           decode[StartLog],
	"RaiseFeatureLevel":  decode[RaiseFeatureLevel],
	"SetDirectory":       decode[SetDirectory],
	"SetSignIn":          decode[SetSignIn],
	"CreateUser":         decode[CreateUser],
	"UpdateUser":         decode[UpdateUser],
	"DeleteUser":         decode[DeleteUser],
	"EraseUser":          decode[EraseUser],
	"FinishErasures":     decode[FinishErasures],
	"RevokeSessions":     decode[RevokeSessions],
	"RebindSubject":      decode[RebindSubject],
	"ConfirmMemberships": decode[ConfirmMemberships],
	"CreateGroup":        decode[CreateGroup],
	"UpdateGroup":        decode[UpdateGroup],
	"DeleteGroup":        decode[DeleteGroup],
	"ApplyPolicy":        decode[ApplyPolicy],
	"RetireConnector":    decode[RetireConnector],
	"PinCatalogue":       decode[PinCatalogue],
	"NoteOffer":          decode[NoteOffer],
	"SetConnectorSecret": decode[SetConnectorSecret],
	"RemoveGrant":        decode[RemoveGrant],

	"SetCredential":       decode[SetCredential],
	"WithdrawCredentials": decode[WithdrawCredentials],
	"NoteRevocation":      decode[NoteRevocation],
	"FinishWithdrawal":    decode[FinishWithdrawal],
	"NoteRenewal":         decode[NoteRenewal],
	"PinUpstreamServer":   decode[PinUpstreamServer],

	"RemoveAuditExporter":    decode[RemoveAuditExporter],
	"SetAuditExporterSecret": decode[SetAuditExporterSecret],

	"RemoveRuleSet":  decode[RemoveRuleSet],
	"RollbackPolicy": decode[RollbackPolicy],
	"PlaceBlock":     decode[PlaceBlock],
	"LiftBlock":      decode[LiftBlock],
	"IssueToken":     decode[IssueToken],
	"RotateToken":    decode[RotateToken],
	"RevokeToken":    decode[RevokeToken],
	"JoinProxy":      decode[JoinProxy],
	"AdmitProxy":     decode[AdmitProxy],
	"ReadmitProxy":   decode[ReadmitProxy],

	"CreateServiceAccount": decode[CreateServiceAccount],
	"CreateServiceGroup":   decode[CreateServiceGroup],
	"AddServiceKey":        decode[AddServiceKey],
	"RemoveServiceKey":     decode[RemoveServiceKey],
	"SetSignals":           decode[SetSignals],

	"RequestReview": decode[RequestReview],
	"ApproveReview": decode[ApproveReview],
	"RefuseReview":  decode[RefuseReview],
	"UseReview":     decode[UseReview],

	"NameAdminDirectory": decode[NameAdminDirectory],
	"SetGroupRole":       decode[SetGroupRole],
	"IssueBootstrap":     decode[IssueBootstrap],
	"BecomeFirstOwner":   decode[BecomeFirstOwner],
	"IssueBreakGlass":    decode[IssueBreakGlass],
	"OpenBreakGlass":     decode[OpenBreakGlass],

	"AddSigningKey":          decode[AddSigningKey],
	"RetireSigningKey":       decode[RetireSigningKey],
	"EndSession":             decode[EndSession],
	"EndClientSessions":      decode[EndClientSessions],
	"ForgetEndedSessions":    decode[ForgetEndedSessions],
	"SetClient":              decode[SetClient],
	"RemoveClient":           decode[RemoveClient],
	"SetAuthorizationPolicy": decode[SetAuthorizationPolicy],
}

type envelope struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

func decode[C Command](body json.RawMessage) (Command, error) {
	var c C
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	return c, nil
}

// EncodeCommand writes a command for another control plane.
func EncodeCommand(c Command) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", c, err)
	}
	return json.Marshal(envelope{Kind: kindOf(c), Body: body})
}

// DecodeCommand reads what EncodeCommand wrote.
func DecodeCommand(data []byte) (Command, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("reading a command: %w", err)
	}
	read, ok := commands[e.Kind]
	if !ok {
		return nil, fmt.Errorf("reading a command: kind %q is not known here; is this control plane older than the one that sent it?", e.Kind)
	}
	c, err := read(e.Body)
	if err != nil {
		return nil, fmt.Errorf("reading a %s command: %w", e.Kind, err)
	}
	return c, nil
}

func kindOf(c Command) string {
	name := fmt.Sprintf("%T", c)
	return name[len("core."):]
}

// message is a protobuf message as a member of a command: on the wire between control planes it is
// protobuf's JSON, which encoding/json does not know.
type message[M proto.Message] struct{ M M }

// MarshalJSON writes protobuf's JSON.
func (m message[M]) MarshalJSON() ([]byte, error) { return protojson.Marshal(m.M) }

// UnmarshalJSON reads protobuf's JSON.
func (m *message[M]) UnmarshalJSON(data []byte) error {
	var zero M
	m.M = zero.ProtoReflect().New().Interface().(M)
	return protojson.Unmarshal(data, m.M)
}

func wrap[M proto.Message](all []M) []message[M] {
	wrapped := make([]message[M], len(all))
	for i, m := range all {
		wrapped[i].M = m
	}
	return wrapped
}

func unwrap[M proto.Message](wrapped []message[M]) []M {
	all := make([]M, len(wrapped))
	for i, w := range wrapped {
		all[i] = w.M
	}
	return all
}

func equal(a, b proto.Message) bool { return proto.Equal(a, b) }
