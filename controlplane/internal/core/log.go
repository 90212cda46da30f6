package core

import (
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// FeatureLevel is the newest level of event types that this build folds.
const FeatureLevel = 8

// FoldVersion names how events become state. A checkpoint of another fold is thrown away.
const FoldVersion = 17

// StartLog writes the first event of an empty log, and raises the feature level to this build's.
type StartLog struct {
	// Epoch is random: it tells this log from every other, a restored one included.
	Epoch string
}

func (c StartLog) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.epoch != "" {
		return nil, nil
	}
	if c.Epoch == "" {
		return nil, refuseField(InvalidArgument, "epoch", "a log needs an epoch")
	}
	return env.events(
		&eventv1.Event{Body: &eventv1.Event_LogStarted{LogStarted: &eventv1.LogStarted{Epoch: c.Epoch}}},
		&eventv1.Event{Body: &eventv1.Event_FeatureLevelRaised{FeatureLevelRaised: &eventv1.FeatureLevelRaised{Level: FeatureLevel}}},
	), nil
}

// RaiseFeatureLevel permits the event types of a level, once every control plane and proxy knows them.
type RaiseFeatureLevel struct {
	Level uint32
	// Oldest is the lowest level that a live control plane or proxy understands.
	Oldest uint32
}

func (c RaiseFeatureLevel) decide(s *State, env Env) ([]*eventv1.Event, error) {
	switch {
	case c.Level <= s.level:
		return nil, nil
	case c.Level > FeatureLevel:
		return nil, refuseField(FailedPrecondition, "level", "this build knows feature level %d, not %d: upgrade it first", FeatureLevel, c.Level)
	case c.Oldest < c.Level:
		return nil, refuseField(FailedPrecondition, "level", "a live control plane or proxy knows only feature level %d: upgrade it first", c.Oldest)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_FeatureLevelRaised{FeatureLevelRaised: &eventv1.FeatureLevelRaised{Level: c.Level}}}), nil
}

// Barrier returns the event that proves where its writer stood and changes nothing.
func Barrier(env Env) *eventv1.Event {
	return env.events(&eventv1.Event{Body: &eventv1.Event_Barrier{Barrier: &eventv1.Barrier{}}})[0]
}
