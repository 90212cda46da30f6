package okta

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
)

// Status is a person's lifecycle state, in Okta's words.
type Status string

// The states of a person.
const (
	// Active people sign in and are provisioned to the apps that they are assigned.
	Active Status = "ACTIVE"
	// Suspended people cannot sign in; apps are not told.
	Suspended Status = "SUSPENDED"
	// Deprovisioned people cannot sign in; apps were told to deactivate them.
	Deprovisioned Status = "DEPROVISIONED"
)

// Profile is what Okta knows of a person and maps to SCIM attributes.
type Profile struct {
	// Login is the sign-in name, an email address, unique in the org without regard to letter case.
	Login      string `json:"login"`
	GivenName  string `json:"givenName"`
	FamilyName string `json:"familyName"`
}

// DisplayName is the name that people read.
func (p Profile) DisplayName() string {
	return strings.TrimSpace(p.GivenName + " " + p.FamilyName)
}

// Person is one member of the org, as it stands.
type Person struct {
	// ID never changes: "00u" and 17 more characters.
	ID      string  `json:"id"`
	Status  Status  `json:"status"`
	Profile Profile `json:"profile"`
	// Assigned says that the person holds the SCIM app.
	Assigned bool `json:"assigned"`
	// SCIMID is the id that the SCIM server gave. Empty: never provisioned.
	SCIMID string `json:"scimId,omitempty"`
}

// Group is a group of the org, as it stands.
type Group struct {
	// ID never changes: "00g" and 17 more characters.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Assigns says that the group's members hold the SCIM app.
	Assigns bool `json:"assigns"`
	// Pushed says that the group itself is pushed to the SCIM app.
	Pushed bool `json:"pushed"`
	// Members are logins, sorted.
	Members []string `json:"members"`
	// SCIMID is the id that the SCIM server gave. Empty: never pushed.
	SCIMID string `json:"scimId,omitempty"`
}

type person struct {
	id      string
	status  Status
	profile Profile
	// scimID is set once the person was provisioned, and kept through deactivation.
	scimID string
	// live says that the app's last word on the person was active: true.
	live bool
}

type group struct {
	id      string
	name    string
	assigns bool
	pushed  bool
	members map[string]*person // by person id
	scimID  string
	// sent holds the ids of the people whom the SCIM server was told of.
	sent map[string]bool
}

func (g *group) view() Group {
	members := make([]string, 0, len(g.members))
	for _, p := range g.members {
		members = append(members, p.profile.Login)
	}
	slices.Sort(members)
	return Group{ID: g.id, Name: g.name, Assigns: g.assigns, Pushed: g.pushed, Members: members, SCIMID: g.scimID}
}

// identifier makes an id of Okta's form. It follows from its seed, so that the same org comes back after a restart.
func identifier(prefix, seed string) string {
	sum := sha256.Sum256([]byte(prefix + "\x00" + seed))
	return prefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:20-len(prefix)]
}

// fold is how logins and group names are compared.
func fold(name string) string {
	return strings.ToLower(strings.TrimSpace(name))
}

func validLogin(login string) error {
	at := strings.IndexByte(login, '@')
	if at <= 0 || at == len(login)-1 || strings.ContainsAny(login, " \t\r\n\"") || len(login) > 254 {
		return fmt.Errorf("login %q is no email address", login)
	}
	return nil
}
