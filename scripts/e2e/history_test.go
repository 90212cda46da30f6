package e2e

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// membership is one person in one group, as a history sees it.
type membership struct{ group, person int }

type memberOp struct {
	membership
	// what is "add", "remove" or "read".
	what string
}

// memberModel is what a history must be explainable by: each write and each read takes effect at one moment between its
// request and its answer. A write whose fate was not told may take effect at any time after its request, or never.
var memberModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[membership][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(memberOp).membership
			parts[key] = append(parts[key], op)
		}
		var all [][]porcupine.Operation
		for _, part := range parts {
			all = append(all, part)
		}
		return all
	},
	Init: func() any { return false },
	Step: func(state, input, output any) (bool, any) {
		switch input.(memberOp).what {
		case "add":
			return true, true
		case "remove":
			return true, false
		}
		return output.(bool) == state.(bool), state
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v: %v", input, output)
	},
}

// never is when an operation ends whose fate was not told.
const never = math.MaxInt64

// history is what clients saw, in the time of one clock.
type history struct {
	started time.Time
	mu      sync.Mutex
	all     []porcupine.Operation
}

func (h *history) now() int64 { return int64(time.Since(h.started)) }

func (h *history) note(client int, input memberOp, output bool, call, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, porcupine.Operation{ClientId: client, Input: input, Output: output, Call: call, Return: end})
}

// TestEveryHistoryOfMembershipsIsALinearOne: clients add, remove and read members of the same groups through two control
// planes on one log, while one of the two is killed and started again. A removal that was answered is never undone by
// what came before it, and what changes nothing is answered only with what is certain.
func TestEveryHistoryOfMembershipsIsALinearOne(t *testing.T) {
	t.Parallel()
	const (
		groups, people = 2, 4
		clients        = 8
		kills          = 4
	)
	urls := natsCluster(t)
	planes := []*controlPlane{newControlPlane(t, "--nats-url", urls)}
	planes = append(planes, join(t, planes[0], urls))
	scim := scimOf(t, planes[0], newIssuer(t))
	var groupIDs, peopleIDs []string
	for i := range people {
		peopleIDs = append(peopleIDs, scim.create("/Users", userBody(fmt.Sprintf("member%d@corp.test", i))))
	}
	for i := range groups {
		groupIDs = append(groupIDs, scim.create("/Groups", map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Group"}, "displayName": groupName(i)}))
	}
	h := &history{started: time.Now()}
	run := &memberRun{history: h, groups: groupIDs, people: peopleIDs, at: []*scimClient{scim, scim.at(planes[1])}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var working sync.WaitGroup
	for client := range clients {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), uint64(time.Now().UnixNano())))
			for ctx.Err() == nil {
				if err := run.one(ctx, client, random); err != nil {
					t.Error(err)
					return
				}
				select { // a pace that leaves a history small enough to be searched
				case <-ctx.Done():
				case <-time.After(time.Duration(5+random.IntN(20)) * time.Millisecond):
				}
			}
		})
	}
	for i := range kills {
		time.Sleep(time.Duration(600+rand.IntN(900)) * time.Millisecond) // work between kills: not what is waited for
		victim := planes[i%len(planes)]
		victim.Kill()
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond) // the other alone, for a while
		victim.start()
	}
	time.Sleep(time.Second)
	cancel()
	working.Wait()
	for group := range groups { // what was told in the end
		eventually(t, func() error { return run.read(t.Context(), scim, clients, group) })
	}
	switch result, _ := porcupine.CheckOperationsVerbose(memberModel, h.all, time.Minute); result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Fatalf("the history of %d operations could not be searched in time", len(h.all))
	default:
		for _, op := range h.all {
			t.Logf("%d: %+v → %v [%d, %d]", op.ClientId, op.Input, op.Output, op.Call, op.Return)
		}
		t.Fatal("no order of the operations explains what clients saw")
	}
	told, untold := 0, 0
	for _, op := range h.all {
		if op.Return == never {
			untold++
		} else {
			told++
		}
	}
	t.Logf("%d operations were answered, the fate of %d was not told", told, untold)
	if told < 300 {
		t.Errorf("only %d operations were answered: the history shows little", told)
	}
}

func groupName(i int) string { return fmt.Sprintf("History %d", i) }

// memberRun makes random operations.
type memberRun struct {
	*history
	groups, people []string
	at             []*scimClient
}

func (r *memberRun) one(ctx context.Context, client int, random *rand.Rand) error {
	at := r.at[random.IntN(len(r.at))]
	op := memberOp{membership: membership{random.IntN(len(r.groups)), random.IntN(len(r.people))}}
	id := r.people[op.person]
	var change map[string]any
	switch random.IntN(3) {
	case 0:
		op.what, change = "add", map[string]any{"op": "add", "path": "members", "value": []any{map[string]any{"value": id}}}
	case 1:
		op.what, change = "remove", map[string]any{"op": "remove", "path": fmt.Sprintf("members[value eq %q]", id)}
	default:
		if err := r.read(ctx, at, client, op.group); err != nil {
			return nil //nolint:nilerr // a read that was not answered says nothing
		}
		return nil
	}
	call := r.now()
	status, answer, err := at.send(ctx, http.MethodPatch, "/Groups/"+r.groups[op.group], patchBody(change))
	switch {
	case err != nil || status == http.StatusServiceUnavailable:
		r.note(client, op, false, call, never)
	case status == http.StatusNoContent:
		r.note(client, op, false, call, r.now())
	default:
		return fmt.Errorf("%s: %d %v", op.what, status, answer)
	}
	return nil
}

// read renames a group to what it is called, which changes nothing, and sees the members in the answer.
func (r *memberRun) read(ctx context.Context, at *scimClient, client, group int) error {
	call := r.now()
	status, answer, err := at.send(ctx, http.MethodPatch, "/Groups/"+r.groups[group]+"?attributes=members", patchBody(map[string]any{"op": "replace", "path": "displayName", "value": groupName(group)}))
	end := r.now()
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("read: %d %v: %w", status, answer, err)
	}
	in := map[string]bool{}
	members, _ := answer["members"].([]any)
	for _, m := range members {
		id, _ := m.(map[string]any)["value"].(string)
		in[id] = true
	}
	for person, id := range r.people {
		r.note(client, memberOp{membership{group, person}, "read"}, in[id], call, end)
	}
	return nil
}

func patchBody(operations ...any) map[string]any {
	return map[string]any{"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:PatchOp"}, "Operations": operations}
}

// TestAHistoryWithALostRemovalIsSeen: the checker can fail.
func TestAHistoryWithALostRemovalIsSeen(t *testing.T) {
	t.Parallel()
	h := &history{}
	of := func(what string) memberOp { return memberOp{membership{0, 0}, what} }
	h.note(0, of("add"), false, 0, 10)
	h.note(1, of("remove"), false, 20, 30)
	h.note(0, of("read"), true, 40, 50) // it was answered, and undone
	if porcupine.CheckOperations(memberModel, h.all) {
		t.Error("a lost removal is explained")
	}
	h.all[1].Return = never // its fate was not told: it may come later
	if !porcupine.CheckOperations(memberModel, h.all) {
		t.Error("a removal whose fate was not told must have happened")
	}
}
