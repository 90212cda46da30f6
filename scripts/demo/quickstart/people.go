package quickstart

import "sallyport.dev/scripts/demo/okta"

// The groups. Assigned gives its members Sallyport; the others are pushed and carry grants.
const (
	assigned = "Sallyport Users"
	seniors  = "Senior Engineers"
	juniors  = "Junior Engineers"
	sales    = "Sales"
	analysts = "Analysts"
	data     = "Data Engineers"
)

var pushedGroups = []string{seniors, juniors, sales, analysts, data}

// The people.
const (
	maya   = "maya.chen@acme.example"   // senior engineer
	tom    = "tom.berg@acme.example"    // junior engineer, to be promoted
	lena   = "lena.ortiz@acme.example"  // sales
	ines   = "ines.duarte@acme.example" // sales, to change teams
	paul   = "paul.reyes@acme.example"  // analyst
	dana   = "dana.kim@acme.example"    // data engineer
	victor = "victor.hale@acme.example" // senior engineer, to leave
	omar   = "omar.aziz@acme.example"   // senior engineer, to be suspended
	rosa   = "rosa.silva@acme.example"  // at Okta, but nobody gave her Sallyport
	noor   = "noor.haddad@acme.example" // to be hired
)

// helpDesk is whom people are told to ask.
const helpDesk = "the IT desk, it@acme.example"

type hire struct {
	profile okta.Profile
	// group that carries their grants. Empty: they are not given Sallyport.
	group string
}

var staff = []hire{
	{okta.Profile{Login: maya, GivenName: "Maya", FamilyName: "Chen"}, seniors},
	{okta.Profile{Login: victor, GivenName: "Victor", FamilyName: "Hale"}, seniors},
	{okta.Profile{Login: omar, GivenName: "Omar", FamilyName: "Aziz"}, seniors},
	{okta.Profile{Login: rosa, GivenName: "Rosa", FamilyName: "Silva"}, ""},
	{okta.Profile{Login: tom, GivenName: "Tom", FamilyName: "Berg"}, juniors},
	{okta.Profile{Login: lena, GivenName: "Lena", FamilyName: "Ortiz"}, sales},
	{okta.Profile{Login: ines, GivenName: "Ines", FamilyName: "Duarte"}, sales},
	{okta.Profile{Login: paul, GivenName: "Paul", FamilyName: "Reyes"}, analysts},
	{okta.Profile{Login: dana, GivenName: "Dana", FamilyName: "Kim"}, data},
}
