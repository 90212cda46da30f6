package scim

import (
	"testing"

	"github.com/go-json-experiment/json"
)

// person is shaped after the user of RFC 7643, section 8.2.
const person = `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"id":"2819c223","externalId":"701984","userName":"bjensen",
	"name":{"familyName":"O'Malley","givenName":"Barbara"},"title":"Tour Guide","userType":"Employee","active":true,
	"emails":[{"value":"bjensen@example.com","type":"work","primary":true},{"value":"babs@jensen.org","type":"home"}],
	"ims":[{"value":"babs@foo.com","type":"xmpp"}],
	"meta":{"resourceType":"User","created":"2011-05-13T04:42:34Z","lastModified":"2011-05-13T04:42:34Z"},
	"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"employeeNumber":"701984","manager":{"displayName":"John Smith"}}}`

func parsed(t *testing.T, text string) object {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestFiltersOfTheRFC has the filters of RFC 7644, section 3.4.2.2, and what its text says of operators, precedence, letter
// case and attributes that are not there.
func TestFiltersOfTheRFC(t *testing.T) {
	for expression, want := range map[string]bool{
		`userName eq "bjensen"`: true, `name.familyName co "O'Malley"`: true, `userName sw "J"`: false,
		`urn:ietf:params:scim:schemas:core:2.0:User:userName sw "J"`: false, `title pr`: true,
		`meta.lastModified gt "2011-05-13T04:42:34Z"`: false, `meta.lastModified ge "2011-05-13T04:42:34Z"`: true,
		`meta.lastModified lt "2011-05-13T04:42:34Z"`: false, `meta.lastModified le "2011-05-13T04:42:34Z"`: true,
		`title pr and userType eq "Employee"`: true, `title pr or userType eq "Intern"`: true,
		`schemas eq "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"`:                           false,
		`userType eq "Employee" and (emails co "example.com" or emails.value co "example.org")`:             true,
		`userType ne "Employee" and not (emails co "example.com" or emails.value co "example.org")`:         false,
		`userType eq "Employee" and (emails.type eq "work")`:                                                true,
		`userType eq "Employee" and emails[type eq "work" and value co "@example.com"]`:                     true,
		`emails[type eq "work" and value co "@example.com"] or ims[type eq "xmpp" and value co "@foo.com"]`: true,
		`emails[type eq "home" and value co "@example.com"]`:                                                false, // of one element, not of two
		`USERNAME EQ "BJENSEN"`: true, `userName EW "SEN"`: true, `externalId eq "701984"`: true, `id eq "2819C223"`: false,
		`name pr`: true, `nickName pr`: false, `nickName eq null`: true, `title eq null`: false, `nickName ne "x"`: true, `active eq true`: true, `active ne true`: false,
		// and before or, not before and.
		`userName eq "x" and title pr or active eq true`: true, `userName eq "x" and (title pr or active eq true)`: false,
		`active eq true or userName eq "x" and title eq "y"`: true, `not (active eq true) or title pr`: true, `not (active eq true and nickName pr)`: true,
		enterpriseSchema + `:employeeNumber eq "701984"`: true, enterpriseSchema + `:manager.displayName sw "john"`: true, enterpriseSchema + `:department pr`: false,
		`userName gt "b"`: true, `userName lt "b"`: false, `title eq "tour guide"`: true, `title eq 7`: false, `emails.primary eq true`: true,
	} {
		f, err := parseFilter(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if got := f.matches(parsed(t, person)); got != want {
			t.Errorf("%s: %v, want %v", expression, got, want)
		}
	}
}

// TestPatchesOfTheRFC has what RFC 7644, section 3.5.2 says of add, remove and replace.
func TestPatchesOfTheRFC(t *testing.T) {
	const before = `{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara"}}`
	for name, test := range map[string]struct{ operations, after string }{
		"add without a path": {`{"op":"add","value":{"emails":[{"value":"babs@jensen.org","type":"other"}],"nickname":"Babs"}}`,
			`{"userName":"babs","nickName":"Babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"},{"value":"babs@jensen.org","type":"other"}],"name":{"givenName":"Barbara"}}`},
		"add to a complex attribute": {`{"op":"add","path":"name","value":{"familyName":"Jensen"}}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara","familyName":"Jensen"}}`},
		"add of what is there": {`{"op":"add","path":"emails","value":[{"type":"home","value":"a@h"}]}`, before},
		"add of a primary element": {`{"op":"add","path":"emails","value":[{"type":"other","value":"a@o","primary":true}]}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":false},{"type":"home","value":"a@h"},{"type":"other","value":"a@o","primary":true}],"name":{"givenName":"Barbara"}}`},
		"remove an attribute": {`{"op":"remove","path":"name"}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"}]}`},
		"remove elements by a filter": {`{"op":"remove","path":"emails[type eq \"work\" and value ew \"@w\"]"}`,
			`{"userName":"babs","emails":[{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara"}}`},
		"remove a part of elements": {`{"op":"remove","path":"emails[type eq \"work\"].primary"}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w"},{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara"}}`},
		"replace all elements": {`{"op":"replace","path":"emails","value":[{"value":"b@w","type":"work"}]}`,
			`{"userName":"babs","emails":[{"value":"b@w","type":"work"}],"name":{"givenName":"Barbara"}}`},
		"replace one element": {`{"op":"replace","path":"emails[type eq \"work\"]","value":{"type":"work","value":"b@w","primary":true}}`,
			`{"userName":"babs","emails":[{"type":"work","value":"b@w","primary":true},{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara"}}`},
		"replace a part of one element": {`{"op":"replace","path":"emails[type eq \"home\"].value","value":"b@h"}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"b@h"}],"name":{"givenName":"Barbara"}}`},
		"replace without a path": {`{"op":"replace","value":{"name":{"familyName":"Jensen"},"displayName":"Babs"}}`,
			`{"userName":"babs","displayName":"Babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara","familyName":"Jensen"}}`},
		"several in turn": {`{"op":"remove","path":"emails"},{"op":"add","path":"emails","value":[{"value":"c@w"}]},{"op":"replace","path":"name.givenName","value":"B"}`,
			`{"userName":"babs","emails":[{"value":"c@w"}],"name":{"givenName":"B"}}`},
		"by the URN of a schema": {`{"op":"replace","path":"urn:ietf:params:scim:schemas:core:2.0:User:name.givenName","value":"B"}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"}],"name":{"givenName":"B"}}`},
		"of an extension": {`{"op":"add","path":"` + enterpriseSchema + `:department","value":"Tours"}`,
			`{"userName":"babs","emails":[{"type":"work","value":"a@w","primary":true},{"type":"home","value":"a@h"}],"name":{"givenName":"Barbara"},"` + enterpriseSchema + `":{"department":"Tours"}}`},
	} {
		operations, err := readPatch(parsed(t, `{"schemas":["`+patchSchema+`"],"Operations":[`+test.operations+`]}`))
		o := parsed(t, before)
		for _, op := range operations {
			if err == nil {
				err = patch(o, op)
			}
		}
		got, errGot := marshal(o)
		want, errWant := marshal(parsed(t, test.after))
		if err != nil || errGot != nil || errWant != nil || string(got) != string(want) {
			t.Errorf("%s: %v\n%s, want\n%s", name, err, got, want)
		}
	}
}

// FuzzProjection: whatever names are asked for, an answer keeps its id and schemas and gains nothing.
func FuzzProjection(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, "")
		f.Add("", s)
	}
	f.Add("name.givenName,emails.value", "meta")
	f.Fuzz(func(t *testing.T, only, without string) {
		p, err := newProjection(only, without)
		if err != nil {
			refusal(t, err)
			return
		}
		whole := parsed(t, person)
		got := p.apply(parsed(t, person))
		for name := range got {
			if _, there := whole[name]; !there {
				t.Errorf("%q is new", name)
			}
		}
		if got["id"] != whole["id"] || got["schemas"] == nil {
			t.Errorf("id or schemas are gone: %v", got)
		}
	})
}

// FuzzBulk: whatever is read as a bulk request can be looked at for references.
func FuzzBulk(f *testing.F) {
	f.Add(`{"schemas":["` + bulkRequestSchema + `"],"failOnErrors":1,"Operations":[{"method":"POST","path":"/Groups","bulkId":"a","data":{"members":[{"value":"bulkId:b"}]}},{"method":"put","path":"/Users/bulkId:a","data":{"value":"bulkId:a"}}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		var o object
		if json.Unmarshal([]byte(s), &o) != nil || o == nil {
			return
		}
		b, err := new(request).readBulk(o)
		if err != nil {
			refusal(t, err)
			return
		}
		for _, op := range b.operations {
			for _, first := range b.named(op) {
				if first.id == "" || first.failed == nil && first.method != "POST" {
					t.Errorf("an operation waits for %+v", first)
				}
			}
		}
	})
}
