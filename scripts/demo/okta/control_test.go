package okta_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/okta"
)

func control(t *testing.T, base, action, contentType string, req any) (status int, text string) {
	t.Helper()
	data, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/control/"+action, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode, body(t, resp)
}

func TestControlDrivesTheOrgFromAnotherProcess(t *testing.T) {
	org, issuer := startOrg(t)
	base := strings.TrimSuffix(issuer, okta.IssuerPath)
	if status, text := control(t, base, "suspend", "application/json", okta.ControlRequest{Login: maya}); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, text)
	}
	if p, err := org.Person(maya); err != nil || p.Status != okta.Suspended {
		t.Errorf("person = %+v, %v", p, err)
	}
	var state okta.ControlState
	if err := json.Unmarshal([]byte(body(t, get(t, http.DefaultClient, base+"/control/state"))), &state); err != nil {
		t.Fatal(err)
	}
	if len(state.People) != 1 || state.People[0].Status != okta.Suspended {
		t.Errorf("state = %+v", state)
	}
}

func TestControlRefuses(t *testing.T) {
	_, issuer := startOrg(t)
	base := strings.TrimSuffix(issuer, okta.IssuerPath)
	for name, c := range map[string]struct {
		action, contentType string
		request             any
		want                int
	}{
		"unknown people":     {"suspend", "application/json", okta.ControlRequest{Login: "x@y.example"}, http.StatusNotFound},
		"unknown actions":    {"promote", "application/json", okta.ControlRequest{}, http.StatusNotFound},
		"unknown fields":     {"suspend", "application/json", map[string]any{"user": maya}, http.StatusBadRequest},
		"what a form sends":  {"suspend", "text/plain", okta.ControlRequest{Login: maya}, http.StatusUnsupportedMediaType},
		"a duplicate person": {"add-user", "application/json", okta.ControlRequest{Profile: okta.Profile{Login: maya}}, http.StatusConflict},
	} {
		t.Run(name, func(t *testing.T) {
			if status, text := control(t, base, c.action, c.contentType, c.request); status != c.want {
				t.Errorf("status %d, want %d: %s", status, c.want, text)
			}
		})
	}
}

func TestStandInListensOnLoopbackOnly(t *testing.T) {
	if _, _, _, err := okta.NewOrg(okta.Config{}).Start(t.Context(), "0.0.0.0:0"); err == nil {
		t.Error("it listened on all interfaces")
	}
}
