package core

import (
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// SetSignals says what a directory's provider may say of its people outside SCIM.
type SetSignals struct {
	Directory string
	// Signals is nil where nothing is taken any more.
	Signals *message[*policyv1.Signals]
}

// NewSetSignals sets it; nil: nothing.
func NewSetSignals(directory string, s *policyv1.Signals) SetSignals {
	if s == nil {
		return SetSignals{Directory: directory}
	}
	return SetSignals{Directory: directory, Signals: &message[*policyv1.Signals]{s}}
}

func (c SetSignals) decide(s *State, env Env) ([]*eventv1.Event, error) {
	old := s.Directory(c.Directory)
	if old == nil {
		return nil, refuseField(NotFound, "directory_id", "there is no directory %q: see sallyport directories list", c.Directory)
	}
	if err := refuseService(c.Directory); err != nil {
		return nil, err
	}
	d := proto.CloneOf(old)
	d.Signals = nil
	if c.Signals != nil {
		d.Signals = c.Signals.M
	}
	if equal(old, d) {
		return nil, nil
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_DirectorySet{DirectorySet: &eventv1.DirectorySet{Directory: d}}}), nil
}
