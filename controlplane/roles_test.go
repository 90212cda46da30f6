package controlplane_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	_ "sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/admin"
)

// TestEachAdminCallNeedsARole: a call without a row in the table of roles (controlplane/internal/admin/roles.go) is let
// through for nobody. Only who they are and what a token is exchanged for is told to everybody with a token.
func TestEachAdminCallNeedsARole(t *testing.T) {
	calls := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("sallyport.admin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				calls++
				method := service.Methods().Get(j)
				role, known := admin.RoleFor("/" + string(service.FullName()) + "/" + string(method.Name()))
				if !known {
					t.Errorf("%s has no role: give it one in internal/admin/roles.go", method.FullName())
				}
				if open := role == policyv1.Role_ROLE_UNSPECIFIED; known && open && service.Name() != "AdminService" {
					t.Errorf("%s is open to every token", method.FullName())
				}
				reads := false
				for _, verb := range []string{"Get", "List", "Search", "Tail", "Count", "Export", "Explain", "Preview", "WhoAmI", "WhoCan", "WhatCan", "Plan", "Test", "Backtest"} {
					reads = reads || strings.HasPrefix(string(method.Name()), verb)
				}
				exchange := method.Name() == "BecomeFirstOwner" || method.Name() == "OpenBreakGlass"
				answers := service.Name() == "ReviewService" // approvers' groups say who may, for each review
				if known && !reads && !exchange && !answers && role < policyv1.Role_ROLE_ADMIN {
					t.Errorf("%s is no read, and a %s may call it", method.FullName(), role)
				}
			}
		}
		return true
	})
	if calls < 40 {
		t.Fatalf("%d calls were looked at", calls)
	}
}
