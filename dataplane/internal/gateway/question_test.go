package gateway

import (
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

// field is a form with one field.
func field(name, schema string) string {
	return `{"message":"Please fill this in","requestedSchema":{"type":"object","properties":{"` + name + `":` + schema + `},"required":["` + name + `"]}}`
}

func TestAFormMayNotAskForSecretsHoweverItNamesThem(t *testing.T) {
	const text = `{"type":"string"}`
	titled := func(title string) string { return `{"type":"string","title":"` + title + `"}` }
	for name, c := range map[string]struct {
		params string
		asked  bool
	}{
		"a colour":                     {field("colour", text), true},
		"the name of a day":            {field("day", titled("Shown on the glass over the door, also total hopes")), true},
		"whether to pin":               {field("pin", `{"type":"boolean","title":"Pin this message"}`), true},
		"an address of a page":         {field("url", titled("Where the page is")), true},
		"a password":                   {field("password", text), false},
		"by camels":                    {field("accountPassWord", text), false},
		"by snakes":                    {field("pass_word", text), false},
		"by its title":                 {field("a", titled("Your API key")), false},
		"by its format":                {field("a", `{"type":"string","format":"password"}`), false},
		"by a choice":                  {field("a", `{"type":"string","oneOf":[{"const":"x","title":"My passphrase"}]}`), false},
		"as a URL":                     {field("url", titled("Your password")), false},
		"as an id":                     {field("elicitationId", titled("Your password")), false},
		"as something about the form":  {field("_meta", titled("Your password")), false},
		"as a PIN":                     {field("pin", text), false},
		"as a token":                   {field("token", text), false},
		"as a code":                    {field("a", titled("The verification code that we sent you")), false},
		"with spaces between":          {field("a", titled("P a s s w o r d")), false},
		"with an invisible space":      {field("a", titled("pass\u200bword")), false},
		"with a soft hyphen":           {field("a", titled("pass\u00adword")), false},
		"in Cyrillic letters":          {field("a", titled("раsswоrd")), false},
		"in wide letters":              {field("a", titled("ＰＡＳＳＷＯＲＤ")), false},
		"with digits as letters":       {field("a", titled("P@ssw0rd")), false},
		"with an escape in the schema": {field("a", titled(`p\u0061ssword`)), false},
		"in the message":               {`{"message":"Type the one-time code here","requestedSchema":{"type":"object","properties":{"a":{"type":"string"}}}}`, false},
	} {
		_, e := question(&policyv1.Connector{Id: "demo"}, mcp.Asks{Elicitation: true, Form: true}, mcp.Asked{Method: mcp.MethodElicit, Params: []byte(c.params)})
		if asked := e == nil; asked != c.asked {
			t.Errorf("%s: asked: %v (%v)", name, asked, e)
		}
	}
}
