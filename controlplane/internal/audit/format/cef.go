package format

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// cefMost is the longest value of an extension, by CEF's own table of keys.
const cefMost = 1023

// CEF writes a record in the Common Event Format, version 0. The signature id is what happened, as a word.
func CEF(r Record) []byte {
	severity := "1"
	switch {
	case r.GetKind() == auditv1.Kind_KIND_GAP:
		severity = "8"
	case r.denied():
		severity = "5"
	case r.failed():
		severity = "3"
	}
	out := &cef{}
	out.WriteString("CEF:0|Sallyport|Sallyport|1|")
	out.header(r.What())
	out.header(strings.ReplaceAll(r.What(), "_", " "))
	out.WriteString(severity + "|")

	out.number("rt", uint64(max(r.Millis(), 0)))
	out.add("externalId", r.ID())
	out.add("cat", r.KindWord())
	out.add("act", verdict(r))
	out.add("outcome", outcome(r))
	out.add("reason", reason(r))
	out.add("suid", r.GetPersonId())
	out.add("suser", r.Person)
	if address, err := netip.ParseAddr(r.GetClient().GetAddress()); err == nil {
		if address = address.Unmap(); address.Is4() {
			out.add("src", address.String())
		} else {
			out.labelled("c6a2", "source address", address.WithZone("").String())
		}
	}
	out.add("requestClientApplication", strings.TrimSpace(r.GetClient().GetName()+" "+r.GetClient().GetVersion()))
	out.add("requestMethod", r.GetMethod())
	out.add("dvchost", r.GetProxy())
	out.labelled("cs1", "connector", r.GetConnector())
	out.labelled("cs2", "tool", r.GetTool())
	out.labelled("cs3", "rule", rule(r))
	out.labelled("cs4", "call", r.GetCallId())
	out.labelled("cs5", "groups", strings.Join(r.GetGroups(), ", "))
	out.labelled("cs6", "target", r.GetTarget())
	out.labelled("flexString1", "arguments", string(r.GetArguments().GetHead()))
	out.labelled("flexString2", "region", r.GetRegion())
	out.add("sourceServiceName", r.GetClient().GetId())
	if r.GetDuration() != nil {
		out.labelled("cn1", "duration in ms", strconv.FormatInt(r.GetDuration().AsDuration().Milliseconds(), 10))
	}
	if r.GetLost() > 0 {
		out.number("cnt", r.GetLost())
	}
	if r.GetRequestBytes() > 0 {
		out.number("in", r.GetRequestBytes())
	}
	if r.GetResponseBytes() > 0 {
		out.number("out", r.GetResponseBytes())
	}
	out.add("msg", r.sentence())
	return []byte(strings.TrimSuffix(out.String(), " "))
}

// cef is a line that grows. Each part of its extension ends with a space.
type cef struct{ strings.Builder }

func (c *cef) header(s string) {
	c.escaped(cut(s, 512), '|')
	c.WriteByte('|')
}

// add writes a key and its value; nothing where there is none.
func (c *cef) add(key, value string) {
	if value == "" {
		return
	}
	c.WriteString(key + "=")
	c.escaped(cut(value, cefMost), '=')
	c.WriteByte(' ')
}

func (c *cef) number(key string, n uint64) { c.add(key, strconv.FormatUint(n, 10)) }

// labelled writes one of the keys that anybody may use, and what it is used for.
func (c *cef) labelled(key, label, value string) {
	if value != "" {
		c.add(key+"Label", label)
		c.add(key, value)
	}
}

// escaped writes a text in which one character is not to be taken for what divides values.
func (c *cef) escaped(s string, divider rune) {
	for _, r := range s { // what is no UTF-8 comes as U+FFFD
		switch {
		case r == '\\' || r == divider:
			c.WriteByte('\\')
			c.WriteRune(r)
		case r == '\n' && divider == '=':
			c.WriteString(`\n`)
		case r == '\r' && divider == '=':
			c.WriteString(`\r`)
		case r == '\t' || r == '\n' || r == '\r':
			c.WriteByte(' ')
		case hidden(r):
			c.WriteRune(utf8.RuneError)
		default:
			c.WriteRune(r)
		}
	}
}

func verdict(r Record) string {
	switch r.GetDecision().GetVerdict() {
	case auditv1.Verdict_VERDICT_ALLOWED:
		return "allowed"
	case auditv1.Verdict_VERDICT_DENIED:
		return "denied"
	}
	return ""
}

func outcome(r Record) string {
	if r.GetOutcome() == auditv1.Outcome_OUTCOME_UNSPECIFIED {
		return ""
	}
	return word(r.GetOutcome(), "OUTCOME_")
}

func reason(r Record) string {
	if r.GetDecision().GetReason() == auditv1.Reason_REASON_UNSPECIFIED {
		return ""
	}
	return word(r.GetDecision().GetReason(), "REASON_")
}

// rule is the rule that decided, as the command line writes it.
func rule(r Record) string {
	d := r.GetDecision()
	if d.GetRule() == 0 {
		return d.GetGroup()
	}
	of := d.GetGroup()
	if d.GetRuleSet() != "" {
		of += " (" + d.GetRuleSet() + ")"
	}
	return of + "#" + strconv.FormatUint(uint64(d.GetRule()), 10)
}
