package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// Peers connects the control planes that share a log.
type Peers interface {
	// Campaign tries to become the active writer until ctx ends, and calls fn at each change of who is.
	Campaign(ctx context.Context, fn func(holder string, mine bool))
	// Request sends a request to a peer and returns its answer.
	Request(ctx context.Context, peer string, data []byte) ([]byte, error)
	// Serve answers the requests of peers, each in a goroutine of its own, until ctx ends.
	Serve(ctx context.Context, answer func(ctx context.Context, data []byte) []byte) error
}

// leadership is who writes, as far as is known here.
type leadership struct {
	holder string
	mine   bool
}

// forwarded is a command, or without one a fence, on its way to the active writer.
type forwarded struct {
	ID      string          `json:"id"`
	Actor   []byte          `json:"actor,omitempty"`
	Command json.RawMessage `json:"command,omitempty"`
}

// reply is a writer's answer.
type reply struct {
	Seq     uint64      `json:"seq,omitempty"`
	Refused *core.Error `json:"refused,omitempty"`
	// Failed: it is not known here whether the command was carried out; send it again.
	Failed string `json:"failed,omitempty"`
}

// answer commits a command here or has the active writer do it, and sends it again, under its id, until
// there is an answer or the time is over.
func (e *Engine) answer(ctx context.Context, id string, actor *eventv1.Actor, command core.Command) (Outcome, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.AnswerWithin)
		defer cancel()
	}
	if e.Peers != nil {
		e.awaited.begin(id)
		defer e.awaited.end(id)
	}
	for {
		var out Outcome
		err := errors.New("no control plane is the active writer yet")
		p := &pending{id: id, actor: actor, command: command, done: make(chan struct{})}
		switch leader := e.leader.Load(); {
		case leader.mine:
			if err := e.stall.reason(); err != nil {
				return Outcome{}, err
			}
			if out, err = e.wait(ctx, e.queue.push(p)); !errors.Is(err, errMoved) {
				if out.repeated {
					out.Events = e.awaited.of(id)
				}
				return out, err
			}
		case leader.holder != "":
			out, err = e.forward(ctx, leader.holder, p)
			var refusal *core.Error
			if err == nil || errors.As(err, &refusal) {
				return out, err
			}
		}
		select {
		case <-ctx.Done():
			return Outcome{}, fmt.Errorf("the active writer did not answer in time: %w", err)
		case <-e.closed:
			return Outcome{}, ErrClosed
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// wait returns a pending command's answer. The command goes on when nobody waits any more.
func (e *Engine) wait(ctx context.Context, p *pending) (Outcome, error) {
	select {
	case <-p.done:
		return p.outcome, p.err
	case <-ctx.Done():
		return Outcome{}, errors.Join(fmt.Errorf("waiting for a command's round: %w", ctx.Err()), e.Healthy())
	}
}

func (e *Engine) forward(ctx context.Context, peer string, p *pending) (Outcome, error) {
	f := forwarded{ID: p.id}
	var err error
	if p.command != nil {
		if f.Command, err = core.EncodeCommand(p.command); err != nil {
			return Outcome{}, err
		}
		if f.Actor, err = proto.Marshal(p.actor); err != nil {
			return Outcome{}, fmt.Errorf("encoding an actor: %w", err)
		}
	}
	data, err := json.Marshal(f)
	if err != nil {
		return Outcome{}, fmt.Errorf("encoding a command: %w", err)
	}
	try, cancel := context.WithTimeout(ctx, e.TryWithin)
	defer cancel()
	answer, err := e.Peers.Request(try, peer, data)
	if err != nil {
		return Outcome{}, fmt.Errorf("asking the active writer: %w", err)
	}
	var r reply
	if err := json.Unmarshal(answer, &r); err != nil {
		return Outcome{}, fmt.Errorf("reading the active writer's answer: %w", err)
	}
	if r.Failed != "" {
		return Outcome{}, errors.New(r.Failed)
	}
	out := Outcome{Seq: r.Seq}
	// What is answered here must be visible here.
	if out.State, err = e.WaitFor(ctx, r.Seq); err != nil {
		return Outcome{}, err
	}
	if r.Refused != nil {
		return out, r.Refused
	}
	out.Events = e.awaited.of(p.id)
	return out, nil
}

// serve answers the commands that other control planes forward.
func (e *Engine) serve(ctx context.Context) {
	err := e.Peers.Serve(ctx, func(ctx context.Context, data []byte) []byte {
		answer, err := json.Marshal(e.served(ctx, data))
		if err != nil {
			e.Log.ErrorContext(ctx, "an answer to another control plane could not be encoded", "error", err)
		}
		return answer
	})
	if err != nil && ctx.Err() == nil {
		e.halt(fmt.Errorf("serving other control planes: %w", err))
	}
}

func (e *Engine) served(ctx context.Context, data []byte) reply {
	if !e.leader.Load().mine {
		return reply{Failed: "this control plane is not the active writer"}
	}
	var f forwarded
	if err := json.Unmarshal(data, &f); err != nil || f.ID == "" {
		return reply{Refused: &core.Error{Code: core.InvalidArgument, Message: "the forwarded command cannot be read"}}
	}
	p := &pending{id: f.ID, actor: &eventv1.Actor{}, done: make(chan struct{})}
	if len(f.Command) > 0 {
		var err error
		if p.command, err = core.DecodeCommand(f.Command); err != nil {
			return reply{Refused: &core.Error{Code: core.InvalidArgument, Message: err.Error()}}
		}
		if err := proto.Unmarshal(f.Actor, p.actor); err != nil {
			return reply{Refused: &core.Error{Code: core.InvalidArgument, Message: "the forwarded command's actor cannot be read"}}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, e.AnswerWithin)
	defer cancel()
	out, err := e.wait(ctx, e.queue.push(p))
	r := reply{Seq: out.Seq}
	switch {
	case err == nil:
	case errors.As(err, &r.Refused):
		return r
	default:
		return reply{Failed: err.Error()}
	}
	return r
}

// lead keeps track of who the active writer is. Becoming it needs no catching up first: a round that is
// decided behind the log's end conflicts, and is decided again there. That nobody is known to hold the
// lease, since it could not be renewed in time, stops nobody: whoever wrote goes on until another is named,
// and what the others forward still goes there.
func (e *Engine) lead(ctx context.Context) {
	e.Peers.Campaign(ctx, func(holder string, mine bool) {
		if holder == "" {
			return
		}
		e.leader.Store(&leadership{holder: holder, mine: mine})
		e.Log.InfoContext(ctx, "the active writer changed", "holder", holder, "mine", mine)
	})
}

// follow hands the log's records to the commit loop.
func (e *Engine) follow(ctx context.Context, followed chan<- []journal.Record) {
	err := e.Journal.Follow(ctx, e.State().Seq(), func(records []journal.Record) error {
		select {
		case followed <- records:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil && ctx.Err() == nil {
		e.halt(fmt.Errorf("following the log: %w", err))
	}
}
