package strictjson_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport.dev/dataplane/internal/strictjson"
)

func TestWhatHasOneMeaningIsAccepted(t *testing.T) {
	for _, input := range []string{
		`{}`, `[]`, `""`, `0`, `-0`, `1.5e+10`, ` { "a" : [ 1 , true , false , null , "x" ] } `, `"\ud83d\ude00"`, `"é漢😀"`,
		`{"a":{"a":{"a":1}},"b":{"a":1}}`, `"\u0000"`, `{"A":1,"a":2}`, `{"\u0061b":1,"b":2}`, "\t\r\n1\n", `"\/\b\f\n\r\t\"\\"`,
		`{"":1}`, `9007199254740993`, `1e400`,
	} {
		if err := strictjson.Validate([]byte(input), strictjson.Limits{}); err != nil {
			t.Errorf("%s: %v", input, err)
		}
	}
}

// refusals are shared with the tests of Decode and Reader: all refuse the same.
var refusals = []struct {
	input  string
	reason strictjson.Reason
	offset int
}{
	{`{"a":1,"a":2}`, strictjson.DuplicateKey, 7},
	{`[{"x":{"a":1,"b":2,"a":3}}]`, strictjson.DuplicateKey, 19},
	{`{"a":1,"\u0061":2}`, strictjson.DuplicateKey, 7},
	{`{"\u0061":1,"a":2}`, strictjson.DuplicateKey, 12},
	{`{"\ud83d\ude00":1,"😀":2}`, strictjson.DuplicateKey, 18},
	{`{"a":{"b":1},"a":2}`, strictjson.DuplicateKey, 13},
	{`{"a\u0000":1}`, strictjson.ControlInKey, 1},
	{`{"a\n":1}`, strictjson.ControlInKey, 1},
	{"{\"a\x7f\":1}", strictjson.ControlInKey, 1},
	{"{\"a\u0085\":1}", strictjson.ControlInKey, 1},
	{`{"a\u009f":1}`, strictjson.ControlInKey, 1},
	{"{\"a\x00\":1}", strictjson.ControlInString, 3},
	{"\"a\nb\"", strictjson.ControlInString, 2},
	{"\"a\xffb\"", strictjson.InvalidUTF8, 2},
	{"\"\xed\xa0\x80\"", strictjson.InvalidUTF8, 1},
	{"\"\xc0\xaf\"", strictjson.InvalidUTF8, 1},
	{`"\ud800"`, strictjson.LoneSurrogate, 1},
	{`"\udc00\ud800"`, strictjson.LoneSurrogate, 1},
	{`"\ud800\u0041"`, strictjson.LoneSurrogate, 1},
	{`"\ud800x"`, strictjson.LoneSurrogate, 1},
	{`"\x41"`, strictjson.InvalidEscape, 1},
	{`"\u00g0"`, strictjson.InvalidEscape, 1},
	{`{} {}`, strictjson.TrailingData, 3},
	{`1 2`, strictjson.TrailingData, 2},
	{"{}\x00", strictjson.TrailingData, 2},
	{``, strictjson.Truncated, 0},
	{`  `, strictjson.Truncated, 2},
	{`{"a":`, strictjson.Truncated, 5},
	{`{"a"`, strictjson.Truncated, 4},
	{`["a`, strictjson.Truncated, 3},
	{`[1,`, strictjson.Truncated, 3},
	{`tru`, strictjson.Truncated, 3},
	{`"\u12`, strictjson.Truncated, 1},
	{`{"a":1,}`, strictjson.Malformed, 7},
	{`[1,]`, strictjson.Malformed, 3},
	{`[,1]`, strictjson.Malformed, 1},
	{`{a:1}`, strictjson.Malformed, 1},
	{`{'a':1}`, strictjson.Malformed, 1},
	{`{"a" 1}`, strictjson.Malformed, 5},
	{`{"a":1 "b":2}`, strictjson.Malformed, 7},
	{`truE`, strictjson.Malformed, 3},
	{`NaN`, strictjson.Malformed, 0},
	{`// x`, strictjson.Malformed, 0},
	{"\ufeff{}", strictjson.Malformed, 0},
	{`+1`, strictjson.Malformed, 0},
	{`.5`, strictjson.Malformed, 0},
	{`-x`, strictjson.InvalidNumber, 1},
	{`1.x`, strictjson.InvalidNumber, 2},
	{`1ex`, strictjson.InvalidNumber, 2},
	{`01`, strictjson.TrailingData, 1},
	{`0x10`, strictjson.TrailingData, 1},
	{`[01]`, strictjson.Malformed, 2},
}

