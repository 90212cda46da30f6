package core

import (
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func TestHowADirectorysPeopleSignInStaysWhenItsSettingsAreReplaced(t *testing.T) {
	w := newWorld(t)
	in := &policyv1.SignIn{Issuer: "https://id.example", ClientId: "sallyport", EmailDomains: []string{"example.com"}}
	w.must(NewSetSignIn("okta", in))
	w.must(NewSetDirectory(&policyv1.Directory{Id: "okta", KeepMemberships: true, SignIn: &policyv1.SignIn{Issuer: "https://evil.example"}}))
	if got := w.state.Directory("okta"); got.GetSignIn().GetIssuer() != "https://id.example" || !got.GetKeepMemberships() {
		t.Errorf("it is %v", got)
	}
	w.must(NewSetDirectory(&policyv1.Directory{Id: "corp"}))
	w.refused(NewSetSignIn("corp", &policyv1.SignIn{Issuer: "https://id.example", ClientId: "x"}), AlreadyExists)
	w.refused(NewSetSignIn("corp", &policyv1.SignIn{Issuer: "https://corp.example", ClientId: "x", EmailDomains: []string{"example.com"}}), AlreadyExists)
	w.refused(NewSetSignIn("none", in), NotFound)
	w.must(NewSetSignIn("okta", nil))
	if w.state.Directory("okta").GetSignIn() != nil {
		t.Error("it is still there")
	}
	w.must(NewSetSignIn("corp", in))
}
