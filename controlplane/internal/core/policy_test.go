package core

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func github() *policyv1.Connector {
	return &policyv1.Connector{Id: "github", Url: "https://mcp.example/github"}
}

func tool(name, properties string) *policyv1.Tool {
	return &policyv1.Tool{Name: name, Definition: []byte(`{"name":"` + name + `","inputSchema":{"type":"object","properties":{` + properties + `}}}`)}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	w.refused(NewApplyPolicy([]*policyv1.Connector{github()},
		[]GrantSpec{NewGrantSpec(uuid.New(), "github", []*policyv1.Rule{{Allow: []string{"*"}}})}), NotFound)
	if w.state.Connector("github") != nil {
		t.Fatal("the connector of a refused apply exists")
	}
}

func TestApplyAgainIsNoEvent(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	apply := NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{NewGrantSpec(g.ID, "github", []*policyv1.Rule{{Allow: []string{"*"}}})})
	want(t, "first", kinds(w.must(apply)), []string{"ConnectorSet", "GrantApplied"})
	if events := w.must(apply); len(events) != 0 {
		t.Fatalf("second: got %v", kinds(events))
	}
}

func TestConditionThatDoesNotFitThePinnedToolIsRefused(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, nil))
	w.must(NewPinCatalogue("github", []*policyv1.Tool{tool("push", `"branch":{"type":"string"}`)}))
	push := func(when string) ApplyPolicy {
		return NewApplyPolicy(nil, []GrantSpec{NewGrantSpec(g.ID, "github", []*policyv1.Rule{{Allow: []string{"push"}, When: when}})})
	}
	w.refused(push(`args.brunch == "x"`), InvalidArgument)
	w.refused(push(`args.branch.startsWith("agent/")`), InvalidArgument) // may be omitted
	w.must(push(`has(args.branch) && args.branch.startsWith("agent/")`))
	w.refused(NewPinCatalogue("github", []*policyv1.Tool{tool("push", `"branch":{"type":"integer"}`)}), FailedPrecondition)
}

func TestRetiredConnectorTakesItsGrantsWithIt(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	apply := NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{NewGrantSpec(g.ID, "github", []*policyv1.Rule{{Allow: []string{"*"}}})})
	w.must(apply)
	w.must(RetireConnector{ID: "github"})
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, nil))
	if w.state.Grant(Grantee{Group: g.ID}, "github") != nil {
		t.Fatal("a connector of the same id came back with its old grants")
	}
}

func TestSecretNeedsAHeaderToCarryIt(t *testing.T) {
	w := newWorld(t)
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, nil))
	w.refused(SetConnectorSecret{Connector: "github", SecretID: "s1"}, FailedPrecondition)
}

func TestBlockNeedsATargetAReasonAndAnEndToCome(t *testing.T) {
	w := newWorld(t)
	region := &policyv1.Block_Region{Region: "us-east"}
	w.refused(NewPlaceBlock(&policyv1.Block{Reason: "why"}), InvalidArgument)
	w.refused(NewPlaceBlock(&policyv1.Block{Target: region}), InvalidArgument)
	w.refused(NewPlaceBlock(&policyv1.Block{Target: region, Reason: "why", Until: timestamppb.New(w.now)}), InvalidArgument)
	events := w.must(NewPlaceBlock(&policyv1.Block{Target: region, Reason: "why"}))
	w.must(LiftBlock{ID: uuid.MustParse(events[0].GetBlockPlaced().GetBlock().GetId())})
	for b := range w.state.Blocks() {
		t.Fatalf("block %v stands", b)
	}
}

func TestApplyAndSCIMLiftNoBlock(t *testing.T) {
	w := newWorld(t)
	u := w.user("ann")
	w.must(NewPlaceBlock(&policyv1.Block{Target: &policyv1.Block_PersonId{PersonId: u.ID.String()}, Reason: "incident"}))
	w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: false})
	w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: true})
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, nil))
	w.must(RetireConnector{ID: "github"})
	w.must(DeleteUser{Directory: "okta", ID: u.ID})
	count := 0
	for range w.state.Blocks() {
		count++
	}
	want(t, "blocks", count, 1)
}

func TestTokenOpensItsDoorUntilItExpiresOrIsRevoked(t *testing.T) {
	w := newWorld(t)
	var right, wrong [32]byte
	right[0] = 1
	id := w.env().NewID()
	w.must(IssueToken{ID: id, Kind: eventv1.TokenKind_TOKEN_KIND_SCIM, SHA256: right[:], Directory: "okta", ExpiresAt: w.now.Add(time.Hour)})
	token := w.state.Token(id)
	for _, c := range []struct {
		name string
		open bool
		got  bool
	}{
		{"right secret", true, token.Opens(eventv1.TokenKind_TOKEN_KIND_SCIM, right, w.now)},
		{"wrong secret", false, token.Opens(eventv1.TokenKind_TOKEN_KIND_SCIM, wrong, w.now)},
		{"other door", false, token.Opens(eventv1.TokenKind_TOKEN_KIND_ADMIN, right, w.now)},
		{"expired", false, token.Opens(eventv1.TokenKind_TOKEN_KIND_SCIM, right, w.now.Add(2*time.Hour))},
		{"no token", false, (*Token)(nil).Opens(eventv1.TokenKind_TOKEN_KIND_SCIM, right, w.now)},
	} {
		want(t, c.name, c.got, c.open)
	}
	w.must(RevokeToken{ID: id})
	if w.state.Token(id) != nil {
		t.Fatal("a revoked token is still there")
	}
}