func TestWhatHasAnotherReadingIsRefusedWithReasonAndOffset(t *testing.T) {
	for _, c := range refusals {
		_, decodeErr := strictjson.Decode([]byte(c.input), strictjson.Limits{})
		var r strictjson.Reader
		r.Reset([]byte(c.input), strictjson.Limits{})
		walk(&r)
		for how, err := range map[string]error{
			"Validate": strictjson.Validate([]byte(c.input), strictjson.Limits{}), "Decode": decodeErr, "Reader": r.End(),
		} {
			var e *strictjson.Error
			if !errors.As(err, &e) {
				t.Errorf("%s(%q): accepted", how, c.input)
			} else if e.Reason != c.reason || e.Offset != c.offset {
				t.Errorf("%s(%q): %v, want %s at byte %d", how, c.input, e, c.reason, c.offset)
			}
		}
	}
}

// walk reads a value member by member wherever there is an object.
func walk(r *strictjson.Reader) {
	walkFrom(r, 0)
}

func walkFrom(r *strictjson.Reader, depth int) {
	if r.Kind() != strictjson.Object || depth == strictjson.MaxEntered {
		r.Value()
		return
	}
	for r.Enter(); r.Next(); {
		walkFrom(r, depth+1)
	}
}

func TestLimitsHold(t *testing.T) {
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":%d`, i, i)
		}
		return "{" + strings.TrimPrefix(b.String(), ",") + "}"
	}
	limits := strictjson.Limits{MaxBytes: 2000, MaxDepth: 5, MaxKeys: 50}
	for _, c := range []struct {
		input  string
		reason strictjson.Reason
	}{
		{strings.Repeat("[", 5) + strings.Repeat("]", 5), ""},
		{strings.Repeat("[", 6) + strings.Repeat("]", 6), strictjson.TooDeep},
		{strings.Repeat(`{"a":`, 5) + "1" + strings.Repeat("}", 5), ""},
		{strings.Repeat(`{"a":`, 6) + "1" + strings.Repeat("}", 6), strictjson.TooDeep},
		{strings.Repeat("[", 2000), strictjson.TooDeep},
		{`"` + strings.Repeat("x", 1998) + `"`, ""},
		{`"` + strings.Repeat("x", 1999) + `"`, strictjson.TooLarge},
		{keys(50), ""},
		{keys(51), strictjson.TooManyKeys},
	} {
		err := strictjson.Validate([]byte(c.input), limits)
		var e *strictjson.Error
		switch errors.As(err, &e); {
		case c.reason == "" && err != nil:
			t.Errorf("%.40q: %v", c.input, err)
		case c.reason != "" && (e == nil || e.Reason != c.reason):
			t.Errorf("%.40q: %v, want %s", c.input, err, c.reason)
		}
	}
}

func TestDuplicatesAreFoundAmongManyKeys(t *testing.T) {
	for _, n := range []int{15, 16, 17, 31, 32, 33, 200, 4000} {
		for _, again := range []int{0, n / 2, n - 1} {
			var b strings.Builder
			for i := range n {
				// Objects within, and escaped keys, share the stack of keys.
				fmt.Fprintf(&b, `"k%d":{"k0":[{"x":1}],"k1":2},"\u0065%d":0,`, i, i)
			}
			unique := "{" + strings.TrimSuffix(b.String(), ",") + "}"
			if err := strictjson.Validate([]byte(unique), strictjson.Limits{}); err != nil {
				t.Fatalf("%d keys: %v", n, err)
			}
			for _, form := range []string{`"k%d":1`, `"e%d":1`} {
				double := "{" + b.String() + fmt.Sprintf(form, again) + "}"
				err := strictjson.Validate([]byte(double), strictjson.Limits{})
				var e *strictjson.Error
				if !errors.As(err, &e) || e.Reason != strictjson.DuplicateKey || e.Offset != len(b.String())+1 {
					t.Fatalf("key %d of %d twice: %v", again, n, err)
				}
			}
		}
	}
}

func TestReaderYieldsSpansOfWhatCame(t *testing.T) {
	data := []byte(` {"jsonrpc":"2.0", "p\u0061rams" : {"name":"x\n","arguments": {"a" : [1, 2]} } , "id":7 } `)
	var r strictjson.Reader
	r.Reset(data, strictjson.Limits{})
	got := map[string]string{}
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		if key != "params" {
			got[key] = string(r.Value())
			continue
		}
		for r.Enter(); r.Next(); {
			key := "params." + string(r.Key())
			raw := r.Value()
			got[key] = string(raw)
			if &raw[0] != &data[r.Offset()-len(raw)] {
				t.Errorf("%s was copied", key)
			}
		}
	}
	if err := r.End(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"jsonrpc": `"2.0"`, "params.name": `"x\n"`, "params.arguments": `{"a" : [1, 2]}`, "id": `7`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if text, ok := strictjson.Text([]byte(got["params.name"])); !ok || text != "x\n" {
		t.Errorf("Text: %q, %v", text, ok)
	}
}

