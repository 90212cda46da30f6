package bearer_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

const (
	scim  = eventv1.TokenKind_TOKEN_KIND_SCIM
	admin = eventv1.TokenKind_TOKEN_KIND_ADMIN
	proxy = eventv1.TokenKind_TOKEN_KIND_PROXY
)

func TestATokenOpensItsOwnDoorAlone(t *testing.T) {
	p := enginetest.New(t).Start(nil)
	p.Directory("okta")
	for kind, name := range map[eventv1.TokenKind]string{scim: "okta", admin: "root", proxy: "us-east-1"} {
		id, token := p.Token(kind, name)
		for _, door := range []eventv1.TokenKind{scim, admin, proxy, eventv1.TokenKind_TOKEN_KIND_UNSPECIFIED} {
			got := bearer.Check(p.Engine.State(), door, token, time.Now())
			if open := got != nil; open != (door == kind) || open && got.ID != id {
				t.Errorf("a token of %s opens %s: %v", kind, door, open)
			}
		}
		// The prefix of another door changes nothing: the record says what it is for.
		parts := strings.SplitN(token, "_", 3)
		for door, word := range map[eventv1.TokenKind]string{scim: "scim", admin: "admin", proxy: "proxy"} {
			if door != kind && bearer.Check(p.Engine.State(), door, parts[0]+"_"+word+"_"+parts[2], time.Now()) != nil {
				t.Errorf("a token of %s with another prefix opens %s", kind, door)
			}
		}
		if files := enginetest.OnDisk(t, p.Dir, []byte(parts[2][22:])); len(files) > 0 {
			t.Errorf("the secret of a token is on disk, in %v", files)
		}
		p.Do(core.RevokeToken{ID: id})
		if bearer.Check(p.Engine.State(), kind, token, time.Now()) != nil {
			t.Errorf("a revoked token of %s opens its door", kind)
		}
	}
}

func TestWhatIsNoTokenOpensNothing(t *testing.T) {
	p := enginetest.New(t).Start(nil)
	_, token := p.Token(admin, "root")
	_, other := p.Token(admin, "other")
	for name, forged := range map[string]string{
		"empty": "", "the prefix": "sallyport_admin_", "cut": token[:len(token)-1], "longer": token + "A", "padded": token + "=", "another's secret": token[:len("sallyport_admin_")+21] + other[len("sallyport_admin_")+21:],
		"upper case": strings.ToUpper(token), "no base64": "sallyport_admin_" + strings.Repeat("!", 64), "a space before": " " + token, "zeros": "sallyport_admin_" + strings.Repeat("A", 64), "very long": token + strings.Repeat("A", 1<<20),
	} {
		if bearer.Check(p.Engine.State(), admin, forged, time.Now()) != nil {
			t.Errorf("%s opens the door", name)
		}
	}
	if bearer.Check(p.Engine.State(), admin, token, time.Now()) == nil {
		t.Error("the token itself does not open it")
	}
}

func TestATokenEndsWhenItWasToEnd(t *testing.T) {
	p := enginetest.New(t).Start(nil)
	id, token, sum, err := bearer.New(admin)
	enginetest.Must(t, err)
	end := time.Now().Add(time.Hour)
	p.Do(core.IssueToken{ID: id, Kind: admin, SHA256: sum[:], Name: "brief", Role: policyv1.Role_ROLE_VIEWER, ExpiresAt: end})
	for at, want := range map[time.Time]bool{time.Now(): true, end.Add(-time.Second): true, end: false, end.Add(time.Hour): false} {
		if got := bearer.Check(p.Engine.State(), admin, token, at) != nil; got != want {
			t.Errorf("%s before its end it opens: %v", end.Sub(at), got)
		}
	}
}

func TestTheHeaderIsReadByTheBearerSchemeAlone(t *testing.T) {
	for header, want := range map[string]string{
		"": "", "Bearer x": "x", "bearer x": "x", "BEARER  x ": "x", "Bearer": "", "Bearer ": "", "Basic x": "", "x": "", "Bearerx": "",
	} {
		if got := bearer.FromHeader(http.Header{"Authorization": {header}}); got != want {
			t.Errorf("%q: got %q, want %q", header, got, want)
		}
	}
}
