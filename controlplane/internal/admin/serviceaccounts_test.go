package admin_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/go-jose/go-jose/v4"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestServiceAccountsAreKeptByAdmins(t *testing.T) {
	s := newSite(t)
	ann := s.User("okta", "ann")
	client := adminv1connect.NewServiceAccountServiceClient(http.DefaultClient, s.server.URL, s.option)
	made, err := client.CreateServiceAccount(t.Context(), connect.NewRequest(&adminv1.CreateServiceAccountRequest{Name: "nightly", Description: "reads"}))
	enginetest.Must(t, err)
	_, err = client.CreateServiceGroup(t.Context(), connect.NewRequest(&adminv1.CreateServiceGroupRequest{Name: "readers"}))
	enginetest.Must(t, err)
	_, err = client.ChangeServiceGroup(t.Context(), connect.NewRequest(&adminv1.ChangeServiceGroupRequest{Group: "service/readers", Add: []string{"nightly"}}))
	enginetest.Must(t, err)
	_, err = client.ChangeServiceGroup(t.Context(), connect.NewRequest(&adminv1.ChangeServiceGroupRequest{Group: "readers", Add: []string{ann.ID.String()}}))
	code(t, "a person in a group of service accounts", err, connect.CodeNotFound)
	_, err = client.SetServiceAccountActive(t.Context(), connect.NewRequest(&adminv1.SetServiceAccountActiveRequest{Account: ann.ID.String()}))
	code(t, "a person is disabled as a service account", err, connect.CodeNotFound)

	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	enginetest.Must(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	enginetest.Must(t, err)
	add := func(key any) (*connect.Response[adminv1.AddServiceKeyResponse], error) {
		text, plain := key.(string)
		data := []byte(text)
		if !plain {
			data, err = (&jose.JSONWebKey{Key: key}).MarshalJSON()
			enginetest.Must(t, err)
		}
		return client.AddServiceKey(t.Context(), connect.NewRequest(&adminv1.AddServiceKeyRequest{Account: "nightly", Jwk: data}))
	}
	for name, key := range map[string]any{
		"a private key": ec, "a weak one": &weak.PublicKey, "a shared secret": []byte("0123456789abcdef"), "none": "{}", "no JSON": "-----BEGIN",
	} {
		_, err := add(key)
		code(t, name, err, connect.CodeInvalidArgument)
		if name == "a private key" && err != nil && !strings.Contains(err.Error(), "another key") {
			t.Errorf("who sent a private key is not told so: %v", err)
		}
	}
	first, err := add(&ec.PublicKey)
	enginetest.Must(t, err)
	_, err = add(edPublic)
	enginetest.Must(t, err)
	if first.Msg.GetAccountId() != made.Msg.GetId() || len(first.Msg.GetKeyId()) != 43 {
		t.Errorf("the key is %v", first.Msg)
	}
	_, err = client.RemoveServiceKey(t.Context(), connect.NewRequest(&adminv1.RemoveServiceKeyRequest{Account: "nightly", KeyId: first.Msg.GetKeyId()}))
	enginetest.Must(t, err)
	list, err := client.ListServiceAccounts(t.Context(), connect.NewRequest(&adminv1.ListServiceAccountsRequest{}))
	enginetest.Must(t, err)
	a := list.Msg.GetAccounts()
	if len(a) != 1 || !a[0].GetActive() || len(a[0].GetKeys()) != 1 || a[0].GetGroups()[0].GetName() != "service/readers" || len(list.Msg.GetGroups()) != 1 {
		t.Errorf("the list is %v", list.Msg)
	}
	shown, err := adminv1connect.NewDirectoryServiceClient(http.DefaultClient, s.server.URL, s.option).GetUser(t.Context(), connect.NewRequest(&adminv1.GetUserRequest{User: "service/nightly"}))
	enginetest.Must(t, err)
	if !shown.Msg.GetUser().GetServiceAccount() {
		t.Error("it is shown as a person")
	}
	_, err = client.DeleteServiceAccount(t.Context(), connect.NewRequest(&adminv1.DeleteServiceAccountRequest{Account: "nightly"}))
	enginetest.Must(t, err)
	_, err = client.DeleteServiceGroup(t.Context(), connect.NewRequest(&adminv1.DeleteServiceGroupRequest{Group: "readers"}))
	enginetest.Must(t, err)
}