func TestEnteringWhatIsNoObjectIsAnError(t *testing.T) {
	for _, input := range []string{`[]`, `"x"`, `1`, ``, `null`} {
		var r strictjson.Reader
		r.Reset([]byte(input), strictjson.Limits{})
		if r.Enter() || r.Next() || r.Value() != nil || r.End() == nil {
			t.Errorf("%q was entered", input)
		}
	}
}

func TestDecodeMarksNumbersThatAFloat64CannotHold(t *testing.T) {
	for _, c := range []struct {
		input string
		holds bool
	}{
		{"0", true}, {"-0", true}, {"0.0", true}, {"1", true}, {"0.1", true}, {"-12.50", true}, {"1e3", true}, {"1E+3", true},
		{"9007199254740992", true}, {"9007199254740993", false}, {"-9007199254740993", false}, {"9007199254740993.0", false},
		{"10000000000000000000000", true}, {"1e22", true}, {"1e23", true}, {"123456789012345678", false},
		{"0.1000000000000000055511151231257827", false}, {"0.30000000000000004", true}, {"1.7976931348623157e308", true},
		{"1e309", false}, {"-1e400", false}, {"1e-400", false}, {"5e-324", true}, {"4e-324", false}, {"0e999999999999", true},
		{"1e99999999999999999999", false}, {"100000000000000000.000", true}, {"0.000000000000000000000", true}, {"-0.0e10", true},
	} {
		v, err := strictjson.Decode([]byte(c.input), strictjson.Limits{})
		if err != nil {
			t.Errorf("%s: %v", c.input, err)
			continue
		}
		switch v := v.(type) {
		case float64:
			if !c.holds {
				t.Errorf("%s became the float64 %v", c.input, v)
			}
		case json.Number:
			if c.holds || string(v) != c.input {
				t.Errorf("%s became the number %s", c.input, v)
			}
		default:
			t.Errorf("%s became a %T", c.input, v)
		}
	}
}

func TestQuoteIsReadBackStrictly(t *testing.T) {
	for s, want := range map[string]string{
		"plain": "plain", "q\"b\\": "q\"b\\", "\x00\x1f\x7f\n": "\x00\x1f\x7f\n", "é😀": "é😀", "bad\xff": "bad\ufffd", "": "",
	} {
		raw := strictjson.Quote(nil, s)
		if err := strictjson.Validate(raw, strictjson.Limits{}); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
		if got, _ := strictjson.Text(raw); got != want {
			t.Errorf("%q came back as %q", s, got)
		}
	}
}

func TestErrorsHoldNothingOfTheInput(t *testing.T) {
	err := strictjson.Validate([]byte(`{"hunter2":1,"hunter2":2}`), strictjson.Limits{})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestSmallObjectsAreReadWithoutAllocations(t *testing.T) {
	data := []byte(toolCall)
	if n := testing.AllocsPerRun(100, func() {
		if strictjson.Validate(data, strictjson.Limits{}) != nil {
			t.Fail()
		}
	}); n != 0 {
		t.Errorf("Validate: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		var r strictjson.Reader
		r.Reset(data, strictjson.Limits{})
		for r.Enter(); r.Next(); {
			r.Value()
		}
		if r.End() != nil {
			t.Fail()
		}
	}); n != 0 {
		t.Errorf("Reader: %v allocations", n)
	}
}

const toolCall = `{"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"create_pull_request","arguments":{"owner":"acme","repo":"billing","title":"Add retry with backoff to the invoice export","head":"agent/retry-export","base":"main","body":"This adds retries with exponential backoff to the export job, so that a short outage of the storage service no longer fails the nightly run.\n\nTests cover the three cases that were seen in production.","draft":false,"labels":["bug","billing"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"example-agent","version":"1.4.2"},"io.modelcontextprotocol/clientCapabilities":{}}}}`

func BenchmarkValidate(b *testing.B) {
	data := []byte(toolCall)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := strictjson.Validate(data, strictjson.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(toolCall)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := strictjson.Decode(data, strictjson.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestElementsOfAnArray(t *testing.T) {
	got, err := strictjson.Elements([]byte(` [ {"a":1} , 2,"x" ] `), strictjson.Limits{}, 3)
	if err != nil || fmt.Sprintf("%s", got) != `[{"a":1} 2 "x"]` {
		t.Errorf("got %s, %v", got, err)
	}
	for _, input := range []string{`[1,2,3,4]`, `{}`, ``, `[1,]`, `[1`, `[{"a":1,"a":2}]`, `[] []`} {
		if got, err := strictjson.Elements([]byte(input), strictjson.Limits{}, 3); err == nil {
			t.Errorf("%s became %s", input, got)
		}
	}
	if _, err := strictjson.Elements([]byte(`[1]`), strictjson.Limits{MaxBytes: 2}, 3); err == nil {
		t.Error("an array that is too large was read")
	}
}
