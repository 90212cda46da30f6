package admin_test

import (
	"context"
	"crypto/sha256"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/admin"
	"sallyport.dev/controlplane/internal/approval"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// signedIn stands for people who came through a browser, by their names as tokens.
type signedIn struct{ *enginetest.Plane }

func (s signedIn) Find(_ context.Context, token string, _ bool) (*core.AdminPerson, error) {
	if u := s.Engine.State().UserByName("okta", token); u != nil {
		return &core.AdminPerson{User: u, Role: policyv1.Role_ROLE_VIEWER, Expires: time.Now().Add(time.Hour)}, nil
	}
	return nil, nil
}

type nobody struct{}

func (nobody) Note(*auditv1.AuditRecord) {}

func TestAReviewIsAnsweredByASignedInApproverWhoNamesItsDigest(t *testing.T) {
	s := newSite(t)
	ann, bob := s.User("okta", "ann"), s.User("okta", "bob")
	s.User("okta", "eve")
	leads := s.Group("okta", "Leads", bob, ann)
	reviews, err := approval.New(approval.Config{Engine: s.Engine, Store: s.Shared, Seals: s.Vault, Trail: nobody{}, URL: "https://sallyport.example", Log: s.Log})
	enginetest.Must(t, err)
	server := enginetest.Serve(t, admin.NewHandler(admin.Config{Engine: s.Engine, Sessions: signedIn{s.Plane}, Reviews: reviews, Log: s.Log}))
	as := func(token string) adminv1connect.ReviewServiceClient {
		return adminv1connect.NewReviewServiceClient(http.DefaultClient, server.URL, connect.WithInterceptors(bearerOf(token)))
	}
	arguments := `{"branch":"main"}`
	sum := sha256.Sum256([]byte(arguments))
	digest, err := s.Vault.Digest(t.Context(), ann.ID, "arguments", sum[:])
	enginetest.Must(t, err)
	sealed, err := s.Vault.Seal(t.Context(), ann.ID, []byte(arguments))
	enginetest.Must(t, err)
	_, err = s.Shared.Create(t.Context(), "arguments.call", sealed, time.Hour)
	enginetest.Must(t, err)
	out := s.Do(core.NewRequestReview(&eventv1.ReviewRequested{
		UserId: ann.ID.String(), Generation: ann.Generation, ConnectorId: "github", Tool: "delete_branch", ArgumentsSha256: digest, Call: "call",
		Steps: []*eventv1.ReviewStep{{Alternatives: []*policyv1.Review{{Approvers: []string{leads.ID.String()}}}}},
	}, time.Hour))
	id := out.Events[len(out.Events)-1].GetReviewRequested().GetReviewId()

	for name, sees := range map[string]bool{"bob": true, "ann": true, "eve": false, s.token: true} {
		got, err := as(name).GetReview(t.Context(), connect.NewRequest(&adminv1.GetReviewRequest{Id: id}))
		enginetest.Must(t, err)
		if got.Msg.Arguments != nil != sees || sees && got.Msg.GetArguments() != arguments {
			t.Errorf("%.4s sees the arguments %q", name, got.Msg.GetArguments())
		}
		if may := got.Msg.GetReview().GetMayApprove(); may != (name == "bob") {
			t.Errorf("%.4s may approve: %t", name, may)
		}
	}
	approve := func(token string, digest []byte) error {
		_, err := as(token).ApproveReview(t.Context(), connect.NewRequest(&adminv1.ApproveReviewRequest{Id: id, ArgumentsSha256: digest}))
		return err
	}
	code(t, "an owner's token", approve(s.token, digest), connect.CodePermissionDenied)
	code(t, "her own", approve("ann", digest), connect.CodePermissionDenied)
	code(t, "no approver", approve("eve", digest), connect.CodePermissionDenied)
	code(t, "another digest", approve("bob", make([]byte, 32)), connect.CodeFailedPrecondition)
	if s.Engine.State().Approved(s.Engine.State().Review(uuid.MustParse(id))) {
		t.Error("it was approved")
	}
	enginetest.Must(t, approve("bob", digest))
	list, err := as("eve").ListReviews(t.Context(), connect.NewRequest(&adminv1.ListReviewsRequest{}))
	enginetest.Must(t, err)
	if r := list.Msg.GetReviews()[0]; r.GetState() != adminv1.ReviewState_REVIEW_STATE_APPROVED || r.GetApprovedBy()[0] != "bob" || r.GetSteps()[0].GetAlternatives()[0].GetGroups()[0] != "okta/Leads" {
		t.Errorf("listed %v", r)
	}
	if _, err := as("bob").RefuseReview(t.Context(), connect.NewRequest(&adminv1.RefuseReviewRequest{Id: id, Reason: "after all"})); err != nil {
		t.Error(err)
	}
}
