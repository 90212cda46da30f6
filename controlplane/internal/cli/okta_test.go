package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

// api is an admin API with three people, of whom one is not active.
type api struct {
	adminv1connect.UnimplementedDirectoryServiceHandler
	adminv1connect.UnimplementedDoctorServiceHandler
	severity adminv1.Severity
}

func (api) ListUsers(_ context.Context, r *connect.Request[adminv1.ListUsersRequest]) (*connect.Response[adminv1.ListUsersResponse], error) {
	if r.Msg.GetPageToken() == "" {
		return connect.NewResponse(&adminv1.ListUsersResponse{NextPageToken: "2", Users: []*adminv1.User{{UserName: "ann", ExternalId: "00u1", Active: true}}}), nil
	}
	return connect.NewResponse(&adminv1.ListUsersResponse{Users: []*adminv1.User{{UserName: "bob", ExternalId: "00u2", Active: true}, {UserName: "old", ExternalId: "00u9"}}}), nil
}

func (a api) DiagnoseDirectory(context.Context, *connect.Request[adminv1.DiagnoseDirectoryRequest]) (*connect.Response[adminv1.DiagnoseDirectoryResponse], error) {
	return connect.NewResponse(&adminv1.DiagnoseDirectoryResponse{Findings: []*adminv1.Finding{
		{Check: "scim: token", Severity: a.severity, Text: "found", Next: "do this", People: []string{"x", "y"}, Count: 5}, {Check: "people: never signed in", Severity: adminv1.Severity_SEVERITY_UNKNOWN},
	}}), nil
}

// doctored runs sallyport doctor against an admin API and an Okta API.
func doctored(t *testing.T, severity adminv1.Severity, org http.HandlerFunc, args ...string) (out string, err error) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(adminv1connect.NewDirectoryServiceHandler(api{severity: severity}))
	mux.Handle(adminv1connect.NewDoctorServiceHandler(api{severity: severity}))
	plane := httptest.NewServer(mux)
	t.Cleanup(plane.Close)
	okta := httptest.NewServer(org)
	t.Cleanup(okta.Close)
	t.Setenv("OKTA_API_TOKEN", "a token")
	var b strings.Builder
	o := &options{server: plane.URL, output: "table", out: &b}
	c := doctorCommand(o)
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "OKTA", okta.URL)
	}
	if slices.Contains(args, "-json") {
		o.output = "json"
		args = slices.DeleteFunc(args, func(a string) bool { return a == "-json" })
	}
	c.SetArgs(args)
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	c.SilenceErrors, c.SilenceUsage = true, true
	err = c.ExecuteContext(t.Context())
	return b.String(), err
}

// org serves who is assigned to the apps oidc and scim, one to a page.
func org(t *testing.T) http.HandlerFunc {
	assigned := map[string][]string{"oidc": {"00u1", "00u3"}, "scim": {"00u1", "00u4"}}
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "SSWS a token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		app := strings.Split(r.URL.Path, "/")[4]
		i := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("after"), &i)
		if i+1 < len(assigned[app]) {
			w.Header().Add("Link", fmt.Sprintf(`<http://%s%s?after=%d>; rel="next"`, r.Host, r.URL.Path, i+1))
		}
		w.Header().Add("Link", `<x>; rel="self"`)
		id := assigned[app][i]
		if err := json.NewEncoder(w).Encode([]map[string]any{{"id": id, "credentials": map[string]string{"userName": "name-" + id}}}); err != nil {
			t.Error(err)
		}
	}
}

var withOkta = []string{"okta", "--okta-url", "OKTA", "--oidc-app", "oidc", "--scim-app", "scim"}

func TestTheDoctorComparesWhoIsAssignedWithWhoIsProvisioned(t *testing.T) {
	out, err := doctored(t, adminv1.Severity_SEVERITY_GOOD, org(t), append([]string{"-json"}, withOkta...)...)
	if err == nil || ExitCode(err) != ExitFailed { // somebody is here whom Okta does not know any more
		t.Errorf("error %v", err)
	}
	var said struct {
		Findings []struct {
			Check, Severity string
			People          []string
		}
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range said.Findings {
		got[f.Check] = strings.Join(f.People, " ")
	}
	for check, people := range map[string]string{
		"okta: may sign in, not provisioned": "name-00u3 (00u3)", "okta: provisioned, may not sign in": "bob (00u2)",
		"okta: assigned, not provisioned": "name-00u4 (00u4)", "okta: provisioned, not assigned": "bob (00u2)",
	} {
		if got[check] != people {
			t.Errorf("%s: %q", check, got[check])
		}
	}
	if _, there := got["people: never signed in"]; there {
		t.Error("what Okta told is still said to be unknown")
	}
}

func TestTheDoctorShowsATableAndItsExitCode(t *testing.T) {
	out, err := doctored(t, adminv1.Severity_SEVERITY_WARNING, nil, "okta")
	if err != nil || !strings.Contains(out, "WARNING") || !strings.Contains(out, "do this") || !strings.Contains(out, "x, y and 3 more") {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err = doctored(t, adminv1.Severity_SEVERITY_PROBLEM, nil, "entra")
	if ExitCode(err) != ExitFailed || !strings.Contains(out, "PROBLEM") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestTheDoctorIsNotLedAstrayByOkta(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token went elsewhere") }))
	t.Cleanup(elsewhere.Close)
	for name, c := range map[string]struct {
		org  http.HandlerFunc
		says string
	}{
		"a page at another host": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Link", `<`+elsewhere.URL+`/api>; rel="next"`)
			_, _ = w.Write([]byte(`[{"id":"1"}]`))
		}, "another host"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "status 302"},
		"the same page": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Link", `<http://`+r.Host+r.URL.Path+`>; rel="next"`)
			_, _ = w.Write([]byte(`[{"id":"1"}]`))
		}, "repeats a page"},
		"another token": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "does not take the token"},
		"another app":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "knows no app"},
		"no list":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) }, "reading who is assigned"},
	} {
		if _, err := doctored(t, adminv1.Severity_SEVERITY_GOOD, c.org, slices.Clone(withOkta)...); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "a token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, args := range [][]string{{"okta", "--okta-url", "http://okta.example", "--oidc-app", "a", "--scim-app", "b"}, {"okta", "--okta-url", "OKTA"}, {"okta", "--oidc-app", "a"}} {
		if _, err := doctored(t, adminv1.Severity_SEVERITY_GOOD, org(t), args...); ExitCode(err) != ExitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
}
