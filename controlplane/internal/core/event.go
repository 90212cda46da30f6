package core

import (
	"strings"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// Target is what an event is about, as people read it: the place of its subject, such as user/<id>.
func Target(ev *eventv1.Event) string {
	return strings.Replace(strings.TrimPrefix(Subject(ev), SubjectPrefix), ".", "/", 1)
}

var bodyOneof = (&eventv1.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("body")

// EventName is an event's name, as the schema has it: grant_applied.
func EventName(ev *eventv1.Event) string {
	if field := ev.ProtoReflect().WhichOneof(bodyOneof); field != nil {
		return string(field.Name())
	}
	return "unknown"
}

// Body is what an event says.
func Body(ev *eventv1.Event) proto.Message {
	m := ev.ProtoReflect()
	if field := m.WhichOneof(bodyOneof); field != nil {
		return m.Get(field).Message().Interface()
	}
	return &eventv1.Barrier{}
}