func TestProxyHasOneToken(t *testing.T) {
	w := newWorld(t)
	var sum [32]byte
	issue := func() IssueToken {
		return IssueToken{ID: w.env().NewID(), Kind: eventv1.TokenKind_TOKEN_KIND_PROXY, SHA256: sum[:], Name: "us-east-1", Region: "us-east"}
	}
	first := issue()
	w.must(first)
	w.refused(issue(), AlreadyExists)
	w.must(RevokeToken{ID: first.ID})
	w.must(issue())
}

func TestAnInvitationIsGoodOnceAndForItsTime(t *testing.T) {
	w := newWorld(t)
	var sum [32]byte
	key, other := make([]byte, 32), bytes.Repeat([]byte{1}, 32)
	invite := IssueToken{ID: w.env().NewID(), Kind: eventv1.TokenKind_TOKEN_KIND_PROXY, SHA256: sum[:], Name: "us-east-1", Region: "us-east", ExpiresAt: w.now.Add(time.Hour)}
	w.must(invite)
	if w.state.ProxyToken("us-east-1").IsProxy() {
		t.Fatal("who was only invited is of the fleet")
	}
	w.must(JoinProxy{ID: invite.ID, KeySHA256: key})
	w.must(JoinProxy{ID: invite.ID, KeySHA256: key}) // its answer was lost
	w.refused(JoinProxy{ID: invite.ID, KeySHA256: other}, FailedPrecondition)
	if before := w.state.SealingEpoch("us-east"); !w.state.ProxyToken("us-east-1").IsProxy() || before != 0 {
		t.Fatalf("it is no proxy, or keys were replaced at %d", before)
	}
	w.must(RevokeToken{ID: invite.ID})
	if w.state.SealingEpoch("us-east") != w.state.Seq() || w.state.SealingEpoch("eu-west") != 0 {
		t.Fatal("the region of the revoked proxy has its sealing keys as before, or another has not")
	}
	w.refused(JoinProxy{ID: invite.ID, KeySHA256: key}, NotFound)
	late := IssueToken{ID: w.env().NewID(), Kind: invite.Kind, SHA256: sum[:], Name: "us-east-1", Region: "us-east", ExpiresAt: w.now.Add(time.Minute)}
	w.must(late)
	w.now = w.now.Add(time.Hour)
	w.refused(JoinProxy{ID: late.ID, KeySHA256: key}, FailedPrecondition)
}

func TestIssuerBelongsToOneDirectory(t *testing.T) {
	w := newWorld(t)
	w.refused(NewSetDirectory(&policyv1.Directory{Id: "entra", Issuers: []*policyv1.Issuer{{Url: "https://okta.example"}}}), AlreadyExists)
}

// TestARenameHandsNobodysAccessToAnother: where people are matched by userName, they sign in by the one under which they were
// provisioned, until an admin binds them again.
func TestARenameHandsNobodysAccessToAnother(t *testing.T) {
	w := newWorld(t)
	d := &policyv1.Directory{Id: "corp", MatchAttribute: policyv1.MatchAttribute_MATCH_ATTRIBUTE_USER_NAME}
	w.must(NewSetDirectory(d))
	create := func(name string) *User {
		w.must(CreateUser{Directory: "corp", Profile: Profile{UserName: name}, Active: true})
		return w.state.UserByName("corp", name)
	}
	rename := func(u *User, name string) {
		w.must(UpdateUser{Directory: "corp", ID: u.ID, Profile: Profile{UserName: name}, Active: true})
	}
	signsIn := func(subject string, u *User) {
		t.Helper()
		for _, s := range []*State{w.state, restore(t, w.state)} {
			got := s.UserBySubject("corp", subject)
			if (got == nil) != (u == nil) || got != nil && got.ID != u.ID {
				t.Errorf("%s signs in as %v", subject, got)
			}
		}
	}
	ann := create("ann")
	signsIn("ann", ann)
	signsIn("ANN", nil) // a claim is compared to the letter
	rename(ann, "ann.smith")
	signsIn("ann", ann)
	signsIn("ann.smith", nil)
	want(t, "renamed", len(slices.Collect(w.state.Renamed("corp"))), 1)
	other := create("ann") // another Ann is hired: now it is nobody, rather than the wrong one
	signsIn("ann", nil)
	w.must(RebindSubject{ID: ann.ID})
	signsIn("ann", other)
	signsIn("ann.smith", ann)
	want(t, "renamed", len(slices.Collect(w.state.Renamed("corp"))), 0)
	want(t, "events", len(w.must(RebindSubject{ID: ann.ID})), 0)
	w.must(DeleteUser{Directory: "corp", ID: other.ID})
	signsIn("ann", nil)
	w.refused(RebindSubject{ID: w.user("eve").ID}, FailedPrecondition)
	w.refused(RebindSubject{ID: other.ID}, NotFound)
}

// restore is a state as a start from a checkpoint has it.
func restore(t *testing.T, s *State) *State {
	t.Helper()
	restored, err := DecodeState(bytes.NewReader(dump(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	return restored
}

func TestMatchingAttributeIsFixedOnceThereAreUsers(t *testing.T) {
	w := newWorld(t)
	d := directory("okta")
	d.MatchAttribute = policyv1.MatchAttribute_MATCH_ATTRIBUTE_USER_NAME
	w.user("ann")
	w.refused(NewSetDirectory(d), FailedPrecondition)
}
