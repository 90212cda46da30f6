package admin_test

import (
	"testing"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestTheSecretOfAClientIsKeptForThatClientAlone(t *testing.T) {
	s := newSite(t)
	client := adminv1connect.NewSignInServiceClient(s.server.Client(), s.server.URL, s.option)
	set := func(issuer, secret string) string {
		t.Helper()
		res, err := client.SetSignIn(t.Context(), connect.NewRequest(&adminv1.SetSignInRequest{
			DirectoryId: "okta", SignIn: &policyv1.SignIn{Issuer: issuer, ClientId: "c", SecretId: "signin.of-another"}, ClientSecret: secret,
		}))
		enginetest.Must(t, err)
		if want := "https://sallyport.example/signin/callback/okta"; res.Msg.GetRedirectUri() != want {
			t.Errorf("redirect URI %q, want %q", res.Msg.GetRedirectUri(), want)
		}
		return s.Engine.State().Directory("okta").GetSignIn().GetSecretId()
	}
	if id := set("https://id.example", ""); id != "" {
		t.Errorf("a secret of the caller's choice counts: %q", id)
	}
	first := set("https://id.example", "one")
	if again := set("https://id.example", ""); again != first {
		t.Errorf("the secret did not stay: %q, then %q", first, again)
	}
	second := set("https://id.example", "two")
	if _, err := s.Vault.SignInSecret(t.Context(), first, "okta"); err == nil {
		t.Error("a secret that was replaced is still there")
	}
	if value, err := s.Vault.SignInSecret(t.Context(), second, "okta"); err != nil || value != "two" {
		t.Errorf("the secret is %q, %v", value, err)
	}
	if moved := set("https://elsewhere.example", ""); moved != "" {
		t.Error("the secret would be sent to another provider than the one that it was set for")
	}
	if _, err := s.Vault.SignInSecret(t.Context(), second, "okta"); err == nil {
		t.Error("the secret outlives the client that it was for")
	}
}
